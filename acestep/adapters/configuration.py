"""What an adapter's configuration says: PEFT's, from the header of diffusers' files or from `adapter_config.json`."""

import json
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from acestep.adapters.adapter import LABELS
from acestep.errors import UserError
from acestep.models.layout import read_json

_PREFIX = "transformer."
_DROPOUTS = ("lora_dropout", "rank_dropout", "module_dropout")
_OFT = ("coft", "eps", "block_share", "use_cayley_neumann", "num_cayley_neumann_terms")
# Starts that leave the model's own weights as they are; the others (pissa, olora, ...) take something out of them.
_HARMLESS_STARTS = ("gaussian", "eva", "orthogonal", "lycoris")
# What is read here, and what only says how the adapter was made or where it goes (the weights' names tell that).
_UNDERSTOOD = {
    *("peft_type", "r", "lora_alpha", "alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora"),
    *("init_lora_weights", "init_weights", "oft_block_size", *_DROPOUTS, *_OFT, "decompose_both", "decompose_factor"),
    *("task_type", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "rank_dropout_scale"),
    *("eva_config", "loftq_config", "corda_config", "runtime_config", "megatron_core", "use_effective_conv2d"),
    *("qalora_group_size", "fan_in_fan_out"),
}


@dataclass
class Configuration:
    """What the update depends on and the weights do not tell.

    Attributes:
        is_known: whether there was a configuration.
        kind: "lora", "dora", "lokr", "loha" or "oft"; "" where it is not known.
        values: PEFT's options by name.
        warnings: of options that this software does not know, one line each.
    """

    is_known: bool = False
    kind: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, header: str | None, beside: Path | None, where: str) -> "Configuration":
        """From the text in a file's header, or from the file beside it.

        Raises:
            UserError: when it cannot be read, or says something that would be lost here.
        """
        if header is not None:
            try:
                values = json.loads(header)
            except ValueError as error:
                raise UserError(f"{where}: the configuration in its header cannot be read as JSON: {error}") from None
            if not isinstance(values, dict):
                raise UserError(f"{where}: the configuration in its header is no JSON object.")
            values = {key.removeprefix(_PREFIX): value for key, value in values.items()}
        elif beside is not None:
            where, values = str(beside), read_json(beside)
        else:
            return cls()
        kind = str(values.get("peft_type") or "LORA").lower()
        if kind not in LABELS:
            raise UserError(f'{where}: "peft_type" is {values["peft_type"]!r}; expected LORA, LOKR, LOHA or OFT.')
        if kind == "lora" and values.get("use_dora"):
            kind = "dora"
        return cls(True, kind, values, _check(kind, values, where))

    @property
    def rslora(self) -> bool:
        return bool(self.values.get("use_rslora"))

    @property
    def dropout(self) -> float:
        return max(float(self.values.get(name) or 0) for name in _DROPOUTS)

    @property
    def base_model(self) -> str:
        return str(self.values.get("base_model_name_or_path") or "")

    @property
    def oft_settings(self) -> dict[str, Any]:
        return {name: self.values[name] for name in _OFT if name in self.values}

    def rank(self, layer: str) -> int | None:
        """The rank of a layer by the name that the configuration knows it by; None if it does not say."""
        return self._of_layer(layer, "rank_pattern", self.values.get("r"))

    def alpha(self, layer: str) -> float | None:
        """As `rank`."""
        return self._of_layer(layer, "alpha_pattern", self.values.get("lora_alpha", self.values.get("alpha")))

    def _of_layer(self, layer: str, pattern: str, default: Any) -> Any:
        from peft.utils.other import get_pattern_key

        patterns = self.values.get(pattern) or {}
        return patterns.get(get_pattern_key(patterns.keys(), layer), default)


def _check(kind: str, values: dict[str, Any], where: str) -> list[str]:
    import peft

    start = values.get("init_lora_weights", values.get("init_weights"))
    if isinstance(start, str) and start not in _HARMLESS_STARTS:
        raise UserError(
            f'{where}: "init_lora_weights" is {start!r}: such an adapter belongs to a model that its start was taken '
            "out of. Save it converted (PEFT's path_initial_model_for_weight_conversion), as a plain LoRA."
        )
    classes = {"lokr": peft.LoKrConfig, "loha": peft.LoHaConfig, "oft": peft.OFTConfig}
    known = {entry.name: entry for entry in fields(classes.get(kind, peft.LoraConfig))}
    warnings = []
    if kind == "oft" and values.get("use_cayley_neumann", True) and _is_before_0_18(values.get("peft_version")):
        warnings.append("it was made with PEFT before 0.18, whose turns were slightly other than those of PEFT now.")
    for name, value in values.items():
        if name in _UNDERSTOOD or value in (None, False, {}, [], "", "none"):
            continue
        if name not in known:
            warnings.append(f'"{name}" of its configuration is not known here and has no effect.')
            continue
        default = known[name].default if known[name].default is not MISSING else known[name].default_factory()
        if value != default:
            raise UserError(f'{where}: "{name}" is {value!r}, which would be lost here. Merge it where it was made.')
    return warnings


def _is_before_0_18(version: str | None) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(str(version).partition("@")[0]) < Version("0.18.0")
    except InvalidVersion:  # versions began to be written with 0.18
        return True
