"""Take LRC time stamps, id tags and trailing blank lines out of lyrics files, which are rewritten in place.

    python scripts/lora_data_prepare/clean_lrc.py songs/song1.lyrics.txt
    python scripts/lora_data_prepare/clean_lrc.py songs --dry_run

A folder is searched with all below it for `.lrc`, `.lyrics.txt` and `.txt` files (captions are left alone). The file as
it was is kept as `song1.lyrics.txt.bak`. Training does not need this: time stamps are never in a prompt, and segments
use them to find their own lines of lyrics. Ends with status 1 when a file could not be read or written.
"""

from dataclasses import dataclass
from pathlib import Path

from acestep.errors import UserError, run_script
from acestep.options import option, parse_options, required


@dataclass
class CleanOptions:
    path: str = required("a lyrics file, or a folder of them", positional="FILE_OR_FOLDER")
    dry_run: bool = option(False, "say what would be done and change nothing")
    backup: bool = option(True, "keep the file as it was as .bak")


def main() -> int:
    options = parse_options(CleanOptions, __doc__)

    from acestep.songs.clean_lyrics import clean_file, lyrics_files
    from acestep.songs.showing import counted

    cleaned, failed = 0, 0
    files = lyrics_files(Path(options.path))
    for file in files:
        try:
            removed = clean_file(file, options.dry_run, options.backup)
        except UserError as error:
            failed += 1
            print(f"not cleaned: {error}")
            continue
        if removed:
            cleaned += 1
            print(f"{'would clean' if options.dry_run else 'cleaned'} {file}: {removed}")
    print(
        f"{cleaned} of {counted(len(files), 'file')} {'would be ' if options.dry_run else ''}cleaned, {failed} failed"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    run_script(main)
