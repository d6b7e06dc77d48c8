"""Finding what a folder holds: audio, the texts beside it, CSVs; and refusing names that lead out of it."""

import os
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from acestep.errors import UserError
from acestep.songs.showing import printable, show
from acestep.songs.song import SkippedSong

AUDIO_SUFFIXES = (".wav", ".mp3", ".flac", ".ogg", ".opus")
# Read where libsndfile (AIFF and kin) or torchaudio with torchcodec (the rest) can.
OTHER_AUDIO_SUFFIXES = (".m4a", ".aac", ".wma", ".aiff", ".aif", ".aifc", ".m4b", ".mp4", ".webm", ".caf", ".w64")
SIDECAR_SUFFIXES = (".lyrics.txt", ".caption.txt", ".txt", ".lrc", ".json")


@dataclass
class Folder:
    """The files below a folder, by their POSIX paths relative to it.

    Attributes:
        root: the folder, resolved.
        audio: audio files that may be decoded, sorted.
        texts: text and JSON files, sorted.
        csvs: CSV files, sorted.
        skipped, notes: see `Scan`.
    """

    root: Path
    audio: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    csvs: list[str] = field(default_factory=list)
    skipped: list[SkippedSong] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def list_folder(data_dir: Path) -> Folder:
    """List a folder and all below it. Linked folders are not entered.

    Raises:
        UserError: there is no such folder, or it cannot be read.
    """
    folder = Folder(_resolved(data_dir))
    hidden, others = [], Counter()
    for directory, subdirectories, names in os.walk(folder.root, onerror=lambda error: _unreadable(folder, error)):
        for name in sorted(subdirectories):
            path = Path(directory, name)
            relative = path.relative_to(folder.root).as_posix()
            if name.startswith(".") or name == "__MACOSX":
                hidden.append(f"{relative}/")
                subdirectories.remove(name)
            elif path.is_symlink():
                subdirectories.remove(name)
                reason = "is a linked folder, which is not entered; copy the songs."
                folder.skipped.append(SkippedSong(printable(f"{relative}/"), reason, "folder"))
        for name in sorted(names):
            relative = Path(directory, name).relative_to(folder.root).as_posix()
            if name.startswith("."):
                hidden.append(relative)
            else:
                _sort_in(folder, relative, others)
    for paths in (folder.audio, folder.texts, folder.csvs):
        paths.sort()
    if hidden:
        folder.notes.append(f"hidden, not read: {_listing(hidden)}")
    if others:
        kinds = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in sorted(others.items()))
        folder.notes.append(f"neither audio nor a text for it: {printable(kinds)}")
    return folder


def _resolved(data_dir: Path) -> Path:
    try:
        root = Path(data_dir).resolve()
        if root.is_dir():
            os.listdir(root)
            return root
    except (OSError, ValueError) as error:  # no permission; a NUL in the name
        raise UserError(f"{data_dir}: cannot be read ({error}). Name the folder that holds the songs.") from error
    raise UserError(f"{data_dir}: no such folder. Name the folder that holds the songs.")


def _sort_in(folder: Folder, relative: str, others: Counter) -> None:
    """Put one file where it belongs."""
    suffix = PurePosixPath(relative).suffix.lower()
    groups = {".csv": folder.csvs}
    groups |= dict.fromkeys((*AUDIO_SUFFIXES, *OTHER_AUDIO_SUFFIXES), folder.audio)
    groups |= dict.fromkeys(SIDECAR_SUFFIXES, folder.texts)
    group = groups.get(suffix)
    if group is None:
        others[suffix] += 1
        return
    reason = _reason_against(folder.root, relative)
    if reason is None and group is folder.audio and (folder.root / relative).stat().st_size == 0:
        reason = "is empty (0 bytes). Copy or download it again."
    if reason is None:
        group.append(relative)
    else:
        kind = "song" if group is folder.audio else "file"
        folder.skipped.append(SkippedSong(printable(relative), reason, kind))


def _reason_against(root: Path, relative: str) -> str | None:
    """Return why a file must not be read, or None."""
    try:
        relative.encode()
    except UnicodeEncodeError:
        return "has a name that is not valid Unicode. Rename it."
    path = root / relative
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        return f"cannot be opened ({getattr(error, 'strerror', None) or error}). Mend or remove the link."
    if not target.is_relative_to(root):
        return "is a link that points outside the folder. Copy the file into the folder."
    if not target.is_file():
        return "is no regular file. Remove it."
    return None


def inside(root: Path, base: Path, name: str) -> str:
    """Return the POSIX path, relative to `root`, of a name found in a file in the folder `base`; it need not exist.

    Raises:
        UserError: the name leads out of `root`: by `..`, by an absolute path or by a link.
    """
    windows = PureWindowsPath(name)
    try:
        # A path of another system cannot be followed here, and must not be mistaken for a plain name.
        if os.name != "nt" and (windows.drive or name.startswith("\\\\")):
            raise UserError(f"{show(name)} points outside the folder. Use paths relative to the file that names them.")
        target = Path(os.path.normpath(base / name.replace("\\", "/")))
        if not (target.is_relative_to(root) and target.resolve().is_relative_to(root)):
            raise UserError(f"{show(name)} points outside the folder. Use paths relative to the file that names them.")
    except (OSError, RuntimeError) as error:
        raise UserError(f"{show(name)} is no usable file name ({error}). Correct it.") from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{show(name)} is no usable file name. Correct it.") from error
    return target.relative_to(root).as_posix()


def composed(name: str) -> str:
    """Return a name in Unicode's composed form: macOS writes `é` as two characters, others as one."""
    return unicodedata.normalize("NFC", name)


def _unreadable(folder: Folder, error: OSError) -> None:
    relative = Path(error.filename).relative_to(folder.root).as_posix()
    reason = f"cannot be read ({error.strerror}). Check its permissions."
    folder.skipped.append(SkippedSong(printable(f"{relative}/"), reason, "folder"))


def _listing(names: list[str], limit: int = 5) -> str:
    shown = ", ".join(printable(name) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
