"""The training loop: steps of the optimizer over a dataset, the same whatever the layout of batches and processes."""

import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from acestep.dataset.rows import EncodedRows
from acestep.dataset.schema import FRAMES_PER_SECOND
from acestep.errors import UserError
from acestep.train.adapter import save_lora
from acestep.train.batches import MicroBatches, StepLayout, TrainingSamples, collate
from acestep.train.evaluation import evaluate_loss, to_device
from acestep.train.metrics import MetricsFile
from acestep.train.options import TrainOptions
from acestep.train.step import VelocityLoss

MAX_BAD_STEPS = 10  # not finite in a row


class Trainer:
    """Trains the adapter on a prepared transformer.

    Args:
        accelerator: of accelerate.
        transformer, optimizer: as `accelerator.prepare` returned them.
        velocity_loss: losses under `transformer`, weighted as the options say.
        rows: of the dataset.
        samples: what a row becomes at a step.
        output_dir: where metrics and adapters go.
    """

    def __init__(
        self,
        accelerator: Any,
        transformer: torch.nn.Module,
        optimizer: Any,
        velocity_loss: VelocityLoss,
        rows: EncodedRows,
        samples: TrainingSamples,
        options: TrainOptions,
        output_dir: Path,
    ):
        from diffusers.optimization import get_scheduler

        self.accelerator, self.transformer, self.optimizer = accelerator, transformer, optimizer
        self.velocity_loss, self.rows, self.options = velocity_loss, rows, options
        self.output_dir = output_dir
        self.layout = StepLayout(
            options.train_batch_size, options.gradient_accumulation_steps, accelerator.num_processes
        )
        self.steps = options.max_train_steps or options.num_train_epochs * self.steps_per_epoch
        # Not prepared by accelerate, which would step it once a process.
        self.scheduler = get_scheduler(
            options.lr_scheduler,
            # a function of the step alone, for which any optimizer with these groups will do
            optimizer=getattr(optimizer, "optimizer", optimizer),
            num_warmup_steps=options.warmup_steps(self.steps),
            num_training_steps=self.steps,
        )
        self.loader = DataLoader(
            samples,
            batch_sampler=MicroBatches(len(rows), self.layout, accelerator.process_index, options.seed, self.steps),
            num_workers=options.dataloader_num_workers,
            collate_fn=collate,
            pin_memory=accelerator.device.type == "cuda",
            persistent_workers=options.dataloader_num_workers > 0,
        )
        self.trainable = [p for p in transformer.parameters() if p.requires_grad]
        self.bad_steps, self.bad_in_a_row = 0, 0
        self.metrics = MetricsFile(output_dir) if accelerator.is_main_process else None

    @property
    def steps_per_epoch(self) -> int:
        return self.layout.steps_per_epoch(len(self.rows))

    def samples_of_step(self, step: int) -> int:
        """Samples that count in a step, over all processes: the last step of an epoch may have fewer."""
        within = step % self.steps_per_epoch
        return min(self.layout.samples, len(self.rows) - within * self.layout.samples)

    def train(self) -> None:
        """Run all steps.

        Raises:
            UserError: after ten steps in a row that are not finite, with the songs' names.
        """
        self.transformer.train()
        micro_batches = iter(self.loader)
        progress = tqdm(total=self.steps, desc="training", unit="step", disable=not self.accelerator.is_main_process)
        smoothed, weight = 0.0, 0.0
        for step in range(self.steps):
            began = time.monotonic()
            record, songs = self._step(step, micro_batches)
            if record["finite"]:
                smoothed, weight = 0.95 * smoothed + 0.05 * record["loss"], 0.95 * weight + 0.05
            record["seconds"] = round(time.monotonic() - began, 4)
            self._report(step, record)
            self._stop_if_bad(record, songs)
            progress.set_postfix_str(f"loss {smoothed / max(weight, 1e-9):.4f}", refresh=False)
            progress.update()
            self._save_epoch(step + 1)
        progress.close()

    def evaluate(self, step: int) -> dict[str, Any]:
        """The loss at fixed noise, also written to the metrics."""
        self.transformer.eval()
        plain = VelocityLoss(self.transformer, self.velocity_loss.silence_latent, self.velocity_loss.null_condition)
        result = evaluate_loss(
            plain,
            self.rows,
            self.accelerator,
            seed=self.options.seed,
            draws=self.options.evaluation_draws,
            crop_frames=self.loader.dataset.crop_frames,
        )
        self.transformer.train()
        if self.metrics:
            self.metrics.write({"event": "evaluation", "step": step, **result})
        self.accelerator.log({"evaluation/loss": result["loss"]}, step=step)
        return result

    def save(self, folder: Path) -> Path | None:
        """Write the adapter from the main process; returns its path there."""
        self.accelerator.wait_for_everyone()
        path = save_lora(self.accelerator.unwrap_model(self.transformer), folder) if self.metrics else None
        self.accelerator.wait_for_everyone()
        return path

    def _step(self, step: int, micro_batches: Any) -> tuple[dict[str, Any], list[tuple[str, float]]]:
        """One step of the optimizer; returns its record and this process's songs with their losses."""
        count, frames = self.samples_of_step(step), 0
        total = torch.zeros((), device=self.accelerator.device)
        songs: list[tuple[str, torch.Tensor]] = []
        for micro in range(self.layout.accumulation):
            batch = to_device(next(micro_batches), self.accelerator.device)
            groups = self.velocity_loss.groups(batch)
            for number, group in enumerate(groups):
                last = micro == self.layout.accumulation - 1 and number == len(groups) - 1
                losses = self._backward(batch, group, count, synchronize=last)
                total += losses.sum()
                songs += [(batch["file_name"][at], loss) for at, loss in zip(group, losses, strict=True)]
            frames += int((batch["weight"] > 0).sum()) * batch["clean_latents"].shape[1]
        sums = torch.stack([total / count, torch.tensor(float(frames), device=total.device)])
        loss, all_frames = self.accelerator.reduce(sums).tolist()
        if self.options.max_grad_norm:
            norm = self.accelerator.clip_grad_norm_(self.trainable, self.options.max_grad_norm)
        else:
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.trainable if p.grad is not None])
        norm = float(norm)
        finite = torch.isfinite(torch.tensor([loss, norm])).all().item()
        learning_rate = self.scheduler.get_last_lr()[0]
        if finite:
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        record = {
            "event": "step",
            "step": step + 1,
            "epoch": round((step + 1) / self.steps_per_epoch, 4),
            "loss": loss,
            "learning_rate": learning_rate,
            "grad_norm": norm,
            "samples": count,
            "audio_seconds": round(all_frames / FRAMES_PER_SECOND, 2),
            "finite": finite,
        }
        return record, [(name, loss.item()) for name, loss in songs] if not finite else []

    def _backward(self, batch: dict, group: list[int], count: int, synchronize: bool) -> torch.Tensor:
        """Add the gradient of one group; returns its losses, those of samples that only fill up being 0."""
        context = self._synchronized() if synchronize else self.accelerator.no_sync(self.transformer)
        with context:
            losses = self.velocity_loss(batch, group)
            losses = torch.where(batch["weight"][group] > 0, losses, torch.zeros_like(losses))
            # processes average their gradients: times their number, the sum over all samples is left
            self.accelerator.backward(losses.sum() * self.accelerator.num_processes / count)
        return losses.detach()

    @staticmethod
    def _synchronized():
        from contextlib import nullcontext

        return nullcontext()

    def _report(self, step: int, record: dict[str, Any]) -> None:
        if (step + 1) % self.options.logging_steps and step + 1 != self.steps and record["finite"]:
            return
        if self.metrics:
            self.metrics.write(record)
        numbers = ("loss", "learning_rate", "grad_norm", "epoch")
        self.accelerator.log({f"train/{key}": record[key] for key in numbers}, step=step + 1)

    def _stop_if_bad(self, record: dict[str, Any], songs: list[tuple[str, float]]) -> None:
        if record["finite"]:
            self.bad_in_a_row = 0
            return
        self.bad_steps, self.bad_in_a_row = self.bad_steps + 1, self.bad_in_a_row + 1
        from accelerate.utils import gather_object

        everyone = gather_object(songs)
        bad = sorted({name for name, loss in everyone if not torch.isfinite(torch.tensor(loss))})
        names = ", ".join(bad or sorted({name for name, _ in everyone}))
        if self.accelerator.is_main_process:
            tqdm.write(f"warning: step {record['step']} is not finite and was skipped; songs: {names}")
        if self.bad_in_a_row >= MAX_BAD_STEPS:
            raise UserError(
                f"{MAX_BAD_STEPS} steps in a row were not finite, the last at step {record['step']} with {names}. "
                "Look at these songs with scripts/inspect_dataset.py, or lower --learning_rate."
            )

    def _save_epoch(self, done: int) -> None:
        every = self.options.save_every_n_epochs * self.steps_per_epoch
        if every and done % every == 0 and done < self.steps:
            self.save(self.output_dir / f"checkpoint-{done}")
