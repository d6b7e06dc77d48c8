"""Small transformers with the released geometry, batches for them, and what a training step finds on them."""

from typing import Any

import torch
from diffusers import AceStepTransformer1DModel
from peft import LoraConfig

CHANNELS, CONDITION = 4, 16
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def make_transformer(window: int = 128, *, layers: int = 4, **more: Any) -> AceStepTransformer1DModel:
    """Sliding and full layers in turn, float32, random weights and adapter; `more` goes to the configuration."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
        config |= {"head_dim": 8, "encoder_hidden_size": CONDITION, "in_channels": 3 * CHANNELS}
        transformer = AceStepTransformer1DModel(
            **config | more, num_hidden_layers=layers, audio_acoustic_hidden_dim=CHANNELS, sliding_window=window
        )
        transformer.requires_grad_(False)
        transformer.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, init_lora_weights=False))
    return transformer


def make_batch(frames: int, songs: int = 1, tokens: int = 11, seed: int = 0, dtype: Any = torch.float32) -> dict:
    """Arguments of the transformer's forward for random songs of equal length."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw).to(dtype)

    timestep = torch.rand(songs, generator=draw).to(dtype)
    return {
        "hidden_states": normal(songs, frames, CHANNELS),
        "timestep": timestep,
        "timestep_r": timestep,
        "encoder_hidden_states": normal(songs, tokens, CONDITION),
        "context_latents": normal(songs, frames, 2 * CHANNELS),
    }


def velocity_of(transformer: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    return transformer(**batch, return_dict=False)[0]


def step_of(transformer: torch.nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Velocity, and the gradients of its mean square by name."""
    transformer.zero_grad()
    velocity = velocity_of(transformer, batch)
    velocity.float().square().mean().backward()
    return velocity.detach(), gradients_of(transformer)


def gradients_of(transformer: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in transformer.named_parameters() if p.requires_grad}
    assert found
    return found


def assert_equal_steps(found: tuple, expected: tuple, tolerance: float = 1e-5) -> None:
    """Velocities within `tolerance`, every gradient within `tolerance` of its norm."""
    assert found[0].shape == expected[0].shape
    assert (found[0] - expected[0]).abs().max() <= tolerance * max(1.0, expected[0].abs().max().item())
    assert_equal_gradients(found[1], expected[1], tolerance)


def assert_equal_gradients(found: dict, expected: dict, tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    largest = max(gradient.norm() for gradient in expected.values())
    for name, gradient in expected.items():
        # One that is zero but for rounding (queries and keys of a song of one token) has no relative error.
        scale = gradient.norm() if gradient.norm() > 1e-6 * largest else largest
        assert (found[name] - gradient).norm() <= tolerance * scale, name
