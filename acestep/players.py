"""A page of players to compare pieces of music by ear: rows are prompts, columns are what they were played with.

The page is one file without anything from elsewhere; the audio lies beside it, so both move together.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from urllib.parse import quote


@dataclass(frozen=True)
class Clip:
    """One piece of music.

    Attributes:
        file: path relative to the page, with forward slashes.
        seconds: its length.
        peak, rms: of full scale.
        problem: why there is nothing to hear, in place of the file.
    """

    file: str = ""
    seconds: float = 0.0
    peak: float = 0.0
    rms: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class Row:
    """One prompt.

    Attributes:
        name: what it is called.
        caption, lyrics: its texts.
        facts: further pairs of name and value.
        clips: by column.
    """

    name: str
    caption: str
    lyrics: str = ""
    facts: Sequence[tuple[str, str]] = ()
    clips: dict[str, Clip] = field(default_factory=dict)


def write_players(
    file: Path, title: str, columns: Sequence[str], rows: Sequence[Row], notes: Sequence[str] = ()
) -> None:
    """Write the page whole or not at all; columns stand in the order given."""
    beside = file.with_name(f".{file.name}")
    beside.write_text("\n".join(_page(title, columns, rows, notes)) + "\n", encoding="utf-8")
    os.replace(beside, file)


def _page(title: str, columns: Sequence[str], rows: Sequence[Row], notes: Sequence[str]) -> Iterator[str]:
    yield f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{_text(title)}</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>\n{STYLE}</style></head>\n<body>\n<header><h1>{_text(title)}</h1>"
    for note in notes:
        yield f'<p class="hint">{_text(note)}</p>'
    yield f'<p class="hint">{KEYS}</p></header>\n<main tabindex="0" aria-label="players"><table>'
    heads = "".join(f'<th scope="col">{_text(column)}</th>' for column in columns)
    yield f'<thead><tr><th scope="col">prompt</th>{heads}</tr></thead>\n<tbody>'
    for row in rows:
        cells = "".join(_cell(row, column) for column in columns)
        yield f'<tr><th scope="row">{_texts(row)}</th>{cells}</tr>'
    yield f"</tbody></table></main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>"


def _texts(row: Row) -> str:
    facts = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in row.facts)
    lyrics = f"<details><summary>lyrics</summary><pre>{_text(row.lyrics)}</pre></details>" if row.lyrics else ""
    return f'<h2>{_text(row.name)}</h2><p class="caption">{_text(row.caption)}</p><dl>{facts}</dl>{lyrics}'


def _cell(row: Row, column: str) -> str:
    clip = row.clips.get(column)
    if clip is None:
        return '<td class="missing">not played</td>'
    if clip.problem:
        return f'<td class="problem">{_text(clip.problem)}</td>'
    label = _text(f"{row.name}, {column}")
    measures = f"{clip.seconds:.1f} s, peak {clip.peak:.3f}, RMS {clip.rms:.3f}"
    return (
        f'<td><audio controls preload="none" aria-label="{label}" src="{_text(quote(clip.file))}"></audio>'
        f"<small>{measures}</small></td>"
    )


def _text(text: str) -> str:
    # Half a surrogate pair, as in file names of no encoding, cannot be written as UTF-8.
    return escape(text.encode("utf-8", "replace").decode(), quote=True)


KEYS = (
    "Keys: <kbd>,</kbd> and <kbd>.</kbd> go on with the column before or after from the same moment, <kbd>b</kbd> goes "
    "to the first column and back, <kbd>p</kbd> and <kbd>n</kbd> go to the row above or below, <kbd>space</kbd> pauses."
)

STYLE = """\
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #2563eb; --bad: #b45309; --page: #fff; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0; padding: 1.5rem; background: var(--page); }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
header { margin-bottom: 1.2rem; }
.hint { opacity: .75; max-width: 60rem; margin: .3rem 0; overflow-wrap: anywhere; }
kbd { border: 1px solid var(--line); border-radius: 4px; padding: 0 .35rem; background: var(--soft); font: inherit; }
main { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: separate; border-spacing: 0; }
th, td { padding: .8rem; vertical-align: top; text-align: left; font-weight: inherit;
  border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { font-weight: 600; white-space: nowrap; background: var(--soft); }
tr > :first-child { position: sticky; left: 0; width: 19rem; min-width: 19rem; max-width: 19rem; box-sizing: border-box;
  background: var(--page); border-right: 1px solid var(--line); z-index: 1; }
thead tr > :first-child { background: linear-gradient(var(--soft), var(--soft)), var(--page); }
audio { width: 17rem; display: block; border-radius: 1.7rem; }
td.playing { box-shadow: inset 0 3px var(--accent); }
small { opacity: .7; font-variant-numeric: tabular-nums; white-space: nowrap; }
.caption { margin: 0 0 .4rem; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 12rem; overflow: auto; }
dl { display: flex; flex-wrap: wrap; gap: .1rem .9rem; margin: 0; font-size: .85rem; }
dl div { display: flex; gap: .35rem; min-width: 0; }
dt { opacity: .65; }
dd { margin: 0; overflow-wrap: anywhere; }
summary { cursor: pointer; font-size: .85rem; margin-top: .3rem; }
pre { margin: .3rem 0 0; padding: .6rem; max-height: 16rem; overflow: auto; background: var(--soft); border-radius: 4px;
  white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; font-size: .9rem; }
.problem { color: var(--bad); max-width: 17rem; }
.missing { opacity: .55; font-style: italic; }
@media (max-width: 45rem) {
  body { padding: .7rem; }
  tr > :first-child { position: static; width: 13rem; min-width: 13rem; max-width: 13rem; }
}
@media (prefers-color-scheme: dark) { :root { --accent: #60a5fa; --bad: #fbbf24; --page: #16181d; } }
"""

SCRIPT = """\
const rows = [...document.querySelectorAll("tbody tr")].map((row) => [...row.querySelectorAll("td")]);
const players = [...document.querySelectorAll("audio")];
let place = null, before = null;
const find = (audio) => {
  for (const [row, cells] of rows.entries()) {
    const column = cells.indexOf(audio.parentElement);
    if (column >= 0) return { row, column };
  }
};
for (const audio of players) {
  audio.addEventListener("play", () => {
    for (const other of players) if (other !== audio) other.pause();
    place = find(audio);
    for (const cell of document.querySelectorAll(".playing")) cell.classList.remove("playing");
    audio.parentElement.classList.add("playing");
  });
}
const playerAt = (row, column) => rows[row]?.[column]?.querySelector("audio");
const go = (row, column, seconds) => {
  const audio = playerAt(row, column);
  if (!audio) return;
  const start = () => {
    audio.currentTime = Math.min(seconds, audio.duration || 0);
    audio.play();
    audio.focus();
    audio.scrollIntoView({ block: "nearest", inline: "center" });
  };
  if (audio.readyState > 0) return start();
  audio.addEventListener("loadedmetadata", start, { once: true });
  audio.load();
};
const step = (from, direction) => {
  let column = from.column + direction;
  while (column >= 0 && column < rows[from.row].length && !playerAt(from.row, column)) column += direction;
  return column;
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const first = place ?? { row: 0, column: rows[0]?.findIndex((cell) => cell.querySelector("audio")) ?? 0 };
  const now = playerAt(first.row, first.column), seconds = now?.currentTime ?? 0;
  if (event.key === "," || event.key === ".") {
    go(first.row, step(first, event.key === "." ? 1 : -1), seconds);
  } else if (event.key === "b") {
    const column = first.column === 0 ? before ?? 0 : 0;
    if (first.column !== 0) before = first.column;
    go(first.row, column, seconds);
  } else if (event.key === "n" || event.key === "p") {
    go(first.row + (event.key === "n" ? 1 : -1), first.column, 0);
  } else if (event.key === " " && !["AUDIO", "SUMMARY"].includes(event.target.tagName)) {
    if (now?.paused) now.play(); else now?.pause();
  } else return;
  event.preventDefault();
});
"""
