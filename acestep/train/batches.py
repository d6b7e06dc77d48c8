"""Which sample is trained at which step, and what it looks like.

A step of the optimizer takes `train_batch_size x gradient_accumulation_steps x processes` samples of the epoch's order.
How they are laid out over processes and micro-batches does not change which they are, nor what is drawn for them.
"""

from collections.abc import Iterator, Sequence
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
    """A sample's place in the run.

    Attributes:
        epoch, index: the row `index` in `epoch`.
        weight: 0 only fills up the last step of an epoch.
        padded: frames of the micro-batch in all processes; what the sample lacks is padding.
    """

    epoch: int
    index: int
    weight: float = 1.0
    padded: int = 0


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


def epoch_order(
    seed: int, epoch: int, lengths: Sequence[int], samples: int, group_by_length: bool = False
) -> list[int]:
    """The order of the rows in an epoch, a function of the effective batch and of nothing else of the layout.

    The run's first step takes the longest rows, so that a card that is too small fails at once.

    Args:
        lengths: frames of each row as it is trained.
        samples: of a step.
        group_by_length: rows of similar length go into one step; each epoch finds other neighbours.
    """
    order = permutation(seed, epoch, len(lengths))
    if group_by_length:
        order = _grouped(order, lengths, samples, seed, epoch)
    if epoch == 0:
        longest = sorted(order, key=lambda index: -lengths[index])[:samples]  # a stable sort: none moves needlessly
        order = longest + [index for index in order if index not in set(longest)]
    return order


def _grouped(order: list[int], lengths: Sequence[int], samples: int, seed: int, epoch: int) -> list[int]:
    """Sort within stretches of eight steps, then shuffle the steps; the short last step stays the last."""
    stretch = 8 * samples
    ordered = [
        index
        for begin in range(0, len(order), stretch)
        for index in sorted(order[begin : begin + stretch], key=lambda index: -lengths[index])
    ]
    whole = len(order) // samples
    shuffled = permutation(seed, epoch, whole, "steps")
    steps = [ordered[number * samples : (number + 1) * samples] for number in shuffled]
    return [index for step in steps for index in step] + ordered[whole * samples :]


class MicroBatches(Sampler):
    """Micro-batches of one process, in order, as lists of `Place`.

    Every process gets the same number of micro-batches a step, and the n-th of each are padded to one length. In the
    last step of an epoch a process may have one sample less than another: it gets one of weight 0 then, which keeps the
    processes together and changes nothing.

    Args:
        lengths: frames of each row as it is trained.
        layout: batch size, accumulation and number of processes.
        process: this process's number.
        seed: of the run.
        steps: optimizer steps to make in all.
        first_step: the step to begin with, when a run goes on.
        group_by_length: see `epoch_order`.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        layout: StepLayout,
        process: int,
        seed: int,
        steps: int,
        first_step: int = 0,
        group_by_length: bool = False,
    ):
        self.lengths, self.layout, self.process, self.seed = lengths, layout, process, seed
        self.steps, self.first_step, self.group_by_length = steps, first_step, group_by_length

    def __len__(self) -> int:
        steps = range(self.first_step, self.steps)
        return sum(self.layout.micro_batches(self.layout.samples_of(step, len(self.lengths))) for step in steps)

    def __iter__(self) -> Iterator[list[Place]]:
        layout, lengths, per_epoch = self.layout, self.lengths, self.layout.steps_per_epoch(len(self.lengths))
        order: list[int] = []
        for step in range(self.first_step, self.steps):
            epoch, within = divmod(step, per_epoch)
            if not order or within == 0:
                order = epoch_order(self.seed, epoch, lengths, layout.samples, self.group_by_length)
            chosen = order[within * layout.samples : (within + 1) * layout.samples]
            # neighbours in length share a micro-batch, over the processes too: little padding, and none waits
            chosen.sort(key=lambda index: -lengths[index])
            at_once = layout.batch_size * layout.processes
            for begin in range(0, len(chosen), at_once):
                together = chosen[begin : begin + at_once]
                padded = lengths[together[0]]
                mine = [Place(epoch, index, padded=padded) for index in together[self.process :: layout.processes]]
                fill = -(-len(together) // layout.processes) - len(mine)
                yield mine + [Place(epoch, together[-1], weight=0.0, padded=padded)] * fill


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
            "padded": place.padded,
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


def trained_lengths(rows: EncodedRows, crop_frames: int) -> list[int]:
    """Frames of each row as it is trained."""
    return [min(frames, crop_frames or frames) for frames in rows.column("frames")]


def collate(samples: list[dict]) -> dict:
    """A micro-batch: latents and noise padded with zeros to one length, conditions as a list.

    Returns:
        `clean_latents`, `noise` `[B, T, C]`, `frames` `[B]` the valid ones of T and `lengths` the same as a list,
        `timestep`, `weight` `[B]`, `null_condition` `[B]` bool, `encoder_hidden_states` a list of `[L, D]`, and the
        names as lists.
    """
    batch = {key: [sample[key] for sample in samples] for key in samples[0]}
    batch["lengths"] = [latents.shape[0] for latents in batch["clean_latents"]]  # for the host, without a wait
    batch["frames"] = torch.tensor(batch["lengths"])
    length = max(*batch.pop("padded"), *batch["lengths"])
    for key in ("clean_latents", "noise"):
        batch[key] = torch.stack(
            [torch.nn.functional.pad(tensor, (0, 0, 0, length - tensor.shape[0])) for tensor in batch[key]]
        )
    for key in ("timestep", "weight"):
        batch[key] = torch.tensor(batch[key], dtype=torch.float32)
    batch["null_condition"] = torch.tensor(batch["null_condition"])
    return batch


def equal_lengths(batch: dict) -> list[list[int]]:
    """Positions of a micro-batch grouped by the lengths of song and condition: a group needs no padding."""
    groups: dict[tuple[int, int], list[int]] = {}
    for position, (frames, condition) in enumerate(zip(batch["lengths"], batch["encoder_hidden_states"], strict=True)):
        groups.setdefault((frames, condition.shape[0]), []).append(position)
    return list(groups.values())
