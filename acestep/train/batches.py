"""Which sample is trained at which step, and what it looks like.

A step of the optimizer takes `train_batch_size x gradient_accumulation_steps x processes` samples of the epoch's order.
How they are laid out over processes and micro-batches does not change which they are, nor what is drawn for them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset, Sampler

from acestep.dataset.rows import EncodedRows
from acestep.dataset.schema import FRAMES_PER_SECOND, PROMPT_KINDS
from acestep.errors import UserError
from acestep.train.draws import Draws, permutation
from acestep.train.flow_matching import draw_timestep


@dataclass(frozen=True)
class Place:
    """A sample's place in the run: the row `index` in `epoch`; `weight` 0 only fills up the last step of an epoch."""

    epoch: int
    index: int
    weight: float = 1.0


@dataclass(frozen=True)
class StepLayout:
    """How a step's samples are shared out."""

    batch_size: int
    accumulation: int
    processes: int = 1

    @property
    def samples(self) -> int:
        return self.batch_size * self.accumulation * self.processes

    def steps_per_epoch(self, rows: int) -> int:
        return -(-rows // self.samples)

    def samples_of(self, step: int, rows: int) -> int:
        """Samples of a step over all processes: the last step of an epoch may have fewer than the others."""
        within = step % self.steps_per_epoch(rows)
        return min(self.samples, rows - within * self.samples)

    def micro_batches(self, samples: int) -> int:
        """Micro-batches of each process in a step of so many samples."""
        return -(-samples // (self.batch_size * self.processes))


class MicroBatches(Sampler):
    """Micro-batches of one process, in order, as lists of `Place`.

    Every process gets the same number of micro-batches a step. In the last step of an epoch a process may have one less
    than another: it gets a sample of weight 0 then, which keeps the processes together and changes nothing.

    Args:
        rows: number of rows of the dataset.
        layout: batch size, accumulation and number of processes.
        process: this process's number.
        seed: of the run.
        steps: optimizer steps to make in all.
        first_step: the step to begin with, when a run goes on.
    """

    def __init__(self, rows: int, layout: StepLayout, process: int, seed: int, steps: int, first_step: int = 0):
        self.rows, self.layout, self.process = rows, layout, process
        self.seed, self.steps, self.first_step = seed, steps, first_step

    def __len__(self) -> int:
        steps = range(self.first_step, self.steps)
        return sum(self.layout.micro_batches(self.layout.samples_of(step, self.rows)) for step in steps)

    def __iter__(self) -> Iterator[list[Place]]:
        layout, per_epoch = self.layout, self.layout.steps_per_epoch(self.rows)
        order: list[int] = []
        for step in range(self.first_step, self.steps):
            epoch, within = divmod(step, per_epoch)
            if not order or within == 0:
                order = permutation(self.seed, epoch, self.rows)
            chosen = order[within * layout.samples : (within + 1) * layout.samples]
            # one after the other over the processes, so that a short step is shared out too
            mine = [Place(epoch, index) for index in chosen[self.process :: layout.processes]]
            for number in range(layout.micro_batches(len(chosen))):
                batch = mine[number * layout.batch_size : (number + 1) * layout.batch_size]
                yield batch or [Place(epoch, chosen[0], weight=0.0)]


class TrainingSamples(Dataset):
    """Samples ready for a step, drawn in the loader's workers.

    Args:
        rows: of the encoded dataset.
        seed: of the run.
        timestep_law, timestep_mu, timestep_sigma: see `draw_timestep`.
        condition_dropout: share of samples whose condition is replaced by the null condition.
        crop_frames: random crops of this length; 0 takes whole songs.
        sample_latents: draw from the posterior instead of taking its mean.
    """

    def __init__(
        self,
        rows: EncodedRows,
        *,
        seed: int,
        timestep_law: str,
        timestep_mu: float = -0.4,
        timestep_sigma: float = 1.0,
        condition_dropout: float = 0.0,
        crop_frames: int = 0,
        sample_latents: bool = False,
    ):
        self.rows, self.seed = rows, seed
        self.law, self.mu, self.sigma = timestep_law, timestep_mu, timestep_sigma
        self.condition_dropout, self.crop_frames, self.sample_latents = condition_dropout, crop_frames, sample_latents

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Place) -> dict:
        """A sample: `clean_latents`, `noise` `[T, C]`, `timestep`, `encoder_hidden_states` `[L, D]`, names."""
        row = self.rows.texts(place.index)
        draws = Draws(self.seed, place.epoch, row["id"])
        start, frames = crop(row["frames"], self.crop_frames, draws)
        latents = self.rows.tensor(place.index, "latents", start, start + frames)
        if self.sample_latents:
            std = self.rows.tensor(place.index, "latents_std", start, start + frames)
            latents = latents + std * draws.normal("latents", *latents.shape)
        return {
            "id": row["id"],
            "file_name": row["file_name"],
            "epoch": place.epoch,
            "weight": place.weight,
            "start": start,
            "clean_latents": latents,
            "noise": draws.normal("noise", *latents.shape),
            "timestep": draw_timestep(draws, self.law, self.mu, self.sigma),
            "encoder_hidden_states": self.rows.tensor(place.index, PROMPT_KINDS[prompt_kind(row, draws)]),
            "null_condition": draws.uniform("condition_dropout") < self.condition_dropout,
        }


def crop(frames: int, crop_frames: int, draws: Draws) -> tuple[int, int]:
    """Start and length of a random crop; a song that is not longer is taken whole.

    Starts are even, so that the DiT's patches of two frames stay those of the whole song.
    """
    if not crop_frames or frames <= crop_frames:
        return 0, frames
    return 2 * draws.integer("crop", (frames - crop_frames) // 2 + 1), crop_frames


def prompt_kind(row: dict, draws: Draws) -> str:
    """ "caption" or "genre": what the song insists on, else drawn by its genre ratio among those it has."""
    present = [kind for kind, column in (("caption", "text_prompt"), ("genre", "genre_text_prompt")) if row[column]]
    if len(present) == 1:
        return present[0]
    if row["prompt_override"] in present:
        return row["prompt_override"]
    return "genre" if draws.uniform("prompt") * 100 < row["genre_ratio"] else "caption"


def crop_frames_of(seconds: float) -> int:
    """Frames of `--crop_seconds`: even, for the DiT's patches; 0 for whole songs."""
    if not (seconds == 0 or 1 <= seconds < float("inf")):
        raise UserError(f"--crop_seconds is {seconds}; expected 0 (whole songs) or at least 1.")
    return int(seconds * FRAMES_PER_SECOND) // 2 * 2


def check_lengths(rows: EncodedRows, batch_size: int, crop_frames: int) -> None:
    """Refuse a batch that would need padding: the model attends to padding, so it would change what is learned.

    Raises:
        UserError: with the lengths found and what to do.
    """
    if batch_size == 1:
        return
    lengths = [min(frames, crop_frames or frames) for frames in rows.column("frames")]
    if len(set(lengths)) > 1:
        shortest = min(lengths)
        names = rows.column("file_name")
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        raise UserError(
            f"--train_batch_size {batch_size}: the songs differ in length ({names[lengths.index(shortest)]} has "
            f"{shortest} frames, {names[longest]} {lengths[longest]}), and padding would change what is learned. Use "
            f"--train_batch_size 1 with --gradient_accumulation_steps {batch_size}, or equal crops: --crop_seconds "
            f"{shortest // 2 * 2 / FRAMES_PER_SECOND:g} or less."
        )


def collate(samples: list[dict]) -> dict:
    """A micro-batch: latents and noise stacked, conditions as a list since their lengths differ.

    Returns:
        `clean_latents`, `noise` `[B, T, C]`, `timestep`, `weight` `[B]`, `null_condition` `[B]` bool,
        `encoder_hidden_states` a list of `[L, D]`, and the names as lists.
    """
    batch = {key: [sample[key] for sample in samples] for key in samples[0]}
    for key in ("clean_latents", "noise"):
        batch[key] = torch.stack(batch[key])
    for key in ("timestep", "weight"):
        batch[key] = torch.tensor(batch[key], dtype=torch.float32)
    batch["null_condition"] = torch.tensor(batch["null_condition"])
    return batch


def equal_conditions(batch: dict) -> list[list[int]]:
    """Positions of a micro-batch grouped by the length of their condition: a group needs no padding."""
    groups: dict[int, list[int]] = {}
    for position, condition in enumerate(batch["encoder_hidden_states"]):
        groups.setdefault(condition.shape[0], []).append(position)
    return list(groups.values())
