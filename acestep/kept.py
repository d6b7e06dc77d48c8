"""Files that are kept from run to run: named by what they were made from, and whole or absent."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

UNFINISHED = ".writing-"  # how the name of a file begins that is being written

_UMASK = os.umask(0)
os.umask(_UMASK)  # it can be read only by setting it


def content_key(*parts: object) -> str:
    """A file name for what was made from `parts` (JSON values): 40 hex digits of their SHA-256."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:40]


@contextlib.contextmanager
def whole_file(path: Path, sync: bool = True) -> Iterator[str]:
    """The name of a new file to write, which takes the place of `path` at the end, or vanishes if the block raises.

    Args:
        sync: have the disk write it, so that a power cut leaves it whole too. Otherwise it may be found empty then:
            for what carries a checksum and costs little to make again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, written = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED)
    os.close(descriptor)
    try:
        yield written
        os.chmod(written, 0o666 & ~_UMASK)  # temporary files are private; a cache may be shared
        if sync:
            _sync(written)
        os.replace(written, path)
    except BaseException:
        Path(written).unlink(missing_ok=True)
        raise
    if sync:
        _sync(path.parent)  # or a power cut could undo the renaming of many files


def _sync(path: Path | str) -> None:
    """Have the disk write a file, or the names in a folder."""
    if os.name == "nt" and Path(path).is_dir():  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
