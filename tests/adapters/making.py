"""Adapters of every kind with random weights, saved by the trainer's own code, and what the model does with them on."""

from dataclasses import dataclass
from pathlib import Path

import torch

from acestep.train.adapter import put_adapter, save_lora
from tests.train.encoded import CHANNELS

FILE = "pytorch_lora_weights.safetensors"
# self and cross attention and the MLP, not all of them, so that a layer too many or too few is heard
TARGETS = [
    *("layers.0.self_attn.to_q", "layers.0.self_attn.to_out.0", "layers.1.self_attn.to_k", "layers.1.self_attn.to_v"),
    *("layers.0.cross_attn.to_q", "layers.2.cross_attn.to_k", "layers.2.cross_attn.to_out.0", "layers.3.mlp.gate_proj"),
    *("layers.1.mlp.down_proj", "layers.3.mlp.up_proj", "layers.3.cross_attn.to_v", "layers.2.self_attn.to_q"),
]
PATTERNS = {
    "rank_pattern": {"mlp.gate_proj": 6, "layers.0.self_attn.to_q": 2},
    "alpha_pattern": {"mlp.gate_proj": 3, r"layers.\d.cross_attn.to_k": 5},
}


def configurations() -> dict:
    import peft

    shared = {"target_modules": list(TARGETS)}
    return {
        "lora": peft.LoraConfig(r=4, lora_alpha=4, **shared),
        "lora-alpha": peft.LoraConfig(r=4, lora_alpha=7, lora_dropout=0.1, **shared, **PATTERNS),
        "rslora": peft.LoraConfig(r=4, lora_alpha=7, use_rslora=True, **shared, **PATTERNS),
        "dora": peft.LoraConfig(r=4, lora_alpha=7, use_dora=True, **shared, **PATTERNS),
        "lokr": peft.LoKrConfig(r=2, alpha=5, **shared),
        "lokr-whole": peft.LoKrConfig(r=8, alpha=5, decompose_factor=4, **shared),
        "lokr-both": peft.LoKrConfig(r=1, alpha=3, decompose_both=True, **shared),
        "loha": peft.LoHaConfig(r=3, alpha=4, **shared, rank_pattern={"mlp.gate_proj": 2}, alpha_pattern={"to_q": 2}),
        "oft": peft.OFTConfig(r=0, oft_block_size=8, **shared),
    }


KINDS = ["lora", "lora-alpha", "rslora", "dora", "lokr", "lokr-whole", "lokr-both", "loha", "oft"]


@dataclass(frozen=True)
class Made:
    """An adapter's folder, and the transformer that it was made on, with it on."""

    folder: Path
    transformer: torch.nn.Module

    @property
    def file(self) -> Path:
        return self.folder / FILE

    def velocity(self) -> torch.Tensor:
        return velocity(self.transformer)


def make_adapter(kind: str, transformer: torch.nn.Module, folder: Path, config=None) -> Made:
    parameters = put_adapter(transformer, config or configurations()[kind], seed=0)
    shake(parameters)
    save_lora(transformer, folder)
    return Made(folder, transformer.eval())


@torch.no_grad()
def shake(parameters: list) -> None:
    for number, parameter in enumerate(parameters):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        parameter.add_(noise / 10)


@torch.no_grad()
def velocity(transformer: torch.nn.Module) -> torch.Tensor:
    """The transformer's output for inputs that are always the same, `[1, 50, channels]`."""
    generator = torch.Generator().manual_seed(1)
    return transformer(
        hidden_states=torch.randn(1, 50, CHANNELS, generator=generator),
        timestep=torch.tensor([0.4]),
        timestep_r=torch.tensor([0.4]),
        encoder_hidden_states=torch.randn(1, 9, transformer.config.encoder_hidden_size, generator=generator),
        context_latents=torch.randn(1, 50, 2 * CHANNELS, generator=generator),
        return_dict=False,
    )[0]


def assert_same(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Equal within `tolerance` of the largest value."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()
