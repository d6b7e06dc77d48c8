"""One step of the optimizer: the same sum of gradients however its samples are laid out."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch

from acestep.dataset.schema import FRAMES_PER_SECOND
from acestep.errors import UserError
from acestep.train.batches import StepLayout
from acestep.train.evaluation import to_device
from acestep.train.options import TrainOptions
from acestep.train.step import VelocityLoss
from acestep.train.zero import Zero

LEAST_SCALE = 1.0  # of a float16 run's loss: below it the trouble is not the number format


class Stepper:
    """Makes the steps of a run.

    Args:
        accelerator: of accelerate.
        velocity_loss: losses under the prepared transformer, weighted as the options say.
        optimizer: as `accelerator.prepare` returned it.
        scheduler: of the learning rate, stepped once a step.
        trainable: the adapter's weights.
        layout, rows: how many samples each step has.
        max_grad_norm: gradients are clipped to it; 0: not.
        scaler: of the loss, for float16.
        zero: makes the steps when DeepSpeed shares out the optimizer.
    """

    def __init__(
        self,
        accelerator: Any,
        velocity_loss: VelocityLoss,
        optimizer: Any,
        scheduler: Any,
        trainable: list[torch.nn.Parameter],
        layout: StepLayout,
        rows: int,
        max_grad_norm: float,
        scaler: torch.amp.GradScaler | None = None,
        zero: Zero | None = None,
    ):
        self.accelerator, self.velocity_loss = accelerator, velocity_loss
        self.optimizer, self.scheduler, self.trainable = optimizer, scheduler, trainable
        self.layout, self.rows, self.max_grad_norm, self.scaler = layout, rows, max_grad_norm, scaler
        self.zero = zero

    def __call__(
        self, step: int, micro_batches: Iterator[dict], asks: list[bool]
    ) -> tuple[dict[str, Any], list[tuple[str, float]], list[bool]]:
        """Make step `step`, counted from 0.

        Args:
            micro_batches: of the loader; as many are taken as the step has.
            asks: what this process wants the others to know.

        Returns:
            The step's record, this process's songs with their losses if it was not finite, and for each of `asks`
            whether any process asked.
        """
        began = time.monotonic()
        count, frames = self.layout.samples_of(step, self.rows), 0
        micro_count = self.layout.micro_batches(count)
        total = torch.zeros((), device=self.accelerator.device)
        songs: list[tuple[str, torch.Tensor]] = []
        for micro in range(micro_count):
            batch = next(micro_batches)
            # on the host, before the batch goes to the device
            frames += sum(n for n, weight in zip(batch["lengths"], batch["weight"].tolist(), strict=True) if weight)
            batch = to_device(batch, self.accelerator.device)
            groups = self.velocity_loss.groups(batch)
            for number, group in enumerate(groups):
                last = micro == micro_count - 1 and number == len(groups) - 1
                losses = self._backward(batch, group, count, synchronize=last)
                total += losses.sum()
                songs += [(batch["file_name"][at], loss) for at, loss in zip(group, losses, strict=True)]
        if self.scaler is not None:
            self.scaler.unscale_(self._inner)
        told = torch.tensor([float(frames), *map(float, asks)], device=total.device)
        told = self.accelerator.reduce(torch.cat([(total / count)[None], told]))
        # the only wait for the device in a step
        loss, all_frames, *asked, norm = torch.cat([told, self._clip().reshape(1).to(told)]).tolist()
        learning_rate = self.scheduler.get_last_lr()[0]
        finite, rescaled = self._finite(loss, norm)
        if finite:
            self._apply()
        elif self.scaler is not None:
            self.scaler.update()
        elif self.zero is not None:
            self.zero.skip()
        self.optimizer.zero_grad()
        self.scheduler.step()
        record = {
            "event": "step",
            "step": step + 1,
            "loss": loss,
            "learning_rate": learning_rate,
            "grad_norm": norm,
            "samples": count,
            "audio_seconds": round(all_frames / FRAMES_PER_SECOND, 2),
            "finite": finite,
            **({"rescaled": True} if rescaled else {}),
            "seconds": round(time.monotonic() - began, 4),
        }
        bad_songs = [] if finite or rescaled else [(name, loss.item()) for name, loss in songs]
        return record, bad_songs, [value > 0 for value in asked]

    @property
    def _inner(self) -> torch.optim.Optimizer:
        return getattr(self.optimizer, "optimizer", self.optimizer)

    def _backward(self, batch: dict, group: list[int], count: int, synchronize: bool) -> torch.Tensor:
        """Add the gradient of one group; returns its losses, those of samples that only fill up being 0."""
        waits = not synchronize and self.zero is None
        context = self.accelerator.no_sync(self.velocity_loss.transformer) if waits else nullcontext()
        with context:
            losses = self.velocity_loss(batch, group)
            losses = torch.where(batch["weight"][group] > 0, losses, torch.zeros_like(losses))
            # processes average their gradients: times their number, the sum over all samples is left
            share = losses.sum() * self.accelerator.num_processes / count
            if self.zero is not None:
                self.zero.backward(share, last=synchronize)
            else:
                self.accelerator.backward(share if self.scaler is None else self.scaler.scale(share))
        return losses.detach()

    def _clip(self) -> torch.Tensor:
        """Clip the gradients; returns their norm before."""
        if self.zero is not None:
            return self.zero.clip(self.max_grad_norm)
        if self.max_grad_norm:
            norm = self.accelerator.clip_grad_norm_(self.trainable, self.max_grad_norm)
        else:
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.trainable if p.grad is not None])
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of weights shared out by FSDP

    def _finite(self, loss: float, norm: float) -> tuple[bool, bool]:
        """Whether the step may be made; if not, whether only the float16 loss was scaled too far."""
        finite = torch.isfinite(torch.tensor([loss, norm])).all().item()
        if finite or self.scaler is None or not torch.isfinite(torch.tensor(loss)):
            return finite, False
        return False, self.scaler.get_scale() > LEAST_SCALE

    def _apply(self) -> None:
        if self.zero is not None:
            self.zero.step()
        elif self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self._inner)
            self.scaler.update()


def make_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler | None:
    """The loss scaler that float16 needs; None for other precisions."""
    return torch.amp.GradScaler(device.type) if precision == "fp16" else None


def memory_advice(options: TrainOptions) -> str:
    """What to change in a run that does not fit, the cheapest change first."""
    changes = [
        (not options.gradient_checkpointing, "--gradient_checkpointing: activations of one block instead of all"),
        (
            options.train_batch_size > 1,
            f"--train_batch_size 1 --gradient_accumulation_steps "
            f"{options.gradient_accumulation_steps * options.train_batch_size}: the same run, one song at a time",
        ),
        (
            options.optimizer in ("adamw", "prodigy"),
            "--optimizer adamw8bit: moments of the adapter in a quarter of the bytes",
        ),
        (options.quantization != "nf4", "--quantization nf4: the frozen weights in a quarter of bf16's bytes"),
        (options.mixed_precision in (None, "no"), "--mixed_precision bf16: weights and activations in half the bytes"),
        (not options.crop_seconds, "--crop_seconds 60: activations of a minute instead of whole songs"),
        (options.rank > 16, f"--rank {max(options.rank // 2, 8)}: half the adapter and its optimizer's state"),
    ]
    lines = [text for applies, text in changes if applies]
    return "What would need less, the cheapest first:\n" + "\n".join(f"  {line}" for line in lines)


def raise_out_of_memory(error: RuntimeError, advice: Callable[[], str]) -> None:
    """Turn a device's lack of memory into a UserError with `advice`; other errors go on."""
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        raise UserError(f"out of memory: {str(error).splitlines()[0].strip()}\n{advice()}") from None
    raise error
