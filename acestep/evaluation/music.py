"""Tempo and key of a recording. Everything that measures them here is in this file, behind `analyse`."""

import warnings
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch

SAMPLE_RATE = 22_050
MISSING = "tempo and key are not measured: librosa is not installed. Run pip install 'acestep-lora[analysis]'."
NOTES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
# How well each note fits a key, from the tonic upwards: the probe-tone ratings of Krumhansl and Kessler (1982), as in
# Krumhansl, Cognitive Foundations of Musical Pitch, 1990.
PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}


@dataclass(frozen=True)
class Music:
    """What was measured of a recording.

    Attributes:
        bpm: tempo in beats a minute, None where there is no beat.
        key: such as `F# minor`, None where there is no tone.
    """

    bpm: float | None
    key: str | None


def can_analyse() -> bool:
    """Whether what measures is installed."""
    return find_spec("librosa") is not None


def analyse(audio: torch.Tensor, sample_rate: int) -> Music:
    """Measure a recording, `[channels, samples]`.

    The tempo is that of librosa's beat tracker (Ellis, "Beat Tracking by Dynamic Programming", 2007), the key the one
    whose profile correlates best with the mean chroma of the constant-Q transform (the Krumhansl-Schmuckler algorithm).
    """
    import librosa

    warnings.filterwarnings("ignore", message="Trying to estimate tuning from empty frequency set", module="librosa")
    mono = librosa.resample(audio.float().mean(dim=0).numpy(), orig_sr=sample_rate, target_sr=SAMPLE_RATE)
    if not np.abs(mono).max(initial=0) > 1e-4:
        return Music(None, None)
    tempo, _ = librosa.beat.beat_track(y=mono, sr=SAMPLE_RATE)
    bpm = float(np.atleast_1d(tempo)[0])
    chroma = librosa.feature.chroma_cqt(y=mono, sr=SAMPLE_RATE).mean(axis=1)
    return Music(bpm if bpm > 0 else None, nearest_key(chroma))


def nearest_key(chroma: np.ndarray) -> str | None:
    """The key whose profile correlates best with how strong each note is, `[12]` from C upwards."""
    if not np.ptp(chroma) > 0:
        return None
    fits = {
        f"{NOTES[tonic]} {mode}": np.corrcoef(chroma, np.roll(profile, tonic))[0, 1]
        for mode, profile in PROFILES.items()
        for tonic in range(12)
    }
    return max(fits, key=fits.get)
