"""Those who load adapters, each by its own rules and none by this project's reader."""

from pathlib import Path

import torch
from diffusers import AceStepPipeline
from safetensors.torch import load_file
from torch import nn

from tests.adapters.making import velocity

# diffusers' names of an attention's layers, and the original's
ATTENTION = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj"}


def diffusers_velocity(model: Path, folder: Path) -> torch.Tensor:
    """With the adapter loaded by `AceStepPipeline.load_lora_weights`."""
    parts = ("vae", "text_encoder", "tokenizer", "condition_encoder", "audio_tokenizer", "audio_token_detokenizer")
    pipeline = AceStepPipeline.from_pretrained(model, **dict.fromkeys(parts))
    pipeline.load_lora_weights(folder)
    (name,) = pipeline.transformer.peft_config
    pipeline.set_adapters([name])
    return velocity(pipeline.transformer.eval())


class OriginalNames:
    """A diffusers transformer whose attention layers are called as in the original code while PEFT looks at it."""

    def __init__(self, transformer: nn.Module):
        self.transformer = transformer
        self.attentions = [getattr(layer, kind) for layer in transformer.layers for kind in ("self_attn", "cross_attn")]
        for attention in self.attentions:
            for name, original in ATTENTION.items():
                setattr(attention, original, getattr(attention, name))
                delattr(attention, name)
            attention.o_proj = attention.to_out[0]
            attention.to_out = None

    def velocity(self) -> torch.Tensor:
        for attention in self.attentions:
            for name, original in ATTENTION.items():
                setattr(attention, name, getattr(attention, original))
            attention.to_out = nn.ModuleList([attention.o_proj, nn.Identity()])
        return velocity(self.transformer.eval())


def peft_velocity(transformer: nn.Module, folder: Path) -> torch.Tensor:
    """With the adapter loaded by `PeftModel.from_pretrained` on a model with the original's names."""
    import peft

    renamed = OriginalNames(transformer)
    names = {name for name, _ in transformer.named_modules()}
    assert "layers.0.self_attn.q_proj" in names
    assert not any("to_q" in name or "to_out" in name for name in names)
    peft.PeftModel.from_pretrained(transformer, folder)
    return renamed.velocity()


def comfyui_velocity(transformer: nn.Module, file: Path, strength: float = 1.0) -> torch.Tensor:
    """With the weights patched as ComfyUI does it; a key that it would not load is an error.

    What it knows of an ACE-Step 1.5 model (issues and pull requests of Comfy-Org/ComfyUI: 12252 official LoRAs, 12665
    LyCORIS, and the names that every model has):

    - a layer is called `diffusion_model.decoder.X`, `base_model.model.X`, or with underscores in place of dots
      `lycoris_X` or `lora_unet_decoder_X`, where X is the original's name;
    - LoRA: `lora_up.weight @ lora_down.weight`, times alpha / rank where there is an alpha;
    - LoHa: `(w1_a @ w1_b) * (w2_a @ w2_b)`, times alpha / rows of w1_b;
    - LoKr: kron(w1, w2), each whole or a product; times alpha / rows of a product's second half, if there is one;
    - with `dora_scale` of as many rows as the weight: `dora_scale / |row of the weight| * (weight + update)`.
    """
    tensors = load_file(file)
    used: set[str] = set()
    for name, module in transformer.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        original = name
        for own, other in {**ATTENTION, "to_out.0": "o_proj"}.items():
            original = original.replace(f"_attn.{own}", f"_attn.{other}")
        flat = original.replace(".", "_")
        for key in (
            *(f"diffusion_model.decoder.{original}", f"base_model.model.{original}"),
            *(f"lycoris_{flat}", f"lora_unet_decoder_{flat}"),
        ):
            parts = {part.removeprefix(f"{key}."): part for part in tensors if part.startswith(f"{key}.")}
            if parts:
                used |= set(parts.values())
                _patch(module, {part: tensors[there] for part, there in parts.items()}, strength)
    assert used == set(tensors), f"lora key not loaded: {sorted(set(tensors) - used)[:4]}"
    return velocity(transformer.eval())


@torch.no_grad()
def _patch(module: nn.Linear, parts: dict[str, torch.Tensor], strength: float) -> None:
    weight = module.weight.float()
    parts = {part: tensor.float() for part, tensor in parts.items()}
    alpha = parts.pop("alpha", None)
    dora = parts.pop("dora_scale", None)
    rank = None
    if "lora_up.weight" in parts:
        rank = parts["lora_down.weight"].shape[0]
        update = parts.pop("lora_up.weight") @ parts.pop("lora_down.weight")
    elif "hada_w1_a" in parts:
        rank = parts["hada_w1_b"].shape[0]
        update = (parts.pop("hada_w1_a") @ parts.pop("hada_w1_b")) * (parts.pop("hada_w2_a") @ parts.pop("hada_w2_b"))
    else:
        whole = []
        for factor in ("lokr_w1", "lokr_w2"):
            if factor in parts:
                whole.append(parts.pop(factor))
            else:
                rank = parts[f"{factor}_b"].shape[0]
                whole.append(parts.pop(f"{factor}_a") @ parts.pop(f"{factor}_b"))
        update = torch.kron(*whole)
    assert not parts, parts
    update = update * (1.0 if alpha is None or rank is None else alpha / rank)
    if dora is None:
        weight = weight + strength * update
    else:
        assert dora.shape == (weight.shape[0], 1)
        changed = (weight + update) * dora / (weight.norm(dim=1, keepdim=True) + torch.finfo(weight.dtype).eps)
        weight = weight + strength * (changed - weight)
    module.weight.copy_(weight)
