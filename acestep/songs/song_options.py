"""Options that every script shares which reads a folder of songs."""

from dataclasses import dataclass

from acestep.errors import UserError
from acestep.options import option
from acestep.songs.fields import TAG_POSITIONS


@dataclass
class SongOptions:
    all_instrumental: bool = option(False, "treat every song without lyrics as instrumental, without asking")
    custom_tag: str = option("", "trigger tag joined to every caption and genre; a song's JSON may name another")
    tag_position: str = option(
        "prepend", "where the trigger tag goes; 'replace' uses it instead of the text", choices=TAG_POSITIONS
    )
    genre_ratio: int = option(0, "percentage (0 to 100) of training steps that use a song's genre for its caption")
    segment_seconds: float = option(0.0, "cut songs into rows of this many seconds (0: whole songs)")
    sidecar_format: str = option(
        "plain",
        "how song.txt is read: 'plain' is lyrics, 'keyvalue' is lines such as 'caption: ...' and 'bpm: 120'",
        choices=("plain", "keyvalue"),
    )
    downmix: bool = option(False, "mix files with more than two channels to stereo; they are skipped otherwise")
    max_decoded_gb: float = option(
        1.0, "skip a file that would decode to more than this many GB (48 kHz stereo: 43 minutes a GB)"
    )
    decode_timeout: float = option(300.0, "seconds after which decoding one file is given up")
    decode_workers: int = option(2, "processes that check and decode audio")
    allow_skips: bool = option(False, "end with status 0 although songs were skipped")

    def check(self) -> None:
        """Raise UserError for a value that makes no sense."""
        if not 0 <= self.genre_ratio <= 100:
            raise UserError(f"--genre_ratio is {self.genre_ratio}; expected a percentage from 0 to 100.")
        if not (self.segment_seconds == 0 or 1 <= self.segment_seconds < float("inf")):
            raise UserError(f"--segment_seconds is {self.segment_seconds}; expected 0 (whole songs) or at least 1.")
        if not 0 < self.max_decoded_gb < float("inf"):
            raise UserError(f"--max_decoded_gb is {self.max_decoded_gb}; expected a positive number.")
        if not 0 < self.decode_timeout < float("inf"):
            raise UserError(f"--decode_timeout is {self.decode_timeout}; expected a positive number of seconds.")
        if self.decode_workers < 1:
            raise UserError(f"--decode_workers is {self.decode_workers}; expected at least 1.")
        if self.tag_position not in TAG_POSITIONS:
            raise UserError(f'--tag_position is "{self.tag_position}"; expected one of {", ".join(TAG_POSITIONS)}.')
        if self.sidecar_format not in ("plain", "keyvalue"):
            raise UserError(f'--sidecar_format is "{self.sidecar_format}"; expected plain or keyvalue.')
