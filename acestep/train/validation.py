"""Held-out songs: is the adapter still getting better on music that it is not trained on?"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from acestep.dataset.opening import has_split, open_dataset
from acestep.dataset.schema import ModelRecord
from acestep.dataset.splits import held_out
from acestep.dataset.subset import SubsetRows
from acestep.errors import UserError
from acestep.train.options import TrainOptions

BEST = "best"  # folder of the best adapter


@dataclass
class Best:
    """The lowest validation loss so far; kept in checkpoints.

    Attributes:
        loss, step: of the best validation.
        average: whether it was the adapter's exponential mean.
        since: validations since then.
    """

    loss: float | None = None
    step: int = 0
    average: bool = False
    since: int = 0

    def take(self, step: int, loss: float, average_loss: float | None) -> bool:
        """Take a validation in; whether it is the best one."""
        average = average_loss is not None and average_loss < loss
        lowest = average_loss if average else loss
        if self.loss is not None and not lowest < self.loss:
            self.since += 1
            return False
        self.loss, self.step, self.average, self.since = lowest, step, average, 0
        return True

    def write(self, folder: Path) -> None:
        """Write `validation.json` beside the best adapter."""
        about = {key: value for key, value in asdict(self).items() if key != "since"}
        (folder / "validation.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def open_splits(options: TrainOptions) -> tuple[Any, Any, ModelRecord]:
    """The rows to train on, the held-out ones or None, and the record of their models.

    Held out are, in this order: `--validation_dataset`, the share `--validation_split` of the songs, the dataset's own
    validation split.

    Raises:
        UserError: for datasets that do not fit together, as of two models, or which share songs.
    """
    source = {"revision": options.dataset_revision, "streaming": options.streaming}
    rows, record = open_dataset(options.dataset, **source)
    own = None
    if has_split(options.dataset, "validation", revision=options.dataset_revision):
        own = open_dataset(options.dataset, **source, split="validation")
    if options.validation_split:
        if own is not None:
            raise UserError(
                f"--validation_split {options.validation_split:g}: {options.dataset} has a validation split already, "
                "which is used. Leave the option out."
            )
        held = held_out(rows.column("song_id"), options.validation_split, options.seed)
        kept = [index for index in range(len(rows)) if index not in set(held)]
        return SubsetRows(rows, kept), SubsetRows(rows, held), record
    if options.validation_dataset is None:
        return rows, None if own is None else own[0], record
    validation, other = open_dataset(options.validation_dataset, option="--validation_dataset")
    if other.condition_encoder != record.condition_encoder or other.vae != record.vae:
        raise UserError(
            f"--validation_dataset {options.validation_dataset}: was encoded for {other.model}, --dataset for "
            f"{record.model}. Prepare both with one model."
        )
    both = sorted(set(rows.column("song_id")) & set(validation.column("song_id")))
    if both:
        names = dict(zip(validation.column("song_id"), validation.column("file_name"), strict=True))
        raise UserError(
            f"--validation_dataset {options.validation_dataset}: {len(both)} songs are trained on as well, such as "
            f"{names[both[0]]}; what is held out must not be. Remove them from one of the two."
        )
    return rows, validation, record
