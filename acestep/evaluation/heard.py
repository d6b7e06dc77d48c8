"""What generated pieces say of a model: Fréchet distances, tempo and key kept, nearness to the training songs."""

from typing import Any

import numpy as np
import torch

from acestep.evaluation.latents import nearest_similarities, window_statistics
from acestep.evaluation.metrics import FrechetDistance, TrainingSimilarity
from acestep.evaluation.model import HELD_OUT, TRAINING
from acestep.evaluation.music_metrics import KeyScore, TempoAccuracy
from acestep.evaluation.playing import Piece, spread


def measure_pieces(
    pieces: dict[str, list[Piece]], held: Any, training: Any, prompts: list[dict[str, Any]], device: torch.device
) -> dict[str, dict[str, Any]]:
    """The metrics of each model's pieces, and of the held-out songs themselves as far as they apply.

    Args:
        pieces: by model, with the held-out songs under `HELD_OUT`.
        held: rows of all held-out songs.
        training: rows of the songs that were trained on; None if they are not known.
        prompts: the rows' texts, one a piece.

    Returns:
        By model: `frechet_latents`, and where there is something to measure `frechet_clap`, `tempo`, `key`,
        `training_similarity`. `TRAINING` has the Fréchet distance of as many training songs: what real music gets.
    """
    real = [window_statistics(held.tensor(index, "latents")) for index in range(len(held))]
    found: dict[str, dict[str, Any]] = {}
    for label, played in pieces.items():
        result: dict[str, Any] = {}
        if label != HELD_OUT:
            result["frechet_latents"] = _frechet([window_statistics(latents) for latents in _latents(played)], real)
            result["frechet_clap"] = _frechet(_embeddings(played), _embeddings(pieces[HELD_OUT]))
        result |= _kept(played, prompts)
        found[label] = {name: value for name, value in result.items() if value is not None}
    if training is not None:
        chosen = spread(training, len(prompts))
        others = [window_statistics(training.tensor(index, "latents")) for index in chosen]
        distance = _frechet(others, real)
        found[TRAINING] = {} if distance is None else {"frechet_latents": distance}
        _add_similarities(found, pieces, training, device)
    return found


def _frechet(generated: list[np.ndarray], real: list[np.ndarray]) -> dict[str, Any] | None:
    """The distance of two lists of sets of vectors; None where there are fewer than two on a side."""
    if min(sum(map(len, generated)), sum(map(len, real))) < 2:
        return None
    metric = FrechetDistance()
    return metric.compute(predictions=[np.concatenate(generated)], references=[np.concatenate(real)])


def _kept(played: list[Piece], prompts: list[dict[str, Any]]) -> dict[str, Any]:
    """Tempo and key of the pieces whose prompts name one; a piece without any is a miss."""
    heard = [(piece.music, row) for piece, row in zip(played, prompts, strict=True) if piece.music is not None]
    tempos = [(music.bpm or 0.0, row["bpm"]) for music, row in heard if row["bpm"]]
    keys = [(music.key, row["keyscale"]) for music, row in heard if row["keyscale"] and music.key]
    metrics = {"tempo": (TempoAccuracy(), tempos), "key": (KeyScore(), keys)}
    return {
        name: metric.compute(predictions=[pair[0] for pair in pairs], references=[pair[1] for pair in pairs])
        for name, (metric, pairs) in metrics.items()
        if pairs
    }


def _add_similarities(
    found: dict[str, dict[str, Any]], pieces: dict[str, list[Piece]], training: Any, device: torch.device
) -> None:
    """One pass over the training songs for all models."""
    latents = {label: _latents(played) for label, played in pieces.items()}
    flat = nearest_similarities([one for several in latents.values() for one in several], training, device)
    nearest, begin = {}, 0
    for label, several in latents.items():
        nearest[label] = np.concatenate([np.zeros(0), *flat[begin : begin + len(several)]])
        begin += len(several)
    if not len(nearest[HELD_OUT]):
        return
    for label, similarities in nearest.items():
        if label != HELD_OUT and len(similarities):
            result = TrainingSimilarity().compute(predictions=[similarities], references=[nearest[HELD_OUT]])
            found[label]["training_similarity"] = result


def _latents(played: list[Piece]) -> list[torch.Tensor]:
    return [piece.latents for piece in played if piece.latents is not None]


def _embeddings(played: list[Piece]) -> list[np.ndarray]:
    return [piece.embeddings for piece in played if piece.embeddings is not None]
