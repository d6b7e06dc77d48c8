"""Does an adapter help on songs that it has not seen, and by how much? Answered in one line, with what is not known."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from acestep.evaluation.held_out import HeldOut, Training
from acestep.evaluation.metrics import PairedImprovement
from acestep.evaluation.model import BASE
from acestep.train.evaluation import timestep_grid

FEWEST_SONGS = 5  # with fewer an interval over songs says nothing


@dataclass(frozen=True)
class Comparison:
    """Losses of one model beside another's on the same songs and noise.

    Attributes:
        label, against: which models.
        whole: the result of `PairedImprovement` over all timesteps.
        by_timestep: pairs of t and the same result at that t alone.
    """

    label: str
    against: str
    whole: dict[str, Any]
    by_timestep: list[tuple[float, dict[str, Any]]]

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.whole["loss"]) and math.isfinite(self.whole["reference_loss"])

    @property
    def change(self) -> str:
        """What came of it: "too few", "helps", "hurts", "no difference" or "not finite"."""
        if not self.is_finite:
            return "not finite"
        if self.whole["songs"] < FEWEST_SONGS:
            return "too few"
        if self.whole["low"] > 0:
            return "helps"
        return "hurts" if self.whole["high"] < 0 else "no difference"

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        by_timestep = [{"t": t, **result} for t, result in self.by_timestep]
        return {"against": self.against, "change": self.change, **self.whole, "by_timestep": by_timestep}


def compare(losses: dict[str, np.ndarray], label: str, against: str, songs: list[str], seed: int = 0) -> Comparison:
    """Compare two models.

    Args:
        losses: `[rows, draws]` by model, see `measure_losses`.
        songs: the song of each row.
        seed: of the intervals.
    """
    metric = PairedImprovement()

    def paired(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
        return metric.compute(predictions=ours, references=theirs, songs=songs, seed=seed)

    ours, theirs = losses[label], losses[against]
    by_timestep = [(t, paired(ours[:, part], theirs[:, part])) for part, t in enumerate(timestep_grid(ours.shape[1]))]
    return Comparison(label, against, paired(ours.mean(axis=1), theirs.mean(axis=1)), by_timestep)


def compare_all(
    losses: dict[str, np.ndarray], songs: list[str], seed: int = 0
) -> tuple[list[Comparison], list[Comparison]]:
    """Each adapter beside the model alone, and each pair of adapters.

    Args:
        losses: by model, the one alone first as `BASE`.
    """
    adapters = [label for label in losses if label != BASE]
    alone = [compare(losses, label, BASE, songs, seed) for label in adapters]
    return alone, [compare(losses, *pair, songs, seed) for pair in itertools.combinations(adapters, 2)]


def verdict(found: Comparison, held: HeldOut, training: Training) -> str:
    """The answer in one line.

    Songs that the adapter was trained on are no answer, and are said to be none; where it is not known what it was
    trained on, the songs are called held out and not unseen.
    """
    count, seen = found.whole["songs"], training.seen(held.songs)
    told = figures(found)
    if not found.is_finite:
        return f"{found.label} cannot be measured on {songs_of(count)}: {told}."
    if seen:
        which = "these songs" if len(seen) == count else f"{len(seen)} of these {songs_of(count)}"
        return f"{found.label} was trained on {which}, so this says nothing about songs it has not seen: {told}."
    kind = "unseen" if seen is not None else "held-out"
    if found.change == "too few":
        return f"{found.label}: too few songs to say ({count} {kind}, at least {FEWEST_SONGS} needed): {told}."
    says = {"helps": "helps", "hurts": "hurts", "no difference": "makes no clear difference"}[found.change]
    return f"{found.label} {says} on {songs_of(count, kind)}: {told}."


def pair_line(found: Comparison) -> str:
    """Two adapters beside each other in one line."""
    says = {
        "helps": f"{found.label} is better than {found.against}",
        "hurts": f"{found.label} is worse than {found.against}",
        "no difference": f"{found.label} and {found.against} do not clearly differ",
    }.get(found.change, f"{found.label} beside {found.against}")
    return f"{says}: {figures(found)}."


def notes(held: HeldOut, label: str, training: Training) -> list[str]:
    """What a person should know before trusting the figures, one line each."""
    seen, said = training.seen(held.songs), []
    if seen is None:
        said.append(f"{label}: cannot tell whether it was trained on these songs: {training.reason}.")
    elif seen:
        names = dict(zip(held.songs, held.rows.column("file_name"), strict=True))
        listed = ", ".join(sorted(names[song] for song in seen)[:3]) + (", ..." if len(seen) > 3 else "")
        fix = (
            f"Hold out what its run held out: {training.split}."
            if training.split
            else ("Give a dataset of other songs, or train with --validation_split.")
        )
        said.append(f"warning: {label} was trained on {len(seen)} of the {len(names)} songs ({listed}). {fix}")
    if training.chosen and not seen:
        said.append(
            f"{label}: was kept because its loss on held-out songs was the lowest of its run; on the same songs that "
            "flatters it a little."
        )
    return said


def figures(found: Comparison) -> str:
    """Losses, change, interval and songs, such as `loss 1.204 -> 1.151, 4.4 % lower (95 % interval ...)`."""
    whole = found.whole
    losses = f"loss {whole['reference_loss']:#.4g} -> {whole['loss']:#.4g}"
    if not found.is_finite:
        return losses
    better = f"better on {whole['better']} of {songs_of(whole['songs'])}"
    return f"{losses}, {percent(whole, interval=whole['songs'] >= FEWEST_SONGS)}, {better}"


def percent(result: dict[str, Any], interval: bool = True) -> str:
    """`4.4 % lower (95 % interval 3.1 to 5.9 %)`; where it is higher, the interval is of how much higher."""
    sign = -1 if result["improvement"] < 0 else 1
    way = "higher" if sign < 0 else "lower"
    text = f"{_shown(abs(result['improvement']))} % {way}"
    if not interval or result["low"] is None:
        return text
    low, high = sorted((sign * result["low"], sign * result["high"]))
    return f"{text} (95 % interval {_shown(low)} to {_shown(high)} %)"


def songs_of(count: int, kind: str = "") -> str:
    return f"{count} {kind + ' ' if kind else ''}song{'' if count == 1 else 's'}"


def _shown(share: float) -> str:
    """A share in percent: one decimal, two of what is smaller than one."""
    value = 100 * share
    return f"{value:.1f}" if abs(value) >= 0.95 else f"{value + 0.0:.2f}".replace("-0.00", "0.00")
