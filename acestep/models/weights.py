"""Weights in safetensors files: read one tensor at a time, checked against the model before any is copied."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import safe_open
from torch import nn

from acestep.errors import UserError
from acestep.models.layout import read_json

LISTED = 8  # keys named in an error; the rest is counted

# Names of dtypes in a safetensors header.
DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class WeightFile:
    """The tensors of one safetensors file or of a set of shards, by name, read when asked for.

    Args:
        folder: where the files lie.
        stem: the name before `.safetensors`, such as `model` or `diffusion_pytorch_model`.

    Raises:
        UserError: when neither `stem.safetensors` nor `stem.safetensors.index.json` with its shards is there, or a file
            is not in the safetensors format (a download that broke off, say).
    """

    def __init__(self, folder: Path, stem: str):
        self.folder, self.stem = folder, stem
        self._files: dict[str, Path] = {}
        self._open: dict[Path, safe_open] = {}
        for path in self._paths():
            for key in self._opened(path).keys():  # noqa: SIM118 - not a mapping
                self._files[key] = path

    def _paths(self) -> list[Path]:
        single, index = self.folder / f"{self.stem}.safetensors", self.folder / f"{self.stem}.safetensors.index.json"
        if single.is_file():
            return [single]
        if not index.is_file():
            raise UserError(f"{self.folder}: neither {single.name} nor {index.name} is there.")
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise UserError(f'{index}: has no "weight_map" from weights to files. Download it again.')
        names = sorted(set(shards.values()))
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise UserError(f"{index}: names {', '.join(missing)}, which is not beside it. Download it again.")
        return [self.folder / name for name in names]

    def _opened(self, path: Path) -> safe_open:
        if path not in self._open:
            try:
                self._open[path] = safe_open(path, framework="pt")
            except Exception as error:  # the reader's own exception type is private
                raise UserError(f"{path}: not a whole safetensors file ({error}). Download it again.") from None
        return self._open[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __contains__(self, key: str) -> bool:
        return key in self._files

    def metadata(self) -> dict[str, str]:
        """The texts in the headers of all files."""
        return {key: text for file in self._open.values() for key, text in (file.metadata() or {}).items()}

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a tensor, from the file's header."""
        return tuple(self._opened(self._files[key]).get_slice(key).get_shape())

    def read(self, key: str) -> torch.Tensor:
        """One tensor, in the stored dtype."""
        return self._opened(self._files[key]).get_tensor(key)

    def sample(self, key: str, count: int = 16) -> torch.Tensor:
        """A few values from the first, middle and last row, `[<= 3 * count]`, without reading the rest."""
        view = self._opened(self._files[key]).get_slice(key)
        shape = view.get_shape()
        if not shape:
            return self.read(key).reshape(1)
        rows = sorted({0, shape[0] // 2, shape[0] - 1})
        return torch.cat([view[row : row + 1].reshape(-1)[:count] for row in rows])


class NamedWeights(Mapping[str, torch.Tensor]):
    """Some of a `WeightFile`'s tensors under other names: a mapping that reads each when it is looked up."""

    def __init__(self, source: WeightFile, names: dict[str, str]):
        self.source, self.names = source, names

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.source.read(self.names[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.source.shape(self.names[name])

    def sample(self, name: str) -> torch.Tensor:
        return self.source.sample(self.names[name])


def check_weights(model: nn.Module, weights: NamedWeights, where: str, given: tuple[str, ...] = ()) -> None:
    """Compare names and shapes with what `model` holds; nothing is read but headers.

    Args:
        where: how an error names the file.
        given: names that come from elsewhere (the silence latent lies in a file of its own).

    Raises:
        UserError: lists the missing, unknown and wrongly shaped keys.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in given}
    missing = [name for name in expected if name not in weights.names]
    unknown = [weights.names[name] for name in weights if name not in expected and name not in given]
    shaped = [
        f"{weights.names[name]} {list(weights.shape(name))}, expected {list(expected[name])}"
        for name in weights
        if name in expected and weights.shape(name) != expected[name]
    ]
    report_keys(where, missing=missing, unknown=unknown, wrong_shape=shaped)


def report_keys(where: str, **problems: list[str]) -> None:
    """Raise a `UserError` that lists the keys of each kind of problem, if there are any."""
    if not any(problems.values()):
        return
    parts = []
    for kind, keys in problems.items():
        if keys:
            more = f" and {len(keys) - LISTED} more" if len(keys) > LISTED else ""
            parts.append(f"{len(keys)} {kind.replace('_', ' ')}: {', '.join(keys[:LISTED])}{more}")
    raise UserError(f"{where}: the weights do not fit the model; " + "; ".join(parts))


def load_weights(model: nn.Module, weights: Mapping[str, torch.Tensor], dtype: torch.dtype | None) -> None:
    """Put `weights` in place of `model`'s tensors one by one: a model built on the meta device needs its size once.

    Args:
        dtype: of the floating-point tensors; None keeps the stored one.
    """
    from accelerate.utils import set_module_tensor_to_device

    for name in weights:
        tensor = weights[name]
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        set_module_tensor_to_device(model, name, "cpu", value=tensor, dtype=tensor.dtype)


def write_safetensors(path: Path, weights: NamedWeights, dtype: torch.dtype | None) -> None:
    """Write a safetensors file holding one tensor in memory at a time.

    The format (https://github.com/huggingface/safetensors): eight bytes with the length of a JSON header with dtype,
    shape and byte range of each tensor, then the bytes. `safetensors.torch.save_file` would hold all tensors at once.
    """
    dtypes = {name: weights.sample(name).dtype for name in weights}
    if dtype is not None:
        dtypes = {name: dtype if stored.is_floating_point else stored for name, stored in dtypes.items()}
    # As the library orders them: wide elements first, so that each begins at a multiple of its size.
    names = sorted(weights, key=lambda name: (-dtypes[name].itemsize, name))
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        size = math.prod(weights.shape(name)) * dtypes[name].itemsize
        header[name] = {
            "dtype": DTYPE_NAMES[dtypes[name]],
            "shape": list(weights.shape(name)),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the data begins at a multiple of eight bytes
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for name in names:
            _write_tensor(file, weights[name], dtypes[name])


def _write_tensor(file: BinaryIO, tensor: torch.Tensor, dtype: torch.dtype) -> None:
    # A function of its own: with the return the tensor goes, before the next one is read.
    file.write(tensor.to(dtype).contiguous().reshape(-1).view(torch.uint8).numpy().data)
