"""Short real audio files for tests, written by soundfile."""

from pathlib import Path

import numpy as np
import soundfile

SUBTYPES = {".ogg": ("OGG", "VORBIS"), ".opus": ("OGG", "OPUS")}


def music(seconds: float = 2.0, rate: int = 48000, channels: int = 2, seed: int = 0) -> np.ndarray:
    """Return `[frames, channels]` float32: a chord and a beat of noise, under 0.8 of full scale, no channels alike."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitch = 110 * 2 ** (random.integers(0, 24) / 12)
    chord = sum(np.sin(2 * np.pi * pitch * ratio * time) for ratio in (1, 1.25, 1.5)) / 6
    beat = np.exp(-8 * (time % 0.5))[:, None] * random.standard_normal((len(time), channels)) * 0.06
    return (chord[:, None] + beat).astype(np.float32)


def write_audio(path: Path, samples: np.ndarray, rate: int = 48000, subtype: str | None = None) -> Path:
    """Write `[frames, channels]` in the format that the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in SUBTYPES:
        kind, subtype = SUBTYPES[path.suffix.lower()]
        # Long Ogg files crash libsndfile in one write.
        with soundfile.SoundFile(path, "w", rate, samples.shape[1], format=kind, subtype=subtype) as file:
            for start in range(0, len(samples), 4800):
                file.write(samples[start : start + 4800])
    else:
        soundfile.write(path, samples, rate, subtype=subtype, format=path.suffix[1:].upper().replace("AIF", "AIFF")[:4])
    return path


def write_song(path: Path, seconds: float = 1.0, seed: int = 0, channels: int = 2, rate: int = 48000) -> Path:
    """Write a short song."""
    return write_audio(path, music(seconds, rate, channels, seed), rate)
