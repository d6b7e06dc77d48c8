"""The table that `inspect_dataset.py` prints and `prepare_dataset.py` shows before it encodes."""

import shlex
import shutil
import unicodedata
from collections import Counter
from pathlib import PurePosixPath

from acestep.songs.lyrics import sung_lines
from acestep.songs.showing import counted, printable
from acestep.songs.song import SKIPPED_KINDS, Scan, Song

_TITLES = ("song", "length", "caption", "lyrics", "bpm", "key", "language", "sources", "problems")
_SHRINKING = {0: 6, 2: 4, 5: 4, 6: 4, 7: 4, 8: 4}  # column -> the width it keeps at least
_RIGHT = {1, 3, 4}


def song_table(scan: Scan, width: int | None = None, next_steps: bool = True) -> str:
    """Return the table, every problem in full, notes, totals and what to do next.

    Args:
        width: columns of the terminal; the terminal's own if None. The table is exactly as wide, but never
            under 57 columns.
        next_steps: say what to do next; not where that is being done.
    """
    width = width or shutil.get_terminal_size((120, 24)).columns
    parts = [_table(scan, width)] if scan.songs else []
    if problems := [f"  {label(song)}: {warning}" for song in scan.songs for warning in song.warnings]:
        parts.append("\n".join(["Problems", *problems]))
    if scan.skipped:
        skipped = [f"  {printable(song.file_name)}: {song.reason}" for song in scan.skipped]
        parts.append("\n".join(["Skipped", *skipped]))
    if scan.notes:
        parts.append("\n".join(["Notes", *(f"  {note}" for note in scan.notes)]))
    parts.append("\n".join(["Totals", *(f"  {line}" for line in total_lines(scan))]))
    if next_steps:
        lines = next_lines(scan, scan.data_dir_given or str(scan.data_dir))
        parts.append("\n".join(["Next", *(f"  {line}" for line in lines)]))
    return "\n\n".join(parts) + "\n"


def label(song: Song) -> str:
    """Return what to call a row: the file's name, and where a segment begins."""
    name = printable(song.file_name)
    return name if song.segment is None else f"{name} @{clock(song.start)}"


def clock(seconds: float) -> str:
    """Return seconds as `m:ss`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def total_lines(scan: Scan) -> list[str]:
    """Return what the folder holds in all."""
    songs = scan.songs
    files = len({song.path for song in songs})
    rows = "" if len(songs) == files else f" in {len(songs)} segments"
    languages = Counter(song.language for song in songs if not song.is_instrumental).most_common()
    shown_languages = "; languages: " + ", ".join(f"{code} {count}" for code, count in languages) if languages else ""
    return [
        f"{counted(files, 'song')}{rows}, {sum(song.duration for song in songs) / 60:.1f} minutes",
        f"{sum(bool(song.caption) for song in songs)} with a caption, {sum(bool(song.genre) for song in songs)} with a "
        f"genre, {sum(song.bpm is not None for song in songs)} with a tempo, "
        f"{sum(bool(song.keyscale) for song in songs)} with a key",
        f"{sum(not song.is_instrumental for song in songs)} with lyrics, "
        f"{sum(song.is_instrumental for song in songs)} instrumental{shown_languages}",
        f"{_skipped(scan)} skipped, {sum(bool(song.warnings) for song in songs)} with problems",
    ]


def next_lines(scan: Scan, data_dir: str) -> list[str]:
    """Return what to do next, the most urgent first.

    Args:
        data_dir: how the command that encodes the songs names their folder.
    """
    songs, steps = scan.songs, []
    if scan.skipped:
        them = "it" if len(scan.skipped) == 1 else "them"
        steps.append(
            f"Mend or remove what was skipped ({_skipped(scan)}): the exit status is 1 because of {them}, unless "
            f"--allow_skips accepts {them}"
        )
    if asked := sum(song.sources.get("is_instrumental") == "default" for song in songs):
        steps.append(f"Say for {counted(asked, 'song')} if anybody sings: lyrics, [Instrumental] or --all_instrumental")
    if unsaid := sum(not (song.caption or song.genre) for song in songs):
        steps.append(f"Describe {counted(unsaid, 'song')}: captions matter more than anything else beside the audio")
    if unknown := sum(not song.is_instrumental and song.language == "unknown" for song in songs):
        steps.append(f'Name the language of {counted(unknown, "song")} with lyrics: "language" in its JSON')
    if untimed := sum(song.bpm is None or not song.keyscale for song in songs):
        steps.append(f"Give tempo and key of {counted(untimed, 'song')}: a CSV of Key-BPM-Finder in the folder will do")
    if songs:
        steps.append(
            f"Encode them: python scripts/prepare_dataset.py --data_dir {shlex.quote(printable(data_dir))} "
            "--pretrained_model_name_or_path ACE-Step/acestep-v15-base --output_dir data"
        )
    else:
        steps.append("Nothing can be trained on yet.")
    return steps


def _table(scan: Scan, width: int) -> str:
    rows = [_TITLES, *(_row(song) for song in scan.songs)]
    widths = [max(_cells(row[column]) for row in rows) for column in range(len(_TITLES))]
    excess = sum(widths) + 2 * (len(widths) - 1) - width
    while excess > 0:
        able = [column for column, least in _SHRINKING.items() if widths[column] > least]
        if not able:
            break
        widest = max(able, key=lambda column: widths[column])
        widths[widest] -= 1
        excess -= 1
    widths[-1] += max(0, -excess)  # the rest of the line belongs to the problems
    lines = ["  ".join(_fit(cell, widths[i], i in _RIGHT) for i, cell in enumerate(row)) for row in rows]
    rule = "  ".join("-" * w for w in widths)
    return "\n".join([lines[0], rule, *lines[1:]])


def _row(song: Song) -> tuple[str, ...]:
    lines = len(sung_lines(song.lyrics))
    return (
        label(song),
        clock(song.duration),
        printable(song.caption) or "-",
        "instr." if song.is_instrumental else str(lines),
        str(song.bpm or "-"),
        song.keyscale or "-",
        "-" if song.is_instrumental else song.language,
        _sources(song),
        "; ".join(song.warnings) or "-",
    )


def _sources(song: Song) -> str:
    """Return the kinds of files that the values came from, without the song's own name."""
    stem = str(PurePosixPath(song.file_name).with_suffix(""))
    kinds = {}
    for source in song.sources.values():
        if source != "default":
            kinds[source.split(" row ")[0].removeprefix(stem + ".")] = None
    return printable(", ".join(sorted(kinds))) or "-"


def _cells(text: str) -> int:
    """Return how many columns a terminal needs for a text: Chinese, Japanese and Korean letters take two."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def _fit(text: str, width: int, right: bool) -> str:
    if _cells(text) > width:
        while _cells(text) > width - 1:
            text = text[:-1]
        text += "…"
    padding = " " * (width - _cells(text))
    return padding + text if right else text + padding


def _skipped(scan: Scan) -> str:
    """Return how many of each kind were skipped: `1 song and 3 CSV rows`."""
    found = [counted(count, SKIPPED_KINDS[kind]) for kind, count in scan.skipped_by_kind().items() if count]
    return " and ".join([", ".join(found[:-1]), found[-1]] if found[1:] else found) or "nothing"
