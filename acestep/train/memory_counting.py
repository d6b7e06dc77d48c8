"""Counting the bytes that live tensors hold, operation by operation, on tensors without data."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BLOCK = 512  # bytes: the CUDA caching allocator hands out multiples of it
ACTIVATIONS = "activations"


class LiveBytes(TorchDispatchMode):
    """While entered, keeps count of the storages that operations make, and of the most that lived at once.

    A storage counts from the operation that returns it until nothing refers to it, be it Python or the graph that
    autograd keeps for the backward pass. What a kernel takes and gives back inside itself is not seen, except for those
    of `inside`.

    Args:
        inside: what an operation does, in operations that allocate as its kernel does.

    Attributes:
        live: bytes now, by kind; what nobody has named by `name` is an activation.
        peak: `live` when its sum was the largest.
    """

    def __init__(self, inside: dict[Any, Callable[..., Any]] | None = None):
        super().__init__()
        self.inside = inside or {}
        self.live: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self._most = 0
        self._held: dict[int, _Storage] = {}  # by the storage's address

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default and _unknown(args[0]):
            return args[0].dtype.is_floating_point * 1.0 or 1  # a value is asked for: none changes what is allocated
        if func in self.inside:
            with self:
                return self.inside[func](*args, **kwargs)
        result = func(*args, **kwargs)
        for leaf in (result,) if isinstance(result, torch.Tensor) else tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf, ACTIVATIONS)
        return result

    def name(self, tensors: Iterable[torch.Tensor], kind: str | None) -> None:
        """Say what tensors are, those that were counted before and others; None: they are not on the device."""
        for tensor in tensors:
            self._count(tensor, kind)
            held = self._held[tensor.untyped_storage()._cdata]
            if held.kind != kind:
                self._add(held.kind, -held.size)
                held.kind = kind
                self._add(kind, held.size)

    def name_rest(self, kind: str) -> None:
        """Say what everything is that nobody has named yet."""
        for held in self._held.values():
            if held.kind == ACTIVATIONS:
                held.kind = kind
        self.live[kind] += self.live.pop(ACTIVATIONS, 0)

    def reset_peak(self) -> None:
        """Forget what the peak was before."""
        self.peak, self._most = self.live.copy(), sum(self.live.values())

    def _count(self, tensor: torch.Tensor, kind: str | None) -> None:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._held:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        # The Python object of a storage lives as long as the storage does.
        self._held[address] = _Storage(weakref.ref(storage, lambda _: self._release(address)), size, kind)
        self._add(kind, size)

    def _release(self, address: int) -> None:
        held = self._held.pop(address)
        self._add(held.kind, -held.size)

    def _add(self, kind: str | None, size: int) -> None:
        if kind is None:
            return
        self.live[kind] += size
        total = sum(self.live.values())
        if total > self._most:
            self._most, self.peak = total, self.live.copy()


class _Storage:
    """A live storage."""

    __slots__ = ("kind", "reference", "size")

    def __init__(self, reference: weakref.ref, size: int, kind: str | None):
        self.reference, self.size, self.kind = reference, size, kind


def _unknown(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, FakeTensor) and tensor.constant is None
