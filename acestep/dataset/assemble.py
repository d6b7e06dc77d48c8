"""Rows become a dataset folder, whole or not at all."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from acestep.dataset.folders import replace_folder, staging_folder
from acestep.dataset.schema import RECORD_COLUMN, TENSORS, ModelRecord, features
from acestep.errors import UserError

ROWS_IN_MEMORY = 8  # datasets would buffer a thousand songs

Rows = Callable[[], Iterable[dict[str, Any]]]


@dataclass
class Totals:
    """Rows, songs, seconds of audio and latent frames of a dataset."""

    rows: int = 0
    songs: int = 0
    seconds: float = 0.0
    frames: int = 0

    def add(self, row: dict[str, Any], songs: set[str]) -> None:
        """Count a row; `songs` collects the ids of whole songs."""
        songs.add(row["song_id"])
        self.rows, self.songs = self.rows + 1, len(songs)
        self.seconds, self.frames = self.seconds + row["duration"], self.frames + row["frames"]


def check_output(output_dir: Path, overwrite: bool) -> None:
    """Refuse to write over something that is no dataset of ours; called before the long work.

    Raises:
        UserError: when `output_dir` is there and neither empty nor (with `overwrite`) an encoded dataset.
    """
    if not output_dir.exists() or (output_dir.is_dir() and not any(output_dir.iterdir())):
        return
    if not any((output_dir / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        raise UserError(f"--output_dir {output_dir}: is there and no dataset. Choose another folder.")
    if not overwrite:
        raise UserError(f"--output_dir {output_dir}: holds a dataset already; --overwrite replaces it when done.")
    foreign = [path.name for path in output_dir.rglob("*") if path.is_file() and path.suffix not in (".arrow", ".json")]
    if foreign:  # what `save_to_disk` did not write would be lost with the old dataset
        raise UserError(
            f"--output_dir {output_dir}: holds {foreign[0]} beside the dataset, which --overwrite would remove. "
            "Move it or choose another folder."
        )


def write_dataset(
    rows: Rows | dict[str, Rows],
    output_dir: Path,
    record: ModelRecord,
    *,
    channels: int,
    condition_size: int,
    dtype: str = "float16",
) -> Totals:
    """Write rows as a folder that `datasets.load_from_disk` opens.

    It is written beside and renamed, so that an interrupted run leaves the previous dataset or none.

    Args:
        rows: called once; its rows are written as they come, a few in memory. By name of the split for a folder with
            several, which opens as a `DatasetDict`.
        dtype: of the stored tensors, "float16" or "float32".

    Returns:
        What was written.

    Raises:
        UserError: when a value does not fit float16.
    """
    from datasets import Dataset, DatasetDict

    totals, songs, columns = Totals(), set(), features(channels, condition_size, dtype)

    def converted(part: Rows):
        for row in part():
            totals.add(row, songs)
            tensors = {name: _stored(row[name], dtype, row, name) for name in TENSORS}
            yield {**row, **tensors, **_hashes(tensors), RECORD_COLUMN: record.as_json()}

    def written(name: str, part: Rows) -> Dataset:
        return Dataset.from_generator(
            partial(converted, part),
            features=columns,
            cache_dir=str(staging / "cache" / name),
            fingerprint=f"acestep-{name}",  # hashing the generator would pickle models
            writer_batch_size=ROWS_IN_MEMORY,
        )

    with staging_folder(output_dir) as staging, _without_progress_bars():
        if isinstance(rows, dict):
            dataset = DatasetDict({name: written(name, part) for name, part in rows.items()})
        else:
            dataset = written("train", rows)
        dataset.save_to_disk(str(staging / "dataset"))
        replace_folder(staging / "dataset", output_dir)
    return totals


def _stored(values: np.ndarray | None, dtype: str, row: dict[str, Any], name: str) -> np.ndarray | None:
    if values is None:
        return None
    # torch rounds as numpy does, several times as fast
    stored = torch.from_numpy(values).to(getattr(torch, dtype))
    if not stored.isfinite().all():
        raise UserError(
            f"{row['file_name']}: {name} reaches {np.abs(values).max():.4g}, which float16 cannot hold. "
            "Prepare with --storage_dtype float32."
        )
    return stored.numpy()


def _hashes(tensors: dict[str, np.ndarray | None]) -> dict[str, str]:
    """SHA-256 of the bytes as stored: of both latents, and of the conditions that the row has."""
    found = {}
    for column, names in (("latents_sha256", TENSORS[:2]), ("conditions_sha256", TENSORS[2:])):
        digest = hashlib.sha256()
        for name in names:
            if tensors[name] is not None:
                digest.update(np.ascontiguousarray(tensors[name]).data)
        found[column] = digest.hexdigest()
    return found


class _without_progress_bars:
    """datasets' own bars would hide ours."""

    def __enter__(self) -> None:
        from datasets.utils.logging import disable_progress_bar, is_progress_bar_enabled

        self.enabled = is_progress_bar_enabled()
        disable_progress_bar()

    def __exit__(self, *_exception: object) -> None:
        from datasets.utils.logging import enable_progress_bar

        if self.enabled:
            enable_progress_bar()
