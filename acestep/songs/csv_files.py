"""CSV tables of songs: Key-BPM-Finder's export, people's own sheets, several of them, in any common dialect."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from acestep.errors import UserError
from acestep.songs.fields import FIELD_OF_NAME, field_name, parse_field
from acestep.songs.folder import AUDIO_SUFFIXES, OTHER_AUDIO_SUFFIXES, Folder, composed, inside
from acestep.songs.keys import CAMELOT, parse_key, same_key
from acestep.songs.merge import Fields
from acestep.songs.showing import printable, show
from acestep.songs.song import SkippedSong
from acestep.songs.text_files import read_text

_FILE_TITLES = ("file", "file_name", "filename", "path", "audio_path", "audio")
_CAPTION_TITLES = ("caption", "description", "prompt")
_KNOWN_UNUSED = ("artist", "title")
_DELIMITERS = ",;\t"


@dataclass
class Row:
    """One row: its number as a spreadsheet shows it, and its cells by their titles (`field_name` form)."""

    number: int
    cells: dict[str, str]
    problem: str = ""


@dataclass
class Tables:
    """What the CSVs of a folder say.

    Attributes:
        by_song: audio file -> its fields.
        skipped, notes: see `Scan`.
    """

    by_song: dict[str, Fields] = field(default_factory=dict)
    skipped: list[SkippedSong] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_tables(folder: Folder) -> Tables:
    """Read every CSV of a folder and match its rows with the audio files.

    Raises:
        UserError: a CSV cannot be read at all.
    """
    tables = Tables(by_song={audio: Fields() for audio in folder.audio})
    matcher = Matcher(folder.audio)
    for name in folder.csvs:
        base = (folder.root / name).parent
        for row in read_rows(read_text(folder.root / name, name), name, tables.notes):
            where = f"{name} row {row.number}"
            file = next(row.cells[title] for title in _FILE_TITLES if row.cells.get(title))
            try:
                path = inside(folder.root, base, file)
            except UserError as error:
                tables.skipped.append(SkippedSong(printable(file), f"{where}: {error}", "csv_row"))
                continue
            matches = matcher.find(path, PurePosixPath(file.replace("\\", "/")).name)
            if len(matches) != 1:
                found = f"fits {', '.join(matches)}; write its path" if matches else "fits no song"
                tables.notes.append(printable(f"{where}: {show(file)} {found}. Not used."))
            elif row.problem:
                tables.by_song[matches[0]].warnings.append(f"{where} is not used: {row.problem}")
            else:
                _take(tables.by_song[matches[0]], row, where)
    return tables


class Matcher:
    """Finds the song that a row means: by path, then by name, then by stem; exactly, then in any letter case."""

    def __init__(self, audio: list[str]):
        self._levels: list[dict[str, list[str]]] = []
        for fold in (str, str.casefold):
            for key in (composed, _name, _stem):
                level: dict[str, list[str]] = {}
                for path in audio:
                    level.setdefault(fold(key(path)), []).append(path)
                self._levels.append(level)

    def find(self, path: str, name: str) -> list[str]:
        """Return the songs that fit best: one, or several where it is ambiguous, or none."""
        for index, level in enumerate(self._levels):
            fold = str if index < 3 else str.casefold
            key = (composed(path), _name(name), _stem(name))[index % 3]
            if matches := level.get(fold(key)):
                return matches
        return []


def read_rows(text: str, name: str, notes: list[str]) -> Iterator[Row]:
    """Yield the rows of a CSV that name a file; what cannot be used is added to `notes`.

    Raises:
        UserError: the text is no CSV.
    """
    lines = text.split("\n")
    skipped = 0
    if lines[0].strip().lower().startswith("sep="):  # Excel's own hint
        lines, skipped = lines[1:], 1
    header_line = next((line for line in lines if line.strip()), "")
    delimiter = max(_DELIMITERS, key=lambda d: (_has_file_title(header_line, d), header_line.count(d)))
    if not _has_file_title(header_line, delimiter):
        found = show(header_line) if header_line else "an empty file"
        notes.append(f'{printable(name)} is not used: found {found}; expected a header with a "File" column.')
        return
    titles: list[str] = []
    try:
        # With its line ends: a quoted cell may hold several lines.
        reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter)
        for number, raw_cells in enumerate(reader, 1 + skipped):
            cells = [cell.strip() for cell in raw_cells]
            if not any(cells):
                continue
            if not titles:
                titles = [field_name(cell) for cell in cells]
                _note_titles(titles, name, notes)
                continue
            row = Row(number, dict(zip(titles, cells, strict=False)))
            if any(cells[len(titles) :]):
                row.problem = (
                    f"it has {len(cells)} cells, the header {len(titles)}; put text with {delimiter!r} in quotes"
                )
            if any(row.cells.get(title) for title in _FILE_TITLES):
                yield row
            else:
                notes.append(f"{printable(name)} row {number} names no file. Not used.")
    except csv.Error as error:
        raise UserError(f"{name}: cannot be read as CSV ({error}). Save it again as CSV in UTF-8.") from error


def _has_file_title(header: str, delimiter: str) -> bool:
    try:
        cells = next(csv.reader([header], delimiter=delimiter), [])
    except csv.Error:
        return False
    return any(field_name(cell) in _FILE_TITLES for cell in cells)


def _note_titles(titles: list[str], name: str, notes: list[str]) -> None:
    known = {*_FILE_TITLES, *_CAPTION_TITLES, *_KNOWN_UNUSED, "camelot", *FIELD_OF_NAME}
    unknown = [title for title in titles if title and title not in known]
    if unknown:
        notes.append(printable(f"{name}: columns not used: {', '.join(unknown)}"))
    twice = sorted({title for title in titles if title and titles.count(title) > 1})
    if twice:
        notes.append(printable(f"{name}: columns that occur twice, the last one is used: {', '.join(twice)}"))


def _take(fields: Fields, row: Row, where: str) -> None:
    """Put a row's values into a song's fields; the first row that has a field keeps it."""
    caption = next((row.cells[title] for title in _CAPTION_TITLES if row.cells.get(title)), "")
    raw: dict[str, str] = {"caption": caption} if caption else {}
    for title, cell in row.cells.items():
        name = FIELD_OF_NAME.get(title)
        if name and cell and name not in raw:
            raw[name] = cell
    values = {}
    for name, cell in raw.items():
        try:
            values[name] = parse_field(name, cell)
        except UserError as error:
            fields.warnings.append(f"{where}: {name} {error}. Not used; correct it or empty the cell.")
    _fill_key(values, row.cells.get("camelot", ""), fields, where)
    for name, value in values.items():
        if name not in fields.values:
            fields.put({name: value}, where)
        elif fields.values[name] != value:
            fields.warnings.append(
                f"{where}: {name} {show(value)} is not used: {fields.sources[name]} has {show(fields.values[name])}"
            )


def _fill_key(values: dict[str, object], code: str, fields: Fields, where: str) -> None:
    """Take a missing key from its Camelot code."""
    if not code:
        return
    if code.upper().lstrip("0") not in CAMELOT:
        fields.warnings.append(f"{where}: Camelot is {show(code)}; expected 1A to 12B. Not used.")
        return
    key = parse_key(code)
    if "keyscale" not in values:
        values["keyscale"] = key
    elif not same_key(str(values["keyscale"]), key):
        fields.warnings.append(f"{where}: Key {values['keyscale']} and Camelot {code} ({key}) disagree; Key is used")


def _name(path: str) -> str:
    return composed(path.rsplit("/", 1)[-1])


def _stem(path: str) -> str:
    name = _name(path)
    suffix = PurePosixPath(name).suffix
    # A name without a suffix may hold a full stop ("Mr. Blue").
    return name[: -len(suffix)] if suffix.lower() in (*AUDIO_SUFFIXES, *OTHER_AUDIO_SUFFIXES) else name
