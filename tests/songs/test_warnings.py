"""What is used, but said."""

import numpy as np
import pytest
import soundfile

from acestep.songs.measure import Meter, measure_warnings
from tests.songs.clips import music, write_audio

RATE = 48000


def _warnings(folder, samples, rate=RATE, name="x.wav", subtype=None) -> str:
    write_audio(folder.root / name, samples, rate, subtype)
    return "\n".join(folder.only_song().warnings)


def _with_clicks(samples):
    samples = samples.copy()
    samples[np.linspace(1000, 40000, 7).astype(int), 0] += 0.7
    return samples


def test_music_of_usual_length_and_level_has_no_audio_warning(folder):
    song = folder.song("x.wav", 12.0, json={"caption": "c"}, lyrics="la").only_song()
    assert song.warnings == []


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (lambda x: np.clip(x * 5, -1, 1), "clipping: "),
        (lambda x: x * 0.01, "very low level: "),
        (lambda x: x[:, :1].repeat(2, axis=1), "mono in stereo"),
        (lambda x: x * np.array([1, 0], np.float32), "1 of its channels is silent"),
        (lambda x: np.concatenate([x, np.zeros((6 * RATE, 2), np.float32), x]), "long silence: 6 s at 0:01.0"),
        (lambda x: np.concatenate([np.zeros((6 * RATE, 2), np.float32), x]), "long silence: 6 s at the start"),
        (lambda x: np.concatenate([x[: RATE // 2], np.zeros((RATE, 2), np.float32)]), "drop-out: 1.00 s of zeros"),
        (_with_clicks, "single samples stand out as clicks"),
    ],
    ids=["clipping", "low", "mono", "one-sided", "silence", "silent start", "zeros", "clicks"],
)
def test_warnings_by_level_and_silence(folder, change, warning):
    samples = music(1.0)
    assert warning not in _warnings(folder, samples)
    assert warning in _warnings(folder, change(samples).astype(np.float32))


def test_peaks_above_full_scale_in_a_float_file(folder):
    samples = music(1.0)
    samples[100] = 1.5
    assert "peaks at 1.50 of full scale" in _warnings(folder, samples, subtype="FLOAT")


def test_a_low_sample_rate(folder):
    assert "sample rate 22050 Hz" in _warnings(folder, music(1.0, 22050), 22050)
    assert "sample rate" not in _warnings(folder, music(1.0, 32000), 32000)


def test_a_duration_outside_10_to_600_seconds(folder):
    for seconds in (9.9, 10.0, 600.0, 600.5):  # at 8 kHz mono ten minutes are ten megabytes
        write_audio(folder.root / f"{seconds:05}.wav", np.tile(music(0.1, 8000, 1), (int(seconds * 10), 1)), 8000)
    said = [any("the model was made for 10 to 600 s" in w for w in song.warnings) for song in folder.scan().songs]
    assert said == [True, False, False, True]


def test_a_lossy_source_in_a_lossless_file(folder):
    noise = np.random.default_rng(0).standard_normal((RATE * 4, 2)).astype(np.float32) * 0.1
    assert "lossy or upsampled" not in _warnings(folder, noise)
    # What an encoder does at 128 kbit/s: nothing above 16 kHz, by a steep filter.
    spectrum = np.fft.rfft(noise, axis=0)
    spectrum[(16000 * 4) :] = 0
    cut = np.fft.irfft(spectrum, axis=0).astype(np.float32)
    assert "nothing above some 16 kHz: a lossy or upsampled source" in _warnings(folder, cut)
    # A real encoder at a low rate, decoded again.
    soundfile.write(folder.root.parent / "x.mp3", noise, RATE, bitrate_mode="CONSTANT", compression_level=0.6)
    decoded, _ = soundfile.read(folder.root.parent / "x.mp3", dtype="float32")
    assert "kHz: a lossy or upsampled source" in _warnings(folder, decoded)


def test_dark_music_is_no_lossy_source(folder):
    noise = np.random.default_rng(0).standard_normal((RATE * 4, 2)).astype(np.float32)
    spectrum = np.fft.rfft(noise, axis=0)
    frequency = np.fft.rfftfreq(len(noise), 1 / RATE)
    spectrum *= (1 / (1 + (frequency / 1000) ** 4))[:, None]  # -24 dB an octave above 1 kHz
    dark = np.fft.irfft(spectrum, axis=0).astype(np.float32)
    assert "lossy" not in _warnings(folder, dark / np.abs(dark).max() * 0.8, subtype="PCM_24")


@pytest.mark.parametrize(("name", "kind", "subtype"), [("x.flac", "WAV", "x.wav"), ("x.mp3", "FLAC", "x.flac")])
def test_a_name_that_says_another_format(folder, name, kind, subtype):
    write_audio(folder.root / subtype, music(1.0)).rename(folder.root / name)
    assert any(f"holds {kind} although its name ends in" in warning for warning in folder.only_song().warnings)


def test_blocks_do_not_change_what_is_measured():
    samples = music(60.0, 8000)
    whole, parts = Meter(8000, 2), Meter(8000, 2)
    whole.add(samples)
    for start in range(0, len(samples), parts.block_frames):
        parts.add(samples[start : start + parts.block_frames])
    one, many = whole.result(), parts.result()
    assert (one.frames, one.peak, one.clipped, one.clicks) == (many.frames, many.peak, many.clipped, many.clicks)
    assert one.rms == pytest.approx(many.rms)
    assert np.array_equal(one.window_peaks, many.window_peaks)
    assert measure_warnings(one, lossless=True) == measure_warnings(many, lossless=True)
