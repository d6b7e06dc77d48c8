"""Reading text that a person wrote with some editor (UTF-8 with or without BOM, UTF-16 with BOM); writing it whole."""

import codecs
import os
from pathlib import Path

from acestep.errors import UserError

# A text beside a song is some kilobytes. A larger file is something else under that name.
MAX_TEXT_BYTES = 32 * 1024 * 1024


def read_text(path: Path, name: str | None = None) -> str:
    """Return the text of a file with `\\n` line ends and without its BOM.

    Args:
        path: the file.
        name: what to call the file in an error; its own name by default.

    Raises:
        UserError: the file cannot be opened, is too large, or is in another encoding.
    """
    name = name or path.name
    try:
        size = path.stat().st_size
        if size > MAX_TEXT_BYTES:
            raise UserError(f"{name}: {size} bytes; expected a text under {MAX_TEXT_BYTES} bytes. Remove or rename it.")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror or error}). Check its permissions.") from error
    return decode_text(content, name)


def decode_text(content: bytes, name: str) -> str:
    """Return `content` as text with `\\n` line ends.

    Raises:
        UserError: the bytes are neither UTF-8 nor UTF-16 with a byte order mark.
    """
    encoding = "utf-8-sig"
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise UserError(f"{name}: UTF-32 text; expected UTF-8 or UTF-16. Save it as UTF-8.")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        found = content[error.start : error.start + 1].hex()
        raise UserError(
            f"{name}: byte 0x{found} at offset {error.start} is not {encoding.removesuffix('-sig').upper()}; "
            "expected UTF-8, or UTF-16 with a byte order mark. Save it as UTF-8."
        ) from error
    if "\0" in text:
        raise UserError(
            f"{name}: holds NUL characters (UTF-16 without a byte order mark, or no text at all); "
            "expected UTF-8. Save it as UTF-8."
        )
    return text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")


def write_atomically(path: Path, text: str) -> None:
    """Write a text file as a whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    beside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8", newline="\n")
        os.replace(beside, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}). Name another file.") from error
