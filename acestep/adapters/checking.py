"""An adapter compared with what it should be: its updates layer by layer, and what the model computes with it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from acestep.adapters.adapter import Adapter, in_model_order
from acestep.adapters.applying import put_on
from acestep.adapters.changing import Base
from acestep.adapters.updates import ON_THE_BASE, factors, rotation, update
from acestep.models.checkpoint import Checkpoint

TOLERANCE = 1e-5
FRAMES, CONDITIONS = 64, 12  # of the inputs that velocities are compared on


@dataclass(frozen=True)
class Comparison:
    """How far updates are from those expected, as Frobenius norm of the difference over that of the expected one.

    Attributes:
        layers: by name.
        overall: of all layers together.
        on_base: whether these are the updates themselves; False where they depend on the model's weights, which were
            not given: then what they are made of was compared.
    """

    layers: dict[str, float]
    overall: float
    on_base: bool = True

    @property
    def worst(self) -> tuple[str, float]:
        return max(self.layers.items(), key=lambda item: item[1])


def compare_updates(
    found: Adapter, expected: Sequence[tuple[Adapter, float]], base: Base | None, floor: float = 0.0
) -> Comparison:
    """Compare an adapter's updates with a weighted sum of others'.

    Args:
        expected: adapters and their weights.
        base: the model's weights. Without them a DoRA can be compared with one DoRA only, an OFT with one OFT.
        floor: a share of the weight's own norm that an update counts as large as at least, where its kind is one in
            `ON_THE_BASE`: such an update is the difference of two large matrices, and float32 holds it no better.
    """
    every = [found, *(adapter for adapter, _ in expected)]
    on_base = base is not None or not any(adapter.kind in ON_THE_BASE for adapter in every)
    layers, squares = {}, torch.zeros(2, dtype=torch.float64)
    for name in in_model_order({name for adapter in every for name in adapter.layers}):
        weight = None if base is None else base[f"{name}.weight"].float()
        parts = [
            [factor * part for part in _parts(adapter, name, weight, on_base)]
            for adapter, factor in expected
            if name in adapter.layers
        ]
        wanted = [sum(stacked) for stacked in zip(*parts, strict=True)]
        there = _parts(found, name, weight, on_base) if name in found.layers else [torch.zeros(1)]
        wanted = wanted or [torch.zeros_like(part) for part in there]
        is_difference = weight is not None and any(adapter.kind in ON_THE_BASE for adapter in every)
        least = float((floor * weight).double().square().sum()) if is_difference else 0.0
        pair = torch.tensor(
            [
                sum(float((a - b).double().square().sum()) for a, b in zip(there, wanted, strict=True)),
                max(sum(float(part.double().square().sum()) for part in wanted), least),
            ],
            dtype=torch.float64,
        )
        layers[name] = _relative(pair)
        squares += pair
    return Comparison(layers, _relative(squares), on_base)


def _parts(adapter: Adapter, name: str, weight: torch.Tensor | None, on_base: bool) -> list[torch.Tensor]:
    """The update, or what decides it whatever the model's weight is."""
    if on_base:
        return [update(adapter, name, weight)]
    if adapter.kind == "oft":
        turned = rotation(adapter, name)
        return [turned - torch.eye(turned.shape[0])]
    left, right = factors(adapter, name)
    return [left @ right, adapter.layers[name].weights["lora_magnitude_vector"].float()]


def _relative(squares: torch.Tensor) -> float:
    difference, size = squares.sqrt().tolist()
    return difference / size if size else (0.0 if difference == 0 else float("inf"))


@torch.no_grad()
def velocity_with(checkpoint: Checkpoint, adapters: Sequence[tuple[Adapter, float]]) -> torch.Tensor:
    """The model's velocity in float32 with adapters on at these weights, see `velocity`.

    One adapter at weight 1 is put on by PEFT, as every player does it; others are added to the weights.
    """
    transformer = checkpoint.transformer(torch.float32)
    if len(adapters) == 1 and adapters[0][1] == 1:
        put_on(transformer, adapters[0][0], "compared")
    else:
        for name in {name for adapter, _ in adapters for name in adapter.layers}:
            weight = transformer.get_submodule(name).weight
            own = weight.detach().clone()
            for adapter, factor in adapters:
                if name in adapter.layers:
                    weight += factor * update(adapter, name, own)
    found = velocity(transformer)
    transformer.to("meta")  # PEFT's modules hold each other: without this the weights would stay for a while
    return found


@torch.no_grad()
def velocity(transformer: torch.nn.Module) -> torch.Tensor:
    """The output of a transformer in float32 on fixed random inputs, `[1, frames, channels]`."""
    config, generator = transformer.config, torch.Generator().manual_seed(0)
    channels = config.audio_acoustic_hidden_dim
    width = config.encoder_hidden_size or config.hidden_size
    return transformer(
        hidden_states=torch.randn(1, FRAMES, channels, generator=generator),
        timestep=torch.tensor([0.5]),
        timestep_r=torch.tensor([0.5]),
        encoder_hidden_states=torch.randn(1, CONDITIONS, width, generator=generator),
        context_latents=torch.randn(1, FRAMES, config.in_channels - channels, generator=generator),
        return_dict=False,
    )[0]


def velocity_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, over the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())
