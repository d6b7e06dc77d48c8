"""Opening an encoded dataset: a folder, the Hub with or without a download."""

from pathlib import Path
from typing import Any

from acestep.dataset.hub import on_hub
from acestep.dataset.publish import index_name
from acestep.dataset.rows import EncodedRows
from acestep.dataset.schema import RECORD_COLUMN, ModelRecord, parse_records, read_record
from acestep.dataset.streaming import StreamedRows
from acestep.errors import UserError


def open_dataset(
    name: str,
    *,
    revision: str | None = None,
    streaming: bool = False,
    split: str = "train",
    option: str = "--dataset",
) -> tuple[EncodedRows | StreamedRows, ModelRecord]:
    """An encoded dataset and the record of its models.

    Args:
        name: a folder that prepare_dataset.py wrote, or a Hub id.
        revision: branch, tag or commit on the Hub.
        streaming: read rows from the Hub when they are asked for.
        split: of a dataset with several; one without is "train".
        option: how errors call the dataset.

    Raises:
        UserError: when it is not there, empty, or not ours.
    """
    folder, what = Path(name).expanduser(), f"{option} {name}"
    if folder.is_dir():
        for other, given in (("--streaming", streaming), (f"--dataset_revision {revision}", revision)):
            if given:
                raise UserError(f"{other}: is for a dataset on the Hub, and {what} is a folder. Leave it out.")
        dataset = _from_disk(folder, what, split)
    elif not _may_be_on_hub(name):
        raise UserError(f"{what}: no such folder. Make one with scripts/prepare_dataset.py, or name a Hub id.")
    elif streaming:
        rows = StreamedRows(name, _commit(name, revision, what), split)
        if RECORD_COLUMN not in rows.texts(0):
            raise UserError(f"{what}: its index names no models. Upload it again with prepare_dataset.py.")
        return rows, parse_records(sorted(set(rows.column(RECORD_COLUMN))), what)
    else:
        dataset = _from_hub(name, revision, what, split)
    record = read_record(dataset, what)
    if len(dataset) == 0:
        raise UserError(f"{what}: has no rows.")
    return EncodedRows(dataset), record


def has_split(name: str, split: str, *, revision: str | None = None) -> bool:
    """Whether a dataset that `open_dataset` opens has a split of this name.

    Raises:
        UserError: when the Hub cannot be asked.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return (folder / split / "dataset_info.json").is_file()
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        from datasets import get_dataset_split_names

        return split in get_dataset_split_names(name, revision=revision)
    return on_hub(
        lambda: HfApi().file_exists(name, index_name(split), repo_type="dataset", revision=revision),
        f"--dataset {name}",
        "Check the connection and start again.",
    )


def _from_disk(folder: Path, what: str, split: str) -> Any:
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{what}: not a dataset on disk ({error}).") from None
    if isinstance(dataset, DatasetDict):
        if split not in dataset:
            raise UserError(f"{what}: has no split {split}; found {', '.join(dataset)}. Name a folder in it.")
        return dataset[split]
    return dataset


def _from_hub(name: str, revision: str | None, what: str, split: str) -> Any:
    from datasets import load_dataset

    commit = _commit(name, revision, what)
    try:
        return on_hub(
            lambda: load_dataset(name, split=split, revision=commit),
            what,
            "What has been downloaded is kept: check the connection and start again.",
        )
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{what}: cannot be loaded ({' '.join(str(error).split())}).") from None


def _commit(name: str, revision: str | None, what: str) -> str | None:
    """The commit that the whole run reads, though a branch may move; None where only the cache is to be asked."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        return revision

    def ask() -> str | None:
        try:
            return HfApi().dataset_info(name, revision=revision).sha
        except RevisionNotFoundError:
            raise UserError(f"--dataset_revision {revision}: {name} has no such branch, tag or commit.") from None

    return on_hub(ask, what, "Check the connection and start again.")


def _may_be_on_hub(name: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1 and not name.startswith((".", "~"))
