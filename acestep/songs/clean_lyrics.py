"""Rewrites lyrics files without time stamps, for people who want plain text."""

import os
from pathlib import Path

from acestep.errors import UserError
from acestep.songs.lyrics import parse_lyrics
from acestep.songs.showing import counted
from acestep.songs.text_files import read_text, write_atomically


def lyrics_files(path: Path) -> list[Path]:
    """Return a file, or the lyrics files of a folder and all below it, sorted; captions and hidden files are left out.

    Raises:
        UserError: there is nothing at `path`.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder. Name a lyrics file or a folder of songs.")
    return sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in (".txt", ".lrc")
        and not file.name.lower().endswith(".caption.txt")
        and not any(part.startswith(".") or part == "__MACOSX" for part in file.relative_to(path).parts)
        and file.is_file()
    )


def clean_file(file: Path, dry_run: bool = False, backup: bool = True) -> str:
    """Take stamps, id tags and trailing blank lines out of a file, which becomes UTF-8.

    Returns:
        What was taken out, or "" where there was nothing; such a file is left untouched.

    Raises:
        UserError: the file cannot be read or written, is a link, or would have no text left.
    """
    source = read_text(file, str(file))
    lyrics = parse_lyrics(source)
    trailing = len(source.rstrip("\n").splitlines()) - len(source.rstrip().splitlines())
    trailing += max(0, len(source) - len(source.rstrip("\n")) - 1)
    found = [
        (lyrics.removed, "time stamp or id tag", "time stamps and id tags"),
        (trailing, "trailing blank line", None),
    ]
    removed = " and ".join(counted(*what) for what in found if what[0])
    if not removed or not source.strip():
        return ""
    if not lyrics.text:
        raise UserError(f"{file}: holds no line of lyrics, only stamps and tags. Write lyrics, or remove it.")
    if file.is_symlink():
        raise UserError(f"{file}: is a link, which is not written through. Clean the file it points to.")
    if not dry_run:
        # A file without stamps keeps its lines as they are, but for the blank ones at its end.
        text = lyrics.text if lyrics.removed else source.rstrip()
        if backup:
            _keep(file)
        write_atomically(file, text + "\n")
    return removed


def _keep(file: Path) -> None:
    """Copy a file to `<name>.bak`; an older one is not overwritten, as it may hold the times."""
    kept = file.with_name(file.name + ".bak")
    number = 1
    while kept.exists():
        number += 1
        kept = file.with_name(f"{file.name}.bak{number}")
    try:
        beside = kept.with_name(kept.name + ".part")
        beside.write_bytes(file.read_bytes())
        os.replace(beside, kept)
    except OSError as error:
        raise UserError(f"{kept}: cannot be written ({error.strerror}). Use --no_backup, or make room.") from error
