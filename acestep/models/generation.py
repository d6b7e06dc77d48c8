"""Music from a prompt: the pipeline with adapters on it, at the settings that its variant wants."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from acestep.errors import UserError
from acestep.models.checkpoint import Checkpoint

LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
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
            self.pipeline.set_adapters(self.adapters, self.scales)

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


def write_audio(path: Path, audio: torch.Tensor, sample_rate: int) -> None:
    """Write `[channels, samples]` as 24-bit WAV or FLAC, by the file's ending.

    Raises:
        UserError: for another ending.
    """
    import soundfile

    check_audio_name(path)
    container, subtype = FORMATS[path.suffix.lower()]
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio.T.numpy(), sample_rate, format=container, subtype=subtype)


def check_audio_name(path: Path) -> None:
    """Raise UserError unless the file can be written; called before the long work."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--output {path}: ends with {path.suffix or 'nothing'!r}; expected .wav or .flac.")


def _load_lora(pipeline: Any, lora: str, name: str) -> None:
    path = Path(lora).expanduser()
    if path.is_file():
        source, weight_name = str(path.parent), path.name
    else:
        source, weight_name = str(path) if path.is_dir() else lora, LORA_WEIGHTS
        if path.is_dir() and not (path / weight_name).is_file():
            raise UserError(f"--lora {lora}: holds no {weight_name}, which train_lora.py writes.")
        if not path.is_dir() and (lora.startswith((".", "/", "~")) or lora.count("/") != 1):
            raise UserError(f"--lora {lora}: no such folder or file, and not a Hub id of the form `user/name` either.")
    try:
        pipeline.load_lora_weights(source, weight_name=weight_name, adapter_name=name, use_safetensors=True)
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        raise UserError(f"--lora {lora}: cannot be loaded into this model: {str(error).splitlines()[0]}") from error
    if name not in pipeline.get_list_adapters().get("transformer", []):
        raise UserError(f"--lora {lora}: holds no weights for the transformer.")
