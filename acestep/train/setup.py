"""Everything that a run needs, put together: model, adapter, optimizer, samples."""

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from acestep.dataset.rows import EncodedRows
from acestep.models.attention import install_attention
from acestep.models.checkpoint import Checkpoint
from acestep.models.compiling import compile_layers
from acestep.models.generation_requests import Request
from acestep.models.quantization import quantize
from acestep.train.adapter import adapter_config, put_adapter
from acestep.train.batches import Place, TrainingSamples, collate
from acestep.train.checkpoints import SavedState
from acestep.train.evaluation import to_device
from acestep.train.flow_matching import resolve_condition_dropout, resolve_timestep_law
from acestep.train.loop import Trainer
from acestep.train.optimizer_state import trainable
from acestep.train.optimizers import make_optimizer
from acestep.train.options import TrainOptions
from acestep.train.previews import Previews
from acestep.train.starts import PissaStart, eva_start, set_eva_start
from acestep.train.step import VelocityLoss
from acestep.train.stepping import make_scaler, memory_advice
from acestep.train.targets import Patterns, expand_target_modules, read_patterns, targeted
from acestep.train.zero import configure_zero, is_zero

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
EVA_SAMPLES, EVA_FRAMES = 16, 1500  # songs, and how much of each, that an EVA start looks at
EVA_EPOCH = -2  # of their draws; no epoch of training has it


def make_trainer(
    options: TrainOptions,
    accelerator: Any,
    precision: str,
    checkpoint: Checkpoint,
    rows: EncodedRows,
    validation: EncodedRows | None,
    crop_frames: int,
    saved: SavedState | None,
    preview_requests: list[Request] | None = None,
    on_saved: Callable[[Path], None] | None = None,
) -> Trainer:
    """Model, adapter, optimizer and samples, put together.

    Args:
        precision: "no", "bf16" or "fp16".
        rows, validation: to train on and held out.
        crop_frames: see `TrainingSamples`.
        saved: where the run goes on; the trainer is not restored yet.
        preview_requests: what is played while training.
        on_saved: told the folder of each checkpoint.
    """
    previews = None
    if preview_requests:  # first, since its encoders need memory only now
        dtype, output_dir = DTYPES[precision], Path(options.output_dir)
        previews = Previews(checkpoint, preview_requests, output_dir, accelerator.device, dtype, accelerator)
    transformer = checkpoint.transformer(DTYPES[precision])
    if options.quantization != "none":
        compute = torch.float16 if precision == "fp16" else torch.bfloat16
        quantize(transformer, options.quantization, compute, accelerator.device)
    attention = install_attention(transformer, options.attention)
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
    velocity_loss = make_velocity_loss(
        transformer,
        checkpoint.silence_latent().to(accelerator.device),
        checkpoint.null_condition().to(accelerator.device),
        options,
        autocast(accelerator.device, precision),
        masks=attention != "native",
    )
    patterns = Patterns()
    if options.rank_pattern_file:
        patterns = read_patterns(options.rank_pattern_file, default_alpha=options.lora_alpha is None)
    start = _put_adapter(transformer, options, patterns, saved, velocity_loss, samples, accelerator)
    if options.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    if options.compile:
        compile_layers(transformer)
    optimizer = make_optimizer(trainable(transformer), options)
    if is_zero(accelerator):
        configure_zero(accelerator, options, sum(weight.numel() for _, weight in trainable(transformer)))
    transformer, optimizer = accelerator.prepare(transformer, optimizer)
    velocity_loss.transformer = transformer
    return Trainer(
        accelerator,
        transformer,
        optimizer,
        velocity_loss,
        rows,
        samples,
        options,
        Path(options.output_dir),
        identity=_identity(options, checkpoint, rows, samples, accelerator, precision, patterns),
        first_step=saved.state["progress"]["step"] if saved else 0,
        validation=validation,
        start=start,
        scaler=make_scaler(precision, accelerator.device),
        previews=previews,
        on_saved=on_saved,
        advice=partial(_advice, options, rows, checkpoint, precision, accelerator),
    )


def make_velocity_loss(
    transformer: torch.nn.Module,
    silence_latent: torch.Tensor,
    null_condition: torch.Tensor,
    options: TrainOptions,
    autocast: Callable[[], AbstractContextManager],
    masks: bool,
) -> VelocityLoss:
    """The loss as the options say it; arguments as `VelocityLoss` has them."""
    return VelocityLoss(
        transformer,
        silence_latent,
        null_condition,
        options.loss_weighting,
        options.snr_gamma,
        masks=masks,
        dropout_seed=options.seed if options.lora_dropout else None,
        autocast=autocast,
    )


def _advice(options: TrainOptions, rows: EncodedRows, checkpoint: Checkpoint, precision: str, accelerator: Any) -> str:
    """What each change would save on a GPU, which takes a minute to find out; elsewhere what could be changed."""
    if accelerator.device.type != "cuda":
        return memory_advice(options)
    from acestep.train.memory_report import advice

    torch.cuda.empty_cache()
    try:
        return advice(options, rows, checkpoint, precision, processes=accelerator.num_processes)
    except Exception:  # an estimate that fails must not hide what is wrong
        return memory_advice(options)


def autocast(device: torch.device, precision: str) -> Callable[[], AbstractContextManager]:
    """What is entered around the transformer: torch's autocast in the run's precision, or nothing."""
    return nullcontext if precision == "no" else partial(torch.autocast, device.type, DTYPES[precision])


def _put_adapter(
    transformer: torch.nn.Module,
    options: TrainOptions,
    patterns: Patterns,
    saved: SavedState | None,
    velocity_loss: VelocityLoss,
    samples: TrainingSamples,
    accelerator: Any,
) -> PissaStart | None:
    """Put the adapter on; returns the start of a PiSSA adapter."""
    if options.init_lora:
        # a run that goes on does not need what it began with
        source = str(saved.path) if saved else options.init_lora
        _put_existing(transformer, source, options.seed, options.lora_dropout)
        return None
    # a run that goes on takes its start from the checkpoint
    start = "default" if saved else options.init_lora_weights
    config = new_adapter_config(transformer, options, patterns, start)
    if start in ("default", "gaussian"):
        put_adapter(transformer, config, options.seed)
        if not options.init_lora_weights.startswith("pissa"):
            return None
        pissa = PissaStart({name[6:]: weight for name, weight in saved.tensors.items() if name.startswith("start/")})
        pissa.restore(transformer)
        return pissa
    transformer.to(accelerator.device)  # decompositions of hundreds of matrices
    if start == "eva":
        batches = [
            to_device(collate([samples[Place(EVA_EPOCH, index)]]), accelerator.device)
            for index in range(min(EVA_SAMPLES, len(samples)))
        ]
        for batch in batches:
            batch["lengths"] = [min(frames, EVA_FRAMES) for frames in batch["lengths"]]
            for key in ("clean_latents", "noise"):
                batch[key] = batch[key][:, :EVA_FRAMES]
        components = eva_start(transformer, config, batches, lambda batch: velocity_loss(batch, [0]))
        put_adapter(transformer, config, options.seed)
        set_eva_start(transformer, components)
        return None
    put_adapter(transformer, config, options.seed)
    return PissaStart.of(transformer)


def new_adapter_config(transformer: torch.nn.Module, options: TrainOptions, patterns: Patterns, start: str) -> Any:
    """PEFT's configuration of the adapter that the options describe.

    Args:
        start: see `adapter_config`.
    """
    targets = expand_target_modules(options.target_modules, transformer, options.layers)
    patterns.check(targeted(targets, transformer), f"--rank_pattern_file {options.rank_pattern_file}")
    return adapter_config(
        options.adapter,
        targets,
        options.rank,
        options.alpha,
        options.use_rslora,
        dropout=options.lora_dropout,
        start=start,
        patterns=patterns,
    )


def _put_existing(transformer: torch.nn.Module, source: str, seed: int, dropout: float) -> None:
    """Put an adapter on that was trained before, in any layout that is read."""
    import peft

    from acestep.adapters.applying import check_fit
    from acestep.adapters.reading import read_adapter

    adapter = read_adapter(source)
    check_fit(adapter, transformer, f"--init_lora {source}")
    config = adapter.peft_config()
    for name in ("lora_dropout", "rank_dropout"):
        if hasattr(config, name):
            setattr(config, name, dropout)
    put_adapter(transformer, config, seed)
    peft.set_peft_model_state_dict(transformer, adapter.state_dict())


def _identity(
    options: TrainOptions,
    checkpoint: Checkpoint,
    rows: EncodedRows,
    samples: TrainingSamples,
    accelerator: Any,
    precision: str,
    patterns: Patterns,
) -> dict[str, Any]:
    """What must be the same when a run goes on, in the order in which differences are named.

    The layout of the effective batch is not in it (it changes nothing), nor is the number of epochs: more are allowed.
    """
    texts = ("id", "frames", "text_prompt", "genre_text_prompt", "lyric_prompt")
    data = hashlib.sha256(json.dumps([rows.column(name) for name in texts]).encode()).hexdigest()[:16]
    same = (
        *("adapter", "rank", "alpha", "use_rslora", "lora_dropout", "target_modules", "layers", "init_lora_weights"),
        *("init_lora", "lr_scheduler", "lr_warmup_steps", "lr_num_cycles", "lr_power"),
        *("lr_step_rules", "adam_beta1", "adam_beta2", "adam_weight_decay", "adam_epsilon", "max_grad_norm"),
        *("crop_seconds", "group_by_length", "sample_latents", "loss_weighting", "snr_gamma", "seed", "optimizer"),
        *("loraplus_lr_ratio", "ema_decay", "quantization", "validation_draws"),
    )
    return {
        "model": checkpoint.fingerprint("transformer"),
        "dataset": data,
        "learning_rate": options.peak_learning_rate,
        **{name: getattr(options, name) for name in same},
        "rank_pattern": patterns.rank,
        "alpha_pattern": patterns.alpha,
        "mixed_precision": precision,
        "timestep_law": samples.law,
        "condition_dropout": samples.condition_dropout,
        "effective_batch": options.train_batch_size * options.gradient_accumulation_steps * accelerator.num_processes,
    }
