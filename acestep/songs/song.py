"""What a scan of a folder gives: songs, the ones left out with their reasons, and notes."""

from dataclasses import dataclass, field
from pathlib import Path

INSTRUMENTAL = "[Instrumental]"
SKIPPED_KINDS = {  # kind: what people call it
    "song": "song",
    "csv_row": "CSV row",
    "json_sample": "JSON sample",
    "file": "other file",
    "folder": "folder",
}


@dataclass(kw_only=True)
class Song:
    """One row of training data: a song, or a segment of one.

    Attributes:
        file_name: POSIX path relative to the scanned folder.
        path: the audio file.
        id: hash of the audio's content (32 hex digits), the same on every machine; segments share their song's id.
        duration: seconds of the audio that this row holds (the segment's, when the song was cut).
        start: seconds into the file where this row begins.
        segment: number of the segment from 0; None for a whole song.
        sample_rate, channels: those of the file.
        lossy: the file is MP3, Vorbis, Opus or the like: what it decodes to may differ with the decoder's version.
        bpm: whole beats a minute, or None.
        keyscale: such as "F# minor", or "".
        timesignature: "2", "3", "4", "6" or "".
        is_instrumental: nobody sings; `lyrics` is then `[Instrumental]`.
        custom_tag, tag_position: the trigger tag and where it joins the text: prepend, append or replace.
        prompt_override: "caption" or "genre" when this song always uses that text, None otherwise.
        genre_ratio: percentage of training steps that use the genre in place of the caption.
        line_times: `(seconds into this row, line)` for each line with an LRC time; None without times.
        sources: field -> where its value came from, such as "song1.json", "bpm.csv row 3" or "--custom_tag".
        warnings: what a person should look at; the song is used nevertheless.
    """

    file_name: str
    path: Path
    id: str
    duration: float
    sample_rate: int
    channels: int
    lossy: bool = False
    start: float = 0.0
    segment: int | None = None
    caption: str = ""
    genre: str = ""
    lyrics: str = INSTRUMENTAL
    language: str = "unknown"
    bpm: int | None = None
    keyscale: str = ""
    timesignature: str = ""
    is_instrumental: bool = True
    custom_tag: str = ""
    tag_position: str = "prepend"
    prompt_override: str | None = None
    genre_ratio: int = 0
    line_times: list[tuple[float, str]] | None = None
    sources: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def song_id(self) -> str:
        """The id of the whole song, which its segments share."""
        return self.id

    @property
    def row_id(self) -> str:
        """The id of this row: the song's id, with the segment's number when the song was cut."""
        return self.id if self.segment is None else f"{self.id}-{self.segment:04d}"

    def prompts(self) -> dict[str, str]:
        """Return the texts to train on by kind, "caption" and "genre", each joined with the trigger tag.

        Only kinds that have a text are there. A song without any text has the tag alone (or "") as its caption.
        """
        texts = {"caption": self.caption, "genre": self.genre}
        prompts = {kind: self._tagged(text) for kind, text in texts.items() if text}
        return prompts or {"caption": self.custom_tag}

    def _tagged(self, text: str) -> str:
        if not self.custom_tag:
            return text
        if self.tag_position == "replace":
            return self.custom_tag
        if self.tag_position == "append":
            return f"{text}, {self.custom_tag}"
        return f"{self.custom_tag}, {text}"


@dataclass
class SkippedSong:
    """Something that is left out, and why.

    Attributes:
        file_name: the file, or the name that an entry gives.
        reason: a sentence that continues the name.
        kind: one of `SKIPPED_KINDS`: a song; another file, or a folder, that may hold more; or an entry (a CSV row, a
            sample of a dataset JSON), whose song may be used all the same.
    """

    file_name: str
    reason: str
    kind: str = "song"


@dataclass
class Scan:
    """What a folder holds.

    Attributes:
        data_dir: the scanned folder, resolved.
        data_dir_given: the folder as the caller named it, for commands to paste.
        songs: in the order of their paths, segments in the order of time.
        skipped: what was left out: songs, and entries, files and folders, by their `kind`.
        notes: what belongs to no single song: unmatched CSV rows, hidden files, texts without a song.
    """

    data_dir: Path
    songs: list[Song] = field(default_factory=list)
    skipped: list[SkippedSong] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data_dir_given: str = ""

    def skipped_by_kind(self) -> dict[str, int]:
        """Return how many of each kind were left out, all of `SKIPPED_KINDS`."""
        kinds = [skipped.kind for skipped in self.skipped]
        return {kind: kinds.count(kind) for kind in SKIPPED_KINDS}
