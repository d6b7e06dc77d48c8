"""One LoRA training step of a transformer with random weights, as the trainer makes it."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AceStepTransformer1DModel

from acestep.dataset.schema import FRAMES_PER_SECOND
from acestep.models.quantization import quantize
from acestep.train.adapter import add_adapter
from acestep.train.step import VelocityLoss

CHANNELS, CONDITION_TOKENS = 64, 700  # of a song with lyrics
SIZES = {
    "mini": {
        **{"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "encoder_hidden_size": 512},
    },
    "2b": {},  # the library's defaults
    "xl": {
        **{"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 32, "num_attention_heads": 32},
        **{"num_key_value_heads": 8, "encoder_hidden_size": 2048},
    },
}


def make_transformer(
    size: str, dtype: torch.dtype, quantization: str, device: torch.device, rank: int
) -> tuple[AceStepTransformer1DModel, list[torch.nn.Parameter]]:
    """The frozen transformer with an adapter on its attention layers, and the adapter's weights."""
    torch.manual_seed(0)
    transformer = empty_transformer(size).to(dtype).to_empty(device=device)
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            parameter.fill_(1.0) if "norm" in name else parameter.normal_(std=0.02)
    if quantization != "none":
        quantize(transformer, quantization, dtype, device)
    trainable = add_adapter(transformer, ["attention"], rank, rank, use_rslora=False, seed=0)
    return transformer.to(device).train(), trainable


def empty_transformer(size: str) -> AceStepTransformer1DModel:
    """Without memory for its weights."""
    with torch.device("meta"):
        return AceStepTransformer1DModel(**SIZES[size])


def make_batch(transformer: AceStepTransformer1DModel, seconds: float, device: torch.device) -> dict[str, Any]:
    """A micro-batch of one song, as the trainer's loader gives it, on the device."""
    frames = round(seconds * FRAMES_PER_SECOND)
    condition = torch.randn(CONDITION_TOKENS, transformer.config.encoder_hidden_size, device=device)
    return {
        "clean_latents": torch.randn(1, frames, CHANNELS, device=device),
        "noise": torch.randn(1, frames, CHANNELS, device=device),
        "timestep": torch.tensor([0.5], device=device),
        "frames": torch.tensor([frames], device=device),
        "lengths": [frames],
        "null_condition": torch.tensor([False], device=device),
        "encoder_hidden_states": [condition],
    }


def make_step(
    transformer: AceStepTransformer1DModel, trainable: list[torch.nn.Parameter], dtype: torch.dtype
) -> Callable[[dict[str, Any]], float]:
    """Forward and backward pass, clipping, AdamW, and the loss read back once."""
    device = trainable[0].device
    silence = torch.randn(1, 15_000, CHANNELS, device=device)
    null = torch.zeros(1, 1, transformer.config.encoder_hidden_size, device=device)
    optimizer = torch.optim.AdamW(trainable, lr=1e-4)
    velocity_loss = VelocityLoss(transformer, silence, null)

    def step(batch: dict[str, Any]) -> float:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = velocity_loss(batch, [0]).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step
