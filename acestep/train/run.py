"""One run of training, from options to an adapter on disk."""

import json
import math
import os
import platform
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from acestep.dataset.rows import EncodedRows
from acestep.dataset.schema import FRAMES_PER_SECOND, ModelRecord
from acestep.errors import UserError
from acestep.models.checkpoint import Checkpoint
from acestep.models.generation_requests import Request
from acestep.options import options_as_dict
from acestep.train.adapter import WEIGHTS_NAME, describe_adapter
from acestep.train.batches import crop_frames_of, trained_lengths
from acestep.train.checkpoints import check_same_run, complete_checkpoints, load_checkpoint
from acestep.train.loop import AVERAGE, Trainer
from acestep.train.memory_report import beside_card, card_memory, run_estimate
from acestep.train.metrics import METRICS_NAME, PICTURE_NAME, check_trackers, plot_loss, without_nan
from acestep.train.options import PRECISIONS, TrainOptions
from acestep.train.previews import clear_previews
from acestep.train.progress import peak_memory
from acestep.train.setup import make_trainer
from acestep.train.sharding import check_sharded, gathered, is_sharded
from acestep.train.signals import StopSignal
from acestep.train.validation import BEST, open_splits
from acestep.train.zero import check_zero, is_zero

SUMMARY_NAME = "training_summary.json"


def train(
    options: TrainOptions,
    preview_requests: list[Request] | None = None,
    on_saved: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    """Train an adapter and write it with its metrics.

    Args:
        preview_requests: the content of `--preview_prompts`.
        on_saved: told the folder of each checkpoint when it is whole, in the main process.

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
        _check_output(output_dir, options)
    trackers = check_trackers(options.report_to)
    rows, validation, record = open_splits(options)
    checkpoint = Checkpoint(options.pretrained_model_name_or_path, options.variant, revision=options.revision)
    check_model(record, checkpoint, options.dataset)
    crop_frames = crop_frames_of(options.crop_seconds)

    precision = _precision(options)
    accelerator = Accelerator(
        mixed_precision="no",  # the autocast is ours: see VelocityLoss
        cpu=options.cpu,
        log_with=trackers or None,
        project_dir=output_dir,
    )
    if is_sharded(accelerator):
        check_sharded(options, precision)
    if is_zero(accelerator):
        check_zero(options, precision, accelerator)
    if saved is None and accelerator.is_main_process:
        _begin_anew(output_dir)
    began = time.monotonic()
    if accelerator.is_main_process:
        _say_memory(options, accelerator, rows, checkpoint, precision)
    trainer = make_trainer(
        options, accelerator, precision, checkpoint, rows, validation, crop_frames, saved, preview_requests, on_saved
    )
    if trackers:
        plain = {k: v if isinstance(v, (int, float, bool)) else str(v) for k, v in options_as_dict(options).items()}
        accelerator.init_trackers("acestep-lora", config=plain)
    say = accelerator.print
    minutes = sum(rows.column("frames")) / FRAMES_PER_SECOND / 60
    _announce(trainer, checkpoint.name, minutes, precision, say)
    if saved is not None:
        check_same_run(saved.state["run"], trainer.identity, options.allow_resume_mismatch, say)
        trainer.restore(saved)
        say(f"going on from {saved.path}, step {trainer.progress.step} of {trainer.steps}")
    else:
        if options.resume_from_checkpoint:
            say("there is no checkpoint to go on from yet: the run begins anew.")
        trainer.begin()
    with StopSignal() as stop:
        complete = trainer.train(stop)
    if not complete:
        say(
            f"stopped after step {trainer.progress.step} of {trainer.steps}; everything is saved. Go on with the same "
            "command and --resume_from_checkpoint latest."
        )
        accelerator.end_training()
        return {"stopped_by_signal": stop.received or int(signal.SIGTERM), "steps": trainer.progress.step}
    summary = _conclude(trainer, checkpoint, record, began)
    accelerator.end_training()
    return summary


def _conclude(trainer: Trainer, checkpoint: Checkpoint, record: ModelRecord, began: float) -> dict[str, Any]:
    """Measure, save and sum up a complete run."""
    options, rows, validation, accelerator = trainer.options, trainer.rows, trainer.validation, trainer.accelerator
    output_dir, layout, samples = trainer.output_dir, trainer.layout, trainer.loader.dataset
    minutes = sum(rows.column("frames")) / FRAMES_PER_SECOND / 60
    before, after = trainer.before, trainer.evaluate(trainer.steps) if options.evaluation_draws else None
    _check_finite(trainer, after)
    path = trainer.save(output_dir)
    trainer.save_average()
    held = trainer.validate() if validation is not None and not trainer.stopped_early else None
    if trainer.previews is not None:
        trainer.preview()
    summary = {
        "model": checkpoint.name,
        "model_revision": checkpoint.commit,
        "dataset_model": record.model,
        **_dataset_source(options),
        "songs": len(set(rows.column("song_id"))),
        "trigger_tags": sorted({tag for tag in rows.column("custom_tag") if tag}),
        "adapter": describe_adapter(trainer.unwrapped),
        "dataset_rows": len(rows),
        "dataset_minutes": round(minutes, 3),
        "steps": trainer.progress.step,
        "effective_batch": layout.samples,
        "processes": layout.processes,
        "timestep_law": samples.law,
        "condition_dropout": samples.condition_dropout,
        "skipped_steps": trainer.progress.bad_steps,
        "evaluation_before": before,
        "evaluation_after": after,
        "validation_rows": len(validation) if validation is not None else 0,
        "validation_base": trainer.base,
        "validation_after": held,
        "best": asdict(trainer.best) if validation is not None else None,
        "stopped_early": trainer.stopped_early,
        "learning_rate": options.peak_learning_rate,
        "options": options_as_dict(options),
        "device": _device_name(accelerator.device),
        "versions": {name: version(name) for name in ("torch", "diffusers", "peft", "accelerate", "acestep-lora")},
        "peak_memory": peak_memory(accelerator.device),
        "seconds": round(time.monotonic() - began, 1),
    }
    if accelerator.is_main_process:
        _finish(output_dir, path, summary)
    return summary


def _say_memory(
    options: TrainOptions, accelerator: Any, rows: EncodedRows, checkpoint: Checkpoint, precision: str
) -> None:
    """What the run will need beside what the GPU has; on a CPU nothing."""
    card = card_memory(accelerator.device)
    if card is None:
        return
    processes = 1 if is_sharded(accelerator) else accelerator.num_processes
    try:
        print(beside_card(run_estimate(options, rows, checkpoint, precision, processes=processes), *card))
    except Exception as error:  # a forecast must not stop the run
        print(f"warning: the memory that the run will need could not be estimated ({type(error).__name__}).")


def _dataset_source(options: TrainOptions) -> dict[str, str | None]:
    """Hub id and commit of the dataset; None of one on disk, whose path says nothing elsewhere."""
    if Path(options.dataset).expanduser().is_dir():
        return {"dataset_id": None, "dataset_revision": None}
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        commit = HfApi().dataset_info(options.dataset, revision=options.dataset_revision).sha
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError):  # only for the record
        commit = options.dataset_revision
    return {"dataset_id": options.dataset, "dataset_revision": commit}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"a CPU ({platform.machine()})"


def _precision(options: TrainOptions) -> str:
    """ "no", "bf16" or "fp16": as the option says, else as accelerate was launched."""
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    precision = options.mixed_precision or launched
    if precision not in PRECISIONS:
        raise UserError(
            f"accelerate was launched with mixed precision {launched}; expected one of {', '.join(PRECISIONS)}. Say "
            "--mixed_precision bf16."
        )
    return precision


def _announce(trainer: Trainer, model: str, minutes: float, precision: str, say: Callable[[str], None]) -> None:
    """Say what will be trained on what, and what a user may not expect."""
    options, layout, samples, rows = trainer.options, trainer.layout, trainer.loader.dataset, trainer.rows
    accelerator = trainer.accelerator
    say(f"{model}: {describe_adapter(trainer.unwrapped)}")
    if next(iter(trainer.unwrapped.peft_config.values())).peft_type != "LORA":
        say(
            f"note: AceStepPipeline.load_lora_weights does not load {options.adapter}; scripts/generate.py plays "
            "it, and scripts/export_lora.py --to lora makes a plain LoRA of it (by PEFT's save_as_lora)."
        )
    say(
        f"{options.dataset}: {len(rows)} rows, {minutes:.1f} minutes; {trainer.steps} steps of {layout.samples} "
        f"({layout.batch_size} x {layout.accumulation} x {layout.processes}), t by {samples.law}, "
        f"condition dropout {samples.condition_dropout:g}, {accelerator.device}, mixed precision {precision}"
        + (", weights shared out by FSDP2" if is_sharded(accelerator) else "")
        + (", optimizer shared out by DeepSpeed" if is_zero(accelerator) else "")
    )
    if trainer.validation is not None:
        say(f"held out: {len(trainer.validation)} rows, measured every {options.validation_every(trainer.steps)} steps")
    if precision == "fp16":
        say(
            "warning: float16 has a small range: the loss is scaled, and steps whose gradients overflow are skipped. "
            "Use --mixed_precision bf16 where the card has it (NVIDIA from the RTX 30 series on)."
        )
    if layout.samples > len(rows):
        say(f"note: a step would take {layout.samples} songs and there are {len(rows)}; each step takes them all.")
    if (
        options.attention == "native"
        and layout.batch_size > 1
        and len(set(trained_lengths(rows, samples.crop_frames))) > 1
    ):
        say("note: --attention native masks no padding, so songs of different length go through the model one by one.")
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
    for path in [*(path for _, path in complete_checkpoints(output_dir)), output_dir / BEST, output_dir / AVERAGE]:
        shutil.rmtree(path, ignore_errors=True)
    clear_previews(output_dir)


def _check_finite(trainer: Trainer, evaluation: dict[str, Any] | None) -> None:
    """Refuse to save an adapter that cannot be played."""
    finite = all(torch.isfinite(gathered(parameter)).all() for parameter in trainer.trainable)
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
    best, base = summary["best"], summary["validation_base"]
    if best:
        kept = f"{output_dir / BEST}, step {best['step']}{', EMA' if best['average'] else ''}"
        print(
            f"loss on {summary['validation_rows']} held-out rows: {base['loss']:.4f} without adapter, "
            f"{best['loss']:.4f} with the best one ({kept})"
        )
    if summary["stopped_early"]:
        print(f"stopped early: {best['since']} validations in a row were no better than step {best['step']}.")


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


def _check_output(output_dir: Path, options: TrainOptions) -> None:
    """Refuse to write over another run; one that was to go on and never came to a checkpoint begins anew."""
    lost = () if options.resume_from_checkpoint else (METRICS_NAME,)
    taken = [name for name in (WEIGHTS_NAME, *lost) if (output_dir / name).exists()]
    if taken and not options.overwrite_output_dir:
        raise UserError(
            f"--output_dir {output_dir}: holds {' and '.join(taken)} of another run. Choose another folder, or replace "
            "them with --overwrite_output_dir."
        )
