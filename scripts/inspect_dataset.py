"""Show what a folder of songs holds, where each value came from, what is wrong, and what to do next.

    python scripts/inspect_dataset.py --data_dir songs
    python scripts/inspect_dataset.py --data_dir songs --html report.html
    python scripts/inspect_dataset.py --data_dir songs --json > songs.json
    python scripts/inspect_dataset.py --data_dir songs --import_json dataset.json
    python scripts/inspect_dataset.py --data_dir songs --export_json dataset.json

Every file is decoded once, in worker processes; nothing is changed, except that --import_json writes a JSON beside each
song. Ends with status 1 when something was skipped (unless --allow_skips), 2 for an error. See docs/songs.md.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from acestep.errors import UserError, run_script
from acestep.options import option, parse_options, required
from acestep.songs.song_options import SongOptions


@dataclass
class InspectOptions(SongOptions):
    data_dir: str = required("folder with the songs; all below it is read too")
    json: bool = option(False, "print JSON instead of the table")
    html: str | None = option(None, "write a page with players, waveforms and texts; one file that opens anywhere")
    html_preview_seconds: float = option(
        60.0, "seconds of each song that the page can play, some 0.4 MB a minute (0: no players)"
    )
    import_json: str | None = option(None, "the original tool's dataset JSON: write what it says beside the songs")
    overwrite: bool = option(False, "let --import_json replace a song's JSON; the old one is kept as .bak")
    export_json: str | None = option(None, "write the original tool's dataset JSON")
    absolute_paths: bool = option(False, "let --export_json write absolute paths, in place of relative ones")
    width: int = option(0, "columns of the table (0: as wide as the terminal)")


def main() -> int:
    options = parse_options(InspectOptions, __doc__)
    options.check()
    if not options.html_preview_seconds >= 0:
        raise UserError(f"--html_preview_seconds is {options.html_preview_seconds}; expected 0 or more.")

    from acestep.songs import scan_songs, song_table
    from acestep.songs.dataset_json import export_dataset_json
    from acestep.songs.report_html import write_html
    from acestep.songs.report_json import report_json

    # With --json, standard output is for the JSON alone.
    talk = sys.stderr if options.json else sys.stdout
    left_out = _import(options, talk) if options.import_json else []
    scan = scan_songs(options.data_dir, options, _show_progress if sys.stderr.isatty() else None)
    scan.skipped += left_out
    print(report_json(scan) if options.json else song_table(scan, options.width or None))
    if options.export_json:
        export_dataset_json(scan, Path(options.export_json), options, options.absolute_paths)
        print(f"wrote {options.export_json}", file=talk)
    if options.html:
        page = Path(options.html)
        write_html(scan, page, options.html_preview_seconds, options.decode_workers, options.decode_timeout)
        print(f"wrote {options.html} ({page.stat().st_size / 1e6:.1f} MB)", file=talk)
    return 1 if scan.skipped and not options.allow_skips else 0


def _import(options: InspectOptions, talk) -> list:
    """Take the original tool's JSON in; return the samples that were left out, as `SkippedSong`."""
    from acestep.songs.dataset_json import import_dataset_json
    from acestep.songs.showing import counted

    imported = import_dataset_json(Path(options.import_json), Path(options.data_dir), options.overwrite)
    print(f"{options.import_json}: wrote {counted(len(imported.written), 'file')} beside the songs", file=talk)
    for skipped in imported.skipped if options.json else []:  # the table lists them
        print(f"  not taken: {skipped.file_name}: {skipped.reason}", file=talk)
    for note in imported.notes:
        print(f"  note: {note}", file=talk)
    return imported.skipped


def _show_progress(done: int, total: int) -> None:
    print(f"\rchecked {done} of {total}", end="" if done < total else "\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_script(main)
