"""Whether tempo and key are those that were asked for, as metrics of the library `evaluate`."""

from typing import Any

import datasets
import evaluate
import numpy as np
from datasets import Value

from acestep.evaluation.metrics import InMemoryMetric

TOLERANCE = 0.04  # of the tempo
OCTAVES = (1, 2, 3, 1 / 2, 1 / 3)
NOTES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


class TempoAccuracy(InMemoryMetric):
    """The share of pieces whose measured tempo is the prompted one."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=(
                "accuracy1 is the share of tempos within 4 % of the reference; accuracy2 also takes twice, three "
                "times, a half and a third of it, the errors of trackers (and of people) about the level of the beat."
            ),
            citation=(
                "Gouyon, F. et al. An Experimental Comparison of Audio Tempo Induction Algorithms. IEEE Transactions "
                "on Audio, Speech, and Language Processing 14(5), 2006."
            ),
            inputs_description=(
                "Args:\n"
                "    predictions, references: measured and prompted tempos in beats a minute.\n"
                "Returns:\n"
                "    accuracy1, accuracy2, and pieces: their number."
            ),
            features=datasets.Features({"predictions": Value("float64"), "references": Value("float64")}),
        )

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, Any]:
        measured, prompted = np.array(predictions), np.array(references)
        near = [np.abs(measured - factor * prompted) <= TOLERANCE * factor * prompted for factor in OCTAVES]
        return {
            "accuracy1": float(near[0].mean()),
            "accuracy2": float(np.any(near, axis=0).mean()),
            "pieces": len(measured),
        }


class KeyScore(InMemoryMetric):
    """How near measured keys are to the prompted ones."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=(
                "accuracy is the share of equal keys (C# is Db); score is MIREX's weighted one, which gives 1 for the "
                "same key, 0.5 for a fifth above in the same mode, 0.3 for the relative and 0.2 for the parallel one."
            ),
            citation=(
                "MIREX, Audio Key Detection (https://www.music-ir.org/mirex/wiki/2021:Audio_Key_Detection).\n"
                "Raffel, C. et al. mir_eval: A Transparent Implementation of Common MIR Metrics. ISMIR 2014."
            ),
            inputs_description=(
                "Args:\n"
                "    predictions, references: measured and prompted keys, such as `F# minor`.\n"
                "Returns:\n"
                "    accuracy, score, and pieces: their number."
            ),
            features=datasets.Features({"predictions": Value("string"), "references": Value("string")}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        scores = [key_score(*pair) for pair in zip(predictions, references, strict=True)]
        return {
            "accuracy": float(np.mean([score == 1 for score in scores])),
            "score": float(np.mean(scores)),
            "pieces": len(scores),
        }


def key_score(estimated: str, reference: str) -> float:
    """MIREX's score of one key, `<note> major` or `<note> minor`."""
    (note, mode), (true_note, true_mode) = _key(estimated), _key(reference)
    if (note, mode) == (true_note, true_mode):
        return 1.0
    if mode == true_mode:
        return 0.5 if (note - true_note) % 12 == 7 else 0.0
    if note == true_note:
        return 0.2
    # C major and A minor: the relative minor lies three semitones below
    return 0.3 if (note - true_note) % 12 == (9 if true_mode == "major" else 3) else 0.0


def _key(name: str) -> tuple[int, str]:
    note, mode = name.split(" ")
    return (NOTES[note[0]] + note[1:].count("#") - note[1:].count("b")) % 12, mode
