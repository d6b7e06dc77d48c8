"""The folder of `--cache_dir`: encoded tensors, and what checking the songs found out; `folder/kind/ab/abcdef...`."""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

from acestep.kept import UNFINISHED

UNFINISHED_SECONDS = 3600  # nothing takes so long to write

_NAME = re.compile(r"[0-9a-f]{40}\.(safetensors|json)")


def cache_size(folder: Path) -> int:
    """Bytes of all that is kept."""
    return sum(path.stat().st_size for path in _entries(folder))


def remove_unfinished(folder: Path) -> None:
    """Remove what killed runs were writing, told from what another run is writing now by its age."""
    for path in folder.glob(f"*/*/{UNFINISHED}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > UNFINISHED_SECONDS:
                path.unlink()


def clear_cache(folder: Path) -> None:
    """Remove everything that is kept, and nothing else: whoever named a folder of songs by mistake keeps them."""
    parents = set()
    for path in _entries(folder):
        path.unlink()
        parents |= {path.parent, path.parent.parent}
    for parent in sorted(parents, key=lambda parent: -len(parent.parts)):
        _remove_if_empty(parent)
    _remove_if_empty(folder)


def _entries(folder: Path) -> Iterator[Path]:
    return (
        path for path in folder.glob("*/??/*") if _NAME.fullmatch(path.name) and path.name.startswith(path.parent.name)
    )


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
