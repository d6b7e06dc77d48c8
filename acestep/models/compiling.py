"""Compiling the transformer's layers, once for all lengths."""

from typing import Any

import torch
from torch import nn

from acestep.models.attention import unwrapped

RECOMPILE_LIMIT = 32  # graphs of a layer's code; the library's 8 are meant for one function in one place


def compile_layers(transformer: nn.Module, **options: Any) -> None:
    """Compile every layer of the transformer in place; call it last, after quantization, adapters and attention.

    All layers share one code and so their graphs, with our attention one graph a layer (diffusers' own breaks in two at
    its processors). A graph holds for every length; another is made only for: sliding and full layers; the first layer,
    whose input has no gradient; songs too short for a block, with one block between the ends, and longer ones; batches
    of one and of more, with lengths and without; training and evaluation. Embeddings and the last projection stay as
    they are: a small part of the work, whose patches would tie graphs to odd and even lengths.

    On a CPU the code is compiled without vectors: with them, PyTorch 2.11 computed wrong gradients of the layers' input
    where that was transposed in memory (off by a tenth, with GCC 12 on AVX-512; right where it was not).

    Args:
        transformer: an `AceStepTransformer1DModel`, wrapped or not.
        options: of `torch.compile`, such as `backend`.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    layers = unwrapped(transformer).layers
    if next(layers.parameters()).device.type == "cpu" and "backend" not in options:
        options = {"options": {"cpp.simdlen": 1}} | options
    for layer in layers:
        layer.compile(dynamic=True, **options)
