"""One run of training, from options to an adapter on disk."""

import hashlib
import json
import math
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from acestep.dataset.opening import open_dataset
from acestep.dataset.rows import EncodedRows
from acestep.dataset.schema import FRAMES_PER_SECOND, ModelRecord
from acestep.errors import UserError
from acestep.models.checkpoint import Checkpoint
from acestep.models.quantization import quantize
from acestep.options import options_as_dict
from acestep.train.adapter import WEIGHTS_NAME, add_adapter, describe_lora
from acestep.train.batches import TrainingSamples, check_lengths, crop_frames_of
from acestep.train.checkpoints import SavedState, check_same_run, complete_checkpoints, load_checkpoint
from acestep.train.flow_matching import resolve_condition_dropout, resolve_timestep_law
from acestep.train.loop import Trainer
from acestep.train.metrics import METRICS_NAME, PICTURE_NAME, check_trackers, plot_loss, without_nan
from acestep.train.optimizer_state import trainable
from acestep.train.optimizers import make_optimizer
from acestep.train.options import PRECISIONS, TrainOptions
from acestep.train.signals import StopSignal
from acestep.train.step import VelocityLoss

SUMMARY_NAME = "training_summary.json"


def train(options: TrainOptions) -> dict[str, Any]:
    """Train an adapter and write it with its metrics.

    Returns:
        The summary that is also written to `training_summary.json`; for a run that was told to stop only the signal's
        number, `stopped_by_signal`, and the steps made.

    Raises:
        UserError: for options, a dataset or a model that do not fit together.
    """
    from accelerate import Accelerator

    options.check()
    output_dir = Path(options.output_dir)
    saved = None
    if options.resume_from_checkpoint:
        saved = load_checkpoint(options.resume_from_checkpoint, output_dir)
    if saved is None:
        _check_output(output_dir, options.overwrite_output_dir)
    trackers = check_trackers(options.report_to)
    rows, record = open_dataset(options.dataset, revision=options.dataset_revision, streaming=options.streaming)
    checkpoint = Checkpoint(options.pretrained_model_name_or_path, options.variant, revision=options.revision)
    check_model(record, checkpoint, options.dataset)
    crop_frames = crop_frames_of(options.crop_seconds)
    check_lengths(rows, options.train_batch_size, crop_frames)

    accelerator = Accelerator(
        mixed_precision=options.mixed_precision, cpu=options.cpu, log_with=trackers or None, project_dir=output_dir
    )
    if accelerator.mixed_precision not in PRECISIONS:
        raise UserError(
            f"accelerate was launched with mixed precision {accelerator.mixed_precision}; expected one of "
            f"{', '.join(PRECISIONS)}. Say --mixed_precision bf16."
        )
    if saved is None and accelerator.is_main_process:
        _begin_anew(output_dir)
    began = time.monotonic()
    trainer = _trainer(options, accelerator, checkpoint, rows, crop_frames, saved)
    if trackers:
        plain = {k: v if isinstance(v, (int, float, bool)) else str(v) for k, v in options_as_dict(options).items()}
        accelerator.init_trackers("acestep-lora", config=plain)
    say, layout, samples = accelerator.print, trainer.layout, trainer.loader.dataset
    minutes = sum(rows.column("frames")) / FRAMES_PER_SECOND / 60
    _announce(trainer, checkpoint.name, minutes, say)
    if saved is not None:
        check_same_run(saved.state["run"], trainer.identity, options.allow_resume_mismatch, say)
        trainer.restore(saved)
        trainer.before = saved.state["evaluation_before"]
        say(f"going on from {saved.path}, step {trainer.progress.step} of {trainer.steps}")
    elif options.evaluation_draws:
        trainer.before = trainer.evaluate(0)
    with StopSignal() as stop:
        complete = trainer.train(stop)
    if not complete:
        say(
            f"stopped after step {trainer.progress.step} of {trainer.steps}; everything is saved. Go on with the same "
            "command and --resume_from_checkpoint latest."
        )
        accelerator.end_training()
        return {"stopped_by_signal": stop.received or int(signal.SIGTERM), "steps": trainer.progress.step}
    before, after = trainer.before, trainer.evaluate(trainer.steps) if options.evaluation_draws else None
    _check_finite(trainer, after)
    path = trainer.save(output_dir)
    summary = {
        "model": checkpoint.name,
        "model_revision": checkpoint.commit,
        "dataset_model": record.model,
        "dataset_rows": len(rows),
        "dataset_minutes": round(minutes, 3),
        "steps": trainer.steps,
        "effective_batch": layout.samples,
        "processes": layout.processes,
        "timestep_law": samples.law,
        "condition_dropout": samples.condition_dropout,
        "skipped_steps": trainer.progress.bad_steps,
        "evaluation_before": before,
        "evaluation_after": after,
        "seconds": round(time.monotonic() - began, 1),
    }
    if accelerator.is_main_process:
        _finish(output_dir, path, summary)
    accelerator.end_training()
    return summary


def _announce(trainer: Trainer, model: str, minutes: float, say: Callable[[str], None]) -> None:
    """Say what will be trained on what, and what a user may not expect."""
    options, layout, samples, rows = trainer.options, trainer.layout, trainer.loader.dataset, trainer.rows
    accelerator = trainer.accelerator
    say(f"{model}: {describe_lora(trainer.trainable, options)}")
    if options.adapter not in ("lora", "dora"):
        say(f"note: AceStepPipeline.load_lora_weights does not load {options.adapter}; PEFT does (docs/training.md).")
    say(
        f"{options.dataset}: {len(rows)} rows, {minutes:.1f} minutes; {trainer.steps} steps of {layout.samples} "
        f"({layout.batch_size} x {layout.accumulation} x {layout.processes}), t by {samples.law}, "
        f"condition dropout {samples.condition_dropout:g}, {accelerator.device}, "
        f"mixed precision {accelerator.mixed_precision}"
    )
    if layout.samples > len(rows):
        say(f"note: a step would take {layout.samples} songs and there are {len(rows)}; each step takes them all.")
    if samples.crop_frames:
        say(
            "note: a crop is trained with the whole song's lyrics and duration; prepare_dataset.py --segment_seconds "
            "makes rows whose prompts are their own."
        )


def _begin_anew(output_dir: Path) -> None:
    """Remove what an earlier run left, which the user allowed: nothing of it must pass for this run's."""
    output_dir.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS_NAME, METRICS_NAME, SUMMARY_NAME, PICTURE_NAME):
        (output_dir / name).unlink(missing_ok=True)
    for _, path in complete_checkpoints(output_dir):
        shutil.rmtree(path)


def _check_finite(trainer: Trainer, evaluation: dict[str, Any] | None) -> None:
    """Refuse to save an adapter that cannot be played."""
    finite = all(torch.isfinite(parameter).all() for parameter in trainer.trainable)
    if not finite or (evaluation is not None and not math.isfinite(evaluation["loss"])):
        raise UserError(
            "the trained adapter gives values that are not finite and is not saved. Lower --learning_rate; earlier "
            "checkpoints, if any, are kept."
        )


def _finish(output_dir: Path, path: Path, summary: dict[str, Any]) -> None:
    """Write the summary and the picture of a complete run, and say how it went."""
    written = output_dir / f".{SUMMARY_NAME}"
    written.write_text(json.dumps(without_nan(summary), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    written.replace(output_dir / SUMMARY_NAME)
    plot_loss(output_dir)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB after {summary['steps']} steps, {summary['seconds']:.0f} s")
    if summary["skipped_steps"]:
        print(f"warning: {summary['skipped_steps']} steps were not finite and were skipped.")
    before, after = summary["evaluation_before"], summary["evaluation_after"]
    if before and after:
        print(f"loss on all songs at fixed noise: {before['loss']:.4f} before, {after['loss']:.4f} after")


def _trainer(
    options: TrainOptions,
    accelerator: Any,
    checkpoint: Checkpoint,
    rows: EncodedRows,
    crop_frames: int,
    saved: SavedState | None,
) -> Trainer:
    """Model, adapter, optimizer and samples, put together."""
    transformer = checkpoint.transformer(_dtype(accelerator))
    if options.quantization != "none":
        quantize(transformer, options.quantization, torch.bfloat16, accelerator.device)
    add_adapter(
        transformer,
        options.target_modules,
        options.rank,
        options.alpha,
        options.use_rslora,
        options.seed,
        kind=options.adapter,
    )
    if options.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    optimizer = make_optimizer(trainable(transformer), options)
    transformer, optimizer = accelerator.prepare(transformer, optimizer)
    mu, sigma = checkpoint.timestep_law()
    samples = TrainingSamples(
        rows,
        seed=options.seed,
        timestep_law=resolve_timestep_law(options.timestep_law, checkpoint.is_turbo),
        timestep_mu=mu,
        timestep_sigma=sigma,
        condition_dropout=resolve_condition_dropout(options.condition_dropout, checkpoint.is_turbo),
        crop_frames=crop_frames,
        sample_latents=options.sample_latents,
    )
    velocity_loss = VelocityLoss(
        transformer,
        checkpoint.silence_latent().to(accelerator.device),
        checkpoint.null_condition().to(accelerator.device),
        options.loss_weighting,
        options.snr_gamma,
    )
    return Trainer(
        accelerator,
        transformer,
        optimizer,
        velocity_loss,
        rows,
        samples,
        options,
        Path(options.output_dir),
        identity=_identity(options, checkpoint, rows, samples, accelerator),
        first_step=saved.state["progress"]["step"] if saved else 0,
    )


def _identity(
    options: TrainOptions, checkpoint: Checkpoint, rows: EncodedRows, samples: TrainingSamples, accelerator: Any
) -> dict[str, Any]:
    """What must be the same when a run goes on, in the order in which differences are named.

    The layout of the effective batch is not in it (it changes nothing), nor is the number of epochs: more are allowed.
    """
    texts = ("id", "frames", "text_prompt", "genre_text_prompt", "lyric_prompt")
    data = hashlib.sha256(json.dumps([rows.column(name) for name in texts]).encode()).hexdigest()[:16]
    same = (
        *("rank", "alpha", "use_rslora", "target_modules", "learning_rate", "lr_scheduler", "adam_beta1", "adam_beta2"),
        *("adam_weight_decay", "adam_epsilon", "max_grad_norm", "crop_seconds", "sample_latents", "loss_weighting"),
        *("snr_gamma", "seed", "adapter", "optimizer", "loraplus_lr_ratio", "quantization"),
    )
    return {
        "model": checkpoint.fingerprint("transformer"),
        "dataset": data,
        **{name: getattr(options, name) for name in same},
        "mixed_precision": accelerator.mixed_precision,
        "timestep_law": samples.law,
        "condition_dropout": samples.condition_dropout,
        "effective_batch": options.train_batch_size * options.gradient_accumulation_steps * accelerator.num_processes,
    }


def _dtype(accelerator: Any) -> torch.dtype:
    return torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32


def check_model(record: ModelRecord, checkpoint: Checkpoint, dataset: str) -> None:
    """Refuse to train a model on conditions of another.

    The condition encoder's fingerprint tells (with the VAE's silence latent in it): VAE and text encoder need not be
    downloaded for training.
    """
    if checkpoint.fingerprint("condition_encoder") != record.condition_encoder:
        raise UserError(
            f"--dataset {dataset} was encoded for {record.model}"
            f"{f' at {record.revision}' if record.revision else ''}, and the model to train is {checkpoint.name}, "
            "whose condition encoder is another. Prepare the dataset again with this model; latents are taken from "
            "the cache."
        )


def _check_output(output_dir: Path, overwrite: bool) -> None:
    taken = [name for name in (WEIGHTS_NAME, METRICS_NAME) if (output_dir / name).exists()]
    if taken and not overwrite:
        raise UserError(
            f"--output_dir {output_dir}: holds {' and '.join(taken)} of another run. Choose another folder, or replace "
            "them with --overwrite_output_dir."
        )
