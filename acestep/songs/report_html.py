"""A page about a folder of songs that opens anywhere: one file with players, waveforms, texts and problems."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from acestep.songs.decode import skip_reason
from acestep.songs.preview import preview
from acestep.songs.report_style import SCRIPT, STYLE
from acestep.songs.song import Scan, Song
from acestep.songs.table import clock, label, next_lines, total_lines
from acestep.songs.text_files import write_atomically
from acestep.songs.workers import run_in_workers


def write_html(scan: Scan, file: Path, preview_seconds: float, workers: int, timeout: float) -> None:
    """Write the page.

    Args:
        preview_seconds: seconds of each song that its player holds, as a mono MP3 inside the page; 0 for no players.

    Raises:
        UserError: the file cannot be written.
    """
    tasks = ((song.path, song.start, song.duration, preview_seconds) for song in scan.songs)
    previews = run_in_workers(preview, tasks, workers, timeout)
    write_atomically(file, "\n".join(_page(scan, previews, preview_seconds)) + "\n")


def _page(scan: Scan, previews: Iterator, preview_seconds: float) -> Iterator[str]:
    title = f"Songs in {_text(scan.data_dir.name)}"
    yield f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>\n{STYLE}</style></head>\n<body>\n<header><h1>{title}</h1>"
    yield _list("totals", total_lines(scan))
    if preview_seconds:
        yield (
            f'<p class="hint">Players hold the first {preview_seconds:g} seconds of each song, as a mono MP3 inside '
            "this page. Waveforms show all of it; the lighter part has no sound here. Click a waveform, or a line of "
            "lyrics that has a time, to play from there.</p>"
        )
    yield f"<h2>Next</h2>{_list('next', next_lines(scan, scan.data_dir.name))}</header>\n<main>"
    for song, result in zip(scan.songs, previews, strict=True):
        yield _song(song, result, preview_seconds)
    yield "</main>"
    if scan.skipped:
        rows = [f"<b>{_text(skipped.file_name)}</b> {_text(skipped.reason)}" for skipped in scan.skipped]
        yield f'<section class="skipped"><h2>Skipped</h2><ul><li>{"</li><li>".join(rows)}</li></ul></section>'
    if scan.notes:
        yield f"<section><h2>Notes</h2>{_list('notes', scan.notes)}</section>"
    yield f"<script>\n{SCRIPT}</script>\n</body>\n</html>"


def _song(song: Song, result: tuple[str, list[float]] | Exception, preview_seconds: float) -> str:
    if isinstance(result, Exception):
        sound = f'<p class="problem">no preview: {_text(skip_reason(result))}</p>'
    else:
        uri, waveform = result
        player = f'<audio controls preload="metadata" src="{uri}"></audio>' if uri else ""
        heard = min(1.0, preview_seconds / song.duration)
        sound = f"{_waveform(waveform, heard)}{player}"
    facts = [
        ("length", clock(song.duration)),
        ("bpm", str(song.bpm or "")),
        ("key", song.keyscale),
        ("time signature", song.timesignature),
        ("language", "" if song.is_instrumental else song.language),
        ("genre", song.genre),
        ("trigger tag", f"{song.custom_tag} ({song.tag_position})" if song.custom_tag else ""),
        ("file", f"{song.sample_rate / 1000:g} kHz, {song.channels} channel{'s' if song.channels > 1 else ''}"),
        ("id", song.row_id),
    ]
    field_of = {"key": "keyscale", "time signature": "timesignature", "trigger tag": "custom_tag"}
    shown = "".join(
        f"<div><dt>{name}</dt><dd{_title(song, field_of.get(name, name))}>{_text(value)}</dd></div>"
        for name, value in facts
        if value
    )
    caption = _text(song.caption) or '<span class="missing">no caption</span>'
    problems = "".join(f'<li class="problem">{_text(warning)}</li>' for warning in song.warnings)
    return (
        f'<article><h2>{_text(label(song))}</h2><div class="columns"><div>{sound}'
        f'<p class="caption"{_title(song, "caption")}>{caption}</p><dl>{shown}</dl>'
        f"{f'<ul>{problems}</ul>' if problems else ''}</div>"
        f'<pre class="lyrics"{_title(song, "lyrics")}>{_lyrics(song)}</pre></div></article>'
    )


def _lyrics(song: Song) -> str:
    """Return the lyrics; lines whose time is known can be clicked."""
    if not song.line_times:
        return _text(song.lyrics)
    times = list(song.line_times)
    lines = []
    for line in song.lyrics.splitlines():
        while times and not times[0][1]:  # ends of lines
            times.pop(0)
        if times and times[0][1] == line:
            seconds = times.pop(0)[0]
            lines.append(f'<a data-seconds="{seconds:.2f}"><i>{clock(seconds)}</i>{_text(line)}</a>')
        else:
            lines.append(_text(line))
    return "\n".join(lines)


def _waveform(peaks: list[float], heard: float) -> str:
    """Return a drawing of peaks from 0 to 1; the part that the player does not hold is lighter."""
    paths = ["", ""]
    for index, peak in enumerate(peaks):
        height = max(0.01, peak) * 38
        paths[index >= heard * len(peaks)] += f"M{index + 0.5} {40 - height:.1f}V{40 + height:.1f}"
    return (
        f'<svg class="waveform" data-heard="{heard:.4f}" viewBox="0 0 {len(peaks)} 80" preserveAspectRatio="none">'
        f'<path d="{paths[0]}"/><path class="unheard" d="{paths[1]}"/><line x1="0" x2="0" y1="0" y2="80"/></svg>'
    )


def _title(song: Song, field: str) -> str:
    source = song.sources.get(field)
    return f' title="{_text("from " + source)}"' if source else ""


def _list(kind: str, lines: list[str]) -> str:
    return f'<ul class="{kind}">{"".join(f"<li>{_text(line)}</li>" for line in lines)}</ul>'


def _text(text: str) -> str:
    # Half a surrogate pair, as in file names of no encoding, cannot be written as UTF-8.
    return escape(text.encode("utf-8", "replace").decode(), quote=True)
