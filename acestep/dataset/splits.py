"""Which songs are held out for validation: whole songs, and the same ones however many are added."""

import hashlib

from acestep.errors import UserError
from acestep.songs import Song


def split_songs(songs: list[Song], share: float, seed: int) -> dict[str, list[Song]]:
    """Songs by split, "train" and "validation"; without a share all are "train".

    Each song's own hash with the seed decides, so no song changes sides when others come or go, and the segments of a
    song, which share its id, stay together.

    Args:
        share: `--validation_split`, how much of the songs is held out, 0 to 1.
        seed: another one holds out other songs.

    Raises:
        UserError: when no song falls on one of the sides, with the share at which one would.
    """
    if share == 0:
        return {"train": songs}
    held = [song for song in songs if _place(song.song_id, seed) < share]
    kept = [song for song in songs if _place(song.song_id, seed) >= share]
    if not held or not kept:
        places = sorted({_place(song.song_id, seed) for song in songs})
        # the end that lets at least one in, rounded away from it
        found, least = ("no song", places[0] + 5e-4) if not held else ("every song", places[-1] - 5e-4)
        advice = f"a share of {least:.3f} {'or more' if not held else 'or less'}" if len(places) > 1 else "more songs"
        raise UserError(
            f"--validation_split {share:g} holds out {found} of {len(places)} (each song's hash decides alone). "
            f"Take {advice}, or another --validation_seed."
        )
    return {"train": kept, "validation": held}


def _place(song_id: str, seed: int) -> float:
    """Where a song stands between 0 and 1."""
    digest = hashlib.sha256(f"validation/{seed}/{song_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
