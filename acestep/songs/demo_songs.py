"""The demo's six songs, written as a person's folder would hold them, and the practice pieces of its tiny model.

Three are bright synth-pop in major keys, three slow lo-fi in minor keys. Between them they use every audio format and
every kind of sidecar: lyrics with structure tags, plain lyrics, a caption file, JSON, and a Key-BPM-Finder CSV.
"""

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from acestep.songs.composition import LO_FI, SYNTH_POP, Piece, Style, perform

CSV_NAME = "key_bpm_finder.csv"
INSTRUMENTAL = "[Instrumental]"
_BLOCK_FRAMES = 4096


@dataclass(frozen=True)
class DemoSong:
    """One song of the demo and what stands beside it.

    Attributes:
        file_name: its suffix chooses the format.
        channels: 2, or 1 for a mono file.
        lyrics_suffix: `.lyrics.txt` or `.txt`.
        json_fields: what its JSON sidecar holds; empty for none.
        camelot: its row in the CSV has this code beside tempo and key; None for no row.
    """

    file_name: str
    piece: Piece
    sample_rate: int
    caption: str
    lyrics: str
    language: str = "en"
    channels: int = 2
    lyrics_suffix: str = ".lyrics.txt"
    caption_file: bool = False
    json_fields: tuple[str, ...] = ()
    camelot: str | None = None

    @property
    def stem(self) -> str:
        return Path(self.file_name).stem

    def metadata(self) -> dict[str, Any]:
        """Caption, bpm, keyscale, timesignature and language: all that is true of the song, wherever it is written."""
        return {
            "caption": self.caption,
            "bpm": self.piece.bpm,
            "keyscale": self.piece.key,
            "timesignature": str(self.piece.beats_per_bar),
            "language": self.language,
        }


_EVERY_FIELD = ("caption", "bpm", "keyscale", "timesignature", "language")

DEMO_SONGS = (
    DemoSong(
        "neon_skyline.wav",
        Piece(SYNTH_POP, bpm=128, key="D major", bars=6, seed=11, vowels="eoaiea"),
        sample_rate=44_100,
        caption="bright synth-pop, sparkling arpeggios, four-on-the-floor beat, airy sung melody",
        lyrics="[Verse]\nNeon over avenues\nWindows know your name\n\n[Chorus]\nHold the skyline, hold the glow\n",
        json_fields=_EVERY_FIELD,
    ),
    DemoSong(
        "paper_rockets.mp3",
        Piece(SYNTH_POP, bpm=120, key="G major", bars=6, seed=22, vowels="aeoae"),
        sample_rate=44_100,
        caption="cheerful synth-pop with bouncing bass, wide pads and a playful sung hook",
        lyrics="[Verse]\nPaper rockets, count to ten\nOver town again\n\n[Chorus]\nFly a little, fall a little, fly\n",
        caption_file=True,
        camelot="9B",
    ),
    DemoSong(
        "sunday_arcade.flac",
        Piece(replace(SYNTH_POP, lead="square lead"), bpm=132, key="A major", bars=6, seed=33),
        sample_rate=48_000,
        caption="fast instrumental synth-pop, square lead like an old arcade machine, glittering arpeggio",
        lyrics=f"{INSTRUMENTAL}\n",
        language="unknown",
        json_fields=("caption", "timesignature"),
        camelot="11B",
    ),
    DemoSong(
        "rain_on_the_window.ogg",
        Piece(LO_FI, bpm=76, key="A minor", bars=4, seed=44, vowels="aioua"),
        sample_rate=44_100,
        caption="slow lo-fi, soft electric piano, brushed drums, quiet humming voice, rainy evening",
        lyrics="[Verse]\nRain on the window, tea going cold\nStreetlights are turning the puddles to gold\n",
        json_fields=_EVERY_FIELD,
    ),
    DemoSong(
        "last_train_home.opus",
        Piece(LO_FI, bpm=88, key="D minor", bars=6, seed=55, beats_per_bar=3, vowels="aoiu"),
        sample_rate=48_000,
        caption="lo-fi waltz, warm electric piano, brushes and upright bass, late and tired",
        lyrics="Last train home and the carriage sways\nHalf asleep through the end of days\n",
        lyrics_suffix=".txt",
        json_fields=("caption", "timesignature", "language"),
        camelot="7A",
    ),
    DemoSong(
        "nachtlicht.wav",
        Piece(LO_FI, bpm=72, key="E minor", bars=4, seed=66, vowels="aieou"),
        sample_rate=48_000,
        channels=1,
        caption="very slow lo-fi in mono, dusty electric piano chords, sparse brushes, gentle German vocal",
        lyrics="[Strophe]\nNachtlicht, bleib noch eine Weile an\nBis ich wieder schlafen kann\n",
        language="de",
        json_fields=_EVERY_FIELD,
    ),
)


def write_demo_songs(folder: Path, seed: int = 0) -> list[Path]:
    """Play the six songs and write them with their sidecars.

    Args:
        folder: made when missing; files of the same names are replaced.
        seed: another one gives other melodies in the same keys, tempos and styles.

    Returns:
        The audio files, in the order of `DEMO_SONGS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for song in DEMO_SONGS:
        piece = replace(song.piece, seed=song.piece.seed + 1000 * seed)
        _write_audio(folder / song.file_name, perform(piece, song.sample_rate), song)
        _write_text(folder / f"{song.stem}{song.lyrics_suffix}", song.lyrics)
        metadata = song.metadata()
        if song.caption_file:
            _write_text(folder / f"{song.stem}.caption.txt", f"{song.caption}\n")
        if song.json_fields:
            fields = {name: metadata[name] for name in song.json_fields}
            _write_text(folder / f"{song.stem}.json", json.dumps(fields, indent=2, ensure_ascii=False) + "\n")
        if song.camelot:
            rows.append([song.file_name, "", "", song.piece.bpm, song.piece.key, song.camelot])
    with (folder / CSV_NAME).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["File", "Artist", "Title", "BPM", "Key", "Camelot"], *rows])
    return [folder / song.file_name for song in DEMO_SONGS]


def _write_audio(path: Path, audio: np.ndarray, song: DemoSong) -> None:
    if song.channels == 1:
        audio = audio.mean(axis=1, keepdims=True)
        audio = audio * (10 ** (-1 / 20) / np.abs(audio).max())
    container = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
    # in blocks, since libsndfile can crash when a long piece of Ogg is written at once
    with soundfile.SoundFile(path, "w", song.sample_rate, song.channels, **container) as file:
        for start in range(0, len(audio), _BLOCK_FRAMES):
            file.write(audio[start : start + _BLOCK_FRAMES])


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


_MOODS = {"major": ("bright", "cheerful", "sunny"), "minor": ("dark", "wistful", "moody")}


def practice_pieces(count: int, seed: int = 0) -> list[tuple[Piece, str]]:
    """Pieces with captions for the tiny model's own training, none of them in a demo song's key and tempo.

    Their players are drawn one by one, so that the demo's two styles are not among what the model learns first.
    """
    rng = np.random.default_rng([seed, 7])
    taken = {(song.piece.key, song.piece.bpm) for song in DEMO_SONGS}
    pieces: list[tuple[Piece, str]] = []
    while len(pieces) < count:
        tonic = ("C", "C#", "Eb", "F", "F#", "Ab", "Bb", "B", "D", "G", "A", "E")[rng.integers(12)]
        mode = ("major", "minor")[rng.integers(2)]
        key, bpm = f"{tonic} {mode}", int(rng.integers(70, 141))
        style = Style(
            chords=("organ", "synth pad", "electric piano")[rng.integers(3)],
            lead=("flute", "square lead", "organ")[rng.integers(3)],
            bass=("synth bass", "soft bass")[rng.integers(2)],
            drums=("backbeat", "brushes", "four on the floor")[rng.integers(3)],
            arpeggio=(None, "pluck")[rng.integers(2)],
        )
        mood = _MOODS[mode][rng.integers(3)]
        # ten seconds at least
        piece = Piece(style, bpm, key, bars=4 if bpm < 85 else 6, seed=int(rng.integers(2**31)))
        if (key, bpm) not in taken:
            arpeggio = "an arpeggio, " if style.arpeggio else ""
            pieces.append(
                (piece, f"{mood} piece with {style.chords}, {style.lead} melody, {arpeggio}{style.bass}, {style.drums}")
            )
    return pieces
