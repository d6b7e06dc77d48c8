"""What a run tells: metrics.jsonl, a picture of the loss, trackers."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

METRICS_NAME = "metrics.jsonl"
PICTURE_NAME = "loss.png"


class MetricsFile:
    """One JSON object a line, written at once so that an interrupted run keeps what it told.

    Args:
        resumed_step: records up to this step are kept, later steps are made again; None begins anew.
    """

    def __init__(self, folder: Path, resumed_step: int | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        path, kept = folder / METRICS_NAME, []
        if resumed_step is not None and path.is_file():
            kept = [record for record in read_metrics(folder) if record["step"] <= resumed_step]
        temporary = folder / f".{METRICS_NAME}"
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        temporary.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(without_nan(record), allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def without_nan(value: Any) -> Any:
    """A copy in which null stands for what is not finite: JSON has no such numbers."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of a run; a last line that a crash cut off is left out."""
    with (folder / METRICS_NAME).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


def running_mean(values: Iterable[float], weight: float = 0.95) -> list[float]:
    """Exponential mean without the start's bias: `m = w*m + (1-w)*x`, divided by `1 - w**n` (Kingma & Ba, 2015)."""
    mean, smoothed = 0.0, []
    for count, value in enumerate(values, start=1):
        mean = weight * mean + (1 - weight) * value
        smoothed.append(mean / (1 - weight**count))
    return smoothed


def plot_loss(folder: Path) -> Path:
    """Draw `loss.png` from metrics.jsonl: each step's loss, its running mean, at fixed noise, on held-out songs.

    Returns:
        The picture's path.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = [record for record in read_metrics(folder) if record.get("loss") is not None]
    steps = [record for record in records if record["event"] == "step"]
    evaluations = [record for record in records if record["event"] == "evaluation"]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=120)
    x, y = [record["step"] for record in steps], [record["loss"] for record in steps]
    axes.plot(x, y, color="tab:blue", alpha=0.25, linewidth=0.8, label="loss of a step")
    axes.plot(x, running_mean(y), color="tab:blue", linewidth=1.6, label="running mean")
    if evaluations:
        axes.plot(
            [record["step"] for record in evaluations],
            [record["loss"] for record in evaluations],
            color="tab:orange",
            marker="o",
            label="all songs at fixed noise",
        )
    base = [record["loss"] for record in records if record["event"] == "base"]
    held = [record for record in records if record["event"] == "validation"]
    if held:
        axes.plot(
            [record["step"] for record in held],
            [record["loss"] for record in held],
            color="tab:green",
            marker="s",
            markersize=4,
            label="held-out songs",
        )
    if base:
        axes.axhline(base[-1], color="tab:green", linestyle="--", linewidth=1, label="held-out songs, without adapter")
    axes.set_xlabel("step")
    axes.set_ylabel("mean squared error of the velocity")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(folder / PICTURE_NAME)
    pyplot.close(figure)
    return folder / PICTURE_NAME


def check_trackers(names: list[str]) -> list[str]:
    """Trackers to report to; "none" is none.

    Raises:
        UserError: for an unknown one or one whose package is not installed.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS
    from accelerate.utils import LoggerType

    from acestep.errors import UserError

    wanted = [name for name in names if name != "none"]
    for name in wanted:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UserError(f"--report_to {name}: expected none or some of {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}.")
        from accelerate.tracking import get_available_trackers

        if LoggerType(name) not in get_available_trackers():
            raise UserError(f"--report_to {name}: its package is not installed; run `pip install {name}`.")
    return wanted
