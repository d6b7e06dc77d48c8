"""Files of generated music: WAV, FLAC or MP3 by the name's ending."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from acestep.errors import UserError

FORMATS: dict[str, dict[str, Any]] = {
    ".wav": {"format": "WAV", "subtype": "PCM_24"},
    ".flac": {"format": "FLAC", "subtype": "PCM_24"},
    # 320 kbit/s, the best there is
    ".mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT", "compression_level": 0.0},
}


def write_audio(path: Path, audio: torch.Tensor, sample_rate: int) -> None:
    """Write `[channels, samples]` as 24-bit WAV or FLAC, or as MP3, by the file's ending.

    Raises:
        UserError: for another ending.
    """
    import soundfile

    check_audio_name(path)
    written = path.with_name(f".{path.name}")
    soundfile.write(written, audio.T.numpy(), sample_rate, **FORMATS[path.suffix.lower()])
    written.replace(path)  # so that an interruption leaves no half a file


def check_audio_name(path: Path, label: str = "--output") -> None:
    """Raise UserError for a name that cannot be written; called before the long work."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{label} {path}: ends with {path.suffix or 'nothing'!r}; expected .wav, .flac or .mp3.")
    if path.is_dir():
        raise UserError(f"{label} {path}: is a folder; expected the name of a file in it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UserError(f"{label} {path}: {path.parent} cannot be written to ({error.strerror}).") from None
