"""The optimizers that a run may choose."""

import io
from contextlib import redirect_stdout
from typing import Any

import torch

from acestep.errors import UserError
from acestep.train.optimizer_state import Named
from acestep.train.options import TrainOptions


def make_optimizer(named: Named, options: TrainOptions) -> torch.optim.Optimizer:
    """An optimizer over the adapter's weights.

    8-bit AdamW keeps its two moments in 8 bits (blocks of weights with fewer than 4096 entries stay in 32, the
    library's own rule); paged, they may leave the GPU's memory when it is short. Adafactor runs at the given learning
    rate, without its own schedule. Prodigy finds the learning rate, which the given one multiplies.

    Raises:
        UserError: for prodigy when its package is missing.
    """
    groups = _groups(named, options)
    betas = (options.adam_beta1, options.adam_beta2)
    adam: dict[str, Any] = {
        "lr": options.peak_learning_rate,
        "betas": betas,
        "eps": options.adam_epsilon,
        "weight_decay": options.adam_weight_decay,
    }
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, **adam)
    if options.optimizer == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(
            groups,
            lr=options.peak_learning_rate,
            weight_decay=options.adam_weight_decay,
            relative_step=False,
            scale_parameter=False,
            warmup_init=False,
        )
    if options.optimizer == "prodigy":
        return _prodigy(groups, adam)
    import bitsandbytes

    optimizer = bitsandbytes.optim.AdamW8bit if options.optimizer == "adamw8bit" else bitsandbytes.optim.PagedAdamW8bit
    return optimizer(groups, **adam)


def _groups(named: Named, options: TrainOptions) -> list[dict[str, Any]]:
    """All weights, or with LoRA+ (Hayou et al., 2024) the B matrices apart, at a higher learning rate."""
    if not options.loraplus_lr_ratio:
        return [{"params": [parameter for _, parameter in named]}]
    others = [parameter for name, parameter in named if ".lora_B." not in name]
    matrices_b = [parameter for name, parameter in named if ".lora_B." in name]
    return [
        {"params": others},
        {"params": matrices_b, "lr": options.peak_learning_rate * options.loraplus_lr_ratio},
    ]


def _prodigy(groups: list[dict[str, Any]], adam: dict[str, Any]) -> torch.optim.Optimizer:
    """Prodigy (Mishchenko & Defazio, 2024) as diffusers' example scripts set it up."""
    try:
        from prodigyopt import Prodigy
    except ImportError:
        raise UserError(
            "--optimizer prodigy: the package prodigyopt is not installed; run `pip install prodigyopt`."
        ) from None
    with redirect_stdout(io.StringIO()):  # it prints what kind of weight decay it was told to use
        return Prodigy(groups, **adam, decouple=True, use_bias_correction=True, safeguard_warmup=True)


def make_schedule(optimizer: torch.optim.Optimizer, options: TrainOptions, steps: int) -> Any:
    """The learning rate's schedule of `diffusers.optimization` over `steps` steps.

    Raises:
        UserError: for `--lr_step_rules` that it cannot read.
    """
    from diffusers.optimization import get_scheduler

    try:
        return get_scheduler(
            options.lr_scheduler,
            # a function of the step alone, for which any optimizer with these groups will do
            optimizer=optimizer,
            step_rules=options.lr_step_rules,
            num_warmup_steps=options.warmup_steps(steps),
            num_training_steps=steps,
            num_cycles=options.lr_num_cycles,
            power=options.lr_power,
        )
    except ValueError as error:
        if options.lr_step_rules is None:
            raise
        raise UserError(
            f"--lr_step_rules {options.lr_step_rules}: expected factors and the steps they hold until, such as "
            f"'1:100,0.1:500,0.01' ({error})."
        ) from None
