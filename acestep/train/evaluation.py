"""The loss at fixed noise: the same (t, noise) pairs every time, so that two figures can be compared."""

from typing import Any

import torch
from tqdm import tqdm

from acestep.dataset.rows import EncodedRows
from acestep.dataset.schema import PROMPT_KINDS
from acestep.train.batches import collate
from acestep.train.draws import Draws
from acestep.train.step import VelocityLoss

EPOCH = -1  # no epoch of training has this number, so none of its noise is met here


def timestep_grid(draws: int) -> list[float]:
    """`draws` timesteps, the middles of equal parts of 0 to 1."""
    return [(part + 0.5) / draws for part in range(draws)]


def evaluation_sample(
    rows: EncodedRows, index: int, *, seed: int, part: int, draws: int, crop_frames: int = 0
) -> dict[str, Any]:
    """Row `index` at the `part`-th timestep of the grid of `draws`, as `collate` takes it."""
    row = rows.texts(index)
    kind = "caption" if row["text_prompt"] else "genre"
    clean = rows.tensor(index, "latents", 0, crop_frames or None)
    return {
        "clean_latents": clean,
        "noise": Draws(seed, EPOCH, row["id"]).normal(f"evaluation {part}/{draws}", *clean.shape),
        "timestep": timestep_grid(draws)[part],
        "weight": 1.0,
        "padded": 0,
        "null_condition": False,
        "encoder_hidden_states": rows.tensor(index, PROMPT_KINDS[kind]),
    }


@torch.no_grad()
def evaluate_loss(
    velocity_loss: VelocityLoss,
    rows: EncodedRows,
    accelerator: Any,
    *,
    seed: int,
    draws: int,
    crop_frames: int = 0,
    what: str = "loss at fixed noise",
) -> dict[str, Any]:
    """Mean loss over all rows at each timestep of the grid, with noise never used in training, without dropout.

    Args:
        velocity_loss: without weighting by timestep.
        draws: size of the grid.
        crop_frames: only the first so many frames of each song (0: all).
        what: the progress bar's name.

    Returns:
        `loss` over everything, `by_timestep` a list of `[t, loss]`, `pairs` their number.
    """
    sums = torch.zeros(draws, dtype=torch.float64)
    # every process makes as many passes, since those of a model that is shared out wait for each other
    passes = -(-len(rows) // accelerator.num_processes)
    hidden = not accelerator.is_main_process
    for number in tqdm(range(passes), desc=what, unit="song", leave=False, disable=hidden):
        index = number * accelerator.num_processes + accelerator.process_index
        for part in range(draws):
            sample = evaluation_sample(
                rows, index % len(rows), seed=seed, part=part, draws=draws, crop_frames=crop_frames
            )
            batch = to_device(collate([sample]), accelerator.device)
            loss = velocity_loss(batch, [0])
            if index < len(rows):
                sums[part] += loss.item()
    # float32 is the widest that every device can reduce
    means = accelerator.reduce(sums.float().to(accelerator.device)).cpu().double() / len(rows)
    return {
        "loss": means.mean().item(),
        "by_timestep": [[t, loss] for t, loss in zip(timestep_grid(draws), means.tolist(), strict=True)],
        "pairs": len(rows) * draws,
    }


def to_device(batch: dict, device: torch.device) -> dict:
    """A collated micro-batch on a device."""
    from accelerate.utils import send_to_device

    return send_to_device(batch, device, non_blocking=True)
