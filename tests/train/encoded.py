"""Encoded datasets made without audio: random latents with real conditions of a tiny model."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from acestep.dataset.assemble import write_dataset
from acestep.dataset.row import song_prompts, song_row
from acestep.dataset.schema import ModelRecord
from acestep.models.checkpoint import Checkpoint
from acestep.models.conditioning import encode_condition, encode_texts
from acestep.models.tiny import save_tiny_pipeline, tiny_components
from acestep.songs import Song

CHANNELS = 8  # latent channels: few, for speed


@dataclass(frozen=True)
class Encoded:
    """A tiny model and a dataset for it."""

    model: Path
    dataset: Path


def make_model(folder: Path, seed: int = 0, variant: str = "base") -> Path:
    save_tiny_pipeline(tiny_components(seed, variant, latent_channels=CHANNELS, downsampling_ratios=(40, 48)), folder)
    return folder


def make_dataset(
    folder: Path,
    model: Path,
    lengths: list[int],
    latents: list[np.ndarray] | None = None,
    ids: list[str] | None = None,
    **fields,
) -> Path:
    """A dataset of `len(lengths)` songs with so many frames each; `fields` go to every song.

    Songs of one of the `ids` are segments of one song.
    """
    checkpoint = Checkpoint(str(model))
    text_encoder, tokenizer = checkpoint.text_encoder(torch.float32), checkpoint.tokenizer()
    condition_encoder = checkpoint.condition_encoder(torch.float32)
    random = np.random.default_rng(7)

    def rows():
        for number, frames in enumerate(lengths):
            song = Song(
                file_name=f"song{number}.wav",
                path=Path(f"song{number}.wav"),
                id=f"{number:032x}" if ids is None else ids[number],
                duration=frames / 25,
                sample_rate=48_000,
                channels=2,
                lyrics="la " * (number + 1),
                is_instrumental=False,
                **{"caption": "a song " * (number + 1), **fields},
            )
            mean = random.standard_normal((frames, CHANNELS), dtype=np.float32) + 1
            mean = mean if latents is None else latents[number]
            std = np.full_like(mean, 0.5)
            prompts = song_prompts(song)
            conditions = {
                kind: encode_condition(encode_texts(prompt, text_encoder, tokenizer), condition_encoder).numpy()
                for kind, prompt in prompts.items()
            }
            yield song_row(song, prompts, conditions, mean, std)

    record = ModelRecord(
        model=model.name,
        revision=None,
        vae=checkpoint.fingerprint("vae"),
        text_encoder=checkpoint.fingerprint("text_encoder"),
        condition_encoder=checkpoint.fingerprint("condition_encoder"),
    )
    write_dataset(rows, folder, record, channels=CHANNELS, condition_size=checkpoint.condition_size, dtype="float32")
    return folder
