"""Cuts songs into rows of their own, each with its part of the lyrics where line times are known."""

from dataclasses import replace

from acestep.songs.lyrics import Lyrics, join_lines
from acestep.songs.song import INSTRUMENTAL, Song

SHORTEST_REST_SECONDS = 1.0


def cut_song(song: Song, seconds: float, lyrics: Lyrics | None) -> list[Song]:
    """Return a song's segments of `seconds` each, the last one shorter; a song that is not longer stays whole.

    A rest shorter than a second stays with the segment before it. A segment's line times count from its own start. A
    segment without a line of its own, of a song whose line times are known, is instrumental.
    """
    starts = [0.0]
    while song.duration - (starts[-1] + seconds) >= SHORTEST_REST_SECONDS:
        starts.append(len(starts) * seconds)
    if len(starts) == 1:
        return [song]
    ends = [*starts[1:], song.duration]
    segments = []
    for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
        segment = replace(
            song,
            start=start,
            duration=end - start,
            segment=index,
            sources=dict(song.sources),
            warnings=list(song.warnings),
        )
        if not song.is_instrumental:
            _cut_lyrics(segment, lyrics, start, end, is_last=index == len(starts) - 1)
        segments.append(segment)
    return segments


def _cut_lyrics(segment: Song, lyrics: Lyrics | None, start: float, end: float, is_last: bool) -> None:
    if lyrics is None or not lyrics.timed_lines:
        segment.warnings.append("lyrics without times: this segment has the lyrics of the whole song")
        return
    own = [line for line in lyrics.timed_lines if start <= line.seconds and (line.seconds < end or is_last)]
    text = join_lines(own, lyrics.tail if is_last else [])
    segment.line_times = [(line.seconds - start, line.text) for line in own]
    segment.lyrics = text or INSTRUMENTAL
    segment.is_instrumental = not text
