"""Rows become a dataset folder, whole or not at all."""

import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from acestep.dataset.schema import ModelRecord, features
from acestep.errors import UserError

TENSORS = ("latents", "latents_std", "encoder_hidden_states", "genre_encoder_hidden_states")
ROWS_IN_MEMORY = 8  # datasets would buffer a thousand songs


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
    if not (output_dir / "dataset_info.json").is_file():
        raise UserError(f"--output_dir {output_dir}: is there and no dataset. Choose another folder.")
    if not overwrite:
        raise UserError(f"--output_dir {output_dir}: holds a dataset already; --overwrite replaces it when done.")


def write_dataset(
    rows: Callable[[], Iterable[dict[str, Any]]],
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
        rows: called once; its rows are written as they come, a few in memory.
        dtype: of the stored tensors, "float16" or "float32".

    Returns:
        What was written.

    Raises:
        UserError: when a value does not fit float16.
    """
    from datasets import Dataset, DatasetInfo

    totals, songs = Totals(), set()

    def converted():
        for row in rows():
            totals.add(row, songs)
            tensors = {name: _stored(row[name], dtype, row, name) for name in TENSORS}
            yield {**row, **tensors}

    output_dir.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=output_dir.parent, prefix=f".{output_dir.name}-"))
    try:
        columns = features(channels, condition_size, dtype)
        with _without_progress_bars():
            dataset = Dataset.from_generator(
                converted,
                features=columns,
                cache_dir=str(staging / "cache"),
                fingerprint="acestep",  # hashing the generator would pickle models
                writer_batch_size=ROWS_IN_MEMORY,
            )
            info = DatasetInfo(description=record.description(), features=columns)
            dataset.info.update(info)
            dataset.save_to_disk(str(staging / "dataset"))
        replace_folder(staging / "dataset", output_dir)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return totals


def replace_folder(new: Path, target: Path) -> None:
    """Put folder `new` in place of `target`; an old one is kept until the new one stands."""
    if not target.exists():
        new.rename(target)
        return
    old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-old-")) / "folder"
    target.rename(old)
    new.rename(target)
    shutil.rmtree(old.parent, ignore_errors=True)


def _stored(values: np.ndarray | None, dtype: str, row: dict[str, Any], name: str) -> np.ndarray | None:
    if values is None:
        return None
    with np.errstate(over="ignore"):
        stored = values.astype(dtype)
    if not np.isfinite(stored).all():
        raise UserError(
            f"{row['file_name']}: {name} reaches {np.abs(values).max():.4g}, which float16 cannot hold. "
            "Prepare with --storage_dtype float32."
        )
    return stored


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
