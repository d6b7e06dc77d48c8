"""What a run says of its memory: before it begins, beside what the card has; and when it did not suffice."""

from typing import Any

import torch

from acestep.models.checkpoint import Checkpoint
from acestep.train.memory import GIB, Estimate, estimate
from acestep.train.memory_fit import needed, savings
from acestep.train.memory_inputs import MOST_TOKENS, condition_lengths
from acestep.train.options import TrainOptions


def run_estimate(
    options: TrainOptions, rows: Any, checkpoint: Checkpoint, precision: str, device: str = "cuda", processes: int = 1
) -> Estimate:
    """`estimate` of a run over the rows of its dataset; only the checkpoint's configuration is read."""
    config = checkpoint.transformer_config
    return estimate(options, *_songs(rows), config, precision=precision, device=device, processes=processes)


def beside_card(found: Estimate, free: int, total: int) -> str:
    """One line, and a second one when it may not fit.

    Args:
        free, total: bytes of the card, as `torch.cuda.mem_get_info` returns them.
    """
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in found.parts.items())
    line = (
        f"memory: about {found.total / GIB:.2f} GiB at a step's peak ({parts}); the GPU has {total / GIB:.2f} GiB, "
        f"{free / GIB:.2f} GiB of them free"
    )
    if needed(found) <= free:
        return line
    return (
        f"{line}\nwarning: this may not fit. scripts/estimate_memory.py with the same options and "
        f"--fit {free / GIB:.1f}GB looks for options that do."
    )


def advice(
    options: TrainOptions, rows: Any, checkpoint: Checkpoint, precision: str, device: str = "cuda", processes: int = 1
) -> str:
    """What to change in a run that was out of memory, and what each change alone would save; takes about a minute."""
    config = checkpoint.transformer_config
    found = savings(options, *_songs(rows), config, precision=precision, device=device, processes=processes)
    if not found:
        return "No option is left that would need less: the model needs a larger GPU, or --crop_seconds shorter songs."
    lines = [f"  {saved / GIB:.2f} GiB less: {text}" for text, saved in found]
    return "What would need less at the peak, each change alone:\n" + "\n".join(lines)


def card_memory(device: torch.device) -> tuple[int, int] | None:
    """Free and total bytes of a GPU; None for another device."""
    return torch.cuda.mem_get_info(device) if device.type == "cuda" else None


def _songs(rows: Any) -> tuple[list[int], list[int]]:
    frames = rows.column("frames")
    return frames, condition_lengths(rows) or [MOST_TOKENS] * len(frames)
