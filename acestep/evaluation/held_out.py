"""Which songs an adapter is measured on, and whether it has seen them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acestep.adapters.adapter import Adapter
from acestep.adapters.locating import SUMMARY
from acestep.dataset.opening import open_dataset
from acestep.dataset.schema import ModelRecord
from acestep.dataset.splits import held_out
from acestep.dataset.subset import SubsetRows
from acestep.errors import UserError
from acestep.train.options import TrainOptions
from acestep.train.validation import open_splits


@dataclass(frozen=True)
class HeldOut:
    """The songs to measure on.

    Attributes:
        rows: of these songs; a song may have several.
        training: rows of the same dataset that are not held out; None where all of it is measured.
        record: of the models that encoded them.
        what: which songs these are, in words.
    """

    rows: Any
    training: Any
    record: ModelRecord
    what: str

    @property
    def songs(self) -> list[str]:
        """The song of each row."""
        return self.rows.column("song_id")


def open_held_out(options: Any) -> HeldOut:
    """Held-out songs by the rules of training: `--validation_dataset`, `--validation_split`, the dataset's own split.

    Without any of them all of the dataset is taken for held out.

    Args:
        options: with `dataset`, `dataset_revision`, `streaming`, `validation_dataset`, `validation_split` and `seed` as
            in `TrainOptions`.

    Raises:
        UserError: as `open_splits`.
    """
    same = ("dataset", "dataset_revision", "streaming", "validation_dataset", "validation_split", "seed")
    given = {name: getattr(options, name) for name in same}
    splits = TrainOptions(pretrained_model_name_or_path="", output_dir="", **given)
    splits.check()
    training, held, record = open_splits(splits)
    if held is None:
        count = len(set(training.column("song_id")))
        return HeldOut(training, None, record, f"all {count} songs of {options.dataset}")
    count = len(set(held.column("song_id")))
    if options.validation_dataset:
        what = f"the {count} songs of {options.validation_dataset}"
    elif options.validation_split:
        whole = count + len(set(training.column("song_id")))
        share = f"--validation_split {options.validation_split:g} --seed {options.seed}"
        what = f"{count} of the {whole} songs of {options.dataset}, held out by {share}"
    else:
        what = f"the {count} songs of {options.dataset}'s validation split"
    return HeldOut(held, training, record, what)


@dataclass(frozen=True)
class Training:
    """What an adapter was trained on, as far as its run's summary tells.

    Attributes:
        rows: of the songs; None where it is not known, and `reason` says why.
        split: options that hold out what the run held out, "" if nothing.
        chosen: whether it was kept for its loss on the songs that its run held out.
    """

    rows: Any = None
    reason: str = ""
    split: str = ""
    chosen: bool = False

    def seen(self, songs: list[str]) -> set[str] | None:
        """Those of the songs that it was trained on; None where that is not known."""
        return None if self.rows is None else set(songs) & set(self.rows.column("song_id"))


def open_training(adapter: Adapter, datasets: list[str | None]) -> Training:
    """Open what an adapter was trained on, where that costs nothing.

    Args:
        datasets: folders and Hub ids that are opened anyway; of others only folders that are here are opened.
    """
    summary = run_summary(adapter.file)
    said = summary.get("options") if isinstance(summary.get("options"), dict) else {}
    chosen = (adapter.file.parent / "validation.json").is_file()
    source = said.get("dataset")
    if not source:
        return Training(reason=f"no {SUMMARY} lies beside it", chosen=chosen)
    if source not in datasets and not Path(source).expanduser().is_dir():
        return Training(reason=f"it was trained on {source}, which is not here", chosen=chosen)
    try:
        streaming = bool(said.get("streaming")) and not Path(source).expanduser().is_dir()
        rows, _ = open_dataset(source, revision=said.get("dataset_revision"), streaming=streaming)
        share, seed = said.get("validation_split") or 0.0, said.get("seed") or 0
        held = set(held_out(rows.column("song_id"), share, seed)) if share else set()
    except UserError as error:
        return Training(reason=f"what it was trained on cannot be opened ({error})", chosen=chosen)
    kept = SubsetRows(rows, [index for index in range(len(rows)) if index not in held])
    if len(kept) != summary.get("dataset_rows", len(kept)):
        return Training(reason=f"{source} has been changed since it was trained", chosen=chosen)
    split = f"--validation_split {share:g} --seed {seed}" if share else ""
    if said.get("validation_dataset"):
        split = f"--validation_dataset {said['validation_dataset']}"
    return Training(kept, split=split, chosen=chosen)


def run_summary(file: Path) -> dict[str, Any]:
    """The summary of the run that wrote an adapter: beside it, or above its folder `best`, `ema` or `checkpoint-*`."""
    inner = file.parent.name in ("best", "ema") or file.parent.name.startswith("checkpoint-")
    for folder in (file.parent, file.parent.parent) if inner else (file.parent,):
        try:
            content = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return content if isinstance(content, dict) else {}
    return {}
