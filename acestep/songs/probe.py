"""Decodes one audio file completely, checks it against what it promises, hashes it and measures it.

Runs in a worker process (see `acestep.songs.workers`): a decoder may crash on a damaged file.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from acestep.errors import UserError
from acestep.songs.audio_files import check_size, damage, open_audio, shown_kind
from acestep.songs.chunks import FlacPromise, flac_promise
from acestep.songs.measure import Meter, measure_warnings
from acestep.songs.mpeg import walk
from acestep.songs.ogg import hash_packets

LOSSY = ("VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III")
_FLOAT = ("FLOAT", "DOUBLE")
LOUDEST_PEAK = 100.0  # floats that hold integers, or damaged ones; the loudest mixes stay under 10
SHORTEST_FRAMES = 1920  # at 48 kHz: one latent frame


@dataclass
class Probe:
    """What a whole file holds.

    Attributes:
        id: hash of the content, 32 hex digits.
        frames, sample_rate, channels: as decoded.
        lossy: whether the decoder computes the samples, so that another version of it may compute others.
        warnings: what a person should look at.
    """

    id: str
    frames: int
    sample_rate: int
    channels: int
    lossy: bool = False
    warnings: list[str] = field(default_factory=list)


def probe(path: Path, max_bytes: float, downmix: bool) -> Probe:
    """Decode and check a file.

    Args:
        max_bytes: the most it may decode to, as float32 at its own rate or at 48 kHz stereo, whichever is more.
        downmix: whether more than two channels are allowed.

    Raises:
        UserError: why the file must not be trained on; the message continues "song.mp3 ...".
    """
    size = path.stat().st_size
    if size > 2 * max_bytes:  # samples of 64 bits are the least dense that decode to 32
        raise UserError(f"is {size / 1e9:.1f} GB; at most {max_bytes / 1e9:g} GB may decode. Raise --max_decoded_gb.")
    warnings = damage(path)
    with open_audio(path) as audio:
        check_size(audio, max_bytes)
        if audio.channels > 2 and not downmix:
            raise UserError(f"has {audio.channels} channels; expected 1 or 2. Use --downmix to mix them to stereo.")
        lossless = audio.subtype not in LOSSY
        meter = Meter(audio.samplerate, audio.channels, lossless)
        digest = _read_all(audio, path, meter, max_bytes)
        measures = meter.result()
        if measures.frames < audio.frames:
            raise UserError(
                f"is cut: {measures.frames} frames decode, its header promises {audio.frames}. Get an undamaged copy."
            )
    if not measures.finite:
        raise UserError("holds NaN or infinity. Export it again.")
    if measures.frames * 48000 < SHORTEST_FRAMES * audio.samplerate:
        raise UserError(f"holds {measures.frames} frames of audio; expected at least 0.04 s. Get a complete copy.")
    if measures.peak > LOUDEST_PEAK:
        raise UserError(f"peaks at {measures.peak:.3g} times full scale: its samples are not scaled. Export it again.")
    if measures.peak < 1e-4:
        raise UserError("is silent. Remove it, or export it again.")
    kind, suffixes = shown_kind(audio)
    if suffixes and path.suffix.lower() not in suffixes:
        warnings.append(f"holds {kind} although its name ends in {path.suffix}: rename it")
    if audio.samplerate < 32000:
        highest = audio.samplerate / 2000
        warnings.append(
            f"sample rate {audio.samplerate} Hz: it teaches the model that nothing is above {highest:.1f} kHz"
        )
    if audio.channels > 2:
        warnings.append(f"{audio.channels} channels are mixed to stereo")
    warnings += measure_warnings(measures, lossless)
    return Probe(digest, measures.frames, audio.samplerate, audio.channels, not lossless, warnings)


def _read_all(audio: soundfile.SoundFile, path: Path, meter: Meter, max_bytes: float) -> str:
    """Decode to the end into the meter; return the content's hash."""
    lossy, floating = audio.subtype in LOSSY, audio.subtype in _FLOAT
    head = f"{audio.samplerate} {audio.channels}".encode()
    digest = hashlib.sha256(head)
    promise = flac_promise(path) if audio.format == "FLAC" else None
    flac = _FlacCheck(promise) if promise else None
    frames = 0
    while True:
        # Integers are the same on every machine; what a lossy decoder computes is not.
        block = audio.read(meter.block_frames, dtype="float32" if lossy or floating else "int32", always_2d=True)
        if not len(block):
            break
        frames += len(block)
        if frames * audio.channels * 4 > max_bytes:
            raise UserError(f"decodes to more than {max_bytes / 1e9:g} GB (--max_decoded_gb). Cut it into songs.")
        if not lossy:
            digest.update(np.ascontiguousarray(block).astype("<f4" if floating else "<i4", copy=False))
        if flac is not None:
            flac.update(block)
        meter.add(block if block.dtype == np.float32 else block.astype(np.float32) / np.float32(2**31))
    if flac is not None:
        flac.check(frames)
    if lossy:
        content = path.read_bytes()
        if content.startswith(b"OggS"):
            digest = hash_packets(content)
        else:
            digest = hashlib.sha256(walk(content).audio if audio.format == "MP3" else content)
    return digest.hexdigest()[:32]


class _FlacCheck:
    """Compares decoded samples with the MD5 that the encoder stored, which libsndfile does not do."""

    def __init__(self, promise: FlacPromise):
        self._promise, self._digest = promise, hashlib.md5(usedforsecurity=False)

    def update(self, block: np.ndarray) -> None:
        """Take samples `[frames, channels]` as int32 with the sign in the highest bit."""
        width = (self._promise.bits + 7) // 8
        samples = block >> 32 - self._promise.bits
        packed = np.ascontiguousarray(samples, "<i4").view(np.uint8).reshape(-1, 4)[:, :width]
        self._digest.update(np.ascontiguousarray(packed))

    def check(self, frames: int) -> None:
        """Raise UserError where the promise is not kept."""
        if self._promise.frames and frames < self._promise.frames:
            raise UserError(
                f"is cut: {frames} frames decode and its header promises {self._promise.frames}. Get an undamaged copy."
            )
        if any(self._promise.md5) and self._digest.digest() != self._promise.md5:
            raise UserError("is damaged: what it decodes to does not match its MD5. Get an undamaged copy.")
