"""What checking found out about audio files, kept from run to run: a file that has not changed is not decoded again."""

import functools
import hashlib
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from acestep.kept import content_key, whole_file
from acestep.songs import audio_files, chunks, codec_audio, measure, mpeg, ogg, probe
from acestep.songs.audio_files import decoder_version
from acestep.songs.probe import Probe

KIND = "probes"
# A file that is written again within one tick of its clock looks unchanged. FAT's is the coarsest, two seconds.
SETTLED_NS = 2_000_000_000


class ProbeCache:
    """Results of `probe` in JSON files under `folder/probes`, each with a checksum, named by a hash that shows no path.

    A result is used while the file's size, times and inode are those that it had, and code and decoder are the same. A
    file that was written less than two seconds before it was looked at is checked again the next time, since it could
    change without its times showing it (git's "racy" entries); so is one that changed meanwhile, or was refused: why it
    was may be mended elsewhere, by another option or an installed decoder.

    Args:
        folder: made when the first result is kept.

    Attributes:
        checked, known: files that had to be decoded, and files that had not.
        damaged: entries that could not be used, and are made again.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.checked = self.known = 0
        self.damaged: set[Path] = set()
        self._at_rest: dict[Path, list[int]] = {}  # files that are to be checked: what they were like before

    def path(self, file: Path, arguments: tuple) -> Path:
        """Where the result of `probe(file, *arguments)` lies."""
        made_from = (os.fsencode(file).hex(), *arguments, probing_version(), decoder_version(file.suffix))
        key = content_key(KIND, *made_from)
        return self.folder / KIND / key[:2] / f"{key}.json"

    def get(self, file: Path, arguments: tuple) -> Probe | None:
        """What `probe(file, *arguments)` returned when the file was as it is now, or None."""
        now, state = time.time_ns(), _state(file)
        entry = self._entry(self.path(file, arguments))
        if state is not None and entry is not None and entry["file"] == state:
            self.known += 1
            return Probe(**entry["probe"])
        self.checked += 1
        if state is not None and max(state[1:3]) < now - SETTLED_NS:
            self._at_rest[file] = state
        return None

    def put(self, file: Path, arguments: tuple, result: Probe) -> None:
        """Keep what `probe` returned after `get` returned None, if the file has been at rest since before then."""
        state = self._at_rest.pop(file, None)
        if state is None or state != _state(file):
            return
        entry = {"file": state, "probe": asdict(result)}
        with whole_file(self.path(file, arguments), sync=False) as written:
            Path(written).write_text(json.dumps({"entry": entry, "sha256": _checksum(entry)}), encoding="utf-8")

    def _entry(self, path: Path) -> dict[str, Any] | None:
        try:
            kept = json.loads(path.read_bytes())
            if kept["sha256"] == _checksum(kept["entry"]):
                return kept["entry"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self.damaged.add(path)
        return None


@functools.cache
def probing_version() -> str:
    """A hash of the code that checks a file: what another version of it found out is not asked for."""
    modules = (audio_files, chunks, codec_audio, measure, mpeg, ogg, probe)
    sources = (Path(module.__file__).read_bytes() for module in modules)
    return hashlib.sha256(b"\0".join(sources)).hexdigest()


def _state(file: Path) -> list[int] | None:
    """Size, time of the last change of the content, of anything, and inode; None where there is no such file."""
    try:
        status = file.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _checksum(entry: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()
