"""An adapter in memory, the same for every layout that it may have come from."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

KINDS = ("lora", "dora", "lokr", "loha", "oft")
LABELS = {"lora": "LoRA", "dora": "DoRA", "lokr": "LoKr", "loha": "LoHa", "oft": "OFT"}

# What the option of PEFT's configuration is called that leaves something out in training.
_DROPOUT = {"lora": "lora_dropout", "dora": "lora_dropout", "lokr": "rank_dropout", "loha": "rank_dropout"}


@dataclass
class Layer:
    """What an adapter does to one linear layer of the transformer.

    Attributes:
        weights: by the ends of PEFT's names: `lora_A.weight` `[rank, in]`, `lora_B.weight` `[out, rank]` and DoRA's
            `lora_magnitude_vector` `[out]`; `lokr_w1` `[a, c]` or `lokr_w1_a` `[a, rank]` with `lokr_w1_b` `[rank, c]`,
            `lokr_w2...` likewise; `hada_w1_a` `[out, rank]`, `hada_w1_b` `[rank, in]`, `hada_w2_a`, `hada_w2_b`;
            `oft_R.weight` `[blocks, size * (size - 1) / 2]`.
        rank: of the update; the size of OFT's blocks.
        alpha: the update counts alpha / rank, with rsLoRA alpha / sqrt(rank); OFT has none.
        rslora: whether it is the square root.
        spelled: the layer's name in the file that it was read from.
    """

    weights: dict[str, torch.Tensor]
    rank: int
    alpha: float | None
    rslora: bool = False
    spelled: str = ""

    @property
    def scale(self) -> float:
        """What the product of the matrices is multiplied by."""
        if self.alpha is None:
            return 1.0
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


@dataclass
class Adapter:
    """An adapter of the transformer.

    Attributes:
        kind: "lora", "dora", "lokr", "loha" or "oft".
        layers: by diffusers' names of the transformer's linear layers, in the model's order.
        settings: what else the update depends on, as PEFT's configuration calls it (LoKr's `decompose_both` and
            `decompose_factor`; OFT's `coft`, `eps`, `block_share`, `use_cayley_neumann`, `num_cayley_neumann_terms`).
        dropout: that it was trained with; for going on training.
        layout: of the file: "diffusers", "peft", "comfyui" or "lycoris"; None for one that was made here.
        file: where it was read from.
        header: texts of the file's header, without the configuration.
        base_model: what the configuration says that it was trained on; "" if nothing.
        warnings: what a person should know about the file, one line each.
    """

    kind: str
    layers: dict[str, Layer]
    settings: dict[str, Any] = field(default_factory=dict)
    dropout: float = 0.0
    layout: str | None = None
    file: Path | None = None
    header: dict[str, str] = field(default_factory=dict)
    base_model: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def modules(self) -> list[str]:
        return list(self.layers)

    @property
    def ranks(self) -> dict[str, int]:
        return {name: layer.rank for name, layer in self.layers.items()}

    @property
    def alphas(self) -> dict[str, float | None]:
        return {name: layer.alpha for name, layer in self.layers.items()}

    @property
    def rslora(self) -> bool:
        return any(layer.rslora for layer in self.layers.values())

    @property
    def label(self) -> str:
        """What a person calls the kind."""
        return ("rs" if self.rslora else "") + LABELS[self.kind]

    def shape(self, name: str) -> tuple[int | None, int | None]:
        """`(out, in)` of the layer that this is made for; None where the weights do not tell."""
        weights, kind = self.layers[name].weights, self.kind
        if kind in ("lora", "dora"):
            return weights["lora_B.weight"].shape[0], weights["lora_A.weight"].shape[1]
        if kind == "loha":
            return weights["hada_w1_a"].shape[0], weights["hada_w1_b"].shape[1]
        if kind == "oft":
            blocks = weights["oft_R.weight"].shape[0]
            return None, None if self.settings.get("block_share") else blocks * self.layers[name].rank
        (a, c), (b, d) = (lokr_shape(weights, factor) for factor in ("lokr_w1", "lokr_w2"))
        return a * b, c * d

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The weights by PEFT's names in diffusers' transformer, as `peft.set_peft_model_state_dict` takes them."""
        layers = self.layers.items()
        return {f"{name}.{part}": weight for name, layer in layers for part, weight in layer.weights.items()}

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return self.state_dict()

    def config(self) -> dict[str, Any]:
        """Arguments of PEFT's configuration: every layer by its full name, the commonest rank and alpha as default."""
        config: dict[str, Any] = {"target_modules": self.modules, **self.settings}
        if self.kind == "oft":
            return config | {"r": 0, "oft_block_size": self.most_common_rank, "module_dropout": self.dropout}
        rank, ranks = _default_and_pattern(self.ranks)
        alpha, alphas = _default_and_pattern({name: tidy(value) for name, value in self.alphas.items()})
        config |= {"r": rank, "rank_pattern": ranks, "alpha_pattern": alphas, _DROPOUT[self.kind]: self.dropout}
        if self.kind in ("lokr", "loha"):
            return config | {"alpha": alpha}
        return config | {"lora_alpha": alpha, "use_rslora": self.rslora, "use_dora": self.kind == "dora"}

    @property
    def most_common_rank(self) -> int:
        return _default_and_pattern(self.ranks)[0]

    def peft_config(self) -> Any:
        """The configuration for `transformer.add_adapter`, in diffusers' names.

        A layer whose weights differ from what PEFT starts with is told by `state_dict`: load it afterwards.
        """
        import peft

        classes = {"lokr": peft.LoKrConfig, "loha": peft.LoHaConfig, "oft": peft.OFTConfig}
        return classes.get(self.kind, peft.LoraConfig)(**self.config())


def lokr_shape(weights: dict[str, torch.Tensor], factor: str) -> tuple[int, int]:
    """Shape of LoKr's first or second factor (`lokr_w1`, `lokr_w2`), whether it is whole or itself of low rank."""
    if factor in weights:
        return tuple(weights[factor].shape)
    return weights[f"{factor}_a"].shape[0], weights[f"{factor}_b"].shape[1]


def tidy(number: float | None) -> float | int | None:
    """8.0 as 8: that is how configurations write it."""
    return int(number) if number is not None and float(number).is_integer() else number


def in_model_order(names: Iterable[str]) -> list[str]:
    """Names with numbers in them, block 2 before block 10."""
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in name.split(".")])


def _default_and_pattern(values: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    default = Counter(values.values()).most_common(1)[0][0]
    return default, {name: value for name, value in values.items() if value != default}
