import time

import numpy as np
import pytest
import torch
import torchaudio.functional

from acestep.songs import SkippedSong, SongOptions, decode_songs, scan_songs
from acestep.songs.decode import to_stereo
from acestep.songs.workers import WorkerDied, run_in_workers
from tests.songs.clips import music, write_audio
from tests.songs.misbehaviour import chatter, crash, sleep


def test_songs_come_in_order_as_float32_stereo_at_48_khz(folder):
    for number, (suffix, rate, channels) in enumerate(
        [(".wav", 44100, 2), (".flac", 48000, 1), (".mp3", 44100, 2), (".ogg", 32000, 1), (".opus", 48000, 2)]
    ):
        write_audio(folder.root / f"{number}{suffix}", music(1.0, rate, channels, number), rate)
    songs = folder.scan().songs
    decoded = list(decode_songs(songs, workers=2))
    assert [song for song, _ in decoded] == songs
    for song, audio in decoded:
        assert audio.dtype == np.float32
        assert audio.shape == (2, pytest.approx(song.duration * 48000, abs=1))
    assert np.array_equal(decoded[1][1][0], decoded[1][1][1])  # mono is doubled


def test_48_khz_passes_unchanged_and_others_are_torchaudios(folder):
    samples = music(1.0, 44100)
    write_audio(folder.root / "a.wav", music(0.5), subtype="FLOAT")
    write_audio(folder.root / "b.wav", samples, 44100, subtype="FLOAT")
    (_, same), (_, resampled) = decode_songs(folder.scan().songs, workers=1)
    assert np.array_equal(same, music(0.5).T)
    expected = torchaudio.functional.resample(torch.from_numpy(samples.T.copy()), 44100, 48000)
    np.testing.assert_allclose(resampled, expected, atol=1e-6)


def test_segments_are_slices_of_the_whole(folder):
    folder.song("a.flac", seconds=5.0).song("b.wav", seconds=1.0, seed=1)
    (_, whole), _ = decode_songs(folder.scan().songs, workers=1)
    *parts, (_, other) = decode_songs(folder.scan(segment_seconds=2.0).songs, workers=2)
    assert [audio.shape[1] for _, audio in parts] == [96000, 96000, 48000]
    assert np.array_equal(np.concatenate([audio for _, audio in parts], axis=1), whole)
    assert other.shape == (2, 48000)


def test_a_song_that_changed_or_went_since_the_scan_is_skipped_alone(folder):
    folder.song("a.wav", seed=1, seconds=2.0).song("b.wav", seed=2).song("c.wav", seed=3).song("d.wav", seed=4)
    songs = folder.scan().songs
    write_audio(folder.root / "a.wav", music(1.0))
    (folder.root / "b.wav").write_bytes(b"no audio any more")
    (folder.root / "c.wav").unlink()
    a, b, c, d = (audio for _, audio in decode_songs(songs, workers=2))
    assert "1.00 s less than when it was scanned" in a.reason
    assert isinstance(b, SkippedSong)
    assert isinstance(c, SkippedSong)
    assert d.shape == (2, 9600)


def test_surround_is_mixed_without_clipping():
    full = np.ones((6, 10), np.float32)
    assert np.allclose(to_stereo(full), 1.0)
    left = np.zeros((6, 10), np.float32)
    left[0] = left[4] = 1  # front and back left
    mixed = to_stereo(left)
    assert np.allclose(mixed[0], (1 + 0.5**0.5) / (1 + 2 * 0.5**0.5))
    assert np.allclose(mixed[1], 0)
    assert np.allclose(to_stereo(np.ones((3, 10), np.float32)), 1.0)


def test_a_crash_costs_the_one_task_that_crashed():
    results = list(run_in_workers(crash, ((number,) for number in range(8)), workers=2, timeout=60))
    for number, result in enumerate(results):
        if number % 3 == 1:
            assert isinstance(result, WorkerDied)
            assert "crashed (signal 11)" in str(result)
        else:
            assert result == number


def test_a_task_that_hangs_costs_its_time_limit_alone():
    start = time.monotonic()
    late, done = run_in_workers(sleep, [(600.0,), (0.0,)], workers=1, timeout=1.5)
    assert "no answer within 1.5 seconds" in str(late)
    assert done == 0.0
    assert time.monotonic() - start < 20


def test_what_a_decoder_prints_does_not_disturb_its_results():
    assert list(run_in_workers(chatter, [(1,), (2,)], workers=1, timeout=60)) == [1, 2]


def test_read_ahead_is_bounded():
    taken = []

    def tasks():
        for number in range(20):
            taken.append(number)
            yield (0.0 * number,)

    results = run_in_workers(sleep, tasks(), workers=2, timeout=60)
    next(results)
    assert len(taken) <= 4
    results.close()


def test_the_result_does_not_depend_on_the_number_of_workers(folder):
    for number in range(6):
        folder.song(f"{number}.wav", seed=number)
    one, three = (scan_songs(folder.root, SongOptions(decode_workers=workers)) for workers in (1, 3))
    assert one == three
