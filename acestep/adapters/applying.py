"""An adapter that was read, put on a transformer through PEFT."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

from acestep.adapters.adapter import Adapter
from acestep.errors import UserError
from acestep.models.weights import report_keys


def put_on(transformer: nn.Module, adapter: Adapter, name: str) -> None:
    """Put an adapter that was read, and fits, on the transformer.

    Raises:
        UserError: when PEFT refuses it, beside another one of another kind, say.
    """
    import peft

    try:
        transformer.add_adapter(adapter.peft_config(), adapter_name=name)
        found = peft.set_peft_model_state_dict(transformer, adapter.state_dict(), adapter_name=name)
    except (RuntimeError, ValueError) as error:
        where = adapter.file or "the adapter"
        raise UserError(f"{where}: cannot be put on this model: {' '.join(str(error).split())}") from error
    if found.unexpected_keys:
        raise UserError(f"{adapter.file}: no place in this model for {', '.join(found.unexpected_keys[:8])}.")
    transformer.requires_grad_(False)
    transformer.train(transformer.training)  # PEFT's new modules begin in training mode, with their dropout on


def check_fit(adapter: Adapter, transformer: nn.Module, where: str) -> None:
    """Compare the adapter's layers with the transformer's, which may have adapters on it.

    Raises:
        UserError: names the layers that the transformer does not have or has in another shape.
    """

    def shape_of(name: str) -> tuple[int, int] | None:
        try:
            module = transformer.get_submodule(name)
        except AttributeError:
            return None
        return module.out_features, module.in_features

    check_shapes(adapter, shape_of, where)


def check_shapes(adapter: Adapter, shape_of: Callable[[str], tuple[int, int] | None], where: str) -> None:
    """As `check_fit`, with a function that gives `(out, in)` of a layer, or None if there is none."""
    unknown, shaped = [], []
    for name, layer in adapter.layers.items():
        there = shape_of(name)
        if there is None:
            unknown += [f"{layer.spelled or name}.{part}" for part in layer.weights]
            continue
        found = [own if own is not None else other for own, other in zip(adapter.shape(name), there, strict=True)]
        if found != list(there):
            shaped.append(f"{layer.spelled or name} {found} for a layer of {list(there)}")
    report_keys(where, unknown=unknown, wrong_shape=shaped)


class TransformerWeights(Mapping[str, torch.Tensor]):
    """The weights of a transformer's linear layers by their names, whether adapters are on it or not."""

    def __init__(self, transformer: nn.Module):
        self.transformer = transformer

    def __getitem__(self, name: str) -> torch.Tensor:
        try:
            return self.transformer.get_submodule(name.removesuffix(".weight")).weight
        except AttributeError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        names = (name for name, module in self.transformer.named_modules() if isinstance(module, nn.Linear))
        return (f"{name.removesuffix('.base_layer')}.weight" for name in names if ".lora_" not in name)

    def __len__(self) -> int:
        return sum(1 for _ in self)
