"""A store of encoded tensors by what they were made from, so that nothing is encoded twice."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from acestep.kept import whole_file


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
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with whole_file(path) as written:
            save_file(tensors, written, metadata={"sha256": _checksum(tensors)})
        self._absent.discard(path)

    def _note_damage(self, path: Path) -> None:
        self.damaged.add(path)
        self._absent.add(path)


def _checksum(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
