"""One value of one field, from whatever a JSON, a CSV cell or a `key: value` line holds to what a song keeps."""

import math
import re

from acestep.errors import UserError
from acestep.songs.keys import parse_key
from acestep.songs.languages import parse_language
from acestep.songs.showing import show

# field: the names other tools use for it. Names are compared in small letters, with spaces and hyphens as underscores.
ALIASES = {
    "caption": (),
    "genre": ("genres",),
    "lyrics": (),
    "language": ("vocal_language", "lang"),
    "bpm": ("tempo",),
    "keyscale": ("key", "scale", "key_scale"),
    "timesignature": ("time_signature", "signature"),
    "is_instrumental": ("instrumental",),
    "custom_tag": ("tags", "trigger"),
    "tag_position": (),
    "prompt_override": (),
}
FIELDS = tuple(ALIASES)
FIELD_OF_NAME = {name: field for field, aliases in ALIASES.items() for name in (field, *aliases)}
BPM_RANGE = (30, 300)
TAG_POSITIONS = ("prepend", "append", "replace")
_YES, _NO = {"true", "yes", "y", "1", "on"}, {"false", "no", "n", "0", "off"}
_BPM = re.compile(r"(\d{1,4}(?:[.,]\d{1,9})?)\s*(?:bpm)?", re.IGNORECASE)
_SIGNATURE = re.compile(r"(\d{1,2})(?:\.0)?(?:\s*/\s*(2|4|8|16))?")


def field_name(name: str) -> str:
    """Return a key or a column title in the form that `FIELD_OF_NAME` has."""
    return re.sub(r"[\s_-]+", "_", name.strip().casefold())


def parse_field(field: str, raw: object) -> object | None:
    """Return the value a song keeps, or None where `raw` says nothing (null, empty text).

    Raises:
        UserError: the value cannot be meant for this field; the message begins with `is` or `has`, so that the caller
            puts the file, the row and the key before it.
    """
    if raw is None or (isinstance(raw, str) and not raw.strip()) or raw == []:
        return None
    return _PARSERS[field](raw)


def parse_bpm(raw: object) -> int:
    """Return whole beats a minute for 128, 127.6, "128", "128 BPM" or "127,6"; the range is 30 to 300."""
    value = raw
    if isinstance(raw, str) and (match := _BPM.fullmatch(raw.strip())):
        value = float(match[1].replace(",", "."))
    low, high = BPM_RANGE
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UserError(f"is {show(raw)}; expected a number between {low} and {high}")
    return math.floor(value + 0.5)


def parse_timesignature(raw: object) -> str:
    """Return "2", "3", "4" or "6" for 3, "3", "3/4" or "6/8"."""
    text = str(raw) if isinstance(raw, int | float | str) and not isinstance(raw, bool) else ""
    match = _SIGNATURE.fullmatch(text.strip())
    if match is None or match[1].lstrip("0") not in {"2", "3", "4", "6"}:
        raise UserError(f"is {show(raw)}; expected 2, 3, 4 or 6 beats a bar (3/4 and 3 mean the same)")
    return match[1].lstrip("0")


def parse_flag(raw: object) -> bool:
    """Return a bool for true, "yes", 1 and the like."""
    word = str(raw).strip().lower() if isinstance(raw, bool | int | str) else ""
    if word not in _YES | _NO:
        raise UserError(f"is {show(raw)}; expected true or false")
    return word in _YES


def parse_text(raw: object, joiner: str = ", ") -> str:
    """Return text for a text, a number or a list of them, which is joined."""
    items = raw if isinstance(raw, list) else [raw]
    if not all(isinstance(item, str | int | float) and not isinstance(item, bool) for item in items):
        raise UserError(f"is {show(raw)}; expected text")
    text = joiner.join(str(item).strip() for item in items)
    # Half of a surrogate pair ("\ud83c" in JSON) can be neither printed nor tokenized nor stored.
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"has half of a surrogate pair in {show(text)}; expected valid Unicode text")
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def parse_choice(raw: object, choices: tuple[str, ...]) -> str:
    """Return the choice that `raw` names, in any letter case."""
    word = raw.strip().lower() if isinstance(raw, str) else ""
    if word not in choices:
        raise UserError(f"is {show(raw)}; expected one of {', '.join(choices)}")
    return word


def _parse_keyscale(raw: object) -> str:
    if not isinstance(raw, str):
        raise UserError(f'is {show(raw)}; expected a key such as "D major" or "F# minor"')
    return parse_key(raw)


def _parse_language(raw: object) -> str:
    if not isinstance(raw, str):
        raise UserError(f'is {show(raw)}; expected a language such as "en" or "Japanese"')
    # Handled by the song: it says that nobody sings, not what is sung.
    return "instrumental" if raw.strip().casefold() == "instrumental" else parse_language(raw)


_PARSERS = {
    "caption": parse_text,
    "genre": parse_text,
    "lyrics": lambda raw: parse_text(raw, joiner="\n"),
    "language": _parse_language,
    "bpm": parse_bpm,
    "keyscale": _parse_keyscale,
    "timesignature": parse_timesignature,
    "is_instrumental": parse_flag,
    "custom_tag": parse_text,
    "tag_position": lambda raw: parse_choice(raw, TAG_POSITIONS),
    "prompt_override": lambda raw: parse_choice(raw, ("caption", "genre")),
}
