"""LoKr files of others in PEFT's parametrisation, which chooses the factors' shapes by itself.

An update is the Kronecker product of `w1` `[a, c]` and `w2` `[b, d]` for a layer `[a * b, c * d]`. PEFT splits the
widths by `decompose_factor`, holds `w1` whole unless `decompose_both`, and `w2` as a product of rank r where r is below
half of its longer side (`peft/tuners/lokr/layer.py`). Files of LyCORIS are split in the same way; there alpha counts
only where a factor is of low rank.
"""

from typing import Any

import torch
from peft.tuners.lokr.layer import factorization

from acestep.adapters.adapter import Layer, lokr_shape
from acestep.errors import UserError


def has_low_rank(weights: dict[str, torch.Tensor]) -> bool:
    """Whether one of the factors is itself a product, so that there is a rank that alpha is divided by."""
    return "lokr_w1_a" in weights or "lokr_w2_a" in weights


def lokr_rank(weights: dict[str, torch.Tensor]) -> int:
    """The rank that a file's shapes tell; for whole factors one that makes PEFT hold them whole."""
    for name in ("lokr_w2_b", "lokr_w1_b"):
        if name in weights:
            return weights[name].shape[0]
    return max(lokr_shape(weights, "lokr_w2"))


def fit_to_peft(layers: dict[str, Layer], where: str) -> dict[str, Any]:
    """Make PEFT choose the shapes that the weights have; where it would hold a factor whole, multiply it out.

    Args:
        layers: changed in place; the updates stay what they are.
        where: how an error names the file.

    Returns:
        `decompose_both` and `decompose_factor`.

    Raises:
        UserError: for a split of the widths that no single factor gives.
    """
    factor = _decompose_factor(layers, where)
    both = any("lokr_w1_a" in layer.weights for layer in layers.values()) and all(
        "lokr_w1_a" in layer.weights or _holds_whole(layer, "lokr_w1") for layer in layers.values()
    )
    for layer in layers.values():
        if "lokr_w2" in layer.weights and not _holds_whole(layer, "lokr_w2"):
            scale, sides = layer.scale, (*lokr_shape(layer.weights, "lokr_w1"), *lokr_shape(layer.weights, "lokr_w2"))
            layer.rank = -(-max(sides) // 2)
            layer.alpha = scale * layer.rank
        if not both or _holds_whole(layer, "lokr_w1"):
            _multiply_out(layer, "lokr_w1")
        if _holds_whole(layer, "lokr_w2"):
            _multiply_out(layer, "lokr_w2")
    return {"decompose_both": both, "decompose_factor": factor}


def _holds_whole(layer: Layer, factor: str) -> bool:
    """Whether PEFT holds this factor as one matrix at this rank (`lokr_w1` with `decompose_both`)."""
    return layer.rank >= max(lokr_shape(layer.weights, factor)) / 2


def _multiply_out(layer: Layer, factor: str) -> None:
    if factor not in layer.weights:
        left, right = layer.weights.pop(f"{factor}_a"), layer.weights.pop(f"{factor}_b")
        layer.weights[factor] = (left.double() @ right.double()).to(left.dtype)


def _decompose_factor(layers: dict[str, Layer], where: str) -> int:
    splits = set()
    for layer in layers.values():
        (a, c), (b, d) = (lokr_shape(layer.weights, name) for name in ("lokr_w1", "lokr_w2"))
        splits |= {(a, b), (c, d)}
    for factor in (-1, *sorted({first for first, _ in splits})):
        if all(factorization(first * second, factor) == (first, second) for first, second in splits):
            return factor
    shown = ", ".join(f"{first * second} = {first} x {second}" for first, second in sorted(splits))
    raise UserError(f"{where}: PEFT's LoKr has no decompose_factor that splits the widths as this file does: {shown}.")
