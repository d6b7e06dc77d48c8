"""The training loop: steps of the optimizer over a dataset, the same whatever the layout of batches and processes."""

import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
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
from acestep.train.checkpoints import SavedState, save_checkpoint
from acestep.train.evaluation import evaluate_loss, to_device
from acestep.train.metrics import MetricsFile
from acestep.train.optimizer_state import missing_weights, restore_training_tensors, trainable, training_tensors
from acestep.train.options import TrainOptions
from acestep.train.signals import StopSignal, ignore_interrupts
from acestep.train.step import VelocityLoss

MAX_BAD_STEPS = 10  # not finite in a row


@dataclass
class Progress:
    """How far a run is; kept in checkpoints."""

    step: int = 0
    bad_steps: int = 0
    bad_in_a_row: int = 0
    loss_sum: float = 0.0
    loss_weight: float = 0.0

    @property
    def smoothed_loss(self) -> float:
        """The loss's exponential mean, without the bias of its start."""
        return self.loss_sum / max(self.loss_weight, 1e-9)

    def count(self, record: dict[str, Any]) -> None:
        """Take one step's record in."""
        self.step = record["step"]
        if record["finite"]:
            self.bad_in_a_row = 0
            self.loss_sum, self.loss_weight = (
                0.95 * self.loss_sum + 0.05 * record["loss"],
                0.95 * self.loss_weight + 0.05,
            )
        else:
            self.bad_steps, self.bad_in_a_row = self.bad_steps + 1, self.bad_in_a_row + 1


class Trainer:
    """Trains the adapter on a prepared transformer.

    Args:
        accelerator: of accelerate.
        transformer, optimizer: as `accelerator.prepare` returned them.
        velocity_loss: losses under `transformer`, weighted as the options say.
        rows: of the dataset.
        samples: what a row becomes at a step.
        output_dir: where metrics and adapters go.
        identity: what must be the same when the run goes on.
        first_step: steps already made when a run goes on.
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
        identity: dict[str, Any],
        first_step: int = 0,
    ):
        from diffusers.optimization import get_scheduler

        self.accelerator, self.transformer, self.optimizer = accelerator, transformer, optimizer
        self.velocity_loss, self.rows, self.options = velocity_loss, rows, options
        self.output_dir, self.identity, self.before = output_dir, identity, None
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
            batch_sampler=MicroBatches(
                len(rows), self.layout, accelerator.process_index, options.seed, self.steps, first_step
            ),
            num_workers=options.dataloader_num_workers,
            collate_fn=collate,
            worker_init_fn=ignore_interrupts,
            pin_memory=accelerator.device.type == "cuda",
            persistent_workers=options.dataloader_num_workers > 0,
        )
        self.named = trainable(accelerator.unwrap_model(transformer))
        self.trainable = [parameter for _, parameter in self.named]
        self.progress = Progress(step=first_step)
        self.last_save = time.monotonic()
        resumed = first_step or None
        self.metrics = MetricsFile(output_dir, resumed) if accelerator.is_main_process else None

    @property
    def steps_per_epoch(self) -> int:
        return self.layout.steps_per_epoch(len(self.rows))

    def train(self, stop: StopSignal) -> bool:
        """Make the steps that are left; whether all were made, or `stop` came first and the state was saved.

        Raises:
            UserError: after ten steps in a row that are not finite, with the songs' names.
        """
        self.transformer.train()
        micro_batches, done = iter(self.loader), self.progress
        bar = tqdm(
            total=self.steps,
            initial=done.step,
            desc="training",
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        while done.step < self.steps:
            began = time.monotonic()
            record, songs, asked = self._step(done.step, micro_batches, stop)
            done.count(record)
            record["seconds"] = round(time.monotonic() - began, 4)
            self._report(record)
            self._stop_if_bad(record, songs)
            bar.set_postfix_str(f"loss {done.smoothed_loss:.4f}", refresh=False)
            bar.update()
            if asked["stop"] or ((self._is_due(done.step) or asked["save"]) and done.step < self.steps):
                self.save_state()
            if asked["stop"]:
                break
        bar.close()
        return done.step >= self.steps

    def restore(self, saved: SavedState) -> None:
        """Go on where `saved` was written; `first_step` must be its step."""
        missing = missing_weights(saved.tensors, self.named)
        if missing:
            raise UserError(f"{saved.path}: holds no {missing[0]}, which the adapter has now.")
        restore_training_tensors(saved.tensors, self.named, getattr(self.optimizer, "optimizer", self.optimizer))
        self.progress = Progress(**saved.state["progress"])
        for _ in range(self.progress.step):  # a function of the number of steps alone
            self.scheduler.step()

    def save_state(self) -> Path:
        """Write a checkpoint from which the run goes on, bit for bit."""
        target = self.output_dir / f"checkpoint-{self.progress.step}"
        if self.metrics:
            optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
            save_checkpoint(
                self.output_dir,
                self.progress.step,
                training_tensors(self.named, optimizer),
                {"progress": asdict(self.progress), "run": self.identity, "evaluation_before": self.before},
                lambda folder: save_lora(self.accelerator.unwrap_model(self.transformer), folder),
                self.options.checkpoints_total_limit,
            )
        self.last_save = time.monotonic()
        self.accelerator.wait_for_everyone()
        return target

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

    def _step(
        self, step: int, micro_batches: Any, stop: StopSignal
    ) -> tuple[dict[str, Any], list[tuple[str, float]], dict[str, bool]]:
        """One step of the optimizer.

        Returns:
            Its record, this process's songs with their losses if it is not finite, and what all processes agreed on:
            whether to stop and whether to save.
        """
        count, frames = self.layout.samples_of(step, len(self.rows)), 0
        micro_count = self.layout.micro_batches(count)
        total = torch.zeros((), device=self.accelerator.device)
        songs: list[tuple[str, torch.Tensor]] = []
        for micro in range(micro_count):
            batch = to_device(next(micro_batches), self.accelerator.device)
            groups = self.velocity_loss.groups(batch)
            for number, group in enumerate(groups):
                last = micro == micro_count - 1 and number == len(groups) - 1
                losses = self._backward(batch, group, count, synchronize=last)
                total += losses.sum()
                songs += [(batch["file_name"][at], loss) for at, loss in zip(group, losses, strict=True)]
            frames += int((batch["weight"] > 0).sum()) * batch["clean_latents"].shape[1]
        # Whoever is told to stop takes the others along, and the main process's clock is everyone's.
        minutes = self.options.checkpoint_every_minutes
        late = bool(self.metrics and minutes and time.monotonic() - self.last_save >= 60 * minutes)
        told = torch.tensor([float(frames), float(stop.received > 0), float(late)], device=total.device)
        loss, all_frames, stops, saves = self.accelerator.reduce(torch.cat([(total / count)[None], told])).tolist()
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
        bad_songs = [] if finite else [(name, loss.item()) for name, loss in songs]
        return record, bad_songs, {"stop": stops > 0, "save": saves > 0}

    def _backward(self, batch: dict, group: list[int], count: int, synchronize: bool) -> torch.Tensor:
        """Add the gradient of one group; returns its losses, those of samples that only fill up being 0."""
        context = nullcontext() if synchronize else self.accelerator.no_sync(self.transformer)
        with context:
            losses = self.velocity_loss(batch, group)
            losses = torch.where(batch["weight"][group] > 0, losses, torch.zeros_like(losses))
            # processes average their gradients: times their number, the sum over all samples is left
            self.accelerator.backward(losses.sum() * self.accelerator.num_processes / count)
        return losses.detach()

    def _report(self, record: dict[str, Any]) -> None:
        step = record["step"]
        if step % self.options.logging_steps and step != self.steps and record["finite"]:
            return
        if self.metrics:
            self.metrics.write(record)
        numbers = ("loss", "learning_rate", "grad_norm", "epoch")
        self.accelerator.log({f"train/{key}": record[key] for key in numbers}, step=step)

    def _stop_if_bad(self, record: dict[str, Any], songs: list[tuple[str, float]]) -> None:
        if record["finite"]:
            return
        from accelerate.utils import gather_object

        everyone = gather_object(songs)
        bad = sorted({name for name, loss in everyone if not torch.isfinite(torch.tensor(loss))})
        names = ", ".join(bad or sorted({name for name, _ in everyone}))
        if self.accelerator.is_main_process:
            tqdm.write(f"warning: step {record['step']} is not finite and was skipped; songs: {names}")
        if self.progress.bad_in_a_row >= MAX_BAD_STEPS:
            raise UserError(
                f"{MAX_BAD_STEPS} steps in a row were not finite, the last at step {record['step']} with {names}. "
                "Look at these songs with scripts/inspect_dataset.py, or lower --learning_rate."
            )

    def _is_due(self, done: int) -> bool:
        every = (self.options.save_every_n_epochs * self.steps_per_epoch, self.options.checkpointing_steps)
        return any(steps and done % steps == 0 for steps in every)
