"""Music from a prompt: the pipeline with adapters on it, at the settings that its variant wants."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from acestep.errors import UserError
from acestep.models.adapter_loading import load_adapter
from acestep.models.checkpoint import Checkpoint
from acestep.models.conditioning import MAX_LYRIC_TOKENS, MAX_TEXT_TOKENS, Prompt
from acestep.models.generation_requests import Sampling
from acestep.models.quantization import quantize

PEAK = 10 ** (-1 / 20)  # -1 dBFS, where the pipeline's own post-processing puts the loudest sample


class NotFinite(UserError):
    """Generated audio holds NaN or infinity."""


class Generator:
    """A pipeline that plays prompts, with and without its adapters.

    Args:
        checkpoint: any layout; XL's timbre token is put in.
        device, dtype: of the whole pipeline.
        loras: adapters of any layout: files, folders or Hub ids.
        scales: one a LoRA.
        quantization: of the transformer's blocks, "none", "int8" or "nf4".
        cpu_offload: keep every component in the CPU's memory and bring it to the device when it is its turn.

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
        quantization: str = "none",
        cpu_offload: bool = False,
    ):
        self.checkpoint = checkpoint
        self.pipeline = checkpoint.pipeline(dtype)
        self.pipeline.vae.enable_tiling()  # long songs in bounded memory
        if quantization != "none":
            quantize(self.pipeline.transformer, quantization, dtype, torch.device(device))
        self.adapters = [f"lora{number}" for number in range(len(loras or []))]
        for name, lora in zip(self.adapters, loras or [], strict=True):
            try:
                load_adapter(self.pipeline.transformer, lora, name)
            except UserError as error:
                raise UserError(f"--lora {error}") from error
        self.pipeline.transformer.eval()  # new layers begin in training mode, with their dropout
        if cpu_offload:
            self.pipeline.enable_model_cpu_offload(device=device)
        else:
            self.pipeline.to(device)
        self.scales: list[float] = []
        self.set_scales(scales or [1.0] * len(self.adapters))

    def check_scales(self, scales: list[float]) -> None:
        """Raise UserError for strengths other than 1 of an OFT adapter, a rotation, which has none to scale."""
        if self._has_oft() and scales != [1.0]:  # PEFT cannot put another adapter beside it either
            raise UserError("--lora_scale: an OFT adapter plays alone and at 1 only: a rotation has no strength.")

    def set_scales(self, scales: list[float]) -> None:
        """Play the adapters at these strengths from now on; raises as `check_scales` does."""
        self.check_scales(scales)
        self.scales = list(scales)
        if self._has_oft():
            self.pipeline.transformer.set_adapter(self.adapters[0])
        elif self.adapters:
            self.pipeline.set_adapters(self.adapters, self.scales)

    def _has_oft(self) -> bool:
        configs = [self.pipeline.transformer.peft_config[name] for name in self.adapters]
        return any(config.peft_type.value == "OFT" for config in configs)

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
            seed: of the noise, drawn in float32 on the CPU so that every device and dtype gets the same.
            use_adapters: False plays the model alone.
            pipeline_options: `vocal_language`, `audio_duration`, `bpm`, `keyscale`, `timesignature`, and for the other
                tasks `task_type`, `src_audio`, `reference_audio`, `audio_cover_strength`.

        Returns:
            `[2, samples]` float32 at 48 kHz on the CPU, peak at -1 dBFS (the pipeline's own normalisation).
        """
        latents = self.latents(prompt, lyrics, seed, sampling, use_adapters=use_adapters, **pipeline_options)
        return normalised(self.decode(latents))

    def latents(
        self,
        prompt: str,
        lyrics: str,
        seed: int,
        sampling: Sampling,
        *,
        use_adapters: bool = True,
        **pipeline_options: Any,
    ) -> torch.Tensor:
        """What is decoded to one piece of music, `[1, frames, channels]`; arguments as for calling."""
        if self.adapters:
            toggle = self.pipeline.enable_lora if use_adapters else self.pipeline.disable_lora
            toggle()
        return sample_latents(self.pipeline, seed, sampling, prompt=prompt, lyrics=lyrics, **pipeline_options)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """`[2, samples]` float32 on the CPU, as loud as the latents say."""
        audio = decode_latents(self.pipeline.vae, latents)
        self.pipeline.maybe_free_model_hooks()
        return audio

    @torch.no_grad()
    def encode(self, audio: torch.Tensor) -> torch.Tensor:
        """`[1, frames, channels]`, the mean of what the VAE makes of `[2, samples]`, whole frames of them."""
        vae, device = self.pipeline.vae, self.pipeline._execution_device
        return vae.encode(audio[None].to(device, vae.dtype)).latent_dist.mode().transpose(1, 2)

    def cut_warnings(self, texts: Prompt) -> list[str]:
        """What of the texts the model will not read, one line each."""
        limits = (("prompt has", MAX_TEXT_TOKENS), ("lyrics have", MAX_LYRIC_TOKENS))
        return [
            f"the {what} {count} tokens, the model reads {limit}; the rest is cut off."
            for (what, limit), count in zip(limits, texts.token_counts(self.pipeline.tokenizer), strict=True)
            if count > limit
        ]


def open_device(device: str | None, dtype: str | None, cpu_offload: bool = False) -> tuple[str, torch.dtype]:
    """The device and dtype to play with: by default a GPU where there is one, and bfloat16 on it.

    Raises:
        UserError: for a device that cannot be used.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: cannot be used: {str(error).splitlines()[0]}") from None
    if cpu_offload and device == "cpu":
        raise UserError("--cpu_offload: the device is the CPU, where everything is already. It is for a GPU.")
    return device, getattr(torch, dtype or ("bfloat16" if device.startswith("cuda") else "float32"))


@contextmanager
def memory_advice() -> Iterator[None]:
    """Turns a device's lack of memory into advice."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            "there is not enough memory on the device. Try --cpu_offload, --quantization nf4, or a shorter --duration."
        ) from error


def sample_latents(pipeline: Any, seed: int, sampling: Sampling, **pipeline_options: Any) -> torch.Tensor:
    """Integrate the flow with an `AceStepPipeline`, or one that has its conditions already.

    The noise is drawn here: diffusers 0.42 computes its length by way of seconds, which at every sixteenth length (112
    frames, say) comes out one frame too long and ends in an error.

    Args:
        pipeline_options: what the pipeline is called with; `src_audio` decides the length where it is given.

    Returns:
        `[1, frames, channels]` on the transformer's device.
    """
    source, rate = pipeline_options.get("src_audio"), pipeline.latents_per_second
    seconds = pipeline_options["audio_duration"] if source is None else source.shape[-1] / pipeline.sample_rate
    # a source is padded to whole frames, so that only rounding is to be undone
    frames = math.ceil(seconds * rate) if source is None else round(seconds * rate)
    channels = pipeline.transformer.config.audio_acoustic_hidden_dim
    noise = torch.randn((1, frames, channels), generator=torch.Generator("cpu").manual_seed(seed))
    with _seeded(seed, pipeline._execution_device):
        return pipeline(
            latents=noise,
            num_inference_steps=sampling.steps,
            shift=sampling.shift,
            guidance_scale=sampling.guidance,
            output_type="latent",
            **pipeline_options,
        ).audios


@torch.no_grad()
def decode_latents(vae: nn.Module, latents: torch.Tensor) -> torch.Tensor:
    """Audio of `[1, frames, channels]`: `[2, samples]` float32 on the CPU.

    Raises:
        NotFinite: when there is nothing to hear.
    """
    audio = vae.decode(latents.transpose(1, 2).to(vae.dtype)).sample[0].float().cpu()
    if not torch.isfinite(audio).all():
        raise NotFinite("the generated audio is not finite; try --dtype float32, or a lower --lora_scale.")
    return audio


def normalised(audio: torch.Tensor) -> torch.Tensor:
    """Audio with its peak at -1 dBFS, as `AceStepPipeline` returns it: first clipped by scaling, then scaled."""
    peak = audio.abs().max()
    if peak > 1:
        audio = audio / peak
    return audio * (PEAK / audio.abs().max().clamp(min=1e-6))


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's own random state, from which the pipeline draws latents of recordings, is the seed's and comes back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
