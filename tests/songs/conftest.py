"""A folder of real songs, and how to scan it."""

import json
from pathlib import Path

import pytest

from acestep.songs import Scan, Song, SongOptions, scan_songs
from tests.songs.clips import write_song


class Folder:
    """A folder of songs being filled by a test."""

    def __init__(self, root: Path):
        self.root = root

    def song(self, name: str = "song1.wav", seconds: float = 0.2, seed: int = 0, **texts: object) -> "Folder":
        """Write a short song, and the sidecars given as `json={...}`, `lyrics="..."`, `txt="..."`, `caption="..."`."""
        write_song(self.root / name, seconds, seed)
        suffixes = {"json": ".json", "lyrics": ".lyrics.txt", "txt": ".txt", "caption": ".caption.txt", "lrc": ".lrc"}
        for kind, content in texts.items():
            text = json.dumps(content) if kind == "json" and not isinstance(content, str) else content
            self.write(str(Path(name).with_suffix(suffixes[kind])), text)
        return self

    def write(self, name: str, content: str | bytes) -> "Folder":
        """Write a file; text becomes UTF-8."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return self

    def scan(self, **options) -> Scan:
        """Scan it."""
        return scan_songs(self.root, SongOptions(**options))

    def only_song(self, **options) -> Song:
        """Scan it and return its one song."""
        scan = self.scan(**options)
        assert not scan.skipped
        (song,) = scan.songs
        return song


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "songs")
