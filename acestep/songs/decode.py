"""Decoded songs for the encoder: float32 stereo at 48 kHz, decoded ahead in worker processes."""

import importlib.metadata
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from acestep.errors import UserError
from acestep.songs.audio_files import SAMPLE_RATE, decoder_version, open_audio
from acestep.songs.song import SkippedSong, Song
from acestep.songs.workers import WorkerDied, run_in_workers

# To be raised when samples come out otherwise than before by more than rounding: latents of songs are made again then.
DECODING_VERSION = 1
# Gains of each channel to left and right, in the order of WAV files: front left, front right, centre, low frequency,
# back left, back right. Centre and back at -3 dB, as ITU-R BS.775 mixes them; the low-frequency channel is left out.
_HALF = 0.5**0.5
_ROUNDING_SAMPLES = 48  # a millisecond: resampled lengths are rounded, of hours by some samples
_DOWNMIX = {
    4: [[1, 0, _HALF, 0], [0, 1, 0, _HALF]],
    5: [[1, 0, _HALF, _HALF, 0], [0, 1, _HALF, 0, _HALF]],
    6: [[1, 0, _HALF, 0, _HALF, 0], [0, 1, _HALF, 0, 0, _HALF]],
}


def decode_songs(
    songs: Iterable[Song], workers: int = 2, timeout: float = 300.0
) -> Iterator[tuple[Song, np.ndarray | SkippedSong]]:
    """Decode songs in isolated processes, in the order given.

    At most `workers + 1` files are held decoded at a time. Segments of one file that follow one another are cut from
    one decoding of it.

    Args:
        songs: songs or segments, as `scan_songs` gives them.
        workers: processes that decode ahead, at least 1.
        timeout: seconds one file may take.

    Yields:
        The song and its audio `[2, samples]`, float32 at 48 kHz (mono is doubled, more channels are mixed); or the song
        and a `SkippedSong` where the decoder failed, crashed, or took too long.
    """
    groups = (list(group) for _, group in groupby(songs, key=lambda song: song.path))
    waiting: list[list[Song]] = []

    def tasks() -> Iterator[tuple]:
        for group in groups:
            waiting.append(group)
            yield group[0].path, [None if song.segment is None else (song.start, song.duration) for song in group]

    for result in run_in_workers(decode_file, tasks(), max(1, workers), timeout, ahead=max(1, workers)):
        group = waiting.pop(0)
        if isinstance(result, Exception):
            for song in group:
                yield song, SkippedSong(song.file_name, skip_reason(result))
            continue
        for index, song in enumerate(group):
            # Let each segment go as soon as it was handed on.
            samples, result[index] = result[index], None
            lacking = round(song.duration * SAMPLE_RATE) - samples.shape[1]
            if lacking > _ROUNDING_SAMPLES:
                reason = f"decodes to {lacking / SAMPLE_RATE:.2f} s less than when it was scanned. Scan again."
                yield song, SkippedSong(song.file_name, reason)
            else:
                yield song, samples


def decoding_version(song: Song) -> list[str]:
    """What a song's samples depend on beside its content: this code, and the libraries that compute with it.

    A library has a part only where it computes: a decoder in lossy files, the resampler where the rate is another.
    """
    parts = [f"decoding {DECODING_VERSION}"]
    if song.lossy:
        parts.append(decoder_version(song.path.suffix))
    if song.sample_rate != SAMPLE_RATE:
        major, minor, *_ = importlib.metadata.version("torchaudio").split(".")
        parts.append(f"torchaudio {major}.{minor}")
    return parts


def decode_file(path: Path, slices: list[tuple[float, float] | None]) -> list[np.ndarray]:
    """Decode a file and return `[2, samples]` at 48 kHz for each `(start, duration)` in seconds; None is all of it.

    Raises:
        UserError: it cannot be decoded.
    """
    with open_audio(path) as audio:
        rate, promised = audio.samplerate, audio.frames
        samples = audio.read(-1, dtype="float32", always_2d=True)  # [frames, channels]
    if len(samples) < promised:
        raise UserError(f"is cut: {len(samples)} frames decode and its header promises {promised}.")
    if not np.isfinite(samples).all():
        raise UserError("holds NaN or infinity. Export it again.")
    stereo = resample(to_stereo(samples.T), rate)
    if slices == [None]:
        return [stereo]
    # Copies: a view would keep the whole song alive in each of its segments.
    return [stereo if cut is None else _cut(stereo, *cut).copy() for cut in slices]


def to_stereo(samples: np.ndarray) -> np.ndarray:
    """Return `[2, samples]` for `[channels, samples]`: mono doubled, surround mixed without exceeding full scale."""
    channels = len(samples)
    if channels == 2:
        return samples
    if channels == 1:
        return np.repeat(samples, 2, axis=0)
    gains = np.array(_DOWNMIX.get(channels, np.full((2, channels), 1.0)), np.float32)
    gains /= gains.sum(axis=1, keepdims=True)
    return gains @ samples


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return `[2, samples]` at 48 kHz for `[2, samples]` at `rate`, by torchaudio."""
    if rate == SAMPLE_RATE:
        return np.ascontiguousarray(samples, np.float32)
    import torch
    import torchaudio.functional

    torch.set_num_threads(1)  # the other workers have the other cores
    # A channel at a time halves the memory of the filter's intermediate results.
    resampled = None
    for index, channel in enumerate(samples):
        source = torch.from_numpy(np.ascontiguousarray(channel))
        target = torchaudio.functional.resample(source, rate, SAMPLE_RATE).numpy()
        if resampled is None:  # torchaudio rounds the length in float32: it is not known before
            resampled = np.empty((2, len(target)), np.float32)
        resampled[index] = target
    return resampled


def skip_reason(error: Exception) -> str:
    """Return why a song is left out, for what its worker raised."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, WorkerDied):
        return f"cannot be decoded: {error}. Get an undamaged copy, or convert it."
    if isinstance(error, MemoryError):
        return "cannot be decoded: out of memory. Use fewer --decode_workers or a lower --max_decoded_gb."
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror}). Check the file and its permissions."
    return f"cannot be decoded ({str(error).split(': ')[-1].rstrip('.')}). Get an undamaged copy."


def _cut(stereo: np.ndarray, start: float, duration: float) -> np.ndarray:
    first = round(start * SAMPLE_RATE)
    return stereo[:, first : first + round(duration * SAMPLE_RATE)]
