"""Musical keys in the spellings people use, as the model writes them: `D major`, `F# minor`, `Bb minor`."""

import re

from acestep.errors import UserError
from acestep.songs.showing import show

# The Camelot wheel, as Key-BPM-Finder and DJ programs print it: A is minor, B is major.
CAMELOT = {
    "1A": "Ab minor", "2A": "Eb minor", "3A": "Bb minor", "4A": "F minor", "5A": "C minor", "6A": "G minor",
    "7A": "D minor", "8A": "A minor", "9A": "E minor", "10A": "B minor", "11A": "F# minor", "12A": "Db minor",
    "1B": "B major", "2B": "F# major", "3B": "Db major", "4B": "Ab major", "5B": "Eb major", "6B": "Bb major",
    "7B": "F major", "8B": "C major", "9B": "G major", "10B": "D major", "11B": "A major", "12B": "E major",
}  # fmt: skip

_KEY = re.compile(
    r"(?P<note>[A-Ha-h])\s*(?P<accidental>#|♯|b|♭|-?\s*sharp|-?\s*flat)?[\s:_-]*(?P<mode>[A-Za-z]*)", re.IGNORECASE
)
_MAJOR = {"major", "maj", "dur"}
_MINOR = {"minor", "min", "moll"}
_SEMITONE = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
EXPECTED = 'a key such as "D major", "F# minor", "Bbm" or a Camelot code such as "10B"'


def parse_key(text: str) -> str:
    """Return the key as `<note> major|minor`, keeping the sharp or flat that was written.

    A capital letter alone is major (`D`), `m` is minor and `M` is major. A small letter alone is refused: some
    people mean minor by it. `H` and German `B` (B flat) are understood beside `Dur` and `Moll`.

    Raises:
        UserError: the text is no major or minor key.
    """
    text = text.strip()
    code = text.upper()
    if code in CAMELOT or code.lstrip("0") in CAMELOT:
        return CAMELOT[code.lstrip("0")]
    match = _KEY.fullmatch(text)
    if match is None:
        raise UserError(f"is {show(text)}; expected {EXPECTED}")
    mode_text = match["mode"]
    word = mode_text.lower()
    if mode_text == "m" or word in _MINOR:
        mode = "minor"
    elif mode_text == "M" or word in _MAJOR or (mode_text == "" and match["note"].isupper()):
        mode = "major"
    else:
        raise UserError(f"is {show(text)}; expected {EXPECTED}")
    note = match["note"].upper()
    accidental = (match["accidental"] or "").strip(" -").lower()
    accidental = {"♯": "#", "sharp": "#", "♭": "b", "flat": "b"}.get(accidental, accidental)
    german = word in {"dur", "moll"}
    if german and not accidental:
        note, accidental = {"H": ("B", ""), "B": ("B", "b")}.get(note, (note, ""))
    if note == "H":
        raise UserError(f"is {show(text)}; expected {EXPECTED}")
    return f"{note}{accidental} {mode}"


def same_key(first: str, second: str) -> bool:
    """Whether two canonical keys sound the same (`Db minor` and `C# minor` do)."""
    return _pitch(first) == _pitch(second)


def _pitch(key: str) -> tuple[int, str]:
    note, mode = key.split(" ")
    return (_SEMITONE[note[0]] + {"": 0, "#": 1, "b": -1}[note[1:]]) % 12, mode
