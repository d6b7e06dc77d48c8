"""Prompts as people write them, in options or in a file, read by the rules that songs are read by.

Training and generation therefore feed the same strings. A file of prompts serves generation in batches and previews
while training: YAML with a list, or JSONL with an object a line.

    - prompt: dream pop, female voice
      lyrics_file: words.txt
      language: en
      bpm: 96
      duration: 60
      seed: 7
"""

import dataclasses
import difflib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from acestep.errors import UserError
from acestep.models.generation_requests import Request
from acestep.plain_yaml import read_plain_yaml

KEYS = (*(field.name for field in dataclasses.fields(Request)), "lyrics_file")
# Keys for which a preview has no audio to read.
AUDIO_KEYS = ("reference_audio", "task", "source_audio", "repaint_start", "repaint_end", "cover_strength")
_WHOLE = ("seed", "num_inference_steps")
_NUMBERS = ("duration", "shift", "guidance_scale", "repaint_start", "repaint_end", "cover_strength")
_PATHS = ("reference_audio", "source_audio")
_NAME = re.compile(r"[^\W_][\w .()+'-]{0,79}(?<![ .])")
_NAME_EXPECTED = "letters, digits, spaces and any of _.()+'- (at most 80, the first a letter or a digit)"


def make_request(values: dict[str, Any], label: Callable[[str], str], folder: Path | None = None) -> Request:
    """A request from what a person wrote: texts, numbers, or null for what is not said.

    Args:
        values: by the names in `KEYS`; `lyrics_file` may stand in place of `lyrics`.
        label: what a field is called to the user.
        folder: what relative paths are relative to; the working directory by default.

    Raises:
        UserError: for values that cannot be read, make no sense, or do not go together.
    """
    from acestep.songs.fields import parse_field
    from acestep.songs.lyrics import is_instrumental_mark, parse_lyrics
    from acestep.songs.song import INSTRUMENTAL
    from acestep.songs.text_files import read_text

    said = {key: value for key, value in values.items() if value is not None}
    read: dict[str, Any] = {"name": said.get("name", "")}

    def field(key: str, parser: str) -> Any:
        try:
            return parse_field(parser, said.get(key))
        except UserError as error:
            raise UserError(f"{label(key)} {error}.") from None

    lyrics_file = said.get("lyrics_file")
    if lyrics_file is not None:
        if "lyrics" in said:
            raise UserError(f"{label('lyrics_file')} and {label('lyrics')} are both there; expected one of them.")
        path = _path(lyrics_file, label("lyrics_file"), folder)
        source = read_text(path, f"{label('lyrics_file')} {path}")
    else:
        source = field("lyrics", "lyrics") or ""
    lyrics = parse_lyrics(source).text
    sung = bool(lyrics) and not is_instrumental_mark(lyrics)
    read["prompt"], read["lyrics"] = field("prompt", "caption") or "", lyrics if sung else INSTRUMENTAL
    language = field("language", "language")
    read["language"] = "unknown" if language in (None, "instrumental") else language  # as a song's
    for key in ("bpm", "keyscale", "timesignature"):
        read[key] = field(key, key)
    for key in (*_WHOLE, *_NUMBERS):
        if key in said:
            read[key] = _number(said[key], label(key), whole=key in _WHOLE)
    for key in _PATHS:
        if key in said:
            read[key] = _path(said[key], label(key), folder)
    if "task" in said:
        read["task"] = said["task"]
    request = Request(**read)
    request.check(label)
    return request


def read_prompts(file: Path, defaults: dict[str, Any] | None = None, forbidden: Iterable[str] = ()) -> list[Request]:
    """The requests of a file, in its order.

    Args:
        file: `.yaml` or `.yml` with a list, `.jsonl` with an object a line; paths in it are relative to its folder.
        defaults: values for what a prompt does not say.
        forbidden: keys that have no meaning here.

    Returns:
        At least one request; each has a name of its own, by default its number and the prompt's first words.

    Raises:
        UserError: with the file and the prompt's number.
    """
    entries = _entries(file)
    requests = []
    for number, entry in enumerate(entries, start=1):
        where = f"{file}: prompt {number}"
        if not isinstance(entry, dict):
            raise UserError(f"{where}: found {_kind(entry)}; expected pairs such as `prompt: lo-fi piano`.")
        _check_keys(entry, where, set(forbidden))
        values = {**(defaults or {}), **{key: value for key, value in entry.items() if value is not None}}
        if "lyrics" in entry or "lyrics_file" in entry:  # what stands here replaces what holds for all
            values = {key: value for key, value in values.items() if key in entry or not key.startswith("lyrics")}

        def label(key: str, where: str = where) -> str:
            return f'{where}: "{key}"'

        request = make_request(values, label, file.parent)
        name = entry.get("name")
        if name is None:
            name = f"{number:0{max(2, len(str(len(entries))))}}-{_slug(request.prompt)}".rstrip("-")
        elif not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(f"{label('name')} is {name!r}; expected the name of a file: {_NAME_EXPECTED}.")
        requests.append(dataclasses.replace(request, name=name))
    seen: dict[str, int] = {}
    for number, request in enumerate(requests, start=1):
        first = seen.setdefault(request.name.casefold(), number)  # some disks do not tell letter cases apart
        if first != number:
            raise UserError(f'{file}: prompt {number}: "name" is {request.name!r}, as that of prompt {first} is.')
    return requests


def read_preview_prompts(file: Path) -> list[Request]:
    """The prompts of `--preview_prompts`: those of `read_prompts` without audio to begin from."""
    return read_prompts(file, forbidden=AUDIO_KEYS)


def _entries(file: Path) -> list[Any]:
    suffix = file.suffix.lower()
    if suffix in (".yaml", ".yml"):
        content = read_plain_yaml(file, str(file))
    elif suffix == ".jsonl":
        content = _read_jsonl(file)
    else:
        raise UserError(f"{file}: ends with {file.suffix or 'nothing'!r}; expected .yaml, .yml or .jsonl.")
    if content is None or content == []:
        raise UserError(f"{file}: holds no prompt; expected a list, each item beginning with `- prompt:`.")
    if not isinstance(content, list):
        raise UserError(f"{file}: found {_kind(content)}; expected a list, each item beginning with `- prompt:`.")
    return content


def _read_jsonl(file: Path) -> list[Any]:
    from acestep.songs.text_files import read_text

    entries = []
    for number, line in enumerate(read_text(file, str(file)).split("\n"), start=1):
        if not line.strip():
            continue

        def once(pairs: list[tuple[str, Any]], number: int = number) -> dict[str, Any]:
            keys = [key for key, _ in pairs]
            for key in keys:
                if keys.count(key) > 1:
                    raise UserError(f"{file}: line {number}: {key!r} is there {keys.count(key)} times; expected once.")
            return dict(pairs)

        try:
            entries.append(json.loads(line, object_pairs_hook=once))
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{file}: line {number}: cannot be read as JSON: {error}.") from None
    return entries


def _check_keys(entry: dict, where: str, forbidden: set[str]) -> None:
    known = [key for key in KEYS if key not in forbidden]
    for key, value in entry.items():
        if key in forbidden:
            raise UserError(f'{where}: "{key}" has no meaning for previews, made from texts alone. Remove it.')
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]!r}?" if close else f" Known are {', '.join(known)}."
            raise UserError(f"{where}: unknown key {str(key)!r}.{hint}")
        if isinstance(value, dict):
            raise UserError(f'{where}: "{key}" is {_kind(value)}; expected one value.')


def _number(raw: object, label: str, whole: bool) -> float:
    try:
        if isinstance(raw, bool) or not isinstance(raw, int | float | str):
            raise ValueError
        number = float(raw)
        if whole:
            number = int(raw)
            if number != float(raw):
                raise ValueError
    except (ValueError, OverflowError):
        shown = json.dumps(raw, ensure_ascii=False)
        raise UserError(f"{label} is {shown}; expected a {'whole ' if whole else ''}number.") from None
    return number


def _path(raw: object, label: str, folder: Path | None) -> Path:
    if not isinstance(raw, str | Path) or not str(raw):
        raise UserError(f"{label} is {raw!r}; expected a file.")
    path = Path(raw).expanduser()
    return path if folder is None else folder / path


def _slug(text: str) -> str:
    words = re.findall(r"\w+", text.casefold().replace("_", " "))
    slug = ""
    for word in words:
        if len(slug) + len(word) >= 40:
            break
        slug = f"{slug}-{word}".strip("-")
    return slug


def _kind(value: object) -> str:
    kinds = {dict: "a mapping", list: "a list", str: "a text", type(None): "nothing"}
    return kinds.get(type(value), f"a {type(value).__name__}")
