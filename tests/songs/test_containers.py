import subprocess

import numpy as np
import pytest

from acestep.songs import mpeg, ogg
from tests.songs.clips import music, write_audio


def _crc16_by_the_bit(content: bytes) -> int:
    crc = 0
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
    return crc


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 5000])
def test_the_checksum_over_blocks_is_the_checksum_bit_by_bit(size):
    content = np.random.default_rng(size).bytes(size)
    assert mpeg.crc16(content) == _crc16_by_the_bit(content)
    assert mpeg.crc16(b"123456789") == 0xBB3D  # the check value of CRC-16/ARC


def test_an_mp3_keeps_its_promises(tmp_path):
    for rate, channels in ((44100, 2), (48000, 1), (22050, 2)):
        stream = mpeg.walk(write_audio(tmp_path / "x.mp3", music(2.0, rate, channels), rate).read_bytes())
        assert stream.frames == stream.promised
        assert stream.checksum_holds is True
        assert mpeg.mpeg_damage(stream) is None
        assert mpeg.mpeg_warnings(stream) == []


def test_an_mp3_cut_between_two_frames_breaks_its_promise(tmp_path):
    content = write_audio(tmp_path / "x.mp3", music(2.0)).read_bytes()
    frame = content.rfind(b"\xff\xfb", 0, len(content) * 2 // 3)
    while mpeg.walk(content[:frame]).tail_bytes:  # the pattern may stand within a frame
        frame = content.rfind(b"\xff\xfb", 0, frame)
    stream = mpeg.walk(content[:frame])
    assert f"{stream.frames} frames are there and its header promises {stream.promised}" in mpeg.mpeg_damage(stream)


def test_one_flipped_bit_of_an_mp3_is_noticed(tmp_path):
    content = bytearray(write_audio(tmp_path / "x.mp3", music(2.0)).read_bytes())
    content[len(content) // 2] ^= 16
    stream = mpeg.walk(bytes(content))
    assert stream.checksum_holds is False
    assert "does not match the checksum" in mpeg.mpeg_warnings(stream)[0]


def test_bytes_lost_between_mp3_frames_are_noticed(tmp_path):
    content = write_audio(tmp_path / "x.mp3", music(2.0)).read_bytes()
    middle = content.find(b"\xff\xfb", len(content) // 2)
    stream = mpeg.walk(content[:middle] + b"\0" * 777 + content[middle:])
    assert stream.lost_bytes == 777
    assert "777 bytes between its frames" in mpeg.mpeg_warnings(stream)[0]


@pytest.mark.parametrize("suffix", [".ogg", ".opus"])
def test_an_ogg_keeps_its_promises(tmp_path, suffix):
    content = write_audio(tmp_path / f"x{suffix}", music(3.0)).read_bytes()
    pages = list(ogg.pages(content))
    assert len(pages) > 3
    assert ogg.ogg_damage(content) is None
    assert "end-of-stream page is missing" in ogg.ogg_damage(content[: pages[-1].offset])
    without_one = content[: pages[2].offset] + content[pages[2].end :]
    assert "instead of page 2" in ogg.ogg_damage(without_one)
    flipped = bytearray(content)
    flipped[pages[-2].offset + 100] ^= 1
    assert "does not match its checksum" in ogg.ogg_damage(bytes(flipped))


@pytest.mark.parametrize(("encoder", "name"), [("libmp3lame", "x.mp3"), ("libvorbis", "x.ogg"), ("libopus", "x.opus")])
def test_files_of_ffmpeg_keep_their_promises_too(tmp_path, encoder, name):
    source = write_audio(tmp_path / "source.wav", music(3.0))
    try:
        command = ["ffmpeg", "-v", "error", "-i", source, "-c:a", encoder, "-metadata", "title=夜", tmp_path / name]
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the ffmpeg command with this encoder")
    content = (tmp_path / name).read_bytes()
    if name == "x.mp3":
        stream = mpeg.walk(content)
        assert (mpeg.mpeg_damage(stream), mpeg.mpeg_warnings(stream)) == (None, [])
        assert stream.checksum_holds is True
    else:
        assert ogg.ogg_damage(content) is None
