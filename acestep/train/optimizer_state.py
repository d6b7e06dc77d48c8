"""An optimizer's state as named tensors, so that it can be kept without pickle."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from acestep.train.sharding import gathered, like

Named = list[tuple[str, nn.Parameter]]


def trainable(model: nn.Module) -> Named:
    """Trainable weights by name, in the order of the model."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def training_tensors(named: Named, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Weights as `weight/NAME` and the optimizer's tensors as `optimizer/NAME/KEY`; every process must ask.

    Raises:
        TypeError: for a state that is neither a tensor nor a number; no optimizer that is offered has one.
    """
    tensors = {f"weight/{name}": gathered(parameter) for name, parameter in named}
    for name, parameter in named:
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, (int, float)):
                value = torch.tensor(value, dtype=torch.float64)  # noqa: PLW2901 - a count of steps
            if not isinstance(value, torch.Tensor):
                raise TypeError(f"optimizer state {key} is a {type(value).__name__}")
            tensors[f"optimizer/{name}/{key}"] = gathered(value)
    return tensors


@torch.no_grad()
def restore_training_tensors(tensors: dict[str, torch.Tensor], named: Named, optimizer: torch.optim.Optimizer) -> None:
    """Put back what `training_tensors` returned, bit for bit, on each weight's device."""
    states: dict[str, dict[str, Any]] = {}
    for full, tensor in tensors.items():
        kind, rest = full.split("/", 1)
        if kind == "optimizer":
            name, key = rest.rsplit("/", 1)
            states.setdefault(name, {})[key] = tensor
    for name, parameter in named:
        parameter.copy_(like(tensors[f"weight/{name}"], parameter))
        if name in states:
            optimizer.state[parameter] = {key: _placed(value, key, parameter) for key, value in states[name].items()}


def missing_weights(tensors: Iterable[str], named: Named) -> list[str]:
    """Weights of `named` that a checkpoint does not hold."""
    held = set(tensors)
    return [name for name, _ in named if f"weight/{name}" not in held]


def _placed(value: torch.Tensor, key: str, parameter: nn.Parameter) -> torch.Tensor | float:
    if value.dtype == torch.float64 and value.ndim == 0:  # a plain number, as `training_tensors` keeps it
        return int(value) if float(value).is_integer() else float(value)
    # torch keeps the count of steps on the CPU for its ordinary implementation
    return value.clone() if key == "step" else like(value, parameter)


def group_settings(optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
    """Numbers that an optimizer keeps in its groups and changes as it goes, such as Prodigy's `d`.

    The learning rate is left out: it is a function of the step.
    """
    return [
        {
            key: float(value)
            for key, value in group.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and key not in ("lr", "initial_lr")
        }
        for group in optimizer.param_groups
    ]


def restore_group_settings(settings: list[dict[str, float]], optimizer: torch.optim.Optimizer) -> None:
    """Put back what `group_settings` returned, each number as the kind that it is there."""
    for group, saved in zip(optimizer.param_groups, settings, strict=True):
        group.update({key: type(group[key])(value) for key, value in saved.items() if key in group})
