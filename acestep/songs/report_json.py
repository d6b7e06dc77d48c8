"""A scan for other programs."""

import json
from dataclasses import asdict

from acestep.songs.song import Scan, Song


def report_json(scan: Scan) -> str:
    """Return `{"songs": [...], "skipped": [...], "notes": [...], "totals": {...}}` as JSON.

    A song has the fields of `Song` by their names, and `row_id`, without `path`: what leaves this machine names no
    folder of it. What was skipped has `file_name`, `reason` and `kind` (see `SKIPPED_KINDS`).
    """
    content = {
        "songs": [song_record(song) for song in scan.songs],
        "skipped": [asdict(skipped) for skipped in scan.skipped],
        "notes": scan.notes,
        "totals": {
            "songs": len({song.path for song in scan.songs}),
            "rows": len(scan.songs),
            "skipped": len(scan.skipped),
            "skipped_by_kind": scan.skipped_by_kind(),
            "seconds": round(sum(song.duration for song in scan.songs), 3),
            "with_warnings": sum(bool(song.warnings) for song in scan.songs),
        },
    }
    return json.dumps(content, ensure_ascii=False, indent=2)


def song_record(song: Song) -> dict[str, object]:
    """Return a song's fields as plain values."""
    record = asdict(song)
    del record["path"]
    return {**record, "row_id": song.row_id, "prompts": song.prompts()}
