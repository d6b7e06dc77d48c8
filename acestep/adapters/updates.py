"""What an adapter adds to a layer's weight: the update `[out, in]`, its factors where it has some, and its norm."""

from typing import Any

import torch

from acestep.adapters.adapter import Adapter

# The update of these kinds depends on the model's own weight: DoRA sets the norms of its rows, OFT turns it.
ON_THE_BASE = ("dora", "oft")


@torch.no_grad()
def update(
    adapter: Adapter, name: str, weight: torch.Tensor | None = None, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """The update of one layer: with the adapter on, it computes with `weight + update`.

    Args:
        weight: the model's own, `[out, in]`; only kinds in `ON_THE_BASE` need it.
        dtype: to compute in.

    Returns:
        `[out, in]`.
    """
    if adapter.kind == "oft":
        weight = weight.to(dtype)
        return weight @ rotation(adapter, name, dtype, weight.shape[1]).T - weight
    left, right = factors(adapter, name, dtype) if adapter.kind != "lokr" else (None, None)
    product = _kronecker(adapter, name, dtype) if left is None else left @ right
    if adapter.kind != "dora":
        return product
    weight = weight.to(dtype)
    turned = weight + product
    magnitude = adapter.layers[name].weights["lora_magnitude_vector"].to(dtype)
    return (magnitude / turned.norm(dim=1))[:, None] * turned - weight


@torch.no_grad()
def factors(adapter: Adapter, name: str, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """`[out, R]` and `[R, in]` whose product is the update of a LoRA, LoKr or LoHa exactly; of a DoRA that before the
    rows are brought to their magnitudes.

    R is the rank of a LoRA; the product of both ranks for a LoKr, since `(U V) x (X Y) = (U x X) (V x Y)` for the
    Kronecker product x; rank squared for a LoHa, whose two products are multiplied element by element.
    """
    layer = adapter.layers[name]
    weights = {part: weight.to(dtype) for part, weight in layer.weights.items()}
    if adapter.kind in ("lora", "dora"):
        return layer.scale * weights["lora_B.weight"], weights["lora_A.weight"]
    if adapter.kind == "loha":
        left = weights["hada_w1_a"][:, :, None] * weights["hada_w2_a"][:, None, :]  # [out, rank, rank]
        right = weights["hada_w1_b"][:, None, :] * weights["hada_w2_b"][None, :, :]  # [rank, rank, in]
        return layer.scale * left.flatten(1), right.flatten(0, 1)
    (left1, right1), (left2, right2) = (_split(weights, factor) for factor in ("lokr_w1", "lokr_w2"))
    return layer.scale * torch.kron(left1, left2), torch.kron(right1, right2)


def exact_rank(adapter: Adapter) -> int | None:
    """The rank at which a plain LoRA holds the adapter exactly; None where the update is of full rank."""
    if adapter.kind in ON_THE_BASE:
        return None
    sizes = [(factors(adapter, name)[1].shape[0], min(adapter.shape(name))) for name in adapter.layers]
    return max(min(size) for size in sizes)


@torch.no_grad()
def rotation(
    adapter: Adapter, name: str, dtype: torch.dtype = torch.float32, inputs: int | None = None
) -> torch.Tensor:
    """OFT's matrix R `[in, in]`: the layer computes with `weight @ R.T`. PEFT's own module makes it.

    Args:
        inputs: of the layer, where one block is shared by all of it; None gives that block alone.
    """
    from peft.tuners.oft.layer import OFTRotationModule

    layer, settings = adapter.layers[name], _oft_defaults() | adapter.settings
    weight = layer.weights["oft_R.weight"].to(dtype)
    blocks, elements = weight.shape
    module = OFTRotationModule(blocks, elements, layer.rank, inputs or blocks * layer.rank, **settings)
    module.weight = torch.nn.Parameter(weight.clone())
    return module.get_weight().detach()


@torch.no_grad()
def norm(adapter: Adapter, name: str) -> float:
    """Frobenius norm of the update; of DoRA's before the rows get their magnitudes, of OFT's `R - 1`."""
    if adapter.kind == "oft":
        turned = rotation(adapter, name)
        return float((turned - torch.eye(turned.shape[0])).norm())
    left, right = factors(adapter, name, torch.float64)
    # |L R|^2 = trace(L'L RR'), without the large product
    return float(((left.T @ left) * (right @ right.T)).sum().clamp(min=0).sqrt())


def _kronecker(adapter: Adapter, name: str, dtype: torch.dtype) -> torch.Tensor:
    weights = {part: weight.to(dtype) for part, weight in adapter.layers[name].weights.items()}
    first, second = (
        weights[factor] if factor in weights else weights[f"{factor}_a"] @ weights[f"{factor}_b"]
        for factor in ("lokr_w1", "lokr_w2")
    )
    return adapter.layers[name].scale * torch.kron(first, second)


def _split(weights: dict[str, torch.Tensor], factor: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A factor of LoKr as a product, the whole one with the identity on its shorter side."""
    if factor not in weights:
        return weights[f"{factor}_a"], weights[f"{factor}_b"]
    whole = weights[factor]
    if whole.shape[0] <= whole.shape[1]:
        return torch.eye(whole.shape[0], dtype=whole.dtype), whole
    return whole, torch.eye(whole.shape[1], dtype=whole.dtype)


def _oft_defaults() -> dict[str, Any]:
    from peft import OFTConfig

    config = OFTConfig(r=0, oft_block_size=2, target_modules=["x"])
    names = ("coft", "eps", "block_share", "use_cayley_neumann", "num_cayley_neumann_terms")
    return {name: getattr(config, name) for name in names}
