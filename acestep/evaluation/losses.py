"""Losses of held-out songs at a fixed grid of (t, noise), song by song: what training's validation has the mean of."""

from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from acestep.train.batches import collate
from acestep.train.evaluation import evaluation_sample, to_device
from acestep.train.step import VelocityLoss


@torch.no_grad()
def measure_losses(
    velocity_loss: VelocityLoss,
    rows: Any,
    device: torch.device,
    *,
    seed: int,
    draws: int,
    crop_frames: int = 0,
    what: str = "loss",
) -> np.ndarray:
    """Each row's loss at each timestep of the grid, by the same pairs and the same sums as `evaluate_loss`.

    Args:
        velocity_loss: without weighting by timestep.
        rows: of an encoded dataset.
        seed: keys the noise, together with the row's id.
        draws: size of the grid, the middles of equal parts of 0 to 1.
        crop_frames: only the first so many frames of each song (0: all).
        what: the progress bar's name.

    Returns:
        `[rows, draws]` float64.
    """
    losses = np.zeros((len(rows), draws))
    for index in tqdm(range(len(rows)), desc=what, unit="song", leave=False, disable=None):
        for part in range(draws):
            sample = evaluation_sample(rows, index, seed=seed, part=part, draws=draws, crop_frames=crop_frames)
            losses[index, part] = velocity_loss(to_device(collate([sample]), device), [0]).item()
    return losses
