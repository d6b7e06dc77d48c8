"""The texts beside a song: `song1.lyrics.txt`, `song1.txt`, `song1.caption.txt`, `song1.json`."""

import json
import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from acestep.errors import UserError
from acestep.songs.fields import FIELD_OF_NAME, field_name, parse_field
from acestep.songs.folder import SIDECAR_SUFFIXES, composed, inside
from acestep.songs.lyrics import sung_lines
from acestep.songs.showing import show
from acestep.songs.text_files import read_text

_KEY_VALUE = re.compile(r"\s*([A-Za-z][A-Za-z _-]{0,30}?)\s*:\s*(.*)")
_NAMES_OF_FILES = ("audio_path", "audio", "file", "file_name", "filename", "path")


@dataclass
class Reading:
    """Values that one file gives.

    Attributes:
        values: field -> value.
        warnings: what in the file could not be used.
        unused: keys that mean nothing here.
    """

    values: dict[str, object] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def take(self, pairs: list[tuple[str, object]], where: str) -> None:
        """Take the values of `(key, raw value)` pairs; a field's own name wins over its aliases."""
        seen: dict[str, str] = {}
        for key, raw in pairs:
            name = field_name(key)
            target = FIELD_OF_NAME.get(name)
            if target is None:
                self._unknown(key, name, where)
                continue
            try:
                value = parse_field(target, raw)
            except UserError as error:
                self.warnings.append(f"{where}: {show(key)} {error}. Not used; correct it or remove it.")
                continue
            if value is None:
                continue
            if name == "tags" and str(value).count(",") >= 2:
                self.warnings.append(
                    f'{where}: "tags" is read as the trigger tag; if it describes the song, name it "caption"'
                )
            if target in seen and self.values[target] != value:
                kept, dropped = (key, seen[target]) if name == target else (seen[target], key)
                self.warnings.append(f"{where}: {show(kept)} and {show(dropped)} disagree; {show(kept)} is used.")
                if kept != key:
                    continue
            seen[target] = key
            self.values[target] = value

    def _unknown(self, key: str, name: str, where: str) -> None:
        close = [known for known in FIELD_OF_NAME if sorted(known) == sorted(name)]  # "bmp"
        close = close or get_close_matches(name, FIELD_OF_NAME, n=1, cutoff=0.8)
        if close:
            self.warnings.append(f'{where}: unknown key {show(key)}, not used. Did you mean "{close[0]}"?')
        else:
            self.unused.append(key)


class SidecarIndex:
    """Finds the texts of a song by name, whichever Unicode form and letter case its suffix has."""

    def __init__(self, texts: list[str]):
        self._path_of = {self._key(path): path for path in texts}
        self.unused = set(texts)

    def find(self, audio: str, suffix: str) -> str | None:
        """Return the path of an audio file's sidecar with this suffix, or None."""
        path = self._path_of.get((composed(str(PurePosixPath(audio).with_suffix(""))), suffix))
        self.unused.discard(path)
        return path

    @staticmethod
    def _key(path: str) -> tuple[str, str]:
        suffix = next((s for s in SIDECAR_SUFFIXES if path.lower().endswith(s)), "")
        return composed(path[: len(path) - len(suffix)]), suffix


def read_json(path: Path, where: str, root: Path) -> Reading:
    """Read a song's JSON.

    Raises:
        UserError: it is not a JSON object, or it names a file outside the folder `root`.
    """
    reading = Reading()
    content = parse_json(read_text(path, where), where, reading.warnings)
    if not isinstance(content, dict):
        raise UserError(f'{where}: holds {_kind(content)}; expected an object such as {{"caption": "a", "bpm": 120}}.')
    for key, value in content.items():
        if field_name(key) in _NAMES_OF_FILES and isinstance(value, str):
            try:
                inside(root, path.parent, value)
            except UserError as error:
                raise UserError(f"{where}: {show(key)} {error}") from error
    reading.take(list(content.items()), where)
    return reading


def parse_json(text: str, where: str, warnings: list[str]) -> object:
    """Return the content of a JSON text; keys that occur twice are added to `warnings`.

    Raises:
        UserError: the text is no JSON.
    """

    def no_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
        keys = [key for key, _ in pairs]
        warnings.extend(
            f"{where}: {show(key)} occurs {keys.count(key)} times; the last one is used."
            for key in dict.fromkeys(keys)
            if keys.count(key) > 1
        )
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=no_repeats)
    except json.JSONDecodeError as error:
        found = show(text[error.pos : error.pos + 20]) if error.pos < len(text) else "the end of the file"
        raise UserError(
            f"{where}: not valid JSON at line {error.lineno}, column {error.colno}: found {found}; {error.msg}. "
            "Correct it there."
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise UserError(f"{where}: cannot be read as JSON ({error}). Correct it.") from error


def read_key_values(text: str, where: str) -> Reading:
    """Read lines such as `caption: ...`, `bpm: 120`; what follows `lyrics:` to the end of the file is the lyrics."""
    reading, pairs, lines = Reading(), [], text.split("\n")
    for number, line in enumerate(lines):
        match = _KEY_VALUE.fullmatch(line)
        if match and field_name(match[1]) == "lyrics":
            pairs.append((match[1], "\n".join([match[2], *lines[number + 1 :]]).strip("\n")))
            break
        if match:
            pairs.append((match[1], match[2]))
        elif line.strip():
            reading.warnings.append(f'{where}: line {number + 1} is {show(line)}; expected "key: value". Not used.')
    reading.take(pairs, where)
    return reading


def looks_like_key_values(text: str) -> bool:
    """Whether at least two fields of ours, or one and nothing else, stand in the text as `key: value` lines."""
    lines = [line for line in text.split("\n") if line.strip()]
    keys = {field_name(match[1]) for line in lines if (match := _KEY_VALUE.fullmatch(line))}
    known = {FIELD_OF_NAME[key] for key in keys if key in FIELD_OF_NAME}
    return len(known) >= 2 or (len(known) == 1 and len(lines) == 1)


def looks_like_caption(text: str) -> bool:
    """Whether a text reads as a description of music: one long line, or a line or two of comma-separated terms."""
    lines = [line for line in text.split("\n") if line.strip()]
    sung = sung_lines(text)
    if len(lines) > 2 or not sung or len(sung) < len(lines):
        return False
    terms = [term for line in sung for term in re.split(r"[,;]", line) if term.strip()]
    words = sum(len(line.split()) for line in sung)
    is_list = len(terms) >= 3 * len(lines) and words / len(terms) <= 4
    return is_list or (len(lines) == 1 and words >= 12)


def _kind(content: object) -> str:
    return {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(type(content), "a number")
