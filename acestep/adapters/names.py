"""How layers of the transformer are called in adapter files: diffusers' names, the original's, and flattened ones."""

import re

from acestep.models.names import diffusers_name

# Prefixes before a layer's name: PEFT's, ComfyUI's, diffusers', the original checkpoint's.
PREFIXES = ("base_model.model.", "diffusion_model.", "transformer.", "decoder.")
# Prefixes before a name whose dots were made underscores: LyCORIS' and kohya's.
FLAT_PREFIXES = ("lycoris_", "lora_unet_")
# Names of the layers that ComfyUI maps to ACE-Step 1.5: the model's own, that of the original tools' LoRAs (since
# Comfy-Org/ComfyUI pull request 12252), that of LyCORIS (12665), and kohya's. In the last two dots are underscores.
COMFYUI_PREFIXES = ("diffusion_model.decoder.", "base_model.model.", "lycoris_", "lora_unet_decoder_")

# Names of the layers that ComfyUI maps to ACE-Step 1.5: the model's own, that of the original tools' LoRAs (since
# Comfy-Org/ComfyUI pull request 12252), that of LyCORIS (12665), and kohya's. In the last two dots are underscores.
COMFYUI_PREFIXES = ("diffusion_model.decoder.", "base_model.model.", "lycoris_", "lora_unet_decoder_")

_BLOCK = re.compile(r"layers\.\d+\.((self|cross)_attn\.(to_[qkv]|to_out\.0)|mlp\.(gate|up|down)_proj)")
_EMBEDDERS = ("time_embed", "time_embed_r")
_OTHERS = (
    "condition_embedder",
    *(f"{embedder}.{layer}" for embedder in _EMBEDDERS for layer in ("linear_1", "linear_2", "time_proj")),
)
_ORIGINAL = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out.0": "o_proj"}
_ATTENTION = re.compile(r"(?<=_attn\.)(to_q|to_k|to_v|to_out\.0)$")
_FLAT_BLOCK = re.compile(r"layers_(\d+)_(self_attn|cross_attn|mlp)_(.+)")
_FLAT_OTHERS = {name.replace(".", "_"): name for name in _OTHERS}


def layer_of(spelled: str) -> str | None:
    """diffusers' name of a linear layer of the transformer, from any spelling; None if there is no such layer.

    For example `base_model.model.layers.0.self_attn.q_proj` and `lycoris_layers_0_self_attn_q_proj` are
    `layers.0.self_attn.to_q`.
    """
    bare = without_prefix(spelled)
    for prefix in FLAT_PREFIXES:
        if bare.startswith(prefix):
            bare = _unflattened(bare.removeprefix(prefix).removeprefix("decoder_"))
    found = diffusers_name(f"decoder.{bare}.weight")
    name = found[1].removesuffix(".weight") if found else ""
    return name if _BLOCK.fullmatch(name) or name in _OTHERS else None


def without_prefix(spelled: str) -> str:
    """A layer's name without the prefixes that tools put before it."""
    while True:
        for prefix in PREFIXES:
            if spelled.startswith(prefix):
                spelled = spelled.removeprefix(prefix)
                break
        else:
            return spelled


def original_name(layer: str) -> str:
    """The original's name of a layer, from diffusers': `layers.0.self_attn.to_q` is `layers.0.self_attn.q_proj`."""
    return _ATTENTION.sub(lambda match: _ORIGINAL[match.group()], layer)


def _unflattened(name: str) -> str:
    match = _FLAT_BLOCK.fullmatch(name)
    if match is None:
        return _FLAT_OTHERS.get(name, name)
    block, part, layer = match.groups()
    return f"layers.{block}.{part}.{'to_out.0' if layer == 'to_out_0' else layer}"
