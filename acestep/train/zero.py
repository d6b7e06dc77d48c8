"""DeepSpeed's ZeRO-2, which shares out the adapter's gradients and its optimizer's states: what it does differently.

The weights stay whole in every process. Each makes the optimizer's step for its part of them, flattened, and gets the
other parts from the others. Accumulation, clipping, skipped steps, schedule and checkpoints remain the trainer's own.
"""

import importlib.metadata
from typing import Any

import torch
from torch import nn

from acestep.errors import UserError
from acestep.train.options import TrainOptions

OLDEST = (0, 19)  # of DeepSpeed; 0.18.0 was seen to train something else
OFFLOADED = ("cpu", "nvme")
LARGEST_BUCKET = 50_000_000  # gradients reduced at a time; DeepSpeed would set 2 GB aside for it

States = dict[nn.Parameter, dict[str, torch.Tensor]]


class WholeStates:
    """What `optimizer_state` looks for in an optimizer: states by weight, as one process alone would have them."""

    def __init__(self, state: States):
        self.state = state


class Zero:
    """The steps of a DeepSpeed engine, one part at a time.

    Args:
        engine: as `accelerator.prepare` returned the transformer.
        accelerator: of accelerate.
    """

    def __init__(self, engine: Any, accelerator: Any):
        self.engine, self.accelerator = engine, accelerator

    @property
    def inner_optimizer(self) -> torch.optim.Optimizer:
        """The one that was prepared; its groups hold one flat part of this process each."""
        return self.engine.optimizer.optimizer

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradient of `loss`; the step's last one makes the sums ready to be looked at."""
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss, scale_wrt_gas=False)

    def clip(self, max_norm: float) -> torch.Tensor:
        """Clip the gradients as `torch.nn.utils.clip_grad_norm_` does (0: not); returns their norm before.

        DeepSpeed's own norm turns what is not finite into other values, which differ between its versions.
        """
        parts = [part for group in self.engine.optimizer.averaged_gradients.values() for part in group]
        norm = self.accelerator.reduce(torch.nn.utils.get_total_norm(parts).square()).sqrt()
        if max_norm:
            torch._foreach_mul_(parts, (max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def step(self) -> None:
        """Make the step; the gradients are used up."""
        self.engine.step()

    def skip(self) -> None:
        """Drop the gradients, as DeepSpeed does itself when they overflow."""
        optimizer = self.engine.optimizer
        optimizer.zero_grad()
        for group in optimizer.averaged_gradients:
            optimizer.averaged_gradients[group] = optimizer.all_grad_tensors[group] = None

    def whole_states(self) -> WholeStates:
        """The optimizer's states gathered, by weight; every process must ask."""
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link()
        states: States = {}
        for flat, weights in self._groups():
            for key, value in self.inner_optimizer.state.get(flat, {}).items():
                for weight in weights:
                    whole = safe_get_full_optimizer_state(weight, key) if value.shape == flat.shape else value
                    states.setdefault(weight, {})[key] = whole
        return WholeStates(states)

    @torch.no_grad()
    def share_out(self, whole: WholeStates) -> None:
        """Put back what `whole_states` returned, and take over the model's weights as they are."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        for flat, weights in self._groups():
            for key, value in whole.state.get(weights[0], {}).items():
                shared = value.shape == weights[0].shape
                self.inner_optimizer.state[flat][key] = torch.zeros_like(flat) if shared else value
        self._link()
        for _, weights in self._groups():
            for weight in weights:
                safe_set_full_fp32_param(weight, weight.detach())
                for key, value in whole.state.get(weight, {}).items():
                    if value.shape == weight.shape:
                        safe_set_full_optimizer_state(weight, value, key)

    def _groups(self) -> list[tuple[torch.Tensor, list[nn.Parameter]]]:
        """Of each group of the optimizer this process's flat part, and the weights that all parts make up."""
        parts = [group["params"][0] for group in self.inner_optimizer.param_groups]
        return list(zip(parts, self.engine.optimizer.bit16_groups, strict=True))

    def _link(self) -> None:
        """Let weights find their states: DeepSpeed does so after the first group's first step, for that group alone."""
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        for flat, weights in self._groups():
            if self.inner_optimizer.state.get(flat):
                lazy_init_hp_params_optimizer_state(weights, flat, self.inner_optimizer.state)


def is_zero(accelerator: Any) -> bool:
    """Whether accelerate was launched with DeepSpeed."""
    from accelerate.utils import DistributedType

    return accelerator.distributed_type == DistributedType.DEEPSPEED


def check_zero(options: TrainOptions, precision: str, accelerator: Any) -> None:
    """Refuse what does not work with DeepSpeed, or has not been tried.

    Raises:
        UserError: with the way out.
    """
    version = importlib.metadata.version("deepspeed")
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        raise UserError(
            f"deepspeed {version}: sums up the gradients of several passes otherwise than one process does. Run `pip "
            "install -U 'deepspeed>=0.19,<0.20'`, or launch with multi_gpu.yaml."
        )
    zero = accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]
    stage = zero.get("stage")
    devices = {key: zero.get(key, {}).get("device") for key in ("offload_optimizer", "offload_param")}
    refused = (
        (stage != 2, f"zero_stage: {stage}", "expected 2; fsdp2.yaml shares out the model's weights"),
        *((device in OFFLOADED, f"{key}_device: {device}", "expected none") for key, device in devices.items()),
        (options.optimizer != "adamw", f"--optimizer {options.optimizer}", "use adamw"),
        (precision == "fp16", "--mixed_precision fp16", "use bf16"),
        (options.quantization != "none", f"--quantization {options.quantization}", "not tried"),
        (
            options.attention == "native" and options.train_batch_size > 1,
            "--attention native with --train_batch_size above 1",
            "processes would make unequal numbers of passes",
        ),
    )
    for found, option, way in refused:
        if found:
            raise UserError(f"{option}: does not go together with DeepSpeed ({way}), or launch with multi_gpu.yaml.")


def configure_zero(accelerator: Any, options: TrainOptions, weights: int) -> None:
    """Tell DeepSpeed, before the model is prepared, what the trainer decides or does by itself.

    Args:
        weights: how many the adapter has.
    """
    config = accelerator.state.deepspeed_plugin.deepspeed_config
    config["train_micro_batch_size_per_gpu"] = options.train_batch_size
    config["train_batch_size"] = options.train_batch_size * accelerator.num_processes
    config["gradient_accumulation_steps"] = 1
    config["gradient_clipping"] = 0.0
    for precision in ("fp16", "bf16"):
        config[precision] = {"enabled": False}
    config["zero_optimization"]["reduce_bucket_size"] = min(weights, LARGEST_BUCKET)
