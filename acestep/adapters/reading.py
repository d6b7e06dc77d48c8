"""Adapters read from every layout that is about: diffusers', the original tools' PEFT folder, ComfyUI's, LyCORIS'."""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from acestep.adapters.adapter import Adapter, Layer, in_model_order
from acestep.adapters.configuration import Configuration
from acestep.adapters.locating import PEFT_CONFIG, locate_adapter
from acestep.adapters.lokr import fit_to_peft, has_low_rank, lokr_rank
from acestep.adapters.names import layer_of, without_prefix
from acestep.errors import UserError
from acestep.models.weights import LISTED, WeightFile

METADATA = "lora_adapter_metadata"  # the adapter's configuration in the header of diffusers' files
# The adapter's name may stand inside a key, as in `lora_A.default.weight`.
_KEY = re.compile(
    r"(?P<layer>.+?)\.(?P<part>(?P<stem>lora_A|lora_B|lora_down|lora_up|oft_R)(?:\.(?!weight$)\w+)?\.weight|"
    r"(?P<magnitude>lora_magnitude_vector)(?:(?:\.(?!weight$)\w+)?\.weight)?|"
    r"lokr_w[12](?:_[ab])?|hada_w[12]_[ab]|alpha|dora_scale)"
)
_STEMS = {"lora_down": "lora_A", "lora_up": "lora_B"}
# What a layer of each kind needs; `w1_a & w1_b` may stand for `w1`.
_NEEDED = {
    "lora": ["lora_A.weight", "lora_B.weight"],
    "dora": ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector | dora_scale"],
    "lokr": ["lokr_w1 | lokr_w1_a & lokr_w1_b", "lokr_w2 | lokr_w2_a & lokr_w2_b"],
    "loha": ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"],
    "oft": ["oft_R.weight"],
}


def read_adapter(
    path_or_id: str | Path,
    revision: str | None = None,
    base: Mapping[str, torch.Tensor] | None = None,
    is_relative_allowed: bool = False,
) -> Adapter:
    """Read an adapter of ACE-Step 1.5's transformer.

    Args:
        path_or_id: a `.safetensors` file; a folder or Hub id with `pytorch_lora_weights.safetensors`, with
            `adapter_model.safetensors` beside its `adapter_config.json`, or with one other `.safetensors` file; a
            checkpoint folder of the trainer; `user/name/file.safetensors` on the Hub.
        revision: branch, tag or commit on the Hub.
        base: the transformer's weights by diffusers' names; only DoRA in ComfyUI's form, which is told relative to
            them, needs it.
        is_relative_allowed: leave such a DoRA as the file has it, to be looked at only.

    Raises:
        UserError: when there is no adapter, it is no safetensors file (pickles are not opened), or its tensors are not
            what an adapter has: unknown keys, halves of pairs, wrong shapes. All of them are named.
    """
    found = locate_adapter(str(path_or_id), revision)
    source = WeightFile(found.file.parent, found.file.stem)
    where, header = str(found.file), source.metadata()
    config = Configuration.of(header.pop(METADATA, None), found.config, where)
    keys, spelled = _keys_by_layer(source, where)
    kind = _kind(keys, spelled, where)
    if config.is_known and config.kind != kind:
        raise UserError(f"{where}: its configuration is of a {config.kind}, its weights are of a {kind}.")
    tensors = {layer: {part: source.read(key) for part, key in parts.items()} for layer, parts in keys.items()}
    _check_values(tensors, keys, where)
    layout = _layout(source, spelled)
    warnings = list(config.warnings)
    if not config.is_known and layout in ("diffusers", "peft"):
        beside = f" and no {PEFT_CONFIG} lies beside it" if layout == "peft" else ""
        assumed = (
            "the rotation is taken to be PEFT's default one."
            if kind == "oft"
            else "the strength may be another than in training, because alpha is taken to be the rank. --lora_scale "
            "corrects it."
        )
        warnings.append(f"its header has no {METADATA}{beside}; {assumed}")
    layers = {
        name: _layer(kind, tensors[name], config, spelled[name], f"{where}: {spelled[name]}")
        for name in in_model_order(tensors)
    }
    settings = fit_to_peft(layers, where) if kind == "lokr" else config.oft_settings if kind == "oft" else {}
    if kind == "dora" and not is_relative_allowed:
        for name, layer in layers.items():
            _resolve_dora_scale(layer, name, base, where)
    return Adapter(
        kind, layers, settings, config.dropout, layout, found.file, header, config.base_model, warnings=warnings
    )


def _keys_by_layer(source: WeightFile, where: str) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """The file's keys by layer and part, and how the file spells each layer."""
    keys: dict[str, dict[str, str]] = {}
    spelled: dict[str, str] = {}
    unknown = []
    for key in source:
        match = _KEY.fullmatch(key)
        layer = layer_of(match["layer"]) if match else None
        if match is None or layer is None:
            unknown.append(key)
            continue
        stem = match["stem"]
        part = f"{_STEMS.get(stem, stem)}.weight" if stem else match["magnitude"] or match["part"]
        if part in keys.setdefault(layer, {}):
            raise UserError(f"{where}: {keys[layer][part]} and {key} are the same weight; expected one of them.")
        keys[layer][part] = key
        spelled[layer] = match["layer"]
    if unknown:
        raise UserError(
            f"{where}: {_listed(unknown)}: not known as weights of an adapter on a linear layer of ACE-Step 1.5's "
            "transformer (LoRA, DoRA, LoKr, LoHa or OFT)."
        )
    if not keys:
        raise UserError(f"{where}: holds no weights.")
    return keys, spelled


def _kind(keys: dict[str, dict[str, str]], spelled: dict[str, str], where: str) -> str:
    """Told from the parts; all layers must be of one kind and whole."""
    parts = {part for layer in keys.values() for part in layer}
    families = {
        "lora": any(part.startswith("lora_") for part in parts),
        "lokr": any(part.startswith("lokr_") for part in parts),
        "loha": any(part.startswith("hada_") for part in parts),
        "oft": any(part.startswith("oft_") for part in parts),
    }
    found = [kind for kind, is_there in families.items() if is_there]
    if len(found) != 1:
        raise UserError(f"{where}: holds {' and '.join(found) or 'no matrices'}; expected one kind of adapter.")
    kind = "dora" if found[0] == "lora" and parts & {"lora_magnitude_vector", "dora_scale"} else found[0]
    missing = [
        f"{spelled[name]} lacks {needed.replace(' | ', ' or ').replace(' & ', ' and ')}"
        for name, layer in keys.items()
        for needed in _NEEDED[kind]
        if not any(all(part in layer for part in choice.split(" & ")) for choice in needed.split(" | "))
    ]
    if kind not in ("lora", "dora") and "dora_scale" in parts:
        missing.append(f"dora_scale beside {kind}, which PEFT does not have")
    if missing:
        raise UserError(f"{where}: not a whole adapter: {_listed(missing)}.")
    return kind


def _layout(source: WeightFile, spelled: dict[str, str]) -> str:
    if all(name.startswith("lycoris_") for name in spelled.values()):
        return "lycoris"
    kohya = any(key.endswith((".alpha", ".lora_down.weight", ".dora_scale")) for key in source)
    if kohya or any(name.startswith(("diffusion_model.", "lora_unet_")) for name in spelled.values()):
        return "comfyui"
    is_original = any(name.startswith("base_model.") or name.endswith("_attn.q_proj") for name in spelled.values())
    return "peft" if is_original else "diffusers"


def _check_values(tensors: dict[str, dict[str, torch.Tensor]], keys: dict[str, dict[str, str]], where: str) -> None:
    wrong = []
    for layer, parts in tensors.items():
        for part, tensor in parts.items():
            dimensions = {"alpha": (0, 1), "dora_scale": (1, 2), "lora_magnitude_vector": (1, 2)}.get(part, (2,))
            if not tensor.is_floating_point() and part != "alpha":
                wrong.append(f"{keys[layer][part]} is {str(tensor.dtype).removeprefix('torch.')}")
            elif tensor.dim() not in dimensions or not tensor.numel() or (part == "alpha" and tensor.numel() != 1):
                wrong.append(f"{keys[layer][part]} is {list(tensor.shape)}")
            elif not torch.isfinite(tensor.float()).all():
                wrong.append(f"{keys[layer][part]} is not finite")
    if wrong:
        raise UserError(f"{where}: {_listed(wrong)}; expected matrices of finite floating-point numbers.")


def _layer(kind: str, weights: dict[str, torch.Tensor], config: Configuration, spelled: str, where: str) -> Layer:
    """One layer, its shapes checked."""
    known_as = without_prefix(spelled)  # in the configuration's patterns
    alpha = weights.pop("alpha", None)
    if kind == "oft":
        elements = weights["oft_R.weight"].shape[1]
        size = (1 + math.isqrt(1 + 8 * elements)) // 2
        if size * (size - 1) // 2 != elements:
            raise UserError(f"{where}: oft_R has rows of {elements}; expected size * (size - 1) / 2 of a block's size.")
        return Layer(weights, size, None, spelled=spelled)
    rank = _rank(kind, weights, where)
    stated = config.rank(known_as)
    if kind == "lokr" and not has_low_rank(weights):
        rank = stated or rank
        alpha = None  # the rule of LyCORIS and ComfyUI: without a low rank there is nothing to divide alpha by
    elif stated is not None and stated != rank:
        raise UserError(f"{where}: has rank {rank}, its configuration says {stated}.")
    value = float(alpha) if alpha is not None else config.alpha(known_as)
    rslora = kind in ("lora", "dora") and config.rslora
    return Layer(weights, rank, float(rank if value is None else value), rslora, spelled)


def _rank(kind: str, weights: dict[str, torch.Tensor], where: str) -> int:
    """The rank that the shapes agree on."""
    pairs = {
        "lora": [("lora_B.weight", "lora_A.weight")],
        "loha": [("hada_w1_a", "hada_w1_b"), ("hada_w2_a", "hada_w2_b")],
        "lokr": [(f"{factor}_a", f"{factor}_b") for factor in ("lokr_w1", "lokr_w2") if f"{factor}_a" in weights],
    }["lora" if kind == "dora" else kind]
    ranks = {side for left, right in pairs for side in (weights[left].shape[1], weights[right].shape[0])}
    shapes = ", ".join(f"{part} {list(tensor.shape)}" for part, tensor in weights.items())
    if len(ranks) > 1:
        raise UserError(f"{where}: the shapes do not go together: {shapes}; expected [out, rank] and [rank, in].")
    if kind == "loha" and any(
        weights["hada_w1_" + side].shape != weights["hada_w2_" + side].shape for side in ("a", "b")
    ):
        raise UserError(f"{where}: the shapes do not go together: {shapes}; expected both products of one shape.")
    if kind == "dora":
        out = weights["lora_B.weight"].shape[0]
        part = "dora_scale" if "dora_scale" in weights else "lora_magnitude_vector"
        shape = list(weights[part].shape)
        # a row of magnitudes, one for each input, is LyCORIS' other form, which PEFT does not have
        if weights[part].numel() != out or (part == "dora_scale" and shape[0] != out):
            raise UserError(f"{where}: {part} is {shape}; expected one magnitude for each of {out} outputs.")
    return lokr_rank(weights) if kind == "lokr" else ranks.pop()


def _resolve_dora_scale(layer: Layer, name: str, base: Mapping[str, torch.Tensor] | None, where: str) -> None:
    """PEFT's magnitudes from ComfyUI's, which are told relative to the norms of the model's own rows.

    ComfyUI plays `dora_scale / |W| * (W + s B A)`, PEFT `magnitude / |W + s B A| * (W + s B A)`.
    """
    scale = layer.weights.pop("dora_scale", None)
    if scale is None:
        layer.weights["lora_magnitude_vector"] = layer.weights["lora_magnitude_vector"].reshape(-1)
        return
    if base is None:
        raise UserError(
            f"{where}: is a DoRA in ComfyUI's form, whose magnitudes are told relative to the model's weights. Give "
            "the model: --pretrained_model_name_or_path."
        )
    weight = base[f"{name}.weight"].double()
    changed = weight + layer.scale * layer.weights["lora_B.weight"].double() @ layer.weights["lora_A.weight"].double()
    magnitude = scale.double().reshape(-1) * changed.norm(dim=1) / weight.norm(dim=1)
    layer.weights["lora_magnitude_vector"] = magnitude.float()


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - LISTED} more" if len(items) > LISTED else ""
    return ", ".join(items[:LISTED]) + more
