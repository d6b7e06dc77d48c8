"""Opening audio files, by libsndfile where it can, else by torchaudio with torchcodec; and what they promise."""

import contextlib
import importlib.metadata
import importlib.util
import math
import shlex
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile

from acestep.errors import UserError
from acestep.songs.chunks import chunk_damage
from acestep.songs.mpeg import mpeg_damage, mpeg_warnings, walk
from acestep.songs.ogg import ogg_damage

SAMPLE_RATE = 48000
# libsndfile's error codes
_NOT_RECOGNISED = (1, 7)  # 7, "not a regular file", is what it says of an MP3 without a single frame
_NOT_IMPLEMENTED = (4, 18, 64)  # 64, a malformed 'fmt ' chunk, is what it says of MP3 or ATRAC within WAV
# Resampling between rates with hardly a common divisor (44099 and 48000) takes a filter of gigabytes.
_MAX_FILTER_TAPS = 2**25
_NEEDS_CODEC = (".m4a", ".aac", ".wma", ".m4b", ".mp4", ".webm", ".caf")
_KINDS = {  # libsndfile's format or subtype: what people call it, the suffixes it goes by
    "WAV": ("WAV", (".wav",)),
    "WAVEX": ("WAV", (".wav",)),
    "RF64": ("WAV", (".wav",)),
    "FLAC": ("FLAC", (".flac",)),
    "AIFF": ("AIFF", (".aiff", ".aif", ".aifc")),
    "CAF": ("CAF", (".caf",)),
    "W64": ("Wave64", (".w64",)),
    "OPUS": ("Opus", (".opus", ".ogg")),
    "OGG": ("Ogg", (".ogg",)),
    "MP3": ("MP3", (".mp3",)),
}


class Audio(Protocol):
    """What `soundfile.SoundFile` offers and this package uses."""

    samplerate: int
    channels: int
    frames: int
    format: str
    subtype: str

    def read(self, frames: int, dtype: str, always_2d: bool) -> np.ndarray: ...
    def __enter__(self) -> "Audio": ...
    def __exit__(self, *exception: object) -> None: ...


def open_audio(path: Path) -> Audio:
    """Open a file for reading.

    Raises:
        UserError: nothing that is installed decodes it; the message continues "song.m4a ...".
    """
    try:
        return soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
        if path.suffix.lower() not in _NEEDS_CODEC:
            raise UserError(_refusal(path, error)) from error
    if importlib.util.find_spec("torchcodec") is None:
        raise UserError(
            f"cannot be decoded by libsndfile. Convert it ({_conversion(path)}) "
            'or install torchcodec and FFmpeg: pip install "acestep-lora[torchcodec]"'
        )
    from acestep.songs.codec_audio import CodecAudio

    return CodecAudio(path)


def decoder_version(suffix: str) -> str:
    """What decodes files of a suffix, with its version: another one may decode lossy audio a little differently."""
    versions = {"libsndfile": soundfile.__libsndfile_version__}
    if suffix.lower() in _NEEDS_CODEC:
        for library in ("torchaudio", "torchcodec"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions[library] = importlib.metadata.version(library)
    return ", ".join(f"{library} {version}" for library, version in versions.items())


def check_size(audio: Audio, max_bytes: float) -> None:
    """Raise UserError where decoding, or resampling, would take too much memory."""
    seconds = audio.frames / audio.samplerate
    decoded = max(audio.frames * audio.channels, seconds * SAMPLE_RATE * 2) * 4
    if decoded > max_bytes:
        raise UserError(
            f"would decode to {decoded / 1e9:.1f} GB ({seconds / 60:.0f} minutes); at most {max_bytes / 1e9:g} GB are "
            "allowed. Cut it into songs, or raise --max_decoded_gb."
        )
    common = math.gcd(audio.samplerate, SAMPLE_RATE)
    if (audio.samplerate // common) * (SAMPLE_RATE // common) > _MAX_FILTER_TAPS:
        raise UserError(
            f"has a sample rate of {audio.samplerate} Hz, which cannot be resampled to {SAMPLE_RATE} Hz in "
            "reasonable memory. Convert it: ffmpeg -i in -ar 48000 out.flac"
        )


def damage(path: Path) -> list[str]:
    """Check a file's structure by its first bytes, whatever its name; return warnings.

    Raises:
        UserError: it is cut or damaged.
    """
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == b"OggS":
        found, warnings = ogg_damage(path.read_bytes()), []
    elif magic in (b"RIFF", b"RF64", b"RIFX", b"FORM"):
        found, warning = chunk_damage(path)
        warnings = [warning] if warning else []
    elif path.suffix.lower() in _NEEDS_CODEC:  # AAC's frames begin like MPEG's and are others
        found, warnings = None, []
    elif magic[:3] == b"ID3" or magic[:1] == b"\xff" or path.suffix.lower() == ".mp3":
        content = path.read_bytes()
        stream = walk(content)
        if stream.audio.startswith((b"fLaC", b"RIFF", b"OggS")):
            return []
        found, warnings = mpeg_damage(stream), mpeg_warnings(stream)
    else:
        found, warnings = None, []
    if found:
        raise UserError(found)
    return warnings


def shown_kind(audio: Audio) -> tuple[str, tuple[str, ...]]:
    """Return what the content is called, and the suffixes it goes by (none where they say little)."""
    if audio.format == "OGG":
        return _KINDS["OPUS" if audio.subtype == "OPUS" else "OGG"]
    return _KINDS.get(audio.format, (audio.format, ()))


def _refusal(path: Path, error: Exception) -> str:
    """Return why libsndfile does not open a file. Only what it understands and lacks a decoder for can be converted."""
    code = getattr(error, "code", None)
    if code in _NOT_RECOGNISED:
        return "holds no audio of a format that is known here. Get an undamaged copy."
    reason = f"cannot be decoded ({str(error).split(': ')[-1].rstrip('.')})."
    with path.open("rb") as file:
        magic = file.read(4)
    # It says the same of a FLAC without its header.
    if code in _NOT_IMPLEMENTED and magic in (b"RIFF", b"RF64", b"RIFX", b"FORM", b"OggS"):
        return f"{reason} If other software plays it, convert it ({_conversion(path)}); else get an undamaged copy."
    return f"{reason} Get an undamaged copy."


def _conversion(path: Path) -> str:
    """Return the command that makes a FLAC of a file, under a name that is not taken."""
    target = path.with_suffix(".flac")
    if path.suffix.lower() == ".flac" or target.exists():
        target = path.with_suffix(".converted.flac")
    return f"ffmpeg -i {shlex.quote(path.name)} {shlex.quote(target.name)}"
