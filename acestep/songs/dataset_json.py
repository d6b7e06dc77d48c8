"""The original tool's dataset JSON, one file with every song's texts: written for it, and read into sidecars."""

import json
import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath, PureWindowsPath

from acestep.errors import UserError
from acestep.songs.csv_files import Matcher
from acestep.songs.fields import FIELDS, parse_field
from acestep.songs.folder import Folder, composed, inside, list_folder
from acestep.songs.lyrics import is_instrumental_mark
from acestep.songs.showing import printable, show
from acestep.songs.sidecars import parse_json
from acestep.songs.song import INSTRUMENTAL, Scan, SkippedSong, Song
from acestep.songs.song_options import SongOptions
from acestep.songs.text_files import read_text, write_atomically


@dataclass
class Imported:
    """What an import did.

    Attributes:
        written: sidecars written, relative to the folder.
        skipped: samples that were not taken, and why.
        notes: settings of the whole dataset, and values that could not be used.
    """

    written: list[str] = field(default_factory=list)
    skipped: list[SkippedSong] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def export_dataset_json(scan: Scan, file: Path, options: SongOptions, absolute_paths: bool = False) -> None:
    """Write a scan as the original tool's dataset JSON.

    Paths are relative to the JSON's own folder, with `/`, unless `absolute_paths`.

    Raises:
        UserError: the songs are cut into segments, which that format cannot say, or the file cannot be written.
    """
    if any(song.segment is not None for song in scan.songs):
        raise UserError("--export_json cannot write segments. Leave out --segment_seconds.")
    content = {
        "metadata": {
            "name": scan.data_dir.name,
            "custom_tag": options.custom_tag,
            "tag_position": options.tag_position,
            "created_at": datetime.now().astimezone().isoformat(timespec="seconds"),
            "num_samples": len(scan.songs),
            "all_instrumental": options.all_instrumental,
            "genre_ratio": options.genre_ratio,
        },
        "samples": [_sample(song, file, absolute_paths) for song in scan.songs],
    }
    write_atomically(file, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def import_dataset_json(file: Path, data_dir: Path, overwrite: bool = False) -> Imported:
    """Write a `<song>.json` beside each song of `data_dir` that the original tool's dataset JSON describes.

    A sample is found by its `audio_path` (from the JSON's folder, then from `data_dir`), then by its `filename`. An
    existing `<song>.json` stays, and the sample is reported, unless `overwrite`; the old one is then kept as `.bak`.

    Raises:
        UserError: it is no such JSON, or a file cannot be written.
    """
    imported = Imported()
    metadata, samples = _read(file, imported)
    folder = list_folder(data_dir)
    matcher = Matcher(folder.audio)
    tag, position = _text(metadata, "custom_tag"), _text(metadata, "tag_position")
    ratio = metadata.get("genre_ratio")
    if ratio:
        imported.notes.append(
            f"genre_ratio is {show(ratio)} there: use --genre_ratio {show(ratio)} with prepare_dataset.py"
        )
    taken: dict[str, str] = {}
    for number, sample in enumerate(samples, 1):
        where = f"{file.name} sample {number}"
        try:
            audio = _find(sample, where, file, folder, matcher)
            if audio in taken:
                raise UserError(f"{where}: {audio} was already taken from {taken[audio]}. Remove one of them.")
            taken[audio] = where
            values = _values(sample, where, imported.notes)
            for name, default in (("custom_tag", tag), ("tag_position", position)):
                if default:
                    values.setdefault(name, default)
            target = str(PurePosixPath(audio).with_suffix(".json"))
            if target in imported.written:
                raise UserError(
                    f"{where}: {target} was just written for another file of that name. Rename one of them."
                )
            _write_sidecar(folder.root / target, target, values, where, overwrite)
            imported.written.append(target)
        except UserError as error:
            imported.skipped.append(SkippedSong(_called(sample, number), printable(str(error)), "json_sample"))
    return imported


def _sample(song: Song, file: Path, absolute_paths: bool) -> dict[str, object]:
    if absolute_paths:
        audio_path = song.path.as_posix()
    else:
        audio_path = Path(os.path.relpath(song.path, file.resolve().parent)).as_posix()
    return {
        "id": song.row_id,
        "audio_path": audio_path,
        "filename": song.path.name,
        "caption": song.caption,
        "genre": song.genre,
        "lyrics": song.lyrics,
        "raw_lyrics": "" if song.is_instrumental else song.lyrics,
        "formatted_lyrics": "",
        "bpm": song.bpm,
        "keyscale": song.keyscale,
        "timesignature": song.timesignature,
        "duration": int(song.duration),
        "language": song.language,
        "is_instrumental": song.is_instrumental,
        "custom_tag": song.custom_tag,
        "labeled": bool(song.caption),
        "prompt_override": song.prompt_override,
    }


def _read(file: Path, imported: Imported) -> tuple[dict, list]:
    expected = 'expected {"metadata": {...}, "samples": [...]}'
    content = parse_json(read_text(file, file.name), file.name, imported.notes)
    if not isinstance(content, dict) or not isinstance(content.get("samples"), list):
        raise UserError(f'{file.name}: has no list "samples"; {expected}. Export it from the original tool again.')
    metadata = content.get("metadata", {})
    if not isinstance(metadata, dict):
        raise UserError(f'{file.name}: "metadata" is {show(metadata)}; {expected}. Correct it.')
    return metadata, content["samples"]


def _find(sample: object, where: str, file: Path, folder: Folder, matcher: Matcher) -> str:
    """Return the audio file of a sample."""
    if not isinstance(sample, dict):
        raise UserError(f"{where}: is {show(sample)}; expected an object. Correct it.")
    path, name = _text(sample, "audio_path"), _text(sample, "filename")
    if not path and not name:
        raise UserError(f'{where}: has neither "audio_path" nor "filename". Add one.')
    outside = None
    for base in (file.resolve().parent, folder.root):
        try:
            relative = inside(folder.root, base, path)
        except UserError as error:
            outside = error
            continue
        if relative in {composed(audio) for audio in folder.audio} or relative in folder.audio:
            return matcher.find(relative, "")[0]
    # The original tool writes absolute paths of the machine it ran on; the name still says which song is meant.
    plain = PureWindowsPath(name or path).name
    if outside is not None and name != plain:
        raise UserError(f'{where}: "audio_path" {outside}')
    matches = matcher.find(plain, plain)
    if len(matches) == 1:
        return matches[0]
    if outside is not None:
        raise UserError(f'{where}: "audio_path" {outside}')
    found = f"fits {', '.join(matches)}; write its path" if matches else "fits no song in the folder"
    raise UserError(f"{where}: {show(path or name)} {found}.")


def _values(sample: dict, where: str, notes: list[str]) -> dict[str, object]:
    """Return a sample's values; what is missing takes the original tool's defaults."""
    values: dict[str, object] = {}
    for name in FIELDS:
        try:
            value = parse_field(name, sample.get(name))
        except UserError as error:
            notes.append(printable(f"{where}: {show(name)} {error}. Not used."))
            continue
        if value is not None:
            values[name] = value
    lyrics = str(values.get("lyrics", ""))
    if not lyrics:
        for name in ("formatted_lyrics", "raw_lyrics"):
            if lyrics := _text(sample, name):
                notes.append(f'{where}: "lyrics" is empty; "{name}" is taken')
                break
    values["lyrics"] = lyrics or INSTRUMENTAL
    # Songs with lyrics are never instrumental, whatever the flag says; its default there is true.
    values["is_instrumental"] = is_instrumental_mark(lyrics) or not lyrics
    return values


def _write_sidecar(path: Path, name: str, values: dict[str, object], where: str, overwrite: bool) -> None:
    if path.is_symlink():
        raise UserError(f"{where}: {name} is a link, which is not written through. Replace it by a file.")
    if path.exists():
        if not overwrite:
            raise UserError(f"{where}: {name} exists and is kept. Use --overwrite to replace it (kept as .bak).")
        os.replace(path, path.with_name(path.name + ".bak"))
    write_atomically(path, json.dumps(values, ensure_ascii=False, indent=2) + "\n")


def _text(values: dict, name: str) -> str:
    value = values.get(name)
    return value.strip() if isinstance(value, str) else ""


def _called(sample: object, number: int) -> str:
    name = (_text(sample, "audio_path") or _text(sample, "filename")) if isinstance(sample, dict) else ""
    return printable(name) or f"sample {number}"
