"""Adapters made from adapters: scaled, merged, of another rank or dtype. What is given stays as it is."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch

from acestep.adapters.adapter import Adapter, Layer, in_model_order
from acestep.adapters.updates import ON_THE_BASE, factors, update
from acestep.errors import UserError

Base = Mapping[str, torch.Tensor]

# The part of each kind that the strength goes into when it is baked: the update is linear in it.
_STRENGTH = {
    "lora": ("lora_B.weight",),
    "dora": ("lora_B.weight",),
    "loha": ("hada_w1_a",),
    "lokr": ("lokr_w1", "lokr_w1_a"),
}


def scaled(adapter: Adapter, factor: float, base: Base | None = None) -> Adapter:
    """An adapter whose updates are `factor` times as large.

    A DoRA stays one: `W + s ((g - 1) W + g B A)`, with g the growth of each row, has the rows `1 + s (g - 1)` times
    those of `W + B' A` with `B' = s g / (1 + s (g - 1)) B`.

    Raises:
        UserError: for an OFT, and for a DoRA without the model's weights.
    """
    if factor == 1:
        return adapter
    if adapter.kind == "oft":
        raise UserError("--scale: an OFT turns the weights, and there is no half of a turn. Add --resize_rank.")
    if adapter.kind != "dora":
        layers = {name: _with(layer, alpha=layer.alpha * factor) for name, layer in adapter.layers.items()}
        return dataclasses.replace(adapter, layers=layers)
    weights = needed(base, "--scale of a DoRA")
    return dataclasses.replace(
        adapter,
        layers={
            name: _scaled_dora(layer, factor, weights[f"{name}.weight"], name) for name, layer in adapter.layers.items()
        },
    )


def _scaled_dora(layer: Layer, factor: float, weight: torch.Tensor, name: str) -> Layer:
    weight, left = weight.double(), layer.scale * layer.weights["lora_B.weight"].double()
    right = layer.weights["lora_A.weight"].double()
    growth = layer.weights["lora_magnitude_vector"].double() / (weight + left @ right).norm(dim=1)
    rows = 1 + factor * (growth - 1)
    if (rows <= 0).any():
        raise UserError(f"--scale {factor:g}: rows of {name} would turn around, which no DoRA can hold.")
    left = (factor * growth / rows)[:, None] * left
    magnitude = rows * (weight + left @ right).norm(dim=1)
    made = {"lora_A.weight": right, "lora_B.weight": left / layer.scale, "lora_magnitude_vector": magnitude}
    return _with(layer, weights={part: made[part].float() for part in layer.weights})


def baked(adapter: Adapter) -> Adapter:
    """The same updates with alpha = rank everywhere, which a reader that knows of no alpha plays right too."""
    layers = {}
    for name, layer in adapter.layers.items():
        if layer.alpha is None:
            layers[name] = layer
            continue
        weights = dict(layer.weights)
        (part,) = (part for part in _STRENGTH[adapter.kind] if part in weights)
        weights[part] = (layer.scale * weights[part].double()).float()  # in fewer bits it would be rounded
        layers[name] = _with(layer, weights=weights, alpha=float(layer.rank), rslora=False)
    return dataclasses.replace(adapter, layers=layers)


def merged(adapters: Sequence[Adapter], factors_of: Sequence[float]) -> Adapter:
    """One plain LoRA whose updates are the weighted sums, exactly: the ranks stand side by side.

    Raises:
        UserError: for a DoRA or an OFT, whose updates are of full rank.
    """
    for adapter in adapters:
        if adapter.kind in ON_THE_BASE:
            raise UserError(
                f"{adapter.file}: is a {adapter.label}, whose update is of full rank and cannot be put beside another "
                "one. Make it a plain LoRA first: --to lora --resize_rank R."
            )
    layers = {}
    for name in in_model_order({name for adapter in adapters for name in adapter.layers}):
        pairs = [
            (factor * left, right)
            for adapter, factor in zip(adapters, factors_of, strict=True)
            if name in adapter.layers
            for left, right in [factors(adapter, name)]
        ]
        layers[name] = _plain(torch.cat([left for left, _ in pairs], 1), torch.cat([right for _, right in pairs], 0))
    return Adapter("lora", layers, header=_shared([adapter.header for adapter in adapters]), base_model=_same(adapters))


def resized(adapter: Adapter, rank: int, base: Base | None = None, keep_dora: bool = False) -> tuple[Adapter, float]:
    """A plain LoRA of another rank, from the largest singular components of each layer's update.

    Args:
        rank: at most; a layer whose update is of lower rank keeps that.
        base: the model's weights, for kinds in `ON_THE_BASE`.
        keep_dora: a DoRA keeps its magnitudes, and the product before them gets the rank; this needs no base.

    Returns:
        The adapter, and the share of the updates' squared norm that it keeps.
    """
    layers, kept, total = {}, 0.0, 0.0
    stays_dora = keep_dora and adapter.kind == "dora"
    for name, layer in adapter.layers.items():
        if adapter.kind in ON_THE_BASE and not stays_dora:
            weights = needed(base, f"a plain LoRA of a {adapter.label}")
            left, values, right, square = _components(update(adapter, name, weights[f"{name}.weight"]), rank)
        else:
            left, values, right, square = _product_components(*factors(adapter, name, torch.float64), rank)
        root = values.sqrt()
        layers[name] = _plain((left * root).float(), (root[:, None] * right).float())
        if stays_dora:
            layers[name].weights["lora_magnitude_vector"] = layer.weights["lora_magnitude_vector"]
        kept, total = kept + float(values.square().sum()), total + square
    made = dataclasses.replace(adapter, kind="dora" if stays_dora else "lora", layers=layers, settings={}, layout=None)
    return made, kept / total if total else 1.0


def cast(adapter: Adapter, dtype: torch.dtype) -> Adapter:
    """The weights in another dtype.

    Raises:
        UserError: for a weight that is too large for it.
    """
    layers = {}
    for name, layer in adapter.layers.items():
        weights = {part: weight.to(dtype) for part, weight in layer.weights.items()}
        for part, weight in weights.items():
            if not torch.isfinite(weight).all():
                short = str(dtype).removeprefix("torch.")
                raise UserError(f"--dtype {short}: {name}.{part} has values that are too large for it. Take bf16.")
        layers[name] = _with(layer, weights=weights)
    return dataclasses.replace(adapter, layers=layers)


def needed(base: Base | None, what: str) -> Base:
    """The model's weights, or a UserError that asks for them."""
    if base is None:
        raise UserError(f"{what} needs the model's own weights: give --pretrained_model_name_or_path.")
    return base


def _components(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """The `rank` largest singular components of a matrix and its squared norm."""
    square, smaller = float(matrix.double().square().sum()), min(matrix.shape)
    if 3 * rank < smaller and smaller > 512:  # all of them would take minutes a layer of the released models
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            left, values, right = torch.svd_lowrank(matrix, q=rank + 16, niter=6)
        right = right.T
    else:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left[:, :rank], values[:rank], right[:rank], square


def _product_components(
    left: torch.Tensor, right: torch.Tensor, rank: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """As `_components`, of a product, whose singular components are those of a small matrix in rotated frames."""
    if left.shape[1] >= min(left.shape[0], right.shape[1]):
        return _components(left @ right, rank)
    frame_left, small_left = torch.linalg.qr(left)
    frame_right, small_right = torch.linalg.qr(right.T)
    inner_left, values, inner_right = torch.linalg.svd(small_left @ small_right.T)
    square = float(values.square().sum())
    return frame_left @ inner_left[:, :rank], values[:rank], inner_right[:rank] @ frame_right.T, square


def _plain(left: torch.Tensor, right: torch.Tensor) -> Layer:
    """A LoRA's layer at alpha = rank."""
    weights = {"lora_A.weight": right.contiguous(), "lora_B.weight": left.contiguous()}
    return Layer(weights, right.shape[0], float(right.shape[0]))


def _with(layer: Layer, **changes: object) -> Layer:
    return dataclasses.replace(layer, **changes)


def _shared(headers: Sequence[dict[str, str]]) -> dict[str, str]:
    return {key: text for key, text in headers[0].items() if all(header.get(key) == text for header in headers)}


def _same(adapters: Sequence[Adapter]) -> str:
    names = {adapter.base_model for adapter in adapters}
    return names.pop() if len(names) == 1 else ""
