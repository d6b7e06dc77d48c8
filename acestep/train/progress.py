"""How far a run is, and what its bar says."""

import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm


@dataclass
class Progress:
    """How far a run is; kept in checkpoints."""

    step: int = 0
    bad_steps: int = 0
    bad_in_a_row: int = 0
    loss_sum: float = 0.0
    loss_weight: float = 0.0

    @property
    def smoothed_loss(self) -> float:
        """The loss's exponential mean, without the bias of its start."""
        return self.loss_sum / max(self.loss_weight, 1e-9)

    def count(self, record: dict[str, Any]) -> None:
        """Take one step's record in."""
        self.step = record["step"]
        if record["finite"]:
            self.bad_in_a_row = 0
            self.loss_sum, self.loss_weight = (
                0.95 * self.loss_sum + 0.05 * record["loss"],
                0.95 * self.loss_weight + 0.05,
            )
        elif not record.get("rescaled"):
            self.bad_steps, self.bad_in_a_row = self.bad_steps + 1, self.bad_in_a_row + 1


class Bar:
    """The progress bar: steps a second and time left, smoothed loss, audio seconds a second, peak memory.

    Args:
        progress: where the run begins.
        steps: of the whole run.
        device: whose memory is shown.
        shown: on one process only.
    """

    def __init__(self, progress: Progress, steps: int, device: torch.device, shown: bool):
        self.device, self.audio_seconds, self.began = device, 0.0, time.monotonic()
        self.bar = tqdm(total=steps, initial=progress.step, desc="training", unit="step", disable=not shown)

    def step(self, record: dict[str, Any], progress: Progress) -> None:
        """Show one more step."""
        self.audio_seconds += record["audio_seconds"]
        rate = self.audio_seconds / max(time.monotonic() - self.began, 1e-9)
        memory = peak_memory(self.device) / 2**30
        self.bar.set_postfix_str(
            f"loss {progress.smoothed_loss:.4f}, {rate:.0f} s of audio a second, {memory:.1f} GiB", refresh=False
        )
        self.bar.update()

    def close(self) -> None:
        self.bar.close()


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that torch held on a GPU so far; on a CPU the most that the process had in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
