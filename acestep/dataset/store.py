"""A store of encoded tensors by what they were made from, so that nothing is encoded twice."""

import contextlib
import hashlib
import json
import os
import re
import tempfile
import time
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

UNFINISHED_SECONDS = 3600  # nothing takes so long to write

_KEY = re.compile(r"[0-9a-f]{40}")
_UMASK = os.umask(0)
os.umask(_UMASK)  # it can be read only by setting it


def content_key(*parts: object) -> str:
    """A file name for what was made from `parts` (JSON values): 40 hex digits of their SHA-256."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:40]


class TensorStore:
    """Tensors in safetensors files under `folder/kind/key`, whole or absent, each with a checksum.

    `in` looks at a file's head and length, so that asking for a thousand songs costs next to nothing; `get` compares
    the checksum of all that it returns, so nothing damaged is ever used.

    Args:
        folder: made when the first tensors are kept.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.damaged: set[Path] = set()
        self._absent: set[Path] = set()  # damaged, and not made again yet

    def path(self, kind: str, key: str) -> Path:
        return self.folder / kind / key[:2] / f"{key}.safetensors"

    def __contains__(self, kind_and_key: tuple[str, str]) -> bool:
        path = self.path(*kind_and_key)
        if path in self._absent or not path.is_file():
            return False
        try:
            # opening reads the head alone, and refuses a file that is not as long as the head says
            with safe_open(path, framework="pt") as file:
                whole = "sha256" in (file.metadata() or {})
        except (SafetensorError, OSError):
            whole = False
        if not whole:
            self._note_damage(path)
        return whole

    def get(self, kind: str, key: str) -> dict[str, torch.Tensor] | None:
        """The tensors kept under `key`, or None.

        A damaged file counts as absent and is added to `damaged`: the caller makes the tensors again and says so.
        """
        path = self.path(kind, key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
                recorded = (file.metadata() or {}).get("sha256")
        except (SafetensorError, OSError):
            recorded, tensors = None, {}
        if recorded is None or recorded != _checksum(tensors):
            self._note_damage(path)
            return None
        return tensors

    def put(self, kind: str, key: str, tensors: dict[str, torch.Tensor]) -> None:
        """Keep tensors: written beside, synced to the disk, then renamed, so that a crash leaves no half a file."""
        path = self.path(kind, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        descriptor, written = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
        os.close(descriptor)
        try:
            save_file(tensors, written, metadata={"sha256": _checksum(tensors)})
            os.chmod(written, 0o666 & ~_UMASK)  # temporary files are private; a cache may be shared
            _sync(written)
            os.replace(written, path)
        except BaseException:
            Path(written).unlink(missing_ok=True)
            raise
        _sync(path.parent)  # or a power cut could undo the renaming of many files
        self._absent.discard(path)

    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.folder.rglob("*.safetensors"))

    def remove_unfinished(self) -> None:
        """Remove what killed runs were writing, told from what another run is writing now by its age."""
        for path in self.folder.glob("*/*/.writing-*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > UNFINISHED_SECONDS:
                    path.unlink()

    def clear(self) -> None:
        """Remove everything that is kept, and nothing else: whoever named a folder of songs by mistake keeps them."""
        for kind in self.folder.iterdir() if self.folder.is_dir() else ():
            for path in kind.glob("??/*.safetensors") if kind.is_dir() else ():
                if _KEY.fullmatch(path.stem) and path.parent.name == path.stem[:2]:
                    path.unlink()
                    _remove_if_empty(path.parent)
            _remove_if_empty(kind)
        _remove_if_empty(self.folder)

    def _note_damage(self, path: Path) -> None:
        self.damaged.add(path)
        self._absent.add(path)


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _sync(path: Path | str) -> None:
    """Have the disk write a file, or the names in a folder."""
    if os.name == "nt" and Path(path).is_dir():  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
