"""Lyrics as a person has them: plain, or LRC with time stamps. Stamps are taken out of the text and kept as times."""

import re
from dataclasses import dataclass, field

# [mm:ss], [mm:ss.x], [mm:ss.xx], [mm:ss.xxx], [mm:ss,xx], [mm:ss:xx] and [h:mm:ss.xx]; seconds run to 59.
_CLOCK = r"(?:(?P<h>\d{1,2}):(?=\d{1,2}:\d{2}[.,]))?(?P<m>\d{1,3}):(?P<s>[0-5]\d)(?:[.,:](?P<f>\d{1,3}))?"
_LINE_STAMP = re.compile(rf"\[\s*{_CLOCK}\s*\]")
_WORD_STAMP = re.compile(rf"(?P<before>\s*)<\s*{_CLOCK}\s*>(?P<after>\s*)")
_INNER_STAMP = re.compile(rf"(?P<before>\s*)\[\s*{_CLOCK}\s*\](?P<after>\s*)")
# Id tags of the LRC format. Everything else in brackets ([Verse 1], [Intro: piano]) is a structure tag for the model.
_ID_TAG = re.compile(r"\[\s*(?:(?:ar|al|ti|au|by|re|ve|length|tool|la|lr|offset)\s*:|#)[^\[\]]*\]", re.IGNORECASE)
_OFFSET = re.compile(r"\[\s*offset\s*:\s*(?P<ms>[+-]?\d{1,7})\s*(?:ms)?\s*\]", re.IGNORECASE)
_STRUCTURE_LINE = re.compile(r"\[[^\[\]]*\]")
_INSTRUMENTAL_MARK = re.compile(r"\[\s*(?:instrumental|inst)\.?\s*\]", re.IGNORECASE)


@dataclass
class TimedLine:
    """One line of lyrics that has a time.

    Attributes:
        seconds: when the line begins.
        text: the line without stamps; empty where an LRC marks the end of the line before.
        lead_in: untimed lines that stand above it, such as a structure tag or a blank line.
    """

    seconds: float
    text: str
    lead_in: list[str] = field(default_factory=list)


@dataclass
class Lyrics:
    """Lyrics for the prompt and the times that stood in them.

    Attributes:
        text: lines without stamps and id tags; no blank lines at either end.
        timed_lines: in the order of time; empty when the text has no line stamps.
        tail: untimed lines after the last timed one.
        removed: how many stamps and id tags were taken out.
    """

    text: str
    timed_lines: list[TimedLine]
    tail: list[str]
    removed: int


def parse_lyrics(source: str) -> Lyrics:
    """Take LRC time stamps, word stamps and id tags out of a text, and keep the line times.

    A line with several stamps (a chorus written once) appears at each of its times, with the structure tag above it.
    `[offset:]` is in milliseconds and moves the lines earlier when positive, as the LRC format has it.
    """
    lines, offset, removed = [], 0.0, 0
    source_lines = source.splitlines()
    is_lrc = any(_LINE_STAMP.match(line.lstrip()) or _WORD_STAMP.match(line) for line in source_lines)
    for line in (source_line.strip() for source_line in source_lines):
        if _ID_TAG.fullmatch(line):
            found = _OFFSET.fullmatch(line)
            offset = int(found["ms"]) / 1000 if found else offset
            removed += 1
            continue
        times, text, count = _split_stamps(line, is_lrc)
        removed += count
        lines.append((times, text))

    blocks, lead_in = [], []
    for times, text in lines:
        if not times:
            lead_in.append(text)
            continue
        for seconds in times:
            blocks.append(TimedLine(max(0.0, seconds - offset), text, list(lead_in)))
        lead_in = []
    blocks.sort(key=lambda block: block.seconds)
    return Lyrics(join_lines(blocks, lead_in), blocks, lead_in, removed)


def join_lines(timed_lines: list[TimedLine], tail: list[str] = ()) -> str:
    """Return the text of these lines with their lead-ins; blank lines at both ends go."""
    lines = [text for block in timed_lines for text in (*block.lead_in, block.text)] + list(tail)
    return "\n".join(lines).strip("\n")


def is_instrumental_mark(text: str) -> bool:
    """Whether the text says `[Instrumental]` or `[inst]` and has no line to sing."""
    return bool(_INSTRUMENTAL_MARK.search(text)) and not sung_lines(text)


def sung_lines(text: str) -> list[str]:
    """Return the lines that are words: neither blank nor a structure tag."""
    return [line for line in text.splitlines() if line.strip() and not _STRUCTURE_LINE.fullmatch(line.strip())]


def _split_stamps(line: str, is_lrc: bool) -> tuple[list[float], str, int]:
    """Return the times at the line's start, the text without any stamp, and how many stamps there were."""
    times, count = [], 0
    while match := _LINE_STAMP.match(line):
        times.append(_seconds(match))
        line = line[match.end() :].lstrip()
        count += 1
    if is_lrc:
        for pattern in (_WORD_STAMP, _INNER_STAMP):
            # A file with word stamps alone still says when each line begins.
            if pattern is _WORD_STAMP and not times and (first := pattern.match(line)):
                times.append(_seconds(first))
            line, found = pattern.subn(lambda m: " " if m["before"] or m["after"] else "", line)
            count += found
    return times, line.strip(), count


def _seconds(match: re.Match) -> float:
    fraction = match["f"]
    return (
        int(match["h"] or 0) * 3600
        + int(match["m"]) * 60
        + int(match["s"])
        + (int(fraction) / 10 ** len(fraction) if fraction else 0.0)
    )
