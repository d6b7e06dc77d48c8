"""The same audio has the same id: on every machine, in every lossless format, under any name and tag."""

import shutil
import struct

import numpy as np
import soundfile

from tests.songs.clips import music, write_audio


def _ids(folder) -> dict[str, str]:
    return {song.file_name: song.id for song in folder.scan().songs}


def test_lossless_formats_of_the_same_samples_have_one_id(folder):
    samples = music(0.5)
    for name in ("a.wav", "b.flac", "c.aiff", "renamed.wav"):
        # Integers: each format rounds floats in its own way.
        write_audio(folder.root / name, (samples * 32767).astype(np.int16), subtype="PCM_16")
    write_audio(folder.root / "other.wav", music(0.5, seed=1))
    write_audio(folder.root / "rate.wav", samples, 44100)
    write_audio(folder.root / "mono.wav", samples[:, :1])
    write_audio(folder.root / "float.wav", samples, subtype="FLOAT")
    ids = _ids(folder)
    assert len({ids[name] for name in ("a.wav", "b.flac", "c.aiff", "renamed.wav")}) == 1
    assert len(set(ids.values())) == 5
    assert all(len(id) == 32 and set(id) <= set("0123456789abcdef") for id in ids.values())


def test_the_id_is_that_of_every_machine(folder):
    # Samples by integer arithmetic: no library's sine or random numbers are in it.
    ramp = (np.arange(9600, dtype=np.int64) * 7919 % 20011 - 10000).astype(np.int16)
    soundfile.write(write_audio(folder.root / "x.wav", music(0.1)), np.stack([ramp, -ramp], axis=1), 48000)
    assert _ids(folder)["x.wav"] == "c9d83776141d23e07fadcfaad55dabff"


def test_tags_do_not_change_the_id_of_lossy_files(folder):
    mp3 = write_audio(folder.root / "a.mp3", music(0.5)).read_bytes()
    size = bytes([0, 0, 1, 0])  # 128 bytes, seven bits a byte
    folder.write("b.mp3", b"ID3\x04\x00\x00" + size + bytes(128) + mp3 + b"TAG" + bytes(125))
    for suffix in (".ogg", ".opus"):
        plain = write_audio(folder.root / f"a{suffix}", music(0.5)).read_bytes()
        folder.write(f"b{suffix}", _with_another_comment(plain))
    ids = _ids(folder)
    assert len(ids) == 6
    for suffix in (".mp3", ".ogg", ".opus"):
        assert ids[f"a{suffix}"] == ids[f"b{suffix}"]
    assert len(set(ids.values())) == 3


def _with_another_comment(content: bytes) -> bytes:
    """Change a letter of an Ogg's vendor text, as a tagger changes comments, and mend the page's checksum."""
    place = max(content.find(b"\x03vorbis") + 7, content.find(b"OpusTags") + 8) + 4
    page = content.rfind(b"OggS", 0, place)
    count = content[page + 26]
    end = page + 27 + count + sum(content[page + 27 : page + 27 + count])
    changed = bytearray(content)
    changed[place] ^= 1
    changed[page + 22 : page + 26] = bytes(4)
    checksum = 0
    for byte in changed[page:end]:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x04C11DB7 if checksum >> 31 else 0)) & 0xFFFFFFFF
    changed[page + 22 : page + 26] = struct.pack("<I", checksum)
    return bytes(changed)


def test_copies_are_reported_and_kept(folder):
    folder.song("a.wav", seed=1).song("c.wav", seed=2)
    (folder.root / "sub").mkdir()
    shutil.copy(folder.root / "a.wav", folder.root / "sub/b.wav")
    a, c, b = folder.scan().songs
    assert "a copy: the same audio as a.wav" in b.warnings
    assert not any("copy" in warning for song in (a, c) for warning in song.warnings)
    assert a.id == b.id
