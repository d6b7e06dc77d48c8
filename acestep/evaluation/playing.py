"""Music for the prompts of held-out songs, by each model from the same noise, and what is measured of it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from acestep.dataset.schema import FRAMES_PER_SECOND, PROMPT_KINDS
from acestep.evaluation.model import HELD_OUT, MeasuredModel
from acestep.evaluation.music import Music
from acestep.models.generation import NotFinite, decode_latents, normalised, sample_latents
from acestep.models.generation_files import write_audio
from acestep.models.generation_requests import Sampling
from acestep.players import Clip
from acestep.train.previews import EncodedCondition, encoded_pipeline

NOT_FINITE = "not finite"


@dataclass(frozen=True)
class Piece:
    """One piece of music.

    Attributes:
        clip: its file, or why there is none.
        latents: `[frames, channels]`, None where there is nothing to hear.
        music: tempo and key, where they are measured.
        embeddings: `[count, dimensions]` by CLAP, where it is at hand.
    """

    clip: Clip
    latents: torch.Tensor | None = None
    music: Music | None = None
    embeddings: np.ndarray | None = None


class Player:
    """Plays prompts of held-out songs as they were encoded: tokens, tempo, key and duration are the song's own.

    Args:
        model: whatever adapter is on it plays.
        rows, indices: the songs whose prompts are played.
        sampling: how the flow is integrated.
        seed: of the first piece's noise; each further one has the next.
        folder: for the music.
        analyse: measures tempo and key, see `acestep.evaluation.music.analyse`.
        embed: see `acestep.evaluation.clap.Clap`.
    """

    def __init__(
        self,
        model: MeasuredModel,
        rows: Any,
        indices: Sequence[int],
        sampling: Sampling,
        seed: int,
        folder: Path,
        analyse: Callable[[torch.Tensor, int], Music] | None = None,
        embed: Callable[[torch.Tensor, int], np.ndarray] | None = None,
    ):
        self.model, self.rows, self.indices = model, rows, list(indices)
        self.sampling, self.seed, self.folder = sampling, seed, folder
        self.analyse, self.embed = analyse, embed
        self.vae = model.checkpoint.vae(model.dtype)
        self.vae.enable_tiling()  # as `Generator` has it: long songs in bounded memory
        self.silence = model.checkpoint.silence_latent()
        self.null = model.checkpoint.null_condition().to(model.dtype)
        self.scheduler = model.checkpoint.scheduler()

    def play(self, label: str) -> list[Piece]:
        """A piece for each prompt; files are named after the song and `label`."""
        bar = tqdm(self.indices, desc=f"{label}: music", unit="song", leave=False, disable=None)
        return [self._piece(self._latents(number, index), number, index, label) for number, index in enumerate(bar)]

    def held_out(self) -> list[Piece]:
        """The songs themselves, through the VAE as what is generated: its flaws do not count as a difference."""
        bar = tqdm(self.indices, desc=HELD_OUT, unit="song", leave=False, disable=None)
        latents = (self.rows.tensor(index, "latents") for index in bar)
        return [
            self._piece(song, number, index, HELD_OUT)
            for number, (index, song) in enumerate(zip(self.indices, latents, strict=True))
        ]

    @torch.no_grad()
    def _latents(self, number: int, index: int) -> torch.Tensor:
        row = self.rows.texts(index)
        kind = "caption" if row["text_prompt"] else "genre"  # as the loss is measured
        condition = self.rows.tensor(index, PROMPT_KINDS[kind]).to(self.model.device, self.model.dtype)
        encoded = EncodedCondition(condition, self.silence, self.null)
        pipeline = encoded_pipeline(self.vae, self.model.transformer, self.scheduler, encoded)
        # half a frame less, which the pipeline rounds up to the song's frames whatever floats make of the seconds
        seconds = (row["frames"] - 0.5) / FRAMES_PER_SECOND
        with self.model.autocast():
            latents = sample_latents(pipeline, self.seed + number, self.sampling, prompt="", audio_duration=seconds)
        return latents[0].float().cpu()

    def _piece(self, latents: torch.Tensor, number: int, index: int, label: str) -> Piece:
        name = re.sub(r"[^\w-]+", "-", f"{Path(self.rows.texts(index)['file_name']).stem[:40]}.{label}").strip("-")
        file = self.folder / f"{number + 1:02d}-{name}.flac"
        try:
            decoded = decode_latents(self.vae.to(self.model.device), latents[None].to(self.model.device))
        except NotFinite:
            return Piece(Clip(problem=NOT_FINITE))
        finally:
            self.vae.to("cpu")
        audio, rate = normalised(decoded), self.vae.config.sampling_rate
        write_audio(file, audio, rate)
        rms, peak = audio.square().mean().sqrt().item(), audio.abs().max().item()
        return Piece(
            Clip(f"{self.folder.name}/{file.name}", audio.shape[1] / rate, peak, rms),
            latents,
            self.analyse(audio, rate) if self.analyse else None,
            self.embed(audio, rate) if self.embed else None,
        )


def spread(rows: Any, count: int) -> list[int]:
    """At most `count` rows, evenly spread over the dataset and of different songs as far as there are as many."""
    first = {song: index for index, song in reversed(list(enumerate(rows.column("song_id"))))}
    chosen = sorted(first.values())
    others = [index for index in range(len(rows)) if index not in set(chosen)]
    if len(chosen) < count:
        return sorted(chosen + others[: count - len(chosen)])
    return [chosen[number * len(chosen) // count] for number in range(count)]
