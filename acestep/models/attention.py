"""Our attention on the released transformer: exact, without dense masks, and with masks for padded batches.

    install_attention(transformer)
    with valid_lengths(transformer, frames=[1500, 1200], condition=[310, 280]):
        velocity = transformer(...)

diffusers masks the sliding layers by a dense `[S, S]` tensor and never masks padding. Here the sliding layers attend by
blocks of neighbours, the others without a mask, and padding is left out where `valid_lengths` says what is valid.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AceStepTransformer1DModel
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.ace_step_transformer import AceStepAttention
from torch import nn

from acestep.errors import UserError
from acestep.models.attention_blocks import BLOCK, full_attention, sliding_attention

IMPLEMENTATIONS = ("auto", "blockwise", "flex", "native")


def install_attention(transformer: nn.Module, implementation: str = "auto", block: int = BLOCK) -> str:
    """Put our attention on every attention module of the transformer, in place; weights and outputs stay the same.

    Args:
        transformer: an `AceStepTransformer1DModel`, wrapped or not, with or without adapters.
        implementation: of the sliding layers. "blockwise" runs everywhere; "flex" is FlexAttention, on CUDA only;
            "native" takes our attention off; "auto" is "blockwise" (on CUDA the two have not been compared yet).
        block: queries a block of "blockwise".

    Returns:
        The implementation in use: "blockwise", "flex" or "native".

    Raises:
        UserError: for an unknown implementation, or "flex" without CUDA.
    """
    if implementation not in IMPLEMENTATIONS:
        raise UserError(f"--attention {implementation}: expected one of {', '.join(IMPLEMENTATIONS)}.")
    if implementation == "flex" and not torch.cuda.is_available():
        raise UserError("--attention flex: needs a CUDA GPU, and there is none. Use --attention auto.")
    remove_attention(transformer)
    if implementation == "native":
        return "native"
    implementation = "blockwise" if implementation == "auto" else implementation
    lengths, model = Lengths(), unwrapped(transformer)
    for module in model.modules():
        if isinstance(module, AceStepAttention):
            module.set_processor(AttentionProcessor(module.processor, implementation, block, lengths))
    model.proj_in_conv.register_forward_hook(_tokens_together)
    return implementation


def remove_attention(transformer: nn.Module) -> None:
    """Undo `install_attention`: the processors that it replaced are back."""
    for module in unwrapped(transformer).modules():
        if isinstance(module, AceStepAttention) and isinstance(module.processor, AttentionProcessor):
            module.set_processor(module.processor.replaced)
        for key, hook in list(module._forward_hooks.items()):
            if hook is _tokens_together:
                del module._forward_hooks[key]


def _tokens_together(_module: nn.Module, _inputs: tuple, out: torch.Tensor) -> torch.Tensor:
    """The patches' embeddings `[B, D, S]`, each token's values side by side in memory.

    The model goes on with their transpose, whose layout its residual stream would keep through all layers: every norm
    and every sum would walk through memory in strides.
    """
    return out.transpose(1, 2).contiguous().transpose(1, 2)


@dataclass
class Lengths:
    """Valid tokens `[B]` of the songs and of their conditions in the forward pass under way; None: all are."""

    tokens: torch.Tensor | None = None
    condition: torch.Tensor | None = None

    @contextmanager
    def set(self, tokens: torch.Tensor | None, condition: torch.Tensor | None) -> Iterator[None]:
        """Take these, and the former ones again at the end."""
        former = self.tokens, self.condition
        self.tokens, self.condition = tokens, condition
        try:
            yield
        finally:
            self.tokens, self.condition = former


class AttentionProcessor:
    """Of one `AceStepAttention`: projections, norms and rotary embedding as in the released processor, our attention.

    Args:
        replaced: the processor that was there.
        implementation: "blockwise" or "flex".
        block: queries a block.
        lengths: shared by all processors of the model.
    """

    _parallel_config = None

    def __init__(self, replaced: Any, implementation: str, block: int, lengths: Lengths):
        self.replaced, self.implementation, self.block, self.lengths = replaced, implementation, block, lengths

    @property
    def _attention_backend(self) -> AttentionBackendName:
        """What keeps the model's forward from building its dense mask.

        It builds none when its first layer's processor names a flash backend, which windows and masks by itself, as
        this processor does. The name is only looked at: nothing is dispatched to it, no kernel is looked for.
        """
        return AttentionBackendName.FLASH

    @_attention_backend.setter
    def _attention_backend(self, backend: Any) -> None:
        # Reached through the model's set_attention_backend: a choice that would change nothing must not seem made.
        raise UserError("remove_attention(transformer) first: diffusers' attention backends do not reach ours.")

    def __call__(
        self,
        attn: AceStepAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """`[B, S, width]`, as the released processor computes it."""
        if attention_mask is not None:
            raise ValueError("The transformer made a dense attention mask: this version of diffusers is not supported.")
        is_cross = attn.is_cross_attention and encoder_hidden_states is not None
        source = encoder_hidden_states if is_cross else hidden_states
        query = attn.to_q(hidden_states).unflatten(-1, (attn.heads, attn.head_dim))
        key = attn.to_k(source).unflatten(-1, (attn.kv_heads, attn.head_dim))
        value = attn.to_v(source).unflatten(-1, (attn.kv_heads, attn.head_dim))
        query, key = attn.norm_q(query), attn.norm_k(key)
        if not is_cross and image_rotary_emb is not None:
            rotary = {"use_real": True, "use_real_unbind_dim": -2, "sequence_dim": 1}
            query = apply_rotary_emb(query, image_rotary_emb, **rotary)
            key = apply_rotary_emb(key, image_rotary_emb, **rotary)
        dropout = attn.dropout if attn.training else 0.0
        if is_cross:
            out = full_attention(query, key, value, attn.scaling, dropout, self.lengths.condition)
        elif attn.sliding_window is None:
            out = full_attention(query, key, value, attn.scaling, dropout, self.lengths.tokens)
        elif self.implementation == "flex":
            from acestep.models.attention_flex import flex_sliding_attention

            if dropout or not query.is_cuda:
                raise UserError("--attention flex: needs the model on a CUDA GPU, without attention dropout.")
            out = flex_sliding_attention(query, key, value, attn.sliding_window, attn.scaling, self.lengths.tokens)
        else:
            out = sliding_attention(
                query, key, value, attn.sliding_window, attn.scaling, dropout, self.lengths.tokens, self.block
            )
        return attn.to_out[1](attn.to_out[0](out.flatten(2, 3).to(query.dtype)))


@contextmanager
def valid_lengths(
    transformer: nn.Module, frames: Sequence[int] | None = None, condition: Sequence[int] | None = None
) -> Iterator[None]:
    """Within it, a forward pass of a padded batch computes for each song what it would alone.

    The backward pass may come later, outside, also with gradient checkpointing and after other forward passes: each
    layer's recomputation has the lengths of its own forward pass. Latents, context and condition beyond the lengths
    are never read, not even NaN; the velocities there are finite and mean nothing.

    Args:
        transformer: with our attention installed; wrapped or not.
        frames: valid latent frames of each song, on the host (of a tensor on a GPU, reading them waits for it). None:
            all are valid.
        condition: valid tokens of each song's condition. None: all are valid.

    Raises:
        UserError: without our attention, or for lengths that do not fit the batch.
    """
    model = unwrapped(transformer)
    processor = model.layers[0].self_attn.processor
    if not isinstance(processor, AttentionProcessor):
        raise UserError("A padded batch needs our attention: --attention auto, blockwise or flex, not native.")
    lengths = processor.lengths

    def cut_frames(_module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        """Patches of context and noisy latents, `[B, C, T]`: a song alone ends in zeros up to the patch's border."""
        valid, tensor = _valid(frames, inputs[0], inputs[0].shape[2], "frames")
        lengths.tokens = -(-valid // model.patch_size)
        return (tensor.masked_fill(_beyond(valid, tensor.shape[2])[:, None], 0.0),)

    def cut_condition(_module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        lengths.condition, tensor = _valid(condition, inputs[0], inputs[0].shape[1], "condition")
        return (tensor.masked_fill(_beyond(lengths.condition, tensor.shape[1])[..., None], 0.0),)

    with lengths.set(None, None), ExitStack() as stack:
        if frames is not None:
            stack.enter_context(_removed(model.proj_in_conv.register_forward_pre_hook(cut_frames)))
        if condition is not None:
            stack.enter_context(_removed(model.condition_embedder.register_forward_pre_hook(cut_condition)))
        stack.enter_context(_checkpointing_with(model, lengths))
        yield


@contextmanager
def _checkpointing_with(model: nn.Module, lengths: Lengths) -> Iterator[None]:
    """Give each checkpointed layer its lengths along: it is run again in the backward pass, when others are set."""
    checkpoint: Callable | None = model._gradient_checkpointing_func
    if checkpoint is None:
        yield
        return

    def with_lengths(layer: nn.Module, *inputs: Any) -> Any:
        tokens, condition = lengths.tokens, lengths.condition

        def run(*inputs: Any) -> Any:
            with lengths.set(tokens, condition):
                return layer(*inputs)

        return checkpoint(run, *inputs)

    model._gradient_checkpointing_func = with_lengths
    try:
        yield
    finally:
        model._gradient_checkpointing_func = checkpoint


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _valid(lengths: Sequence[int], tensor: torch.Tensor, longest: int, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Checked lengths as a tensor beside `tensor` `[B, ...]`."""
    numbers = [int(length) for length in lengths]
    if len(numbers) != len(tensor) or not all(1 <= number <= longest for number in numbers):
        raise UserError(f"{name}: {numbers}; expected {len(tensor)} lengths between 1 and {longest}.")
    return torch.tensor(numbers, device=tensor.device), tensor


def _beyond(lengths: torch.Tensor, longest: int) -> torch.Tensor:
    """`[B, longest]`, true past each length."""
    return torch.arange(longest, device=lengths.device) >= lengths[:, None]


def unwrapped(transformer: nn.Module) -> AceStepTransformer1DModel:
    """The released model inside DDP's and the compiler's wrappers.

    Raises:
        UserError: when there is none.
    """
    for module in transformer.modules():
        if isinstance(module, AceStepTransformer1DModel):
            return module
    raise UserError(f"{type(transformer).__name__}: holds no AceStepTransformer1DModel.")
