"""Attention over a sequence, over a neighbourhood by blocks, and over the valid part of a padded batch.

Tensors are `[batch, tokens, heads, head_dim]`, as the model's projections leave them; queries have a multiple of the
keys' heads. `lengths` `[batch]` are valid tokens. What stands at padded positions must be finite: their keys are left
out of the softmax, which multiplies their values by zero.
"""

from typing import Any

import torch
import torch.nn.functional as F

# Of 64, 96, 128, 192, 256, 384 and 512 the ones from 64 to 192 take equal time forward and backward (docs/speed.md).
BLOCK = 128


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    allowed: torch.Tensor | None,
    scale: float,
    dropout: float,
) -> torch.Tensor:
    """`scaled_dot_product_attention` with grouped-query heads, `[B, L, H, D]`.

    The G query heads that share a key head are laid one behind the other on the query axis: the keys are never
    repeated, whatever kernel is chosen. `enable_gqa` does that too, but on CUDA only for the flash kernel, which takes
    no mask, and for the one that stores all scores.

    Args:
        query: `[B, L, H, D]`; key, value: `[B, M, K, D]` with H = G*K.
        allowed: what a query may see, bool, broadcastable to `[B, 1, L, M]` with all four axes; None: everything.
    """
    length, groups = query.shape[1], query.shape[2] // key.shape[2]
    query = query.unflatten(2, (key.shape[2], groups)).permute(0, 2, 3, 1, 4).flatten(2, 3)  # (B, K, G*L, D)
    if allowed is not None and groups > 1 and allowed.shape[2] != 1:
        allowed = allowed.repeat(1, 1, groups, 1)
    out = F.scaled_dot_product_attention(
        query, key.transpose(1, 2), value.transpose(1, 2), attn_mask=allowed, dropout_p=dropout, scale=scale
    )
    return out.unflatten(2, (groups, length)).permute(0, 3, 1, 2, 4).flatten(2, 3)


def full_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    dropout: float = 0.0,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """Every query sees all valid keys; for self- and cross-attention, `[B, L, H, D]`."""
    allowed = None
    if lengths is not None:
        allowed = (torch.arange(key.shape[1], device=key.device) < lengths[:, None])[:, None, None]  # (B, 1, 1, M)
    return attend(query, key, value, allowed, scale, dropout)


def sliding_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window: int,
    scale: float,
    dropout: float = 0.0,
    lengths: torch.Tensor | None = None,
    block: int = BLOCK,
) -> torch.Tensor:
    """Every query sees the valid keys at most `window` tokens away, `[B, S, H, D]`, in time and memory O(S * window).

    Three calls: the first `window` queries and the last ones, whose neighbourhoods the sequence's ends cut off, and
    all blocks between them at once, whose neighbourhoods are equal: `block + 2*window` keys under one small mask.
    """
    tokens, reach = query.shape[1], block + 2 * window
    position = torch.arange(tokens, device=query.device)

    def allowed(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """`[..., L]` and `[..., M]` positions to `[1 or B, ..., L, M]`; a padded query sees all its neighbours."""
        queries, keys = queries[..., :, None], keys[..., None, :]
        near = ((queries - keys).abs() <= window)[None]
        if lengths is None:
            return near
        valid = lengths.view(-1, *[1] * (near.dim() - 1))
        return near & ((keys < valid) | (queries >= valid))  # a softmax over nothing would not be finite

    def part(start: int, end: int, first: int, last: int) -> torch.Tensor:
        """Queries `start` to `end`, keys `first` to `last`."""
        mask = allowed(position[start:end], position[first:last])[:, None]
        return attend(query[:, start:end], key[:, first:last], value[:, first:last], mask, scale, dropout)

    if tokens < reach:
        return part(0, tokens, 0, tokens)
    count = (tokens - reach) // block + 1
    end = window + count * block
    keys, values = (
        Windows.apply(x[:, : end + window], block, reach).flatten(0, 1) for x in (key, value)
    )  # (B*N, reach, K, D), without a copy for a batch of 1
    queries = query[:, window:end].unflatten(1, (count, block)).flatten(0, 1)  # (B*N, block, H, D)
    # Without lengths every block is as the first one.
    blocks = position[: 1 if lengths is None else count, None] * block
    mask = allowed(window + blocks + position[:block], blocks + position[:reach]).flatten(0, 1)[:, None]
    between = attend(queries, keys, values, mask, scale, dropout).reshape(len(query), count * block, *query.shape[2:])
    return torch.cat([part(0, window, 0, 2 * window), between, part(end, tokens, end - window, tokens)], dim=1)


class Windows(torch.autograd.Function):
    """Overlapping windows of `reach` tokens, one every `block`: `[B, T, K, D]` to a view `[B, N, reach, K, D]`.

    `Tensor.unfold` with a backward pass that adds the overlaps up block by block, a fifth faster than its own.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, block: int, reach: int) -> torch.Tensor:
        ctx.block = block
        return x.unfold(1, reach, block).movedim(-1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        batch, count, reach, *head = gradient.shape
        block = ctx.block
        total = gradient.new_zeros(batch, (count - 1 + -(-reach // block)) * block, *head)
        for start in range(0, reach, block):
            piece = gradient[:, :, start : start + block]
            rows = total[:, start : start + count * block].unflatten(1, (count, block))
            rows[:, :, : piece.shape[2]] += piece
        return total[:, : (count - 1) * block + reach], None, None
