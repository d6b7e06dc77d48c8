"""A store of encoded tensors by what they were made from, so that nothing is encoded twice."""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


def content_key(*parts: object) -> str:
    """A file name for what was made from `parts` (JSON values): 40 hex digits of their SHA-256."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:40]


class TensorStore:
    """Tensors in safetensors files under `folder/kind/key`, whole or absent, each with a checksum.

    Args:
        folder: made when the first tensors are kept.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.damaged: set[Path] = set()

    def path(self, kind: str, key: str) -> Path:
        return self.folder / kind / key[:2] / f"{key}.safetensors"

    def __contains__(self, kind_and_key: tuple[str, str]) -> bool:
        return self.get(*kind_and_key) is not None

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
            self.damaged.add(path)
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
            with open(written, "rb") as file:
                os.fsync(file.fileno())
            os.replace(written, path)
        except BaseException:
            Path(written).unlink(missing_ok=True)
            raise

    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.folder.rglob("*.safetensors"))

    def clear(self) -> None:
        """Remove everything that is kept."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _checksum(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
