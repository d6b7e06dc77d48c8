"""Music from a prompt: the pipeline with adapters on it, at the settings that its variant wants."""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from acestep.errors import UserError
from acestep.models.adapter_loading import is_other_kind, load_adapter
from acestep.models.checkpoint import Checkpoint
from acestep.models.conditioning import MAX_LYRIC_TOKENS, MAX_TEXT_TOKENS, Prompt
from acestep.models.repository import Repository
from acestep.models.weights import WeightFile, report_keys

logger = logging.getLogger(__name__)

LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
LORA_METADATA = "lora_adapter_metadata"  # the adapter's configuration in the file's header
FORMATS = {".wav": ("WAV", "PCM_24"), ".flac": ("FLAC", "PCM_24")}


@dataclass(frozen=True)
class Sampling:
    """How the flow is integrated.

    Attributes:
        steps: Euler steps.
        shift: of the timesteps, `shift*u / (1 + (shift - 1)*u)`.
        guidance: scale of adaptive projected guidance; 1 is none, and turbo always has none.
    """

    steps: int
    shift: float
    guidance: float


def default_sampling(is_turbo: bool) -> Sampling:
    """What the model's authors use: turbo 8 steps, shift 3, no guidance; base and sft 50 steps, shift 1, guidance 7."""
    return Sampling(steps=8, shift=3.0, guidance=1.0) if is_turbo else Sampling(steps=50, shift=1.0, guidance=7.0)


class Generator:
    """A pipeline that plays prompts, with and without its adapters.

    Args:
        checkpoint: any layout; XL's timbre token is put in.
        device, dtype: of the whole pipeline.
        loras: adapters, each a folder or Hub id with `pytorch_lora_weights.safetensors`, or such a file.
        scales: one a LoRA.

    Raises:
        UserError: for a LoRA that is not there or does not fit the model.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str,
        dtype: torch.dtype,
        loras: list[str] | None = None,
        scales: list[float] | None = None,
    ):
        self.checkpoint = checkpoint
        self.pipeline = checkpoint.pipeline(dtype).to(device)
        self.pipeline.vae.enable_tiling()  # long songs in bounded memory
        self.adapters = [f"lora{number}" for number in range(len(loras or []))]
        self.scales = list(scales or [1.0] * len(self.adapters))
        for name, lora in zip(self.adapters, loras or [], strict=True):
            _load_lora(self.pipeline, lora, name)
        if self.adapters:
            self._activate()

    def _activate(self) -> None:
        kinds = {name: self.pipeline.transformer.peft_config[name].peft_type.value for name in self.adapters}
        if "OFT" not in kinds.values():
            self.pipeline.set_adapters(self.adapters, self.scales)
        elif self.scales == [1.0]:
            self.pipeline.transformer.set_adapter(self.adapters[0])
        else:  # a rotation has no strength to scale, and PEFT cannot put another adapter beside it
            raise UserError("--lora_scale: an OFT adapter plays alone and at 1 only.")

    def __call__(
        self,
        prompt: str,
        lyrics: str,
        seed: int,
        sampling: Sampling,
        *,
        use_adapters: bool = True,
        **pipeline_options: Any,
    ) -> torch.Tensor:
        """One piece of music.

        Args:
            seed: of the noise, drawn on the CPU so that every device gets the same.
            use_adapters: False plays the model alone.
            pipeline_options: `vocal_language`, `audio_duration`, `bpm`, `keyscale`, `timesignature`.

        Returns:
            `[2, samples]` float32 at 48 kHz on the CPU, peak at -1 dBFS (the pipeline's own normalisation).
        """
        if self.adapters:
            toggle = self.pipeline.enable_lora if use_adapters else self.pipeline.disable_lora
            toggle()
        audio = self.pipeline(
            prompt=prompt,
            lyrics=lyrics,
            num_inference_steps=sampling.steps,
            shift=sampling.shift,
            guidance_scale=sampling.guidance,
            generator=torch.Generator("cpu").manual_seed(seed),
            **pipeline_options,
        ).audios[0]
        if not torch.isfinite(audio).all():
            raise UserError("the generated audio is not finite; try --dtype float32, or a lower --lora_scale.")
        return audio.float().cpu()

    def cut_warnings(
        self, prompt: str, lyrics: str, vocal_language: str, audio_duration: float, **tags: Any
    ) -> list[str]:
        """What of the texts the model will not read, one line each; arguments as the pipeline takes them."""
        tags = {name: value for name, value in tags.items() if value is not None}
        texts = Prompt(prompt, lyrics, vocal_language, audio_duration, **tags)
        limits = (("prompt has", MAX_TEXT_TOKENS), ("lyrics have", MAX_LYRIC_TOKENS))
        return [
            f"the {what} {count} tokens, the model reads {limit}; the rest is cut off."
            for (what, limit), count in zip(limits, texts.token_counts(self.pipeline.tokenizer), strict=True)
            if count > limit
        ]


def write_audio(path: Path, audio: torch.Tensor, sample_rate: int) -> None:
    """Write `[channels, samples]` as 24-bit WAV or FLAC, by the file's ending.

    Raises:
        UserError: for another ending.
    """
    import soundfile

    check_audio_name(path)
    container, subtype = FORMATS[path.suffix.lower()]
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f".{path.name}")
    soundfile.write(written, audio.T.numpy(), sample_rate, format=container, subtype=subtype)
    written.replace(path)  # so that an interruption leaves no half a file


def check_audio_name(path: Path) -> None:
    """Raise UserError for a name that cannot be written; called before the long work."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--output {path}: ends with {path.suffix or 'nothing'!r}; expected .wav or .flac.")
    if path.is_dir():
        raise UserError(f"--output {path}: is a folder; expected the name of a file in it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UserError(f"--output {path}: {path.parent} cannot be written to ({error.strerror}).") from None


def _load_lora(pipeline: Any, lora: str, name: str) -> None:
    file = _lora_file(lora)
    source = WeightFile(file.parent, file.stem)
    if is_other_kind(list(source)):
        load_adapter(pipeline.transformer, file, name)
        return
    _check_lora(lora, source, pipeline.transformer)
    if not source.metadata().get(LORA_METADATA):
        logger.warning(
            "--lora %s: its header has no %s; the strength may be another than in training, because alpha is taken to "
            "be the rank. --lora_scale corrects it.",
            *(lora, LORA_METADATA),
        )
    try:
        pipeline.load_lora_weights(
            str(file.parent), weight_name=file.name, adapter_name=name, use_safetensors=True, local_files_only=True
        )
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        raise UserError(f"--lora {lora}: cannot be loaded into this model: {' '.join(str(error).split())}") from error
    if name not in pipeline.get_list_adapters().get("transformer", []):
        raise UserError(f"--lora {lora}: holds no weights for the transformer.")


def _lora_file(lora: str) -> Path:
    """The LoRA's file, downloaded where it is on the Hub."""
    path = Path(lora).expanduser()
    if path.is_file():
        if path.suffix != ".safetensors":
            raise UserError(f"--lora {lora}: ends with {path.suffix or 'nothing'!r}; expected a .safetensors file.")
        return path
    try:
        repository = Repository(lora)
        path = repository.fetch(LORA_WEIGHTS) / LORA_WEIGHTS
    except UserError as error:
        raise UserError(f"--lora {error}") from error
    if not path.is_file():
        raise UserError(f"--lora {lora}: holds no {LORA_WEIGHTS}, which train_lora.py writes.")
    return path


def _check_lora(lora: str, source: WeightFile, transformer: nn.Module) -> None:
    """Compare the LoRA's layers with the transformer's; diffusers would only warn of those that have no place."""
    shapes = {
        name.removesuffix(".weight").removesuffix(".base_layer"): tuple(parameter.shape)  # [out, in]
        for name, parameter in transformer.named_parameters()
        if name.endswith(".weight")
    }
    unknown, shaped = [], []
    for key in source:
        layer, _, part = key.removeprefix("transformer.").partition(".lora_")
        if not key.startswith("transformer.") or not part:
            continue  # of another format, which diffusers may know
        if layer not in shapes:
            unknown.append(key)
            continue
        fits = {
            "A.weight": source.shape(key)[-1] == shapes[layer][-1],
            "B.weight": source.shape(key)[0] == shapes[layer][0],
        }
        if not fits.get(part, True):
            shaped.append(f"{key} {list(source.shape(key))} for a layer of {list(shapes[layer])}")
    report_keys(f"--lora {lora}", unknown=unknown, wrong_shape=shaped)
