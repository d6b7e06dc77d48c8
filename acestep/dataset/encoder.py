"""Encoding songs: audio, then texts, then conditions, each with its own model in memory."""

import gc
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from acestep.dataset.latents import TILE_OVERLAP_SECONDS, encode_audio, set_tiles
from acestep.dataset.row import song_prompts, song_row
from acestep.dataset.schema import ModelRecord
from acestep.dataset.store import TensorStore, content_key
from acestep.errors import UserError
from acestep.models.checkpoint import Checkpoint
from acestep.models.conditioning import MAX_LYRIC_TOKENS, MAX_TEXT_TOKENS, Prompt, encode_condition, encode_texts
from acestep.songs import SkippedSong, Song, decode_songs

MIN_TILE_SECONDS = 2 * TILE_OVERLAP_SECONDS + 2


@dataclass
class Prepared:
    """What encoding a folder came to.

    Attributes:
        songs: the songs (or segments) that have latents.
        skipped: songs that could not be decoded after all; those left out by the scan are not repeated here.
        warnings: texts that were cut, one line each.
        encoded, reused: songs encoded in this run, and songs taken from the store.
        seconds: time spent a stage.
    """

    songs: list[Song] = field(default_factory=list)
    skipped: list[SkippedSong] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    encoded: int = 0
    reused: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


class DatasetEncoder:
    """Encodes songs with one checkpoint and keeps every result in a store.

    Args:
        checkpoint: the model whose conditions the dataset is for.
        store: where tensors are kept from run to run.
        device: of the encoders.
        dtype: the encoders compute in; float32 unless memory forbids.
        tile_seconds: length of the VAE's tiles.
        workers: processes that decode audio ahead of the VAE.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        store: TensorStore,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        tile_seconds: int = 10,
        workers: int = 2,
    ):
        if tile_seconds < MIN_TILE_SECONDS:
            raise UserError(f"--vae_tile_seconds is {tile_seconds}; expected at least {MIN_TILE_SECONDS}.")
        self.checkpoint, self.store = checkpoint, store
        self.device, self.dtype, self.tile_seconds, self.workers = torch.device(device), dtype, tile_seconds, workers
        local = checkpoint.layout.repository.is_local
        self.record = ModelRecord(
            model=Path(checkpoint.name).resolve().name if local else checkpoint.name,
            revision=checkpoint.commit,
            vae=checkpoint.fingerprint("vae"),
            text_encoder=checkpoint.fingerprint("text_encoder"),
            condition_encoder=checkpoint.fingerprint("condition_encoder"),
        )

    def latents_key(self, song: Song) -> str:
        """Audio, VAE and the encoding's parameters; a tile's length is none, since it does not change the result."""
        return content_key("latents", song.id, song.start, song.duration, self.record.vae, str(self.dtype))

    def texts_key(self, prompt: Prompt) -> str:
        return content_key("texts", prompt.strings(), self.record.text_encoder, str(self.dtype))

    def condition_key(self, prompt: Prompt) -> str:
        return content_key("condition", self.texts_key(prompt), self.record.condition_encoder)

    def encode(self, songs: list[Song]) -> Prepared:
        """Encode what the store does not hold yet, stage by stage."""
        prepared = Prepared()
        with _timed(prepared, "audio"):
            self._encode_audio(songs, prepared)
        prompts = {
            f"{_row_name(song)} ({kind})": prompt
            for song in prepared.songs
            for kind, prompt in song_prompts(song).items()
        }
        with _timed(prepared, "texts"):
            self._encode_texts(prompts, prepared)
        with _timed(prepared, "conditions"):
            self._encode_conditions(prompts.values())
        return prepared

    def rows(self, songs: list[Song]) -> Iterator[dict[str, Any]]:
        """The dataset's rows, each read from the store when it is asked for."""
        for song in songs:
            latents = self.store.get("latents", self.latents_key(song))
            prompts = song_prompts(song)
            conditions = {
                kind: self.store.get("condition", self.condition_key(prompt))["encoder_hidden_states"].numpy()
                for kind, prompt in prompts.items()
            }
            yield song_row(song, prompts, conditions, latents["mean"].numpy(), latents["std"].numpy())

    def _encode_audio(self, songs: list[Song], prepared: Prepared) -> None:
        missing = [song for song in songs if ("latents", self.latents_key(song)) not in self.store]
        prepared.reused = len(songs) - len(missing)
        failed: set[str] = set()
        if missing:
            vae = self.checkpoint.vae(self.dtype).to(self.device)
            set_tiles(vae, self.tile_seconds)
            progress = _AudioProgress(missing)
            for song, audio in decode_songs(missing, workers=self.workers):
                if isinstance(audio, SkippedSong):
                    prepared.skipped.append(audio)
                    failed.add(song.row_id)
                else:
                    mean, std = encode_audio(vae, torch.from_numpy(audio))
                    self.store.put("latents", self.latents_key(song), {"mean": mean, "std": std})
                    prepared.encoded += 1
                progress.step(song)
            progress.close()
            _release(vae)
        prepared.songs = [song for song in songs if song.row_id not in failed]

    def _encode_texts(self, prompts: dict[str, Prompt], prepared: Prepared) -> None:
        tokenizer = self.checkpoint.tokenizer()
        for name, prompt in prompts.items():
            prepared.warnings += _cut_warnings(name, prompt, tokenizer)
        missing = [
            prompt
            for prompt in prompts.values()
            if not self._has_condition(prompt) and ("texts", self.texts_key(prompt)) not in self.store
        ]
        if not missing:
            return
        text_encoder = self.checkpoint.text_encoder(self.dtype).to(self.device)
        for prompt in tqdm(missing, desc="texts", unit="text"):
            self.store.put("texts", self.texts_key(prompt), encode_texts(prompt, text_encoder, tokenizer))
        _release(text_encoder)

    def _encode_conditions(self, prompts: Iterable[Prompt]) -> None:
        missing = [prompt for prompt in prompts if not self._has_condition(prompt)]
        if not missing:
            return
        encoder = self.checkpoint.condition_encoder(self.dtype).to(self.device)
        for prompt in tqdm(missing, desc="conditions", unit="text"):
            texts = self.store.get("texts", self.texts_key(prompt))
            condition = encode_condition(texts, encoder)
            self.store.put("condition", self.condition_key(prompt), {"encoder_hidden_states": condition.float()})
        _release(encoder)

    def _has_condition(self, prompt: Prompt) -> bool:
        return ("condition", self.condition_key(prompt)) in self.store


class _AudioProgress:
    """Songs done, hours of audio done an hour, and the time left by audio, not by songs."""

    def __init__(self, songs: list[Song]):
        self.began = time.monotonic()
        self.done, self.total, self.songs, self.count = 0.0, sum(song.duration for song in songs), len(songs), 0
        self.bar = tqdm(
            total=round(self.total, 1),
            desc="audio",
            unit="s",
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {postfix} [{elapsed}<{remaining}]",
        )

    def step(self, song: Song) -> None:
        self.count += 1
        self.done += song.duration
        speed = self.done / max(time.monotonic() - self.began, 1e-6)  # seconds of audio a second = hours an hour
        self.bar.set_postfix_str(f"{self.count}/{self.songs} songs, {speed:.1f} h of audio/h", refresh=False)
        self.bar.update(round(min(song.duration, self.bar.total - self.bar.n), 1))

    def close(self) -> None:
        self.bar.close()


class _timed:
    """Adds the seconds of its block to `prepared.seconds`."""

    def __init__(self, prepared: Prepared, stage: str):
        self.prepared, self.stage = prepared, stage

    def __enter__(self) -> None:
        self.began = time.monotonic()

    def __exit__(self, *_exception: object) -> None:
        self.prepared.seconds[self.stage] = time.monotonic() - self.began


def _row_name(song: Song) -> str:
    return song.file_name if song.segment is None else f"{song.file_name} at {song.start:g} s"


def _cut_warnings(name: str, prompt: Prompt, tokenizer: Any) -> list[str]:
    text, lyrics = prompt.token_counts(tokenizer)
    warnings = []
    if text > MAX_TEXT_TOKENS:
        warnings.append(
            f"{name}: the prompt has {text} tokens, the model reads {MAX_TEXT_TOKENS}. Tempo, key and duration stand "
            "last and are cut off first: shorten the caption."
        )
    if lyrics > MAX_LYRIC_TOKENS:
        warnings.append(
            f"{name}: the lyrics have {lyrics} tokens, the model reads {MAX_LYRIC_TOKENS}; the rest is cut off."
        )
    return warnings


def _release(model: nn.Module) -> None:
    """Give a model's memory back before the next one is opened."""
    model.to("meta")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
