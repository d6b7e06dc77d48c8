"""Adapters of every kind that PEFT knows, put on a transformer from the file that training writes."""

import json
from pathlib import Path

from torch import nn

from acestep.errors import UserError

METADATA = "lora_adapter_metadata"
PREFIX = "transformer."
# Parts of weight names that only these kinds have; diffusers' pipelines know none of them.
OTHER_KINDS = (".lokr_", ".hada_", ".oft_R")


def is_other_kind(keys: list[str]) -> bool:
    """Whether an adapter is LoKr, LoHa or OFT, which `AceStepPipeline.load_lora_weights` does not load."""
    return any(part in key for key in keys for part in OTHER_KINDS)


def load_adapter(transformer: nn.Module, file: Path, name: str) -> None:
    """Put an adapter on the transformer through PEFT, at the strength it was trained with.

    Args:
        file: safetensors with the adapter's configuration in its header.
        name: of the adapter, for `set_adapters`.

    Raises:
        UserError: when the header holds no configuration, or the weights do not fit the transformer.
    """
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        described = (opened.metadata() or {}).get(METADATA)
        weights = {key.removeprefix(PREFIX): opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    if described is None:
        raise UserError(f"{file}: its header holds no {METADATA}; kind and strength of the adapter are unknown.")
    config = {key.removeprefix(PREFIX): value for key, value in json.loads(described).items()}
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[config["peft_type"]]
    known = {key: value for key, value in config.items() if key in config_class.__dataclass_fields__}
    try:
        transformer.add_adapter(config_class(**known), adapter_name=name)
        found = peft.set_peft_model_state_dict(transformer, weights, adapter_name=name)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{file}: does not fit this model: {' '.join(str(error).split())}") from error
    if found.unexpected_keys:
        raise UserError(f"{file}: does not fit this model; no place for {', '.join(found.unexpected_keys[:8])}.")
    transformer.requires_grad_(False)
