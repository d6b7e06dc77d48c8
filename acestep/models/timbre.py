"""XL's timbre token, which diffusers 0.42 leaves out."""

import torch
from torch import nn


def add_timbre_token(condition_encoder: nn.Module) -> None:
    """Prepend the timbre encoder's `special_token` to the embedded reference frames, as the original XL code does.

    The encoder then pools the token's own output, `[batch, hidden]`, where diffusers 0.42 pools the first frame's. A
    forward hook on the embedding does it: names of weights, saving and quantization stay as they are.
    """
    timbre_encoder = condition_encoder.timbre_encoder

    def prepend(_module: nn.Module, _inputs: tuple, frames: torch.Tensor) -> torch.Tensor:
        token = timbre_encoder.special_token.to(frames).expand(frames.shape[0], -1, -1)
        return torch.cat([token, frames], dim=1)  # (B, 1 + T, D)

    timbre_encoder.embed_tokens.register_forward_hook(prepend)
