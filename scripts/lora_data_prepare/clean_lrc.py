"""Take LRC time stamps, id tags and trailing blank lines out of lyrics files, which are rewritten in place.

    python scripts/lora_data_prepare/clean_lrc.py songs/song1.lyrics.txt
    python scripts/lora_data_prepare/clean_lrc.py songs --dry_run

A folder is searched with all below it for `.lrc`, `.lyrics.txt` and `.txt` files (captions are left alone). The file as
it was is kept as `song1.lyrics.txt.bak`. Training does not need this: time stamps are never in a prompt, and segments
use them to find their own lines of lyrics. Ends with status 1 when a file could not be read or written.
"""

import argparse
from pathlib import Path

from acestep.errors import UserError, run_script


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, metavar="FILE_OR_FOLDER", help="a lyrics file, or a folder of them")
    parser.add_argument("--dry_run", action="store_true", help="say what would be done and change nothing")
    parser.add_argument(
        "--no_backup", dest="backup", action="store_false", help="do not keep the file as it was as .bak"
    )
    options = parser.parse_args()

    from acestep.songs.clean_lyrics import clean_file, lyrics_files

    cleaned, failed = 0, 0
    files = lyrics_files(options.path)
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
    print(f"{cleaned} of {len(files)} files {'would be ' if options.dry_run else ''}cleaned, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    run_script(main)
