"""Which songs are held out for validation: whole songs, and the same ones however many are added."""

import hashlib
from collections.abc import Sequence

from acestep.errors import UserError
from acestep.songs import Song


def split_songs(songs: list[Song], share: float, seed: int) -> dict[str, list[Song]]:
    """Songs by split, "train" and "validation"; without a share all are "train".

    Args:
        share, seed: see `held_out`.

    Raises:
        UserError: when no song falls on one of the sides, with the share at which one would.
    """
    if share == 0:
        return {"train": songs}
    held = set(held_out([song.song_id for song in songs], share, seed))
    return {
        "train": [song for number, song in enumerate(songs) if number not in held],
        "validation": [song for number, song in enumerate(songs) if number in held],
    }


def held_out(song_ids: Sequence[str], share: float, seed: int) -> list[int]:
    """Positions of the songs that are held out.

    Each song's own hash with the seed decides, so no song changes sides when others come or go, and the segments of a
    song, which share its id, stay together.

    Args:
        song_ids: one a row.
        share: `--validation_split`, how much of the songs is held out, above 0 and below 1.
        seed: another one holds out other songs.

    Raises:
        UserError: when no song falls on one of the sides, with the share at which one would.
    """
    held = [number for number, song_id in enumerate(song_ids) if _place(song_id, seed) < share]
    if not held or len(held) == len(song_ids):
        places = sorted({_place(song_id, seed) for song_id in song_ids})
        # the end that lets at least one in, rounded away from it
        found, least = ("no song", places[0] + 5e-4) if not held else ("every song", places[-1] - 5e-4)
        advice = f"a share of {least:.3f} {'or more' if not held else 'or less'}" if len(places) > 1 else "more songs"
        raise UserError(
            f"--validation_split {share:g} holds out {found} of {len(places)} (each song's hash decides alone). "
            f"Take {advice}, or another seed."
        )
    return held


def _place(song_id: str, seed: int) -> float:
    """Where a song stands between 0 and 1."""
    digest = hashlib.sha256(f"validation/{seed}/{song_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
