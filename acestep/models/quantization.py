"""A frozen transformer in fewer bits: linear layers by bitsandbytes, everything else as it was."""

from collections.abc import Iterator

import torch
from torch import nn

QUANTIZATIONS = ("none", "int8", "nf4")


def quantize(transformer: nn.Module, kind: str, compute_dtype: torch.dtype, device: torch.device) -> None:
    """Replace the linear layers of the transformer's blocks by quantized ones, block by block, in place.

    Embeddings, norms and the first and last projection keep their precision: they are small and errors there reach
    everything. Call it before adapters are put on.

    Args:
        kind: "int8" (bitsandbytes' LLM.int8) or "nf4" (4-bit normal floats with double quantization).
        compute_dtype: of the matrix products of nf4.
        device: where the layers are quantized and stay.
    """
    for parent, name, linear in block_linears(transformer):
        setattr(parent, name, _quantized(linear, kind, compute_dtype).to(device))


def block_linears(transformer: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """The linear layers that `quantize` replaces, each with its parent and its name there."""
    for block in transformer.layers:
        for parent in [module for module in block.modules() if not isinstance(module, nn.Linear)]:
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    yield parent, name, child


def _quantized(linear: nn.Linear, kind: str, compute_dtype: torch.dtype) -> nn.Linear:
    import bitsandbytes

    size = {"input_features": linear.in_features, "output_features": linear.out_features}
    bias = linear.bias is not None
    if kind == "nf4":
        quantized = bitsandbytes.nn.Linear4bit(
            **size, bias=bias, compute_dtype=compute_dtype, quant_type="nf4", compress_statistics=True
        )
        # On some CPUs a pass without gradients would repack the weights for inference, which training cannot read and
        # layers narrower than a block of 64 cannot take.
        quantized.support_avx512bf16_for_cpu = False
        quantized.weight = bitsandbytes.nn.Params4bit(
            linear.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
        )
    else:
        quantized = bitsandbytes.nn.Linear8bitLt(**size, bias=bias, has_fp16_weights=False)
        quantized.weight = bitsandbytes.nn.Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False)
    if bias:
        quantized.bias = nn.Parameter(linear.bias.data, requires_grad=False)
    return quantized
