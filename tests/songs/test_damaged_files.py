"""Two hundred damaged files: none crashes the run, and none is trained on in silence."""

import numpy as np

from tests.songs.clips import music, write_audio
from tests.songs.damage import KINDS, SUFFIXES, damage

COPIES = 10
# Said of any short clip without texts, damaged or not.
USUAL = ("no caption", "lasts ", "a copy: ")


def test_two_hundred_damaged_files(folder):
    random = np.random.default_rng(1500)
    good = {
        suffix: write_audio(folder.root / f"good{suffix}", music(2.0, seed=seed)).read_bytes()
        for seed, suffix in enumerate(SUFFIXES)
    }
    undamaged = {song.id for song in folder.scan().songs}
    assert len(undamaged) == len(SUFFIXES)
    junk = [b"hello " * 500, random.bytes(5000), b"%PDF-1.4 " + random.bytes(3000), bytes(6000), b"<html>404</html>"]
    count = 0
    for suffix in SUFFIXES:
        (folder.root / f"good{suffix}").unlink()
        others = junk + [content for other, content in good.items() if other != suffix]
        for kind in KINDS:
            for number in range(COPIES):
                folder.write(f"{kind}_{number}{suffix}", damage(good[suffix], kind, others, random))
                count += 1
    assert count == 200

    scan = folder.scan(all_instrumental=True)

    assert len(scan.songs) + len(scan.skipped) == count
    assert all(skipped.reason for skipped in scan.skipped)
    silent = [
        song.file_name
        for song in scan.songs
        if not [warning for warning in song.warnings if not warning.startswith(USUAL)]
        # Whole under another name that fits as well (Opus may be called .ogg): the audio is exactly the undamaged one.
        and not (song.file_name.startswith("mislabelled") and song.id in undamaged)
    ]
    assert silent == []
    # Files that were cut, or lost their end, are never trained on where the format can tell.
    assert not [song.file_name for song in scan.songs if song.file_name.startswith("cut")]
