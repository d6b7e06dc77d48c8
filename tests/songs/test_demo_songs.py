"""The demo's songs are what their metadata says."""

import csv
import json

import numpy as np
import pytest
import soundfile

from acestep.songs.composition import PITCH_CLASSES, perform
from acestep.songs.demo_songs import CSV_NAME, DEMO_SONGS, practice_pieces, write_demo_songs

# Krumhansl and Kessler's ratings: how well each pitch class, counted from the tonic, fits a key
KEY_PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("songs")
    write_demo_songs(path)
    return path


@pytest.fixture(scope="module")
def audio(folder):
    return {song.file_name: soundfile.read(folder / song.file_name, always_2d=True) for song in DEMO_SONGS}


def _spectrogram(signal, size, hop):
    windows = np.lib.stride_tricks.sliding_window_view(signal, size)[::hop] * np.hanning(size)
    return np.abs(np.fft.rfft(windows))


def _chroma(spectrum, rate, lowest, highest):
    """The strength of each pitch class, counted from C, in a magnitude spectrum between two frequencies."""
    frequencies = np.fft.rfftfreq(2 * (len(spectrum) - 1), 1 / rate)
    heard = (frequencies > lowest) & (frequencies < highest)
    chroma = np.zeros(12)
    np.add.at(chroma, np.round(12 * np.log2(frequencies[heard] / 440) + 69).astype(int) % 12, spectrum[heard])
    return chroma


def _chroma_of_beats(signal, rate, bpm):
    length = rate * 60 / bpm
    beats = [signal[round(i * length) :][: round(length)] for i in range(int(len(signal) / length))]
    chroma = np.array(
        [_chroma(np.abs(np.fft.rfft(beat * np.hanning(len(beat)), 65_536)), rate, 60, 600) for beat in beats]
    )
    return chroma / np.linalg.norm(chroma, axis=1, keepdims=True)


def _best_key(signal, rate):
    chroma = _chroma(_spectrogram(signal, 16_384, 8192).sum(axis=0), rate, 60, 1500)
    fits = {
        f"{name} {mode}": np.corrcoef(chroma, np.roll(profile, tonic))[0, 1]
        for tonic, name in enumerate(PITCH_CLASSES)
        for mode, profile in KEY_PROFILES.items()
    }
    return max(fits, key=fits.get)


def _beat_strength(signal, rate):
    """A function of a tempo: how far the onsets repeat from beat to beat."""
    hop = rate // 100
    flux = np.maximum(np.diff(np.log1p(20 * _spectrogram(signal, 2048, hop)), axis=0), 0).sum(axis=1)
    flux -= flux.mean()
    repeats = np.correlate(flux, flux, "full")[len(flux) - 1 :] / np.arange(len(flux), 0, -1)  # mean over the overlap
    return lambda bpm: np.interp(rate / hop * 60 / bpm, np.arange(len(repeats)), repeats / repeats[0])


def test_every_format_channel_count_and_sample_rate_is_there(folder):
    infos = [soundfile.info(folder / song.file_name) for song in DEMO_SONGS]
    assert {path.suffix for path in folder.iterdir()} >= {".wav", ".mp3", ".flac", ".ogg", ".opus"}
    assert {info.subtype for info in infos} == {"PCM_16", "MPEG_LAYER_III", "VORBIS", "OPUS"}
    assert {info.channels for info in infos} == {1, 2}
    assert {info.samplerate for info in infos} == {44_100, 48_000}


@pytest.mark.parametrize("song", DEMO_SONGS, ids=lambda song: song.stem)
def test_a_song_is_loud_without_clipping_and_as_long_as_its_bars(song, audio):
    signal, rate = audio[song.file_name]
    assert 10 < song.piece.duration < 16
    assert len(signal) / rate == pytest.approx(song.piece.duration, abs=0.1)
    assert -1.2 < 20 * np.log10(np.abs(signal).max()) < -0.1
    assert -20 < 10 * np.log10(np.mean(signal**2)) < -8
    assert signal.shape[1] == song.channels
    if song.channels == 2:
        assert np.corrcoef(signal.T)[0, 1] < 0.95


@pytest.mark.parametrize("song", DEMO_SONGS, ids=lambda song: song.stem)
def test_a_song_is_in_the_key_that_is_stated(song, audio):
    signal, rate = audio[song.file_name]
    assert _best_key(signal.mean(axis=1), rate) == song.piece.key


@pytest.mark.parametrize("song", DEMO_SONGS, ids=lambda song: song.stem)
def test_a_song_has_the_tempo_that_is_stated(song, audio):
    signal, rate = audio[song.file_name]
    strength, bpm = _beat_strength(signal.mean(axis=1), rate), song.piece.bpm
    # A bar, twice or half a beat are as regular as the beat: compare with tempi that are none of these.
    assert strength(bpm) > 0.35
    assert all(strength(bpm) > strength(bpm * factor) + 0.1 for factor in (0.9, 0.95, 1.05, 1.1))


@pytest.mark.parametrize("song", DEMO_SONGS, ids=lambda song: song.stem)
def test_chords_change_with_the_bars_of_the_stated_metre(song, audio):
    signal, rate = audio[song.file_name]
    beats = _chroma_of_beats(signal.mean(axis=1), rate, song.piece.bpm)
    changes = np.linalg.norm(np.diff(beats, axis=0), axis=1)

    def contrast(metre):
        at_bar_lines = np.arange(1, len(changes) + 1) % metre == 0
        return changes[at_bar_lines].mean() - changes[~at_bar_lines].mean()

    assert contrast(song.piece.beats_per_bar) > contrast(7 - song.piece.beats_per_bar) + 0.05  # three beats or four


def test_fast_bright_songs_and_slow_dark_ones_differ(audio):
    def brightness(song):
        signal, rate = audio[song.file_name]
        spectrum = _spectrogram(signal.mean(axis=1), 2048, 2048).mean(axis=0)
        return (spectrum * np.fft.rfftfreq(2048, 1 / rate)).sum() / spectrum.sum()

    major = [song for song in DEMO_SONGS if song.piece.key.endswith("major")]
    minor = [song for song in DEMO_SONGS if song.piece.key.endswith("minor")]
    assert len(major) == len(minor) == 3
    assert min(song.piece.bpm for song in major) > max(song.piece.bpm for song in minor)
    assert np.mean([brightness(song) for song in major]) > np.mean([brightness(song) for song in minor])


def test_every_kind_of_sidecar_is_used_and_says_the_truth(folder):
    with (folder / CSV_NAME).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["File", "Artist", "Title", "BPM", "Key", "Camelot"]
    songs = {song.file_name: song for song in DEMO_SONGS}
    assert 0 < len(rows) < len(DEMO_SONGS)
    for row in rows:
        assert (int(row["BPM"]), row["Key"]) == (songs[row["File"]].piece.bpm, songs[row["File"]].piece.key)
    for song in DEMO_SONGS:
        sidecar = folder / f"{song.stem}.json"
        fields = json.loads(sidecar.read_text(encoding="utf-8")) if sidecar.exists() else {}
        truth = {
            "caption": song.caption,
            "bpm": song.piece.bpm,
            "keyscale": song.piece.key,
            "timesignature": str(song.piece.beats_per_bar),
            "language": song.language,
        }
        assert fields.items() <= truth.items()
        captions = ["caption"] if "caption" in fields else []
        assert captions or (folder / f"{song.stem}.caption.txt").read_text() == f"{song.caption}\n"
    assert len(list(folder.glob("*.lyrics.txt"))) == 5
    assert [path.name for path in folder.glob("last_train_home.txt")]
    assert sum(song.lyrics == "[Instrumental]\n" for song in DEMO_SONGS) == 1


def test_the_same_seed_writes_the_same_bytes_and_another_one_other_music(folder, tmp_path):
    write_demo_songs(tmp_path / "again")
    write_demo_songs(tmp_path / "other", seed=1)
    for name in ("neon_skyline.wav", "sunday_arcade.flac", "paper_rockets.mp3", "neon_skyline.json", CSV_NAME):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert (tmp_path / "other" / "nachtlicht.wav").read_bytes() != (folder / "nachtlicht.wav").read_bytes()


def test_practice_pieces_are_other_music_than_the_demos():
    pieces = practice_pieces(12)
    assert pieces == practice_pieces(12) != practice_pieces(12, seed=1)
    taken = {(song.piece.key, song.piece.bpm) for song in DEMO_SONGS}
    assert all((piece.key, piece.bpm) not in taken and piece.duration > 10.3 for piece, _ in pieces)
    played = perform(pieces[0][0])
    assert played.dtype == np.float32
    assert np.abs(played).max() == pytest.approx(10 ** (-1 / 20), rel=1e-3)
