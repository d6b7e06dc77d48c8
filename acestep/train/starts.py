"""Where an adapter starts from: PiSSA from the weights' largest components, EVA from what the layers see."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from acestep.errors import UserError

EVA_PASSES = 200  # of the model; layers converge in far fewer, or never


@dataclass(frozen=True)
class PissaStart:
    """The start of a PiSSA adapter (Meng et al., 2024): A and B hold the largest components, the model the rest.

    Attributes:
        weights: `lora_A` and `lora_B` before the first step, by the names of PEFT's state dict, on the CPU.
    """

    weights: dict[str, torch.Tensor]

    @classmethod
    def of(cls, transformer: nn.Module) -> "PissaStart":
        """The start of a transformer that PEFT has just put a PiSSA adapter on."""
        from peft import get_peft_model_state_dict

        weights = get_peft_model_state_dict(transformer)
        return cls({name: weight.detach().cpu().clone() for name, weight in weights.items()})

    def as_plain_lora(
        self, weights: dict[str, torch.Tensor], config: dict[str, Any]
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The LoRA on the model's own weights that equals this adapter on the rest: `B A - B0 A0` in twice the rank.

        Args:
            weights: of the adapter now, as PEFT's state dict has them.
            config: of PEFT, as a dictionary.
        """
        plain = {}
        for name, weight in weights.items():
            start = self.weights[name].to(weight)
            plain[name] = torch.cat([weight, start], 0) if ".lora_A." in name else torch.cat([weight, -start], 1)
        # the scale alpha / rank (rsLoRA: alpha / sqrt(rank)) stays although the rank doubles
        grown = math.sqrt(2) if config.get("use_rslora") else 2
        return plain, {
            **config,
            "r": 2 * config["r"],
            "lora_alpha": grown * config["lora_alpha"],
            "rank_pattern": {key: 2 * value for key, value in (config.get("rank_pattern") or {}).items()},
            "alpha_pattern": {key: grown * value for key, value in (config.get("alpha_pattern") or {}).items()},
            "init_lora_weights": True,
        }

    @torch.no_grad()
    def restore(self, transformer: nn.Module) -> None:
        """Take the start out of the model's weights as PEFT did when the run began; for a run that goes on.

        Args:
            transformer: with its own weights and the adapter's modules on it, not begun by PiSSA.
        """
        for name, module in transformer.named_modules():
            if f"{name}.lora_A.weight" in self.weights:
                start_a = self.weights[f"{name}.lora_A.weight"].to(module.weight.device)
                start_b = self.weights[f"{name}.lora_B.weight"].to(module.weight.device)
                base = module.get_base_layer().weight
                # the same operations in the same order as PEFT's, so that the same bits come out
                rest = base.data.to(torch.float32) - module.scaling["default"] * start_b @ start_a
                base.data = rest.to(base.dtype)


def eva_start(
    transformer: nn.Module,
    config: Any,
    batches: Sequence[Any],
    forward: Callable[[Any], Any],
) -> dict[str, torch.Tensor]:
    """`lora_A` of each layer from the principal components of its inputs (EVA, Paischer et al., 2024).

    Args:
        transformer: without the adapter.
        config: PEFT's, with `init_lora_weights="eva"`.
        batches: what the model is shown, over and over until the components settle.
        forward: runs the model on one of them.

    Returns:
        `[rank, inputs]` by the layer's full name.

    Raises:
        UserError: when they do not settle, as with fewer tokens than the rank.
    """
    from peft.tuners.lora.eva import get_eva_state_dict

    passes = 0

    def counted(_model: nn.Module, batch: _Batch) -> None:
        nonlocal passes
        passes += 1
        if passes > EVA_PASSES:
            raise UserError(
                f"--init_lora_weights eva: the components did not settle in {EVA_PASSES} passes; a rank above the "
                "number of a prompt's tokens does that. Lower --rank, or use --init_lora_weights gaussian."
            )
        forward(batch.content)

    with torch.no_grad():
        # wrapped, since PEFT would warn that it cannot move a dictionary with texts to the device, where it is
        return get_eva_state_dict(
            transformer,
            [_Batch(batch) for batch in batches],
            config,
            forward_fn=counted,
            prepare_model_inputs_fn=lambda _batch, _config: None,
            prepare_layer_inputs_fn=_tokens,
            gather_distributed_inputs=False,  # every process looks at the same batches
            show_progress_bar=False,
        )


@dataclass
class _Batch:
    """A batch with the method that PEFT moves it by."""

    content: Any

    def to(self, _device: torch.device) -> "_Batch":
        return self


def set_eva_start(transformer: nn.Module, start: dict[str, torch.Tensor]) -> None:
    """Put `eva_start`'s matrices into the adapter; B stays zero."""
    for name, weight in start.items():
        transformer.get_submodule(name).lora_A["default"].weight.data.copy_(weight)


def _tokens(layer_input: Any, _model_input: Any, _name: str) -> torch.Tensor:
    """A layer's input as `[tokens, inputs]` in float32."""
    tensor = layer_input[0] if isinstance(layer_input, (tuple, list)) else layer_input
    return tensor.flatten(0, -2).float().contiguous()
