"""What is compared of latents: statistics of short windows, and the nearest window of the training songs."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.functional import conv1d
from tqdm import tqdm

SECOND = 25  # frames of a window of statistics
WINDOW = 50  # frames of a window that may have been copied, two seconds


def window_statistics(latents: torch.Tensor) -> np.ndarray:
    """Mean and standard deviation of each channel in each whole second.

    The vectors that Fréchet distances of latents are taken of; a second is about as much as the Fréchet Audio Distance
    sees at once (0.96 s; Kilgour et al., 2019).

    Args:
        latents: `[frames, channels]`.

    Returns:
        `[frames // 25, 2 * channels]` float64.
    """
    windows = _windows(latents.double(), SECOND)
    return torch.cat([windows.mean(dim=1), windows.std(dim=1, correction=0)], dim=-1).cpu().numpy()


def nearest_similarities(
    pieces: Iterable[torch.Tensor], rows: Any, device: torch.device, what: str = "nearest training song"
) -> list[np.ndarray]:
    """How similar each window of each piece is to the most similar window of the training songs, at any moment of them.

    A window is two seconds of latents, each channel less its mean over the training songs and divided by its standard
    deviation there; the similarity is the cosine of the angle between two windows, 1 for a copy.

    Args:
        pieces: latents `[frames, channels]`.
        rows: of the training songs.

    Returns:
        For each piece `[frames // 50]`; pieces of less than two seconds have none.
    """
    mean, std = _channel_statistics(rows)
    normalised = [((piece.cpu().float() - mean) / std).to(device) for piece in pieces]
    windows = torch.cat([_windows(piece, WINDOW) for piece in normalised])  # (N, 50, C)
    counts = [len(piece) // WINDOW for piece in normalised]
    kernels = windows.transpose(1, 2)
    kernels = kernels / kernels.flatten(1).norm(dim=1).clamp(min=1e-8)[:, None, None]
    nearest = torch.full((len(kernels),), -1.0, device=device)
    for song in tqdm(_latents(rows), total=len(rows), desc=what, unit="song", leave=False, disable=None):
        if len(song) < WINDOW or not len(kernels):
            continue
        frames = ((song - mean) / std).T[None].to(device)  # (1, C, T)
        energy = conv1d(frames.square().sum(dim=1, keepdim=True), frames.new_ones(1, 1, WINDOW))  # (1, 1, T - 49)
        similarity = conv1d(frames, kernels)[0] / energy[0].clamp(min=1e-16).sqrt()  # (N, T - 49)
        nearest = torch.maximum(nearest, similarity.amax(dim=1))
    return [part.cpu().double().numpy() for part in nearest.split(counts)]


def _windows(latents: torch.Tensor, length: int) -> torch.Tensor:
    """`[frames // length, length, channels]`; what is left over at the end is left out."""
    count = len(latents) // length
    return latents[: count * length].reshape(count, length, latents.shape[1])


def _latents(rows: Any) -> Iterator[torch.Tensor]:
    return (rows.tensor(index, "latents") for index in range(len(rows)))


def _channel_statistics(rows: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel over all frames, `[channels]` each."""
    count, total, squares = 0, 0.0, 0.0
    for song in _latents(rows):
        count, total, squares = count + len(song), total + song.double().sum(0), squares + song.double().square().sum(0)
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp(min=1e-12).sqrt().float()
