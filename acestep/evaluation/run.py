"""One evaluation, from options to everything that was measured."""

from pathlib import Path
from typing import Any

from acestep.errors import UserError
from acestep.evaluation.clap import Clap
from acestep.evaluation.comparison import compare_all, notes, verdict
from acestep.evaluation.heard import measure_pieces
from acestep.evaluation.held_out import HeldOut, Training, open_held_out, open_training
from acestep.evaluation.losses import measure_losses
from acestep.evaluation.model import BASE, HELD_OUT, MeasuredModel, facts
from acestep.evaluation.music import MISSING, analyse, can_analyse
from acestep.evaluation.playing import Player, spread
from acestep.evaluation.report import RECORD_NAME, Evaluation
from acestep.models.checkpoint import Checkpoint
from acestep.models.generation import open_device
from acestep.models.generation_requests import Request
from acestep.train.batches import crop_frames_of
from acestep.train.run import check_model

PIECES = "pieces"  # folder of what is generated


def evaluate_adapters(options: Any) -> Evaluation:
    """Measure adapters beside the model alone on held-out songs.

    Args:
        options: of `scripts/evaluate_lora.py`.

    Raises:
        UserError: for options, a dataset, a model and adapters that do not fit together.
    """
    scales, crop_frames = check(options), crop_frames_of(options.crop_seconds)
    held = open_held_out(options)
    device, dtype = open_device(options.device, options.dtype)
    checkpoint = Checkpoint(options.pretrained_model_name_or_path, options.variant, options.bundle, options.revision)
    check_model(held.record, checkpoint, options.dataset)
    model = MeasuredModel(checkpoint, device, dtype, options.quantization, options.attention)
    contestants = model.read(options.lora, scales)
    opened = [options.dataset, options.validation_dataset]
    trained = {one.label: open_training(one.adapter, opened) for one in contestants}
    told = [line for label, training in trained.items() for line in notes(held, label, training)]
    told += [f"{one.source}: {warning}" for one in contestants for warning in one.adapter.warnings]
    player = _player(options, model, held, told) if options.num_generations else None
    losses, pieces = {}, {}
    for label, contestant in [(BASE, None), *((one.label, one) for one in contestants)]:
        with model.playing(contestant):
            losses[label] = measure_losses(
                model.velocity_loss,
                held.rows,
                model.device,
                seed=options.seed,
                draws=options.validation_draws,
                crop_frames=crop_frames,
                what=label,
            )
            if player is not None:
                pieces[label] = player.play(label)
    alone, pairs = compare_all(losses, held.songs, options.seed)
    prompts, heard = [], {}
    if player is not None:
        pieces[HELD_OUT] = player.held_out()
        prompts = [held.rows.texts(index) for index in player.indices]
        heard = measure_pieces(pieces, held.rows, _training_rows(held, trained, told), prompts, model.device)
    settings = {
        "model": checkpoint.name,
        "model_revision": checkpoint.commit,
        "songs": held.what,
        "rows": len(held.rows),
        "draws": options.validation_draws,
        "seed": options.seed,
        "crop_frames": crop_frames,
        "device": device,
        "dtype": str(dtype).removeprefix("torch."),
        "quantization": options.quantization,
        "adapters": {one.label: facts(one) for one in contestants},
        "sampling": vars(player.sampling) if player else None,
        "clap": options.clap,
    }
    verdicts = [verdict(found, held, trained[found.label]) for found in alone]
    names = held.rows.column("file_name")
    return Evaluation(verdicts, told, settings, held.songs, names, losses, alone, pairs, pieces, prompts, heard)


def _player(options: Any, model: MeasuredModel, held: HeldOut, told: list[str]) -> Player:
    """What plays the prompts; what cannot be measured is added to `told`."""
    asked = {name: getattr(options, name) for name in ("num_inference_steps", "guidance_scale")}
    request = Request("", "a prompt", "", **asked)
    request.check("--{}".format)
    if not can_analyse():
        told.append(MISSING)
    folder = Path(options.output_dir) / PIECES
    folder.mkdir(exist_ok=True)
    return Player(
        model,
        held.rows,
        spread(held.rows, min(options.num_generations, len(held.rows))),
        request.sampling(model.checkpoint.is_turbo, "--{}".format),
        options.seed,
        folder,
        analyse if can_analyse() else None,
        Clap(options.clap, model.device) if options.clap else None,
    )


def _training_rows(held: HeldOut, trained: dict[str, Training], told: list[str]) -> Any:
    """The songs that something may have been copied from; None, and why in `told`, where they cannot be compared."""
    known = {
        frozenset(training.rows.column("song_id")): training.rows for training in trained.values() if training.rows
    }
    if len(known) > 1:
        why = "the adapters were trained on different songs; evaluate them one by one"
    elif known and any(training.seen(held.songs) for training in trained.values()):
        why = "the held-out songs are among them, so that there is nothing to compare with"
    elif not known and held.training is None:
        why = "they are not known"
    else:
        return next(iter(known.values()), held.training)
    told.append(f"what was generated is not compared with the training songs: {why}.")
    return None


def check(options: Any) -> list[float]:
    """A scale for each adapter; makes the output folder.

    Raises:
        UserError: for options that do not go together.
    """
    for name, least in (("validation_draws", 1), ("num_generations", 0)):
        if getattr(options, name) < least:
            raise UserError(f"--{name} is {getattr(options, name)}; expected at least {least}.")
    scales = options.lora_scale or [1.0]
    scales = scales * len(options.lora) if len(scales) == 1 else scales
    if len(scales) != len(options.lora):
        raise UserError(f"--lora_scale has {len(scales)} values for {len(options.lora)} LoRAs; expected one each.")
    if not options.num_generations:
        for name in ("clap", "num_inference_steps", "guidance_scale"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name} is about what is generated; say --num_generations 4, for example.")
    elif not options.output_dir:
        raise UserError("--num_generations needs an --output_dir for the music.")
    if options.output_dir:
        folder = Path(options.output_dir)
        if (folder / RECORD_NAME).exists() and not options.overwrite:
            raise UserError(
                f"--output_dir {folder}: holds {RECORD_NAME} of another evaluation. Choose another folder, or replace "
                "it with --overwrite."
            )
        folder.mkdir(parents=True, exist_ok=True)
    return scales
