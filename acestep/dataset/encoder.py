"""Encoding songs: audio, then texts, then conditions, each with its own model in memory."""

import copy
import gc
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from acestep.dataset.latents import TILE_OVERLAP_SECONDS, encode_audio, set_tiles
from acestep.dataset.processes import Processes, share_by_length
from acestep.dataset.progress import AudioProgress
from acestep.dataset.row import song_prompts, song_row
from acestep.dataset.schema import ModelRecord
from acestep.dataset.store import TensorStore
from acestep.errors import UserError
from acestep.kept import content_key
from acestep.models.checkpoint import Checkpoint
from acestep.models.conditioning import MAX_LYRIC_TOKENS, MAX_TEXT_TOKENS, Prompt, encode_condition, encode_texts
from acestep.songs import SkippedSong, Song, decode_songs
from acestep.songs.decode import decoding_version

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

    Several processes share the songs out and meet in the store, which all of them must see.

    Args:
        checkpoint: the model whose conditions the dataset is for.
        store: where tensors are kept from run to run.
        device: of the encoders.
        dtype: the encoders compute in; float32 unless memory forbids.
        tile_seconds: length of the VAE's tiles.
        workers: processes that decode audio ahead of the VAE.
        decode_timeout: seconds after which decoding a file is given up.
        processes: of `accelerate launch`.
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
        decode_timeout: float = 300.0,
        processes: Processes | None = None,
    ):
        if tile_seconds < MIN_TILE_SECONDS:
            raise UserError(f"--vae_tile_seconds is {tile_seconds}; expected at least {MIN_TILE_SECONDS}.")
        self.checkpoint, self.store, self.processes = checkpoint, store, processes or Processes()
        self.device, self.dtype, self.tile_seconds = torch.device(device), dtype, tile_seconds
        self.workers, self.decode_timeout = workers, decode_timeout
        layout = checkpoint.layout
        vae = layout.bundle if layout.kind == "original" and layout.bundle else layout.repository
        self.record = ModelRecord(
            model=_portable_name(checkpoint.name, layout.repository.is_local),
            revision=checkpoint.commit,
            vae=checkpoint.fingerprint("vae"),
            text_encoder=checkpoint.fingerprint("text_encoder"),
            condition_encoder=checkpoint.fingerprint("condition_encoder"),
            vae_model=_portable_name(vae.name, vae.is_local),
            vae_revision=vae.commit,
            encode_dtype=str(dtype).removeprefix("torch."),
        )

    def latents_key(self, song: Song) -> str:
        """Audio, how it is decoded, VAE and the encoding's parameters; a tile's length does not change the result."""
        audio = (song.id, song.start, song.duration, *decoding_version(song))
        return content_key("latents", *audio, self.record.vae, str(self.dtype))

    def texts_key(self, prompt: Prompt) -> str:
        return content_key("texts", prompt.strings(), self.record.text_encoder, str(self.dtype))

    def condition_key(self, prompt: Prompt) -> str:
        return content_key("condition", self.texts_key(prompt), self.record.condition_encoder)

    def encode(self, songs: list[Song]) -> Prepared:
        """Encode what the store does not hold yet, stage by stage.

        Returns:
            What it came to over all processes; the same in each.
        """
        prepared = Prepared()
        with _timed(prepared, "audio"):
            self._encode_audio(songs, prepared)
        prompts = {self.texts_key(prompt): prompt for song in prepared.songs for prompt in song_prompts(song).values()}
        mine = self._share_missing(prompts)
        with _timed(prepared, "texts"):
            self._encode_texts([prompt for prompt in mine if ("texts", self.texts_key(prompt)) not in self.store])
            if self.processes.is_main:
                self._warn_of_cuts(prepared)
        with _timed(prepared, "conditions"):
            if damaged := self._encode_conditions(mine):
                self._encode_texts(damaged)
                self._encode_conditions(damaged)
            self.processes.wait()
        return prepared

    def row(self, song: Song, prepared: Prepared) -> dict[str, Any]:
        """One of the rows of `prepared.songs` from the store, in the main process alone.

        An entry that turns out to be damaged is made again and counted in `prepared`.
        """
        prompts = song_prompts(song)
        latents = self._entry("latents", self.latents_key(song), song, prepared)
        conditions = {
            kind: self._entry("condition", self.condition_key(prompt), song, prepared)["encoder_hidden_states"].numpy()
            for kind, prompt in prompts.items()
        }
        return song_row(song, prompts, conditions, latents["mean"].numpy(), latents["std"].numpy())

    def _entry(self, kind: str, key: str, song: Song, prepared: Prepared) -> dict[str, torch.Tensor]:
        found = self.store.get(kind, key)
        if found is None and self.store.path(kind, key) not in self.store.damaged:
            raise UserError(
                f"--cache_dir {self.store.folder.name}: has no {kind} of {song.file_name}, put there by a process. "
                "All processes and machines must share one --cache_dir, and nothing else may empty it."
            )
        if found is None:
            alone = copy.copy(self)  # the other processes are not there any more
            alone.processes = Processes.alone()
            again = alone.encode([song])
            if again.skipped:
                raise UserError(f"{song.file_name}: {again.skipped[0].reason}")
            prepared.encoded, prepared.reused = prepared.encoded + again.encoded, prepared.reused - again.encoded
            found = self.store.get(kind, key)
        return found

    def _encode_audio(self, songs: list[Song], prepared: Prepared) -> None:
        missing = [song for song in songs if ("latents", self.latents_key(song)) not in self.store]
        self.processes.wait()  # everyone has looked before anyone writes, so that all share out the same list
        mine = share_by_length(missing, self.processes.count)[self.processes.index]
        done: list[tuple[str, SkippedSong | None]] = []
        if mine:
            vae = self.checkpoint.vae(self.dtype).to(self.device)
            set_tiles(vae, self.tile_seconds)
            progress = AudioProgress(mine, self.processes.is_main)
            for song, audio in decode_songs(mine, workers=self.workers, timeout=self.decode_timeout):
                if isinstance(audio, SkippedSong):
                    done.append((song.row_id, audio))
                else:
                    mean, std = encode_audio(vae, torch.from_numpy(audio))
                    self.store.put("latents", self.latents_key(song), {"mean": mean, "std": std})
                    done.append((song.row_id, None))
                progress.step(song)
            progress.close()
            _release(vae)
        done = self.processes.gather(done)
        failed = {row_id: skipped for row_id, skipped in done if skipped is not None}
        prepared.songs = [song for song in songs if song.row_id not in failed]
        prepared.skipped = [failed[row_id] for row_id in sorted(failed, key=lambda row_id: failed[row_id].file_name)]
        prepared.encoded, prepared.reused = len(done) - len(failed), len(songs) - len(missing)

    def _share_missing(self, prompts: dict[str, Prompt]) -> list[Prompt]:
        """This process's part of the prompts that have no condition yet."""
        missing = [prompt for prompt in prompts.values() if ("condition", self.condition_key(prompt)) not in self.store]
        self.processes.wait()
        return self.processes.share(missing)

    def _encode_texts(self, prompts: list[Prompt]) -> None:
        if not prompts:
            return
        tokenizer = self.checkpoint.tokenizer()
        text_encoder = self.checkpoint.text_encoder(self.dtype).to(self.device)
        for prompt in tqdm(prompts, desc="texts", unit="text", disable=not self.processes.is_main):
            self.store.put("texts", self.texts_key(prompt), encode_texts(prompt, text_encoder, tokenizer))
        _release(text_encoder)

    def _encode_conditions(self, prompts: list[Prompt]) -> list[Prompt]:
        """Returns the prompts whose text states turned out to be damaged."""
        if not prompts:
            return []
        damaged = []
        encoder = self.checkpoint.condition_encoder(self.dtype).to(self.device)
        for prompt in tqdm(prompts, desc="conditions", unit="text", disable=not self.processes.is_main):
            texts = self.store.get("texts", self.texts_key(prompt))
            if texts is None:
                damaged.append(prompt)
                continue
            condition = encode_condition(texts, encoder)
            self.store.put("condition", self.condition_key(prompt), {"encoder_hidden_states": condition.float()})
        _release(encoder)
        return damaged

    def _warn_of_cuts(self, prepared: Prepared) -> None:
        tokenizer = self.checkpoint.tokenizer()
        for song in prepared.songs:
            for kind, prompt in song_prompts(song).items():
                prepared.warnings += _cut_warnings(f"{_row_name(song)} ({kind})", prompt, tokenizer)


class _timed:
    """Adds the seconds of its block to `prepared.seconds`."""

    def __init__(self, prepared: Prepared, stage: str):
        self.prepared, self.stage = prepared, stage

    def __enter__(self) -> None:
        self.began = time.monotonic()

    def __exit__(self, *_exception: object) -> None:
        self.prepared.seconds[self.stage] = time.monotonic() - self.began


def _portable_name(name: str, is_local: bool) -> str:
    """A Hub id as it is; of a folder's path only the last part, which says something on other machines too."""
    return Path(name).expanduser().resolve().name if is_local else name


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
