"""Pictures of an evaluation: the loss by timestep, and the change with its interval, also song by song."""

from pathlib import Path
from typing import Any

import numpy as np

from acestep.evaluation.comparison import Comparison

PICTURE_NAME = "loss_by_timestep.png"
SONGS_NAME = "loss_by_song.png"
MOST_NAMED = 60  # songs that a picture has room to name


def plot_timesteps(file: Path, found: list[Comparison]) -> None:
    """Draw the loss at each timestep, and below it how much lower each adapter's is with its interval."""
    pyplot = _pyplot()
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(8, 6.5), dpi=120, sharex=True)
    base = [(t, result["reference_loss"]) for t, result in found[0].by_timestep]
    above.plot(*zip(*base, strict=True), color="black", marker="o", label=found[0].against)
    for number, comparison in enumerate(found):
        t, results = zip(*comparison.by_timestep, strict=True)
        color = f"C{number}"
        above.plot(t, [result["loss"] for result in results], color=color, marker="o", label=comparison.label)
        shifted = np.array(t) + (number - (len(found) - 1) / 2) * 0.012  # intervals beside each other
        lower = np.array([[100 * _number(result[key]) for key in ("improvement", "low", "high")] for result in results])
        below.errorbar(
            shifted,
            lower[:, 0],
            # the estimate of few songs may lie outside its interval
            yerr=np.stack([lower[:, 0] - lower[:, 1], lower[:, 2] - lower[:, 0]]).clip(min=0),
            color=color,
            fmt="o",
            capsize=3,
        )
    above.set_ylabel("mean squared error of the velocity")
    above.legend()
    below.axhline(0, color="black", linewidth=0.8)
    below.set_ylabel("% lower (95 % interval)")
    below.set_xlabel("t (0: music, 1: noise)")
    _save(pyplot, figure, (above, below), file)


def plot_songs(file: Path, losses: dict[str, np.ndarray], against: str, songs: list[str], names: list[str]) -> None:
    """Draw how much lower the loss of each song is than the model's alone, in percent.

    Args:
        losses: `[rows, draws]` by model.
        against: the model alone.
        songs, names: of each row.
    """
    pyplot = _pyplot()
    order = list(dict.fromkeys(songs))
    figure, axes = pyplot.subplots(figsize=(8, 1.5 + 0.3 * min(len(order), MOST_NAMED)), dpi=120)
    means = {label: song_means(values, songs) for label, values in losses.items()}
    for number, (label, values) in enumerate((key, value) for key, value in means.items() if key != against):
        change = [100 * (1 - values[song] / means[against][song]) for song in order]
        axes.plot(change, range(len(order)), "o", color=f"C{number}", label=label)
    axes.axvline(0, color="black", linewidth=0.8)
    if len(order) <= MOST_NAMED:
        shown = dict(zip(songs, names, strict=True))
        # dollar signs would begin a formula
        axes.set_yticks(range(len(order)), [shown[song].replace("$", r"\$") for song in order])
    axes.invert_yaxis()
    axes.set_xlabel("loss, % lower than without adapter")
    axes.legend()
    _save(pyplot, figure, (axes,), file)


def song_means(losses: np.ndarray, songs: list[str]) -> dict[str, float]:
    """The mean loss of each song over its rows and all timesteps."""
    rows: dict[str, list[float]] = {}
    for song, loss in zip(songs, losses.mean(axis=1), strict=True):
        rows.setdefault(song, []).append(float(loss))
    return {song: float(np.mean(values)) for song, values in rows.items()}


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(pyplot: Any, figure: Any, axes: tuple, file: Path) -> None:
    for one in axes:
        one.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)
