"""Tempo and key of signals whose tempo and key are known."""

import numpy as np
import pytest
import torch

from acestep.evaluation.music import NOTES, PROFILES, analyse, nearest_key
from acestep.evaluation.music_metrics import KeyScore, TempoAccuracy

RATE = 48_000


def chords(bpm: float, notes: list[int], seconds: float = 20.0) -> torch.Tensor:
    """A chord of MIDI notes on every beat, with a click."""
    audio, random = np.zeros(int(seconds * RATE)), np.random.default_rng(0)
    length = int(60 / bpm * RATE)
    time = np.arange(length) / RATE
    tone = sum(np.sin(2 * np.pi * 440 * 2 ** ((note - 69) / 12) * time) for note in notes) * np.exp(-3 * time)
    click = random.normal(size=length) * np.exp(-300 * time)
    for start in range(0, len(audio) - length, length):
        audio[start : start + length] += 0.1 * tone + 0.5 * click
    return torch.from_numpy(np.stack([audio, audio])).float()


def test_tempo_and_key_of_chords_on_the_beat_are_measured():
    expected = [(100.0, [57, 60, 64, 69], "A minor"), (140.0, [58, 62, 65, 70], "Bb major")]
    found = [analyse(chords(bpm, notes), RATE) for bpm, notes, _ in expected]
    tempo = TempoAccuracy().compute(
        predictions=[music.bpm for music in found], references=[bpm for bpm, _, _ in expected]
    )
    assert tempo["accuracy2"] == 1
    assert [music.key for music in found] == [key for _, _, key in expected]


def test_silence_has_neither():
    music = analyse(torch.zeros(2, RATE), RATE)
    assert (music.bpm, music.key) == (None, None)


@pytest.mark.parametrize("mode", PROFILES)
def test_each_keys_own_profile_is_its_key(mode):
    for tonic, note in enumerate(NOTES):
        chroma = 0.1 + 0.01 * np.roll(PROFILES[mode], tonic)
        assert nearest_key(chroma) == f"{note} {mode}"
        assert KeyScore().compute(predictions=[f"{note} {mode}"], references=[f"{note} {mode}"])["score"] == 1
    assert nearest_key(np.ones(12)) is None
