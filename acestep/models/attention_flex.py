"""Sliding attention by FlexAttention, a compiled kernel for CUDA: scores outside the window are never computed."""

from functools import cache

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK = 128  # FlexAttention's own size of a block


def flex_sliding_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window: int,
    scale: float,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """As `attention_blocks.sliding_attention` without dropout, `[B, S, H, D]`.

    On CUDA the kernel is compiled at the first call (Triton); elsewhere it runs uncompiled and stores all scores, which
    only a test of exactness wants.
    """
    kernel = compiled() if query.is_cuda and not torch.compiler.is_compiling() else flex_attention
    out = kernel(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        block_mask=band(query.shape[1], window, query.device, lengths),
        scale=scale,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return out.transpose(1, 2)


@cache
def compiled():
    """FlexAttention compiled once for all lengths; imported code does not compile before it is needed."""
    return torch.compile(flex_attention, dynamic=True)


def band(tokens: int, window: int, device: torch.device, lengths: torch.Tensor | None = None) -> BlockMask:
    """The mask of `sliding_attention`, built from which blocks touch which: `create_block_mask` would first build the
    dense one, `[S, S]`.

    Args:
        lengths: `[B]` valid tokens; a padded query sees all its neighbours.
    """
    blocks = -(-tokens // BLOCK)
    number = torch.arange(blocks, device=device, dtype=torch.int32)
    first = (number - -(-window // BLOCK)).clamp(min=0)
    last = (number + -(-window // BLOCK)).clamp(max=blocks - 1)
    columns = (first[:, None] + number).clamp(max=blocks - 1)  # only the first `last - first + 1` of a row are read

    def allowed(batch, head, query, key):
        near = (query - key).abs() <= window
        if lengths is None:
            return near
        return near & ((key < lengths[batch]) | (query >= lengths[batch]))

    return BlockMask.from_kv_blocks(
        (last - first + 1)[None, None],
        columns[None, None],
        BLOCK_SIZE=BLOCK,
        mask_mod=allowed,
        seq_lengths=(tokens, tokens),
    )
