"""Music made while training: the same prompts and seeds at every preview, to be heard beside the model alone."""

import gc
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from acestep.models.checkpoint import Checkpoint
from acestep.models.conditioning import encode_condition, encode_texts
from acestep.models.generation import NotFinite, decode_latents, normalised, sample_latents
from acestep.models.generation_files import write_audio
from acestep.models.generation_requests import Request
from acestep.players import Clip, Row, write_players
from acestep.train.trackers import log_audio

logger = logging.getLogger(__name__)

FOLDER, BASE, PAGE, RECORD = "previews", "base", "index.html", "clips.json"
NOT_FINITE = "not finite"


class Previews:
    """Plays prompts with the transformer that is being trained, as `scripts/generate.py` would with its adapter.

    Texts are encoded here and now, and the encoders freed again: make it before the transformer needs the memory. The
    VAE waits on the CPU and comes to the device only to decode. Only the main process does anything.

    Args:
        checkpoint: of the run; XL's timbre token is put in.
        requests: text to music only.
        output_dir: of the run; everything goes into its folder `previews`.
        device, dtype: of the transformer.
        accelerator: whose trackers get the audio, and which says whether this is the main process.

    Raises:
        UserError: for requests that this model cannot play.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        requests: list[Request],
        output_dir: Path,
        device: torch.device,
        dtype: torch.dtype,
        accelerator: Any = None,
    ):
        for request in requests:
            request.sampling(checkpoint.is_turbo, lambda key, name=request.name: f'preview {name!r}: "{key}"')
        self.folder, self.requests, self.accelerator = output_dir / FOLDER, requests, accelerator
        self.is_turbo, self.is_main = checkpoint.is_turbo, accelerator is None or accelerator.is_main_process
        self.failed = ""  # why there will be no more
        if not self.is_main:
            return
        self.device = torch.device(device)
        self.dtype = torch.float32 if dtype == torch.float16 else dtype  # encoders and VAE overflow in float16
        # the adapter's weights are float32 on a model in half precision
        self.autocast = partial(torch.autocast, self.device.type, dtype, enabled=dtype != torch.float32)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            self._encode(checkpoint)
        self.vae = checkpoint.vae(self.dtype)
        self.vae.enable_tiling()  # as `Generator` has it: long songs in bounded memory
        self.silence, self.null = checkpoint.silence_latent(), checkpoint.null_condition().to(self.dtype)
        self.scheduler = checkpoint.scheduler()

    def make_base(self, transformer: nn.Module) -> None:
        """Play the model alone, unless that has been done for the same prompts.

        Args:
            transformer: unwrapped, its adapter off.
        """
        if self.is_main and not self._has_base():
            self._make(transformer, BASE, 0)

    def make(self, transformer: nn.Module, step: int) -> None:
        """Play every prompt with the adapter as it is, and before the first time without it.

        What goes wrong is said and ends the previews, not the run.

        Args:
            transformer: unwrapped, its adapter on; mode, gradients and random state are left as they were.
        """
        if not self.is_main:
            return
        if not self._has_base() and _base_is_whole(transformer):
            with _without_adapters(transformer):
                self._make(transformer, BASE, 0)
        self._make(transformer, f"step-{step:06d}", step)

    def _make(self, transformer: nn.Module, name: str, step: int) -> None:
        if self.failed:
            return
        was_training = transformer.training
        transformer.eval()
        try:
            self._play_all(transformer, name, step)
        except torch.OutOfMemoryError:
            self._fail("there is not enough memory to make them; shorten their duration, or leave them out")
        except OSError as error:
            self._fail(f"{error.filename or self.folder}: {error.strerror or error}")
        finally:
            transformer.train(was_training)

    def _fail(self, reason: str) -> None:
        self.failed = reason
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        logger.warning("no more previews in this run: %s.", reason)

    def _play_all(self, transformer: nn.Module, name: str, step: int) -> None:
        folder, clips = self.folder / name, {}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECORD).unlink(missing_ok=True)  # of a run that was interrupted after this step
        rate = self.vae.config.sampling_rate
        for request in tqdm(self.requests, desc=f"preview, {name}", unit="song", leave=False):
            file = folder / f"{request.name}.flac"
            clip: dict[str, Any] = {"settings": request.settings()}
            try:
                audio = self._play(transformer, request)
            except NotFinite:
                file.unlink(missing_ok=True)
                clips[request.name] = {**clip, "problem": NOT_FINITE}
                logger.warning("preview %s at step %d is not finite.", request.name, step)
                continue
            write_audio(file, audio, rate)
            rms, peak = audio.square().mean().sqrt().item(), audio.abs().max().item()
            clips[request.name] = {**clip, "seconds": audio.shape[1] / rate, "peak": peak, "rms": rms}
            if self.accelerator is not None:
                kind = "preview_base" if name == BASE else "preview"
                log_audio(self.accelerator, f"{kind}/{request.name}", audio, rate, step)
        _write_json(folder / RECORD, {"step": step, "clips": clips})
        self._write_page()

    @torch.no_grad()
    def _play(self, transformer: nn.Module, request: Request) -> torch.Tensor:
        pipeline = encoded_pipeline(self.vae, transformer, self.scheduler, self._condition(request))
        sampling, texts = request.sampling(self.is_turbo, str), request.texts()
        with self.autocast():
            latents = sample_latents(pipeline, request.seed, sampling, prompt="", audio_duration=texts.duration)
        try:
            return normalised(decode_latents(self.vae.to(self.device), latents))
        finally:
            self.vae.to("cpu")

    def _condition(self, request: Request) -> nn.Module:
        return EncodedCondition(self.conditions[request.name].to(self.device), self.silence, self.null)

    def _encode(self, checkpoint: Checkpoint) -> None:
        """Keep each prompt's condition `[L, D]` on the CPU; one encoder is in memory at a time."""
        text_encoder, tokenizer = checkpoint.text_encoder(self.dtype).to(self.device), checkpoint.tokenizer()
        texts = {request.name: encode_texts(request.texts(), text_encoder, tokenizer) for request in self.requests}
        del text_encoder
        _free(self.device)
        condition_encoder = checkpoint.condition_encoder(self.dtype).to(self.device)
        self.conditions = {name: encode_condition(states, condition_encoder).cpu() for name, states in texts.items()}
        del condition_encoder, texts
        _free(self.device)

    def _has_base(self) -> bool:
        """Whether the model alone has been played, in this run or in the one that goes on, as the prompts are now."""
        clips = _read_record(self.folder / BASE).get("clips", {})
        return all(
            clips.get(request.name, {}).get("settings") == request.settings()
            and (self.folder / BASE / f"{request.name}.flac").is_file()
            for request in self.requests
        )

    def _write_page(self) -> None:
        records = {name: _read_record(self.folder / name) for name in _made(self.folder)}
        columns = {name: "base" if name == BASE else f"step {record['step']}" for name, record in records.items()}
        rows = []
        for request in self.requests:
            clips = {}
            for name, record in records.items():
                made = record["clips"].get(request.name, {})
                if made.pop("settings", None) == request.settings():  # what was asked otherwise is no comparison
                    file = f"{name}/{request.name}.flac"
                    clips[columns[name]] = Clip(**made) if "problem" in made else Clip(file=file, **made)
            sampling = request.sampling(self.is_turbo, str)
            rows.append(Row(request.name, request.prompt, request.lyrics, request.facts(sampling), clips))
        write_players(self.folder / PAGE, "Previews of a training run", list(columns.values()), rows)


class EncodedCondition(nn.Module):
    """Stands where the pipeline has its condition encoder, and gives what was encoded before.

    Args:
        condition: `[L, D]`.
        silence_latent: `[1, frames, channels]`.
        null_condition_emb: `[1, 1, D]`, of guidance.
    """

    def __init__(self, condition: torch.Tensor, silence_latent: torch.Tensor, null_condition_emb: torch.Tensor):
        super().__init__()
        self.condition, self.silence_latent, self.null_condition_emb = condition, silence_latent, null_condition_emb

    def forward(self, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        condition = self.condition[None]
        return condition, torch.ones(condition.shape[:2], dtype=torch.bool, device=condition.device)


def encoded_pipeline(vae: nn.Module, transformer: nn.Module, scheduler: Any, condition: EncodedCondition) -> Any:
    """The pipeline itself, without the encoders that it would call first."""
    from diffusers import AceStepPipeline

    class EncodedPipeline(AceStepPipeline):
        @property
        def _execution_device(self) -> torch.device:  # not that of the VAE, which comes first
            return self.transformer.device

        def encode_prompt(self, **_: Any) -> tuple[None, None, None, None]:
            return None, None, None, None

    pipeline = EncodedPipeline(
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
        condition_encoder=condition,
        scheduler=scheduler,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def clear_previews(output_dir: Path) -> None:
    """Remove the previews of an earlier run, and nothing else that lies there."""
    folder = output_dir / FOLDER
    for name in _made(folder):
        for clip in _read_record(folder / name)["clips"]:
            (folder / name / f"{clip}.flac").unlink(missing_ok=True)
        (folder / name / RECORD).unlink()
        _remove_if_empty(folder / name)
    (folder / PAGE).unlink(missing_ok=True)
    _remove_if_empty(folder)


def _made(folder: Path) -> list[str]:
    """Folders of finished previews, the model alone first, then by step."""
    found = [(record.get("step", 0), path.parent.name) for path, record in _records(folder)]
    return [name for _, name in sorted(found, key=lambda pair: (pair[1] != BASE, pair[0]))]


def _records(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    paths = [folder / BASE / RECORD, *sorted(folder.glob(f"step-*/{RECORD}"))]
    return [(path, record) for path in paths if (record := _read_record(path))]


def _read_record(path: Path) -> dict[str, Any]:
    """A folder's record; empty where there is none that can be read."""
    path = path if path.name == RECORD else path / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and isinstance(record.get("clips"), dict) and "step" in record else {}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    beside = path.with_name(f".{path.name}")
    beside.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        shutil.rmtree(folder)


@contextmanager
def _without_adapters(transformer: nn.Module) -> Iterator[None]:
    """The model alone; what was trainable before is trainable after."""
    trained = [(parameter, parameter.requires_grad) for parameter in transformer.parameters()]
    transformer.disable_adapters()
    try:
        yield
    finally:
        transformer.enable_adapters()
        for parameter, needs_gradient in trained:
            parameter.requires_grad_(needs_gradient)


def _base_is_whole(transformer: nn.Module) -> bool:
    """Whether the model without its adapter is the model: PiSSA and its like keep a part of the weights in theirs."""
    starts = (getattr(config, "init_lora_weights", True) for config in transformer.peft_config.values())
    return not any(isinstance(start, str) and start.startswith(("pissa", "olora", "corda")) for start in starts)


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
