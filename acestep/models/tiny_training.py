"""Trains the tiny model from scratch in about a minute on two CPU cores: the base that the demo's adapter changes.

First the VAE's decoder, which starts from a known transform (`tiny_codec`) and learns the rest of the sound; then the
transformer and the condition encoder by ACE-Step's own law: flow matching, `t = max(sigmoid(n1), sigmoid(n2))`, and the
learned null condition in place of every seventh or so. Numbers of steps are fixed, so that a seed gives one model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AceStepPipeline
from torch.nn import functional as F

from acestep.models.tiny import tiny_components
from acestep.models.tiny_codec import (
    LATENT_CHANNELS,
    LINEAR_LATENTS,
    new_codec,
    new_narrow_encoder,
    scale_latents,
    widen,
    write_inverse_transform,
)

TIMESTEP_MU, TIMESTEP_SIGMA = -0.4, 1.0
CONDITION_DROPOUT = 0.15
SEGMENT_FRAMES = 128  # some five seconds
SIZES = {
    "encoder_hidden_size": 64,
    "text_hidden_size": 64,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "head_dim": 32,
    "num_attention_heads": 4,
}
_HOP = 1920
_CROP_FRAMES = 10


@dataclass(frozen=True)
class PracticeSong:
    """What the tiny model learns from: `audio` is `[samples, 2]` at 48 kHz, the rest is what the prompt says of it."""

    audio: np.ndarray
    caption: str
    bpm: int
    keyscale: str
    timesignature: str = "4"


@dataclass(frozen=True)
class TrainingFigures:
    """Measured before and after on songs held out: the spectral distance in nepers, and the flow-matching loss."""

    spectral_distance: tuple[float, float]
    flow_loss: tuple[float, float]


def train_tiny_model(
    songs: Sequence[PracticeSong],
    seed: int = 0,
    decoder_steps: int = 40,
    flow_steps: int = 300,
    held_out: int = 2,
    segment_frames: int = SEGMENT_FRAMES,
    sizes: Mapping[str, int] = SIZES,
    report: Callable[[str], None] = print,
) -> tuple[dict[str, Any], TrainingFigures]:
    """Train the tiny model.

    Args:
        songs: at least `held_out + 1`, none shorter than a segment; the last `held_out` are only measured on.
        segment_frames: length in latent frames of what the transformer sees at once.
        sizes: of the transformer and the condition encoder, as `tiny_components` takes them.
        report: takes the lines of progress.

    Returns:
        The components of an `AceStepPipeline`, and what training changed.

    Raises:
        ValueError: for too few or too short songs.
    """
    frames = [len(song.audio) // _HOP for song in songs]
    if len(songs) <= held_out or min(frames) < segment_frames:
        raise ValueError(
            f"{len(songs)} songs of {min(frames, default=0)} frames and more; "
            f"expected over {held_out}, each of at least {segment_frames} frames ({segment_frames / 25:.1f} s)."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        narrow, vae = new_narrow_encoder(), new_codec()
        write_inverse_transform(vae.decoder)
        waveforms = [torch.from_numpy(song.audio).T[:, : n * _HOP] for song, n in zip(songs, frames, strict=True)]
        latents = _normalized_latents(narrow, vae.decoder, waveforms, held_out)
        widen(narrow, vae.encoder)
        distance = _train_decoder(vae.decoder, waveforms, latents, held_out, decoder_steps, report)
        components = tiny_components(seed, vae=vae, **sizes)
        flow = _FlowTraining(components, songs, latents, held_out, segment_frames)
        loss = flow.train(flow_steps, report)
    return components, TrainingFigures(distance, loss)


@torch.no_grad()
def _normalized_latents(encoder, decoder, waveforms, held_out) -> list[torch.Tensor]:
    """Encode every song, `[frames, channels]` each, and scale the codec so that these have unit variance in all.

    Loud channels are brought half way to the quiet ones only, which matter less to the ear and so should to the loss.
    """
    encoded = [encoder(waveform[None])[0, :LATENT_CHANNELS] for waveform in waveforms]
    std = torch.cat(encoded[: len(encoded) - held_out], dim=1).std(dim=1).clamp(min=1e-3)
    factors = std**-0.5 / std.mean() ** 0.5
    factors[LINEAR_LATENTS:] = 1 / std[LINEAR_LATENTS:]  # the strengths of beats are in units of their own
    scale_latents(encoder, decoder, factors)
    return [(latent * factors[:, None]).T.contiguous() for latent in encoded]


def _log_spectrum(audio: torch.Tensor, size: int) -> torch.Tensor:
    spectrum = torch.stft(audio.flatten(0, 1), size, size // 4, window=torch.hann_window(size), return_complex=True)
    return torch.log(spectrum.abs() + 1e-2)


def spectral_distance(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of log spectra in nepers, windows of 512 and 2048 samples; of `[batch, 2, samples]`."""
    return sum((_log_spectrum(first, size) - _log_spectrum(second, size)).abs().mean() for size in (512, 2048)) / 2


def _train_decoder(decoder, waveforms, latents, held_out, steps, report) -> tuple[float, float]:
    train = len(waveforms) - held_out

    def crop(index: int, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        window = slice(first * _HOP, (first + _CROP_FRAMES) * _HOP)
        return waveforms[index][:, window], latents[index][first : first + _CROP_FRAMES].T

    def inner(audio: torch.Tensor) -> torch.Tensor:
        return audio[..., _HOP:-_HOP]  # the outer frames lack the neighbours they overlap with

    @torch.no_grad()
    def measure() -> float:
        pairs = [crop(index, start) for index in range(train, len(waveforms)) for start in (5, 40)]
        audio, latent = (torch.stack(items) for items in zip(*pairs, strict=True))
        return spectral_distance(inner(audio), inner(decoder(latent))).item()

    before = measure()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=4e-3, betas=(0.8, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 10) * (1 - step / steps))
    for step in range(steps):
        indices = torch.randint(train, (4,)).tolist()
        pairs = [crop(i, int(torch.randint(latents[i].shape[0] - _CROP_FRAMES, ()))) for i in indices]
        audio, latent = (torch.stack(items) for items in zip(*pairs, strict=True))
        decoded = decoder(latent)
        error = (inner(audio) - inner(decoded)).abs().mean()
        loss = spectral_distance(inner(audio), inner(decoded)) + 10 * error
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 20 == 0:
            report(f"VAE decoder: step {step + 1} of {steps}, loss {loss.item():.3f}")
    return before, measure()


class _FlowTraining:
    """One song a step, a few of its segments in a batch: the condition then has one length and needs no padding."""

    batch_size = 6

    def __init__(self, components, songs, latents, held_out, segment_frames):
        self.pipeline = AceStepPipeline(**components)
        self.transformer, self.condition_encoder = components["transformer"], components["condition_encoder"]
        self.songs, self.latents, self.train_count = songs, latents, len(songs) - held_out
        self.silence, self.frames = self.condition_encoder.silence_latent, segment_frames
        seconds = segment_frames / self.pipeline.latents_per_second
        with torch.no_grad():
            self.prompts = [
                self.pipeline.encode_prompt(
                    song.caption,
                    "[Instrumental]",
                    device=torch.device("cpu"),
                    vocal_language="unknown",
                    audio_duration=seconds,
                    bpm=song.bpm,
                    keyscale=song.keyscale,
                    timesignature=song.timesignature,
                )
                for song in songs
            ]

    def _condition(self, index: int) -> torch.Tensor:
        """`[1, L, D]`, as the pipeline makes it without a reference song."""
        return self.condition_encoder(
            *self.prompts[index],
            refer_audio_acoustic_hidden_states_packed=self.silence[:, :750],
            refer_audio_order_mask=torch.zeros(1, dtype=torch.long),
        )[0]

    def _loss(self, index, starts, noise, timestep, dropped) -> torch.Tensor:
        clean = torch.stack([self.latents[index][start : start + self.frames] for start in starts])
        t = timestep[:, None, None]
        condition = self._condition(index).expand(len(clean), -1, -1)
        null = self.condition_encoder.null_condition_emb.expand_as(condition)
        silence = self.silence[:, : self.frames]
        context = torch.cat([silence, torch.ones_like(silence)], dim=-1)  # beside it, the chunk mask
        velocity = self.transformer(
            hidden_states=t * noise + (1 - t) * clean,
            timestep=timestep,
            timestep_r=timestep,
            encoder_hidden_states=torch.where(dropped[:, None, None], null, condition),
            context_latents=context.expand(len(clean), -1, -1),
        ).sample
        return F.mse_loss(velocity, noise - clean)

    def _draw(self, index: int, count: int, generator: torch.Generator | None = None):
        spare = self.latents[index].shape[0] - self.frames
        starts = torch.randint(spare + 1, (count,), generator=generator).tolist()
        noise = torch.randn(count, self.frames, LATENT_CHANNELS, generator=generator)
        normal = TIMESTEP_MU + TIMESTEP_SIGMA * torch.randn(2, count, generator=generator)
        dropped = torch.rand(count, generator=generator) < CONDITION_DROPOUT
        return starts, noise, torch.sigmoid(normal).amax(dim=0), dropped

    @torch.no_grad()
    def measure(self) -> float:
        """The loss on the songs held out, always with the same noise and timesteps."""
        generator = torch.Generator().manual_seed(0)
        losses = [
            self._loss(index, *self._draw(index, 8, generator)) for index in range(self.train_count, len(self.songs))
        ]
        return torch.stack(losses).mean().item()

    def train(self, steps: int, report: Callable[[str], None]) -> tuple[float, float]:
        with torch.no_grad():
            self.transformer.proj_out_conv.weight.mul_(0.1)  # a small first velocity is the better guess
        before = self.measure()
        parameters = [*self.transformer.parameters(), *self.condition_encoder.parameters()]
        # Muon takes matrices only; with so few steps it comes clearly further than AdamW alone
        matrices = [parameter for parameter in parameters if parameter.ndim == 2]
        others = [parameter for parameter in parameters if parameter.ndim != 2]
        optimizers = [
            torch.optim.Muon(matrices, lr=6e-3, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=8e-3, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        rates = [
            torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 20) * (1.02 - step / steps))
            for optimizer in optimizers
        ]
        for step in range(steps):
            index = int(torch.randint(self.train_count, ()))
            loss = self._loss(index, *self._draw(index, self.batch_size))
            for parameter in parameters:
                parameter.grad = None
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for stepping in (*optimizers, *rates):
                stepping.step()
            if (step + 1) % 50 == 0:
                report(f"transformer: step {step + 1} of {steps}, loss {loss.item():.3f}")
        return before, self.measure()
