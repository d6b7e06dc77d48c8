"""Audio for the trackers that take it."""

import importlib
from typing import Any

import torch


def log_audio(accelerator: Any, name: str, audio: torch.Tensor, sample_rate: int, step: int) -> list[str]:
    """Give a piece of music to every tracker of a run that takes audio; the others get nothing.

    TensorBoard plays one channel: it gets the mean of both.

    Args:
        accelerator: its trackers are already begun.
        name: such as `preview/01-piano`.
        audio: `[channels, samples]` float32, at most full scale.

    Returns:
        Names of the trackers that took it.
    """
    took = []
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.writer.add_audio(name, audio.mean(0, keepdim=True), step, sample_rate)
            tracker.writer.flush()
        elif tracker.name in ("wandb", "trackio"):
            samples = (audio.T * 32767).round().to(torch.int16).numpy()
            media = importlib.import_module(tracker.name).Audio(samples, sample_rate=sample_rate)
            tracker.log({name: media}, step=step)
        else:
            continue
        took.append(tracker.name)
    return took
