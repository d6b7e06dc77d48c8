"""The trainer's step on tensors without data, put together from its own parts."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from acestep.models.attention import install_attention
from acestep.train.averaging import AveragedWeights
from acestep.train.batches import StepLayout, collate
from acestep.train.memory_counting import LiveBytes
from acestep.train.optimizer_state import trainable
from acestep.train.optimizers import make_optimizer, make_schedule
from acestep.train.options import TrainOptions
from acestep.train.setup import autocast, make_velocity_loss
from acestep.train.stepping import Stepper

CPU = torch.device("cpu")
PAGED_FROM = 100_000  # entries of a weight: bitsandbytes pages the states of no smaller one


class FakeStep:
    """The trainer's step, put together from its own parts as `make_trainer` does it.

    Args:
        transformer: with the adapter, on the CPU.
        batch: frames and condition tokens of each song of each micro-batch.
        live: what counts.
        cuda: whether the optimizer works on all weights at once, as PyTorch has it on a GPU.
    """

    def __init__(
        self,
        transformer: nn.Module,
        silence: torch.Tensor,
        null_condition: torch.Tensor,
        options: TrainOptions,
        precision: str,
        batch: list[list[tuple[int, int]]],
        live: LiveBytes,
        cuda: bool,
    ):
        self.live, self.options, self.batch, self.cuda = live, options, batch, cuda
        self.width = condition_width(transformer)
        self.channels = transformer.config.audio_acoustic_hidden_dim
        attention = "blockwise" if options.attention == "flex" else options.attention
        masks = install_attention(transformer, attention) != "native"
        if options.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        entered = autocast(CPU, precision)
        velocity_loss = make_velocity_loss(transformer, silence, null_condition, options, entered, masks)
        named = trainable(transformer)
        self.parameters = [parameter for _, parameter in named]
        live.name_rest("weights")
        live.name(self.parameters, "adapter")
        self.hooks = [
            parameter.register_post_accumulate_grad_hook(lambda p: live.name([p.grad], "gradients"))
            for parameter in self.parameters
        ]
        self.optimizer = make_optimizer(named, options)
        if cuda and isinstance(self.optimizer, torch.optim.AdamW):
            for group in self.optimizer.param_groups:
                group["foreach"] = True
        self.average = AveragedWeights(named, options.ema_decay) if options.ema_decay else None
        if self.average:
            live.name(self.average.tensors().values(), "average")
        layout = StepLayout(options.train_batch_size, len(batch))
        self.rows = sum(map(len, batch))
        schedule = make_schedule(self.optimizer, options, steps=100)
        accelerator = OneProcess(foreach=cuda)
        self.stepper = Stepper(
            accelerator,
            velocity_loss,
            self.optimizer,
            schedule,
            self.parameters,
            layout,
            self.rows,
            options.max_grad_norm,
        )
        transformer.train()

    def make_states(self) -> None:
        """An optimizer's step with gradients of zero: the states that are there when the next step peaks."""
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.live.name([parameter.grad for parameter in self.parameters], "gradients")
        self.optimizer.step()
        self.optimizer.zero_grad()
        for parameter in self.parameters:
            states = [value for value in self.optimizer.state[parameter].values() if isinstance(value, torch.Tensor)]
            self.live.name(states, "optimizer")
            if self.cuda and self.options.optimizer.startswith("paged") and parameter.numel() >= PAGED_FROM:
                # they lie in memory that the driver moves to the host when the GPU's is short
                self.live.name([state for state in states if state.numel() == parameter.numel()], None)
        self.live.reset_peak()

    def __call__(self) -> None:
        """One step of the optimizer."""
        self.stepper(0, self._micro_batches(), [False])
        if self.average:
            self.average.step()

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def _micro_batches(self) -> Iterator[dict]:
        for songs in self.batch:
            longest = max(frames for frames, _ in songs)
            yield collate([self._sample(frames, tokens, longest) for frames, tokens in songs])

    def _sample(self, frames: int, tokens: int, padded: int) -> dict:
        """As `TrainingSamples` has them, without content."""
        return {
            **{"id": "", "file_name": "", "epoch": 0, "weight": 1.0, "start": 0, "padded": padded},
            **{"timestep": 0.5, "null_condition": False},
            "clean_latents": torch.empty(frames, self.channels),
            "noise": torch.empty(frames, self.channels),
            "encoder_hidden_states": torch.empty(tokens, self.width),
        }


class OneProcess:
    """What `Stepper` asks of accelerate, for one process alone."""

    num_processes = 1
    device = CPU

    def __init__(self, foreach: bool):
        self.foreach = foreach

    def no_sync(self, _model: nn.Module) -> AbstractContextManager:
        return nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def clip_grad_norm_(self, parameters: list[nn.Parameter], norm: float) -> torch.Tensor:
        return torch.nn.utils.clip_grad_norm_(parameters, norm, foreach=self.foreach or None)


def condition_width(transformer: nn.Module) -> int:
    """Width D of the conditions `[L, D]` that a transformer takes."""
    return transformer.config.encoder_hidden_size or transformer.config.hidden_size
