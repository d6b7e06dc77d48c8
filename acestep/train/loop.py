"""The training loop: steps of the optimizer over a dataset, with what happens between them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from acestep.dataset.rows import EncodedRows
from acestep.errors import UserError
from acestep.train.adapter import adapter_content, write_adapter
from acestep.train.averaging import AveragedWeights
from acestep.train.batches import MicroBatches, StepLayout, TrainingSamples, collate, trained_lengths
from acestep.train.checkpoints import SavedState, save_checkpoint
from acestep.train.evaluation import evaluate_loss
from acestep.train.metrics import MetricsFile
from acestep.train.optimizer_state import trainable
from acestep.train.optimizers import make_schedule
from acestep.train.options import TrainOptions
from acestep.train.progress import Bar, Progress
from acestep.train.run_state import capture_run, restore_run
from acestep.train.signals import StopSignal, ignore_interrupts
from acestep.train.starts import PissaStart
from acestep.train.step import VelocityLoss
from acestep.train.stepping import Stepper, memory_advice, raise_out_of_memory
from acestep.train.validation import BEST, Best
from acestep.train.zero import Zero, is_zero

MAX_BAD_STEPS = 10  # not finite in a row
AVERAGE = "ema"  # folder of the adapter's exponential mean


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
        validation: held-out rows.
        start: of a PiSSA adapter.
        scaler: of a float16 run's loss.
        previews: makes music at some steps.
        on_saved: told the folder of each checkpoint, in the main process.
        advice: what to change in a run that does not fit into memory.
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
        *,
        validation: EncodedRows | None = None,
        start: PissaStart | None = None,
        scaler: torch.amp.GradScaler | None = None,
        previews: Any = None,
        on_saved: Callable[[Path], None] | None = None,
        advice: Callable[[], str] | None = None,
    ):
        self.accelerator, self.transformer, self.optimizer = accelerator, transformer, optimizer
        self.rows, self.options, self.output_dir, self.identity = rows, options, output_dir, identity
        self.validation, self.start, self.scaler, self.previews = validation, start, scaler, previews
        self.on_saved = on_saved
        self.advice = advice or partial(memory_advice, options)
        self.zero = Zero(transformer, accelerator) if is_zero(accelerator) else None
        self.layout = StepLayout(
            options.train_batch_size, options.gradient_accumulation_steps, accelerator.num_processes
        )
        self.steps = options.max_train_steps or options.num_train_epochs * self.steps_per_epoch
        # Not prepared by accelerate, which would step it once a process.
        self.scheduler = make_schedule(self.inner_optimizer, options, self.steps)
        self.loader = DataLoader(
            samples,
            batch_sampler=MicroBatches(
                trained_lengths(rows, samples.crop_frames),
                self.layout,
                accelerator.process_index,
                options.seed,
                self.steps,
                first_step,
                options.group_by_length,
            ),
            num_workers=options.dataloader_num_workers,
            collate_fn=collate,
            worker_init_fn=ignore_interrupts,
            pin_memory=accelerator.device.type == "cuda",
            persistent_workers=options.dataloader_num_workers > 0,
        )
        self.named = trainable(self.unwrapped)
        self.trainable = [parameter for _, parameter in self.named]
        self.average = AveragedWeights(self.named, options.ema_decay) if options.ema_decay else None
        self.velocity_loss, self.plain_loss = velocity_loss, velocity_loss.unweighted(self.unwrapped)
        self.stepper = Stepper(
            accelerator,
            velocity_loss,
            optimizer,
            self.scheduler,
            self.trainable,
            self.layout,
            len(rows),
            options.max_grad_norm,
            scaler,
            self.zero,
        )
        self.progress, self.best = Progress(step=first_step), Best()
        self.before: dict[str, Any] | None = None  # loss on the songs of the run at its start
        self.base: dict[str, Any] | None = None  # loss of the model without adapter on the held-out songs
        self.last_save = time.monotonic()
        resumed = first_step or None
        self.metrics = MetricsFile(output_dir, resumed) if accelerator.is_main_process else None

    @property
    def unwrapped(self) -> torch.nn.Module:
        return self.accelerator.unwrap_model(self.transformer)

    @property
    def inner_optimizer(self) -> torch.optim.Optimizer:
        """Without accelerate's wrapper."""
        if self.zero is not None:
            return self.zero.inner_optimizer
        return getattr(self.optimizer, "optimizer", self.optimizer)

    @property
    def steps_per_epoch(self) -> int:
        return self.layout.steps_per_epoch(len(self.rows))

    @property
    def stopped_early(self) -> bool:
        """Whether `--early_stopping_patience` is used up."""
        patience = self.options.early_stopping_patience
        return bool(patience) and self.best.since >= patience

    def train(self, stop: StopSignal) -> bool:
        """Make the steps that are left; whether the run is complete, or `stop` came first and the state was saved.

        Raises:
            UserError: after ten steps in a row that are not finite, with the songs' names; when the first step does
                not fit into memory, with what to change.
        """
        self.transformer.train()
        micro_batches, done = iter(self.loader), self.progress
        bar = Bar(done, self.steps, self.accelerator.device, self.metrics is not None)
        while done.step < self.steps and not self.stopped_early:
            try:
                # whoever is told to stop takes the others along, and the main process's clock is everyone's
                record, songs, (stops, saves) = self.stepper(
                    done.step, micro_batches, [stop.received > 0, self._is_late()]
                )
            except RuntimeError as error:
                raise_out_of_memory(error, self.advice)
            record["epoch"] = round(record["step"] / self.steps_per_epoch, 4)
            done.count(record)
            if self.average is not None and record["finite"]:
                self.average.step()
            self._report(record)
            self._stop_if_bad(record, songs)
            bar.step(record, done)
            self._between_steps()
            if stops or ((self._is_due(done.step) or saves) and done.step < self.steps):
                self.save_state()
            if stops:
                break
        bar.close()
        return done.step >= self.steps or self.stopped_early

    def _between_steps(self) -> None:
        """Validate and listen where it is time to; at the last step the run's end does both."""
        step = self.progress.step
        if step >= self.steps:
            return
        if self.validation is not None and step % self.options.validation_every(self.steps) == 0:
            self.validate()
        if self.previews is not None and self.options.preview_steps and step % self.options.preview_steps == 0:
            self.preview()

    def begin(self) -> None:
        """What is measured and heard before the first step: the model without its adapter."""
        if self.options.evaluation_draws:
            self.before = self.evaluate(0)
        if self.validation is not None:
            with self._without_adapter():
                self.base = self._measure(self.validation, self.options.validation_draws, "base on held-out songs")
            self._tell("base", 0, self.base)
        if self.previews is not None:
            with self._without_adapter():
                self.previews.make_base(self.unwrapped)
            self.accelerator.wait_for_everyone()

    def restore(self, saved: SavedState) -> None:
        """Go on where `saved` was written; `first_step` must be its step."""
        restore_run(self, saved)

    def save_state(self) -> Path:
        """Write a checkpoint from which the run goes on, bit for bit."""
        target = self.output_dir / f"checkpoint-{self.progress.step}"
        # every process takes part in gathering what is shared out, one writes
        (tensors, state), adapter = capture_run(self), adapter_content(self.unwrapped, self.start)
        if self.metrics:
            save_checkpoint(
                self.output_dir,
                self.progress.step,
                tensors,
                state,
                lambda folder: write_adapter(adapter, folder),
                self.options.checkpoints_total_limit,
            )
            if self.on_saved is not None:
                self.on_saved(target)
        self.last_save = time.monotonic()
        self.accelerator.wait_for_everyone()
        return target

    def evaluate(self, step: int) -> dict[str, Any]:
        """The loss at fixed noise on the songs of the run, also written to the metrics."""
        result = self._measure(self.rows, self.options.evaluation_draws, "loss at fixed noise")
        self._tell("evaluation", step, result)
        return result

    def validate(self) -> dict[str, Any]:
        """The loss on held-out songs; the adapter is kept as the best one if it is."""
        step, draws = self.progress.step, self.options.validation_draws
        result = self._measure(self.validation, draws, "held-out songs")
        if self.average is not None:
            with self.average.in_place():
                result["ema_loss"] = self._measure(self.validation, draws, "held-out songs, EMA")["loss"]
        self._tell("validation", step, result)
        if self.best.take(step, result["loss"], result.get("ema_loss")):
            with self.average.in_place() if self.best.average else _nothing():
                self.save(self.output_dir / BEST)
            if self.metrics:
                self.best.write(self.output_dir / BEST)
        return result

    def preview(self) -> None:
        """Make music with the adapter as it is; the other processes wait."""
        self.previews.make(self.unwrapped, self.progress.step)
        self.accelerator.wait_for_everyone()

    def save(self, folder: Path) -> Path | None:
        """Write the adapter; every process must ask, the main one writes and gets the path."""
        adapter = adapter_content(self.unwrapped, self.start)
        path = write_adapter(adapter, folder) if self.metrics else None
        self.accelerator.wait_for_everyone()
        return path

    def save_average(self) -> None:
        """Write the adapter's exponential mean, if it is kept, into its folder."""
        if self.average is not None:
            with self.average.in_place():
                self.save(self.output_dir / AVERAGE)

    @contextmanager
    def _without_adapter(self) -> Iterator[None]:
        """The model's own output. PiSSA moves a part of its weights into the adapter, which is whole at the start."""
        if self.start is not None:
            yield
            return
        self.unwrapped.disable_adapters()
        try:
            yield
        finally:
            self.unwrapped.enable_adapters()

    def _measure(self, rows: EncodedRows, draws: int, what: str) -> dict[str, Any]:
        self.transformer.eval()
        result = evaluate_loss(
            self.plain_loss,
            rows,
            self.accelerator,
            seed=self.options.seed,
            draws=draws,
            crop_frames=self.loader.dataset.crop_frames,
            what=what,
        )
        self.transformer.train()
        return result

    def _tell(self, event: str, step: int, result: dict[str, Any]) -> None:
        if self.metrics:
            self.metrics.write({"event": event, "step": step, **result})
        numbers = {f"{event}/loss": result["loss"]}
        numbers |= {f"{event}/loss at t {t:.3f}": loss for t, loss in result["by_timestep"]}
        if "ema_loss" in result:
            numbers[f"{event}/ema_loss"] = result["ema_loss"]
        self.accelerator.log(numbers, step=step)

    def _report(self, record: dict[str, Any]) -> None:
        step = record["step"]
        if step % self.options.logging_steps and step != self.steps and record["finite"]:
            return
        if self.metrics:
            self.metrics.write(record)
        numbers = ("loss", "learning_rate", "grad_norm", "epoch")
        self.accelerator.log({f"train/{key}": record[key] for key in numbers}, step=step)

    def _stop_if_bad(self, record: dict[str, Any], songs: list[tuple[str, float]]) -> None:
        if record["finite"] or record.get("rescaled"):
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

    def _is_late(self) -> bool:
        minutes = self.options.checkpoint_every_minutes
        return bool(self.metrics and minutes and time.monotonic() - self.last_save >= 60 * minutes)


@contextmanager
def _nothing() -> Iterator[None]:
    yield
