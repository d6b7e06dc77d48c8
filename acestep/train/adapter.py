"""The adapter: put on the transformer, trained in float32, saved so that diffusers loads it at the right strength."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from acestep.errors import UserError
from acestep.train.options import ATTENTION, MLP

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
GROUPS = {"attention": ATTENTION, "mlp": MLP}


def expand_target_modules(names: list[str], transformer: nn.Module) -> list[str]:
    """Names of linear layers, groups ("attention", "mlp") spelled out.

    Raises:
        UserError: for a name that no layer's name ends with.
    """
    expanded = list(dict.fromkeys(layer for name in names for layer in GROUPS.get(name, (name,))))
    linear = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    for target in expanded:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            known = sorted({name.split(".", 3)[-1] if name.startswith("layers.") else name for name in linear})
            raise UserError(
                f"--target_modules {target}: the transformer has no such linear layer. Expected attention, mlp or some "
                f"of: {', '.join(known)}."
            )
    return expanded


def add_adapter(
    transformer: nn.Module,
    target_modules: list[str],
    rank: int,
    alpha: float,
    use_rslora: bool,
    seed: int,
    kind: str = "lora",
) -> list[nn.Parameter]:
    """Put an adapter on the transformer; everything else is frozen.

    Args:
        target_modules: as `expand_target_modules` takes them.
        rank: of the update; the size of OFT's blocks.
        kind: "lora", "dora", "lokr", "loha" or "oft".
        seed: of the random start, the same in every process.

    Returns:
        The trainable weights, float32.
    """
    from diffusers.training_utils import cast_training_params

    transformer.requires_grad_(False)
    targets = expand_target_modules(target_modules, transformer)
    if kind == "oft":
        _check_blocks(transformer, targets, rank)
    config = _config(kind, targets, rank, int(alpha) if float(alpha).is_integer() else alpha, use_rslora)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer.add_adapter(config)
    cast_training_params(transformer, dtype=torch.float32)
    return [parameter for parameter in transformer.parameters() if parameter.requires_grad]


def _check_blocks(transformer: nn.Module, targets: list[str], size: int) -> None:
    """PEFT would take another size of block with no more than a warning."""
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(tuple(targets)) and module.in_features % size:
            raise UserError(
                f"--adapter oft --rank {size}: {name} has {module.in_features} inputs, which blocks of {size} do not "
                "divide. Choose a divisor, such as 32 or 64."
            )


def _config(kind: str, targets: list[str], rank: int, alpha: float, use_rslora: bool) -> Any:
    import peft

    if kind == "lokr":
        return peft.LoKrConfig(r=rank, alpha=alpha, target_modules=targets)
    if kind == "loha":
        return peft.LoHaConfig(r=rank, alpha=alpha, target_modules=targets)
    if kind == "oft":
        return peft.OFTConfig(r=0, oft_block_size=rank, target_modules=targets)
    return peft.LoraConfig(
        r=rank, lora_alpha=alpha, use_rslora=use_rslora, use_dora=kind == "dora", target_modules=targets
    )


def save_lora(transformer: nn.Module, folder: Path) -> Path:
    """Write `folder/pytorch_lora_weights.safetensors`, whole or not at all.

    The adapter's configuration goes into the file's header (`lora_adapter_metadata`): diffusers reads it from nowhere
    else, and without it an adapter whose alpha is not its rank loads at the wrong strength.

    Args:
        transformer: unwrapped.

    Returns:
        The file's path.
    """
    from diffusers import AceStepPipeline
    from diffusers.training_utils import _collate_lora_metadata
    from peft import get_peft_model_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder, prefix=".saving-"))
    try:
        AceStepPipeline.save_lora_weights(
            staging,
            transformer_lora_layers=get_peft_model_state_dict(transformer),
            weight_name=WEIGHTS_NAME,
            **_collate_lora_metadata({"transformer": transformer}),
        )
        (staging / WEIGHTS_NAME).chmod(0o666 & ~_umask())  # safetensors keeps its files to the owner
        with (staging / WEIGHTS_NAME).open("rb") as file:
            os.fsync(file.fileno())
        (staging / WEIGHTS_NAME).replace(folder / WEIGHTS_NAME)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder / WEIGHTS_NAME


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def describe_lora(parameters: list[nn.Parameter], options: Any) -> str:
    """One line about the adapter."""
    count = sum(parameter.numel() for parameter in parameters)
    names = {"lora": "LoRA", "dora": "DoRA", "lokr": "LoKr", "loha": "LoHa", "oft": "OFT"}
    kind = ("rs" if options.use_rslora else "") + names[options.adapter]
    size = f"blocks of {options.rank}" if kind == "OFT" else f"rank {options.rank}, alpha {options.alpha:g}"
    return f"{kind} {size}, {count / 1e6:.2f} M weights"
