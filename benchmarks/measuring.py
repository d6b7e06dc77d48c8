"""What a measurement needs beside a clock: the machine, peak memory, floating-point operations, a GPU's ceiling."""

import ctypes
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

PACKAGES = ("torch", "diffusers", "peft", "bitsandbytes", "accelerate")


def machine(device: torch.device) -> dict[str, Any]:
    """Hardware, versions, threads and how busy the machine is."""
    found = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.system(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"gpu": properties.name, "gpu_memory_gib": round(properties.total_memory / 2**30, 1)}
        found |= {"cuda": torch.version.cuda, "capability": f"{properties.major}.{properties.minor}"}
    return {"hardware": found, "versions": {package: version(package) for package in PACKAGES}}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, float | None]]:
    """Fills in, in MiB, the `peak` and what it is above the `before` of the block.

    On CUDA these are the allocator's `max_memory_allocated` and `memory_allocated`; on Linux the process's resident
    memory, whose high-water mark is set back at the start (`/proc/self/clear_refs`); elsewhere None.
    """
    found: dict[str, float | None] = {"before": None, "peak": None}
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        found["before"] = torch.cuda.memory_allocated(device) / 2**20
        yield found
        synchronize(device)
        found["peak"] = torch.cuda.max_memory_allocated(device) / 2**20
    elif sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed goes back, so that it is counted when it is taken
        Path("/proc/self/clear_refs").write_text("5")
        found["before"] = _resident("VmRSS")
        yield found
        found["peak"] = _resident("VmHWM")
    else:
        yield found


def _resident(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 2**10


def count_operations(step: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products, convolutions and attention kernels that `step` runs.

    Counted as executed, recomputation and masked scores included, two for a multiplication with its addition;
    everything elementwise is left out.
    """
    aten = torch.ops.aten
    # PyTorch has formulas for the GPU's attention kernels only.
    formulas = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_operations(2),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_operations(5, query=1),
    }
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        step()
    return counter.get_total_flops()


def _attention_operations(products: int, query: int = 0) -> Callable[..., int]:
    """Of so many matrix products of queries `[B, H, L, D]`, the argument at `query`, with the keys behind them."""

    def operations(*shapes: Any, out_shape: Any = None, **options: Any) -> int:
        (batch, heads, length, size), keys = shapes[query], shapes[query + 1][2]
        return products * 2 * batch * heads * length * keys * size

    return operations


def matrix_ceiling(device: torch.device, dtype: torch.dtype, size: int = 8192) -> float:
    """Floating-point operations a second of a large matrix product, the best of ten on a GPU."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(13):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        a @ b
        end.record()
        synchronize(device)
        best = min(best, start.elapsed_time(end) / 1e3)
    return 2 * size**3 / best
