"""Adapters written in the layouts of those who load them."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from acestep.adapters.adapter import Adapter
from acestep.adapters.changing import Base, needed
from acestep.adapters.locating import DIFFUSERS_FILE, PEFT_CONFIG, PEFT_FILE
from acestep.adapters.names import COMFYUI_PREFIXES, original_name
from acestep.adapters.reading import METADATA
from acestep.adapters.updates import factors

# What each layout's readers play as it is. diffusers' pipeline loads LoRA and DoRA, its transformer also LoKr.
KINDS_OF = {
    "diffusers": ("lora", "dora", "lokr"),
    "peft": ("lora", "dora", "lokr", "loha", "oft"),
    "comfyui": ("lora", "dora", "lokr", "loha"),
    "lora": ("lora",),
}
_COMFYUI_PARTS = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}
_CONFIG_ORDER = ("peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "alpha", "target_modules")


def write_adapter(
    adapter: Adapter,
    layout: str,
    folder: Path,
    *,
    file_name: str = "adapter.safetensors",
    prefix: str = COMFYUI_PREFIXES[0],
    base_model: str = "",
    base: Base | None = None,
) -> list[Path]:
    """Write an adapter into a folder that is there.

    Args:
        adapter: of a kind that the layout holds (`KINDS_OF`); for "lora" at alpha = rank.
        layout: "diffusers", "peft", "comfyui", or "lora", which is diffusers' with a plain LoRA.
        file_name: of ComfyUI's file; the others have fixed names.
        prefix: of ComfyUI's names, one of `COMFYUI_PREFIXES`.
        base_model: the model's public name, for PEFT's configuration and the headers.
        base: the model's weights, which ComfyUI's form of DoRA is told relative to.

    Returns:
        The files.

    Raises:
        UserError: when `base` is needed and missing.
    """
    header = {"format": "pt", **adapter.header}
    if base_model:
        header["base_model"] = base_model
    if layout in ("diffusers", "lora"):
        header[METADATA] = json.dumps({f"transformer.{key}": value for key, value in configuration(adapter).items()})
        tensors = {f"transformer.{key}": weight for key, weight in adapter.state_dict().items()}
        return [_save(tensors, folder / DIFFUSERS_FILE, header)]
    if layout == "comfyui":
        return [_save(_comfyui_tensors(adapter, prefix, base), folder / file_name, header)]
    config = _renamed(configuration(adapter)) | {
        "task_type": "FEATURE_EXTRACTION",  # what the original tools write; their reader wants a text
        "base_model_name_or_path": base_model or adapter.base_model,
        "inference_mode": True,
    }
    (folder / PEFT_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors = {
        f"base_model.model.{original_name(name)}.{part}": weight
        for name, layer in adapter.layers.items()
        for part, weight in layer.weights.items()
    }
    return [_save(tensors, folder / PEFT_FILE, header), folder / PEFT_CONFIG]


def configuration(adapter: Adapter) -> dict[str, Any]:
    """What PEFT needs to know of an adapter, as JSON; options at their defaults are left out for older versions."""
    config = {"peft_type": {"dora": "LORA"}.get(adapter.kind, adapter.kind.upper()), **adapter.config()}
    if adapter.kind in ("lora", "dora"):
        config |= {"bias": "none"}
    if adapter.kind == "oft":  # PEFT warns of turns made before 0.18, and takes a missing version for one of those
        config |= {"peft_version": version("peft")}
    needless = ("rank_pattern", "alpha_pattern", "use_rslora", "use_dora")
    config = {key: value for key, value in config.items() if value or key not in needless}
    return {key: config[key] for key in (*(k for k in _CONFIG_ORDER if k in config), *config)}


def _renamed(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with the original's names of the layers."""
    renamed = dict(config, target_modules=[original_name(name) for name in config["target_modules"]])
    for pattern in ("rank_pattern", "alpha_pattern"):
        if pattern in config:
            renamed[pattern] = {original_name(name): value for name, value in config[pattern].items()}
    return renamed


def _comfyui_tensors(adapter: Adapter, prefix: str, base: Base | None) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, layer in adapter.layers.items():
        original = original_name(name)
        key = prefix + (original.replace(".", "_") if prefix.endswith("_") else original)
        weights, alpha = dict(layer.weights), layer.scale * layer.rank
        if adapter.kind == "lokr" and not {"lokr_w1_a", "lokr_w2_a"} & set(weights):
            # without a low rank ComfyUI and LyCORIS leave alpha out of the product
            weights["lokr_w1"] = (layer.scale * weights["lokr_w1"].double()).float()
            alpha = float(layer.rank)
        if adapter.kind == "dora":
            weight = needed(base, "a DoRA for ComfyUI")[f"{name}.weight"].double()
            magnitude = weights.pop("lora_magnitude_vector")
            left, right = factors(adapter, name, torch.float64)
            # ComfyUI divides by the norms of the model's own rows, PEFT by those of the changed ones
            relative = magnitude.double() * weight.norm(dim=1) / (weight + left @ right).norm(dim=1)
            weights["dora_scale"] = relative[:, None].float()
        tensors |= {f"{key}.{_COMFYUI_PARTS.get(part, part)}": weight for part, weight in weights.items()}
        tensors[f"{key}.alpha"] = torch.tensor(alpha, dtype=torch.float32)
    return tensors


def _save(tensors: dict[str, torch.Tensor], path: Path, header: dict[str, str]) -> Path:
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, path, metadata=header)
    return path
