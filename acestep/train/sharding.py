"""Weights that FSDP2 shares out over processes: gathered whole to be saved, shared out again when put back."""

from typing import Any

import torch

from acestep.errors import UserError
from acestep.train.options import TrainOptions


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as one process alone would have it. Every process must ask: for a shared one they exchange parts."""
    tensor = tensor.detach()
    return tensor.full_tensor() if is_shared(tensor) else tensor


def like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor placed as `parameter` is: on its device, shared out as it is if their shapes are one."""
    tensor = tensor.to(parameter.device)
    if not is_shared(parameter) or tensor.shape != parameter.shape:
        return tensor.clone()
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)


def is_shared(tensor: torch.Tensor) -> bool:
    """Whether this process holds only a part of it."""
    return hasattr(tensor, "full_tensor")


def check_sharded(options: TrainOptions, precision: str) -> None:
    """Refuse what does not work on weights that are shared out.

    Raises:
        UserError: with the way out.
    """
    refused = (
        (options.optimizer != "adamw", f"--optimizer {options.optimizer}", "use adamw"),
        (precision == "fp16", "--mixed_precision fp16", "use bf16"),
        (
            options.quantization != "none",
            f"--quantization {options.quantization}",
            "such a base is not shared out",
        ),
        (options.attention == "native", "--attention native", "processes would make unequal numbers of passes"),
        (options.preview_prompts is not None, "--preview_prompts", "play checkpoints with scripts/generate.py"),
    )
    for found, option, way in refused:
        if found:
            raise UserError(f"{option}: does not go together with FSDP2 ({way}), or launch with multi_gpu.yaml.")


def is_sharded(accelerator: Any) -> bool:
    """Whether accelerate was launched with FSDP2.

    Raises:
        UserError: for FSDP1, which cannot share out frozen and trainable weights of different dtypes.
    """
    from accelerate.utils import DistributedType

    if accelerator.distributed_type != DistributedType.FSDP:
        return False
    if not accelerator.is_fsdp2:
        raise UserError("accelerate was launched with FSDP 1; use accelerate_configs/fsdp2.yaml (fsdp_version: 2).")
    return True
