import os

import numpy as np
import pytest
import soundfile

from acestep.models.tiny import save_tiny_pipeline, tiny_components
from tests.forked_scripts import ForkedScripts

CHANNELS = 8


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A tiny model with the real rate and hop whose VAE is narrow, for speed."""
    folder = tmp_path_factory.mktemp("models") / "tiny-base"
    save_tiny_pipeline(tiny_components(0, latent_channels=CHANNELS), folder)
    return folder


@pytest.fixture(scope="session")
def scripts():
    """Runs public scripts without starting Python and torch each time."""
    with ForkedScripts(os.environ) as scripts:
        yield scripts


def tone(seconds: float, rate: int, frequency: float, channels: int = 2) -> np.ndarray:
    """A decaying tone, `[samples, channels]`, another phase on each side."""
    t = np.arange(int(seconds * rate)) / rate
    sides = [
        0.4 * np.sin(2 * np.pi * frequency * t + side) * (0.3 + np.exp(-(t % 0.5) * 6)) for side in range(channels)
    ]
    return np.stack(sides, axis=1).astype(np.float32)


@pytest.fixture
def songs(tmp_path):
    """Three short songs in three formats, with texts from JSON, text files and a CSV."""
    folder = tmp_path / "songs"
    folder.mkdir()
    soundfile.write(folder / "one.wav", tone(2.0, 48_000, 220), 48_000)
    soundfile.write(folder / "two.flac", tone(2.5, 48_000, 330, channels=1), 48_000)
    soundfile.write(folder / "three.mp3", tone(2.2, 48_000, 440), 48_000)
    (folder / "one.lyrics.txt").write_text("[Verse 1]\nwalking down the street\n", encoding="utf-8")
    (folder / "one.json").write_text('{"caption": "warm folk", "bpm": 96, "language": "en"}', encoding="utf-8")
    (folder / "two.caption.txt").write_text("slow drone", encoding="utf-8")
    (folder / "two.lyrics.txt").write_text("[Instrumental]", encoding="utf-8")
    (folder / "three.json").write_text('{"caption": "pop", "genre": "dance", "lyrics": "hey"}', encoding="utf-8")
    (folder / "export.csv").write_text(
        "File,Artist,Title,BPM,Key,Camelot\nthree.mp3,,,128,D major,10B\n", encoding="utf-8"
    )
    return folder
