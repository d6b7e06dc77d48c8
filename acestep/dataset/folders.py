"""A folder appears whole or not at all: written beside under another name, then renamed."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, removed at the end with all that is still in it.

    What killed runs left there is removed first; a folder in which another run is writing is left alone.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-staging-"))
    lock = _lock(staging)  # held by this process, and let go by the system however it ends
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def replace_folder(new: Path, target: Path) -> None:
    """Put folder `new` in place of `target`; an old one is kept until the new one stands."""
    if not target.exists():
        new.rename(target)
        return
    old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-old-")) / "folder"
    target.rename(old)
    try:
        new.rename(target)
    except OSError:
        old.rename(target)
        old.parent.rmdir()
        raise
    shutil.rmtree(old.parent, ignore_errors=True)


def remove_abandoned(target: Path) -> None:
    """Remove what killed runs left beside `target`, and put back what one of them had just taken away."""
    for old in target.parent.glob(f".{target.name}-old-*"):
        if not target.exists() and (old / "folder").is_dir():
            (old / "folder").rename(target)
        shutil.rmtree(old, ignore_errors=True)
    for staging in target.parent.glob(f".{target.name}-staging-*"):
        lock = _lock(staging)
        if lock is not None:
            shutil.rmtree(staging, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """A lock on a folder; None where another process holds it, or where the system knows no such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
