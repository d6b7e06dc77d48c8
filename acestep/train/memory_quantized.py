"""bitsandbytes' layers on tensors without data: the same storages, saved tensors and temporaries, no kernels.

Its own layers keep weights in a subclass of `Parameter` that cannot hold a fake tensor. What they call in turn can:
`quantize_4bit`, the autograd functions, and operations whose results PyTorch knows without running them. Read in
bitsandbytes 0.50: `nn/modules.py`, `autograd/_functions.py`, `backends/cuda/ops.py`.
"""

import logging
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from acestep.models.quantization import block_linears


def put_stand_ins(transformer: nn.Module, kind: str, compute_dtype: torch.dtype, cuda: bool) -> None:
    """Replace the layers that `acestep.models.quantization.quantize` replaces; `store` of each makes the storages.

    Args:
        kind: "int8" or "nf4".
        cuda: whether the run is to be on a GPU, where int8 products take another way than on a CPU.
    """
    for parent, name, linear in block_linears(transformer):
        layer = Stored4bit(linear, compute_dtype) if kind == "nf4" else Stored8bit(linear, cuda)
        setattr(parent, name, layer)


class StoredQuantized(nn.Linear):
    """What the two kinds share; until `store` the weight is the whole one."""

    def __init__(self, linear: nn.Linear):
        like = linear.weight
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, like.device, like.dtype)
        self.requires_grad_(False)
        self.stored = False

    @property
    def W_q(self) -> torch.Tensor:
        """The weight, by a name that tells PEFT (DoRA) to ask `dequantize` for the whole one."""
        return self.weight

    def store(self) -> None:
        """Put the quantized form in place of the whole weight."""
        self.stored = True

    def dequantize(self) -> torch.Tensor:
        """The whole weight."""
        return self.whole() if self.stored else self.weight


class Stored4bit(StoredQuantized):
    """In place of `Linear4bit` with double quantization."""

    def __init__(self, linear: nn.Linear, compute_dtype: torch.dtype):
        super().__init__(linear)
        self.compute_dtype = compute_dtype

    def store(self) -> None:
        import bitsandbytes.functional as bnb

        super().store()
        packed, self.quant_state = bnb.quantize_4bit(self.weight.data, compress_statistics=True, quant_type="nf4")
        self.weight = nn.Parameter(packed, requires_grad=False)

    def whole(self) -> torch.Tensor:
        import bitsandbytes.functional as bnb

        return bnb.dequantize_4bit(self.weight, self.quant_state)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `Linear4bit.forward`."""
        import bitsandbytes

        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        given = x.to(self.compute_dtype)
        return bitsandbytes.matmul_4bit(given, self.weight, bias=bias, quant_state=self.quant_state).to(x.dtype)


class Stored8bit(StoredQuantized):
    """In place of `Linear8bitLt` without outliers kept apart."""

    def __init__(self, linear: nn.Linear, cuda: bool):
        super().__init__(linear)
        self.cuda_way = cuda

    def store(self) -> None:
        import bitsandbytes
        import bitsandbytes.functional as bnb

        super().store()
        state = self.state = bitsandbytes.MatmulLtState()
        state.has_fp16_weights = False
        state.CB, state.SCB, _ = bnb.int8_vectorwise_quant(self.weight.data.to(torch.float16))
        self.weight = nn.Parameter(state.CB, requires_grad=False)

    def whole(self) -> torch.Tensor:
        import bitsandbytes.functional as bnb

        return bnb.int8_vectorwise_dequant(self.state.CB, self.state.SCB)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `Linear8bitLt.forward`."""
        from bitsandbytes.autograd import _functions

        way = _functions.MatMul8bitLt if self.cuda_way else _functions.MatMul8bitFp
        bias = None if self.bias is None else self.bias.to(x.dtype)
        level = _functions.logger.level
        _functions.logger.setLevel(logging.ERROR)  # each layer of each step would say that it casts to float16
        try:
            return way.apply(x, self.weight, None, bias, self.state)
        finally:
            _functions.logger.setLevel(level)


def _gemm_4bit(
    given: torch.Tensor,
    packed: torch.Tensor,
    shape: list[int],
    absmax: torch.Tensor,
    blocksize: int,
    quant_type: str,
    bias: torch.Tensor | None = None,
    absmax_8bit: torch.Tensor | None = None,
    absmax_code: torch.Tensor | None = None,
    absmax_offset: torch.Tensor | None = None,
) -> torch.Tensor:
    """The whole weight, then a product: what is done for more than 1536 tokens, and in most cases for more than 512.

    Fewer may take a fused kernel, which needs no whole weight; which GPU takes it when is a table in bitsandbytes.
    """
    ops = torch.ops.bitsandbytes
    if absmax_8bit is not None:
        absmax = ops.dequantize_blockwise.default(absmax_8bit, absmax, absmax_code, 256, torch.float32) + absmax_offset
    weight = ops.dequantize_4bit.default(packed, absmax, blocksize, quant_type, shape, given.dtype)
    return F.linear(given, weight, bias)


def _int8_scaled_mm(
    given: torch.Tensor,
    weight: torch.Tensor,
    row_stats: torch.Tensor,
    col_stats: torch.Tensor,
    bias: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Sums in int32, then in float16, the only one that the kernel has, then as asked for."""
    sums = torch.empty(*given.shape[:-1], weight.shape[0], dtype=torch.int32, device=given.device)
    return torch.empty_like(sums, dtype=torch.float16).to(dtype or torch.float16)


def operations_inside() -> dict[Any, Any]:
    """What bitsandbytes' operations allocate while they run, as `LiveBytes` takes it."""
    import bitsandbytes  # noqa: F401 - defines the operations

    ops = torch.ops.bitsandbytes
    return {ops.gemm_4bit.default: _gemm_4bit, ops.int8_scaled_mm.default: _int8_scaled_mm}


def prepare_maps() -> None:
    """Make the table that bitsandbytes keeps for good, before fake tensors are about: a fake one would stay."""
    import bitsandbytes.functional as bnb

    if "dynamic" not in bnb.name2qmap:
        bnb.name2qmap["dynamic"] = bnb.create_dynamic_map()
