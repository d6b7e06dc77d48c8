"""The adapter: put on the transformer, trained in float32, saved so that diffusers loads it at the right strength."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from acestep.errors import UserError
from acestep.train.sharding import gathered
from acestep.train.starts import PissaStart
from acestep.train.targets import Patterns, expand_target_modules, linear_layers, targeted

DROPOUTS = ("lora_dropout", "rank_dropout", "module_dropout")  # PEFT's names
WEIGHTS_NAME = "pytorch_lora_weights.safetensors"


def adapter_config(
    kind: str,
    targets: list[str],
    rank: int,
    alpha: float,
    use_rslora: bool = False,
    *,
    dropout: float = 0.0,
    start: str = "default",
    patterns: Patterns | None = None,
) -> Any:
    """PEFT's configuration of an adapter.

    Args:
        kind: "lora", "dora", "lokr", "loha" or "oft".
        targets: as `expand_target_modules` returns them.
        rank: of the update; the size of OFT's blocks.
        alpha: the update counts alpha / rank; OFT has none.
        dropout: share of a LoRA's inputs, or of LoKr's and LoHa's output rows, that are left out; OFT has none.
        start: "default" (Kaiming for A, B zero), "gaussian", "pissa", "pissa_niter_16" or "eva"; lora and dora only.
        patterns: ranks and alphas of single layers.
    """
    import peft

    alpha = int(alpha) if float(alpha).is_integer() else alpha
    patterns = patterns or Patterns()
    shared: dict[str, Any] = {"target_modules": targets}
    if kind == "oft":
        return peft.OFTConfig(r=0, oft_block_size=rank, **shared)
    shared |= {"r": rank, "rank_pattern": dict(patterns.rank), "alpha_pattern": dict(patterns.alpha)}
    if kind == "lokr":
        return peft.LoKrConfig(alpha=alpha, rank_dropout=dropout, **shared)
    if kind == "loha":
        return peft.LoHaConfig(alpha=alpha, rank_dropout=dropout, **shared)
    if start == "eva":
        # rho 1: no rank moves between layers, so every process and every card has the same shapes
        shared["eva_config"] = peft.EvaConfig(rho=1.0)
    return peft.LoraConfig(
        lora_alpha=alpha,
        use_rslora=use_rslora,
        use_dora=kind == "dora",
        lora_dropout=dropout,
        init_lora_weights=True if start == "default" else start,
        **shared,
    )


def put_adapter(transformer: nn.Module, config: Any, seed: int) -> list[nn.Parameter]:
    """Put an adapter on the transformer; everything else is frozen.

    Args:
        config: of PEFT.
        seed: of the random start, the same in every process.

    Returns:
        The trainable weights, float32.

    Raises:
        UserError: for OFT blocks that do not divide a layer's width.
    """
    from diffusers.training_utils import cast_training_params

    transformer.requires_grad_(False)
    if config.peft_type == "OFT":
        _check_blocks(transformer, config.target_modules, config.oft_block_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer.add_adapter(config)
    cast_training_params(transformer, dtype=torch.float32)
    return [parameter for parameter in transformer.parameters() if parameter.requires_grad]


def add_adapter(
    transformer: nn.Module,
    target_modules: list[str],
    rank: int,
    alpha: float,
    use_rslora: bool,
    seed: int,
    kind: str = "lora",
    **more: Any,
) -> list[nn.Parameter]:
    """Put a new adapter on the transformer; arguments as `expand_target_modules`, `adapter_config`, `put_adapter` have.

    Returns:
        The trainable weights, float32.
    """
    targets = expand_target_modules(target_modules, transformer)
    return put_adapter(transformer, adapter_config(kind, targets, rank, alpha, use_rslora, **more), seed)


def _check_blocks(transformer: nn.Module, targets: Any, size: int) -> None:
    """PEFT would take another size of block with no more than a warning."""
    for name, module in targeted(targets, transformer).items():
        if module.in_features % size:
            raise UserError(
                f"--adapter oft --rank {size}: {name} has {module.in_features} inputs, which blocks of {size} do not "
                "divide. Choose a divisor, such as 32 or 64."
            )


@dataclass(frozen=True)
class AdapterContent:
    """What an adapter's file holds: weights by the names of PEFT's state dict, and diffusers' metadata."""

    weights: dict[str, torch.Tensor]
    metadata: dict[str, Any]


def adapter_content(transformer: nn.Module, start: PissaStart | None = None) -> AdapterContent:
    """What is to be saved of a transformer's adapter; every process must ask, since weights may be shared out.

    Args:
        transformer: unwrapped.
        start: of a PiSSA adapter, which is saved as the plain LoRA of twice the rank that does the same to the model's
            own weights.
    """
    from diffusers.training_utils import _collate_lora_metadata
    from peft import get_peft_model_state_dict

    weights = {name: gathered(weight) for name, weight in get_peft_model_state_dict(transformer).items()}
    metadata = _collate_lora_metadata({"transformer": transformer})
    config = metadata["transformer_lora_adapter_metadata"]
    if start is not None:
        weights, config = start.as_plain_lora(weights, config)
    # Dropout is for training: what loads the file may leave it at work, as diffusers' pipelines do.
    config = {key: 0.0 if key in DROPOUTS else value for key, value in config.items()}
    metadata["transformer_lora_adapter_metadata"] = config
    return AdapterContent(weights, metadata)


def save_lora(transformer: nn.Module, folder: Path, start: PissaStart | None = None) -> Path:
    """Write the adapter of an unwrapped transformer; see `adapter_content` and `write_adapter`."""
    return write_adapter(adapter_content(transformer, start), folder)


def write_adapter(content: AdapterContent, folder: Path) -> Path:
    """Write `folder/pytorch_lora_weights.safetensors`, whole or not at all.

    The adapter's configuration goes into the file's header (`lora_adapter_metadata`): diffusers reads it from nowhere
    else, and without it an adapter whose alpha is not its rank loads at the wrong strength.

    Returns:
        The file's path.
    """
    from diffusers import AceStepPipeline

    folder.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder, prefix=".saving-"))
    try:
        AceStepPipeline.save_lora_weights(
            staging, transformer_lora_layers=content.weights, weight_name=WEIGHTS_NAME, **content.metadata
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


def describe_adapter(transformer: nn.Module) -> str:
    """One line about the adapter on an unwrapped transformer."""
    (config,) = transformer.peft_config.values()
    kind = config.peft_type.value
    names = {"LORA": "LoRA", "LOKR": "LoKr", "LOHA": "LoHa"}
    if kind == "LORA" and config.use_dora:
        kind = "DoRA"
    if getattr(config, "use_rslora", False):
        kind = f"rs{names.get(kind, kind)}"
    if kind == "OFT":
        size = f"blocks of {config.oft_block_size}"
    else:
        alpha = config.lora_alpha if config.peft_type == "LORA" else config.alpha
        size = f"rank {config.r}, alpha {alpha:g}"
        if config.rank_pattern or config.alpha_pattern:
            size += " with patterns"
    weights = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    layers = len([name for name in linear_layers(transformer) if name.endswith("base_layer")])
    count = sum(parameter.numel() for parameter in weights)
    shown = f"{count / 1e6:.2f} M" if count >= 1e5 else f"{count:,}"
    return f"{names.get(kind, kind)} {size} on {layers} layers, {shown} weights"
