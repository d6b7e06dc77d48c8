"""What must never be trained on."""

import importlib.util
import shlex
import shutil
import struct
import subprocess

import numpy as np
import pytest

from tests.songs.clips import music, write_audio

RATE = 48000


def _reason(scan) -> str:
    assert not scan.songs
    (skipped,) = scan.skipped
    return skipped.reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity(folder, value):
    samples = music(0.5)
    samples[1000, 1] = value
    write_audio(folder.root / "x.wav", samples, subtype="FLOAT")
    assert _reason(folder.scan()) == "holds NaN or infinity. Export it again."


def test_samples_that_were_never_scaled(folder):
    write_audio(folder.root / "x.wav", music(0.5) * 32768, subtype="FLOAT")
    assert "its samples are not scaled" in _reason(folder.scan())


@pytest.mark.parametrize("level", [0.0, 5e-5])
def test_silence(folder, level):
    write_audio(folder.root / "x.wav", music(0.5) * level)
    assert "is silent" in _reason(folder.scan())


def test_more_than_two_channels_without_downmix(folder):
    write_audio(folder.root / "x.wav", music(0.5, channels=6))
    assert _reason(folder.scan()) == "has 6 channels; expected 1 or 2. Use --downmix to mix them to stereo."
    scan = folder.scan(downmix=True)
    assert scan.songs[0].channels == 6
    assert "6 channels are mixed to stereo" in scan.songs[0].warnings


def test_a_file_that_would_decode_to_too_much(folder):
    write_audio(folder.root / "x.flac", music(5.0))
    reason = _reason(folder.scan(max_decoded_gb=0.0015))
    assert "would decode to 0.0 GB (0 minutes); at most 0.0015 GB are allowed" in reason
    assert "--max_decoded_gb" in reason


def test_a_header_that_lies_about_its_length_cannot_fill_the_memory(folder):
    content = bytearray(write_audio(folder.root / "x.flac", music(0.5)).read_bytes())
    content[21] |= 0x0F  # STREAMINFO's 36 bits of frames: some 4e9 and more
    content[22:26] = b"\xff" * 4
    (folder.root / "x.flac").write_bytes(content)
    assert "would decode to" in _reason(folder.scan())


def test_what_is_no_audio(folder):
    contents = [b"x", b"not audio at all, just some text\n" * 40, bytes(5000), b"<html>404</html>"]
    for suffix in (".wav", ".flac", ".mp3", ".ogg", ".opus"):
        for number, content in enumerate(contents):
            folder.write(f"{number}{suffix}", content)
    scan = folder.scan()
    assert not scan.songs
    assert len(scan.skipped) == 20


def test_files_that_were_cut(folder):
    for suffix in (".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff"):
        content = write_audio(folder.root / f"x{suffix}", music(2.0)).read_bytes()
        (folder.root / f"x{suffix}").unlink()
        for part in (0.2, 0.5, 0.9, 0.999):
            folder.write(f"{part}{suffix}", content[: int(len(content) * part)])
    scan = folder.scan()
    assert [song.file_name for song in scan.songs] == []
    assert len(scan.skipped) == 24


def test_an_mp3_without_any_header_that_was_cut_within_a_frame(folder):
    content = write_audio(folder.root / "x.mp3", music(2.0, 44100), 44100).read_bytes()
    first = content.find(b"\xff\xfb", 100)
    bare = content[first:]  # what follows the Xing frame
    assert not folder.write("x.mp3", bare).scan().skipped
    assert "it ends in the middle of a frame" in _reason(folder.write("x.mp3", bare[:-50]).scan())


def test_a_flac_whose_samples_do_not_match_its_md5(folder):
    content = bytearray(write_audio(folder.root / "x.flac", music(1.0)).read_bytes())
    content[30] ^= 1
    assert "does not match its MD5" in _reason(folder.write("x.flac", bytes(content)).scan())


def test_an_undamaged_flac_matches_its_md5_whatever_its_bits_and_channels(folder):
    for subtype in ("PCM_S8", "PCM_16", "PCM_24"):
        for channels in (1, 2):
            write_audio(folder.root / f"{subtype}{channels}.flac", music(0.5, channels=channels), subtype=subtype)
    assert len(folder.scan().songs) == 6


@pytest.mark.parametrize("header", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_streamed_wav_has_no_promise_to_check_which_is_said(folder, header):
    content = bytearray(write_audio(folder.root / "x.wav", music(1.0)).read_bytes())
    content[4:8] = content[40:44] = header.to_bytes(4, "little")
    (song,) = folder.write("x.wav", bytes(content)).scan().songs
    assert song.duration == pytest.approx(1.0)
    assert any("its header gives no length" in warning for warning in song.warnings)


def test_a_wav_whose_header_was_never_finished(folder):
    content = bytearray(write_audio(folder.root / "x.wav", music(1.0)).read_bytes())
    content[40:44] = bytes(4)
    assert "is unfinished" in _reason(folder.write("x.wav", bytes(content)).scan())


def test_an_odd_sample_rate_that_cannot_be_resampled(folder):
    write_audio(folder.root / "x.wav", music(0.5, 44099), 44099)
    assert "44099 Hz, which cannot be resampled" in _reason(folder.scan())


def test_a_file_that_holds_next_to_nothing(folder):
    write_audio(folder.root / "x.wav", music(0.01))
    assert "expected at least 0.04 s" in _reason(folder.scan())


def test_a_decoder_that_takes_too_long_is_given_up(folder):
    folder.song("a.wav", 5.0)
    assert "no answer within 0.001 seconds" in _reason(folder.scan(decode_timeout=0.001))


def test_one_bad_song_does_not_touch_the_others(folder):
    folder.song("a.wav", seed=1).write("b.mp3", b"x" * 3000).song("c.wav", seed=2)
    scan = folder.scan()
    assert [song.file_name for song in scan.songs] == ["a.wav", "c.wav"]
    assert [skipped.file_name for skipped in scan.skipped] == ["b.mp3"]


def test_aiff_is_read(folder):
    samples = music(0.5)
    write_audio(folder.root / "x.aiff", samples)
    (song,) = folder.scan().songs
    assert song.duration == 0.5


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg command to make an M4A and an AAC")
def test_m4a_and_aac_are_read_with_torchcodec_or_skipped_with_the_way_to_convert(folder):
    source = write_audio(folder.root / "x.wav", music(2.0))
    for name in ("y.m4a", "z.aac"):
        subprocess.run(["ffmpeg", "-v", "error", "-i", source, folder.root / name], check=True)
    source.unlink()
    content = (folder.root / "y.m4a").read_bytes()
    folder.write("cut.m4a", content[: len(content) // 2])
    scan = folder.scan()
    reasons = {skipped.file_name: skipped.reason for skipped in scan.skipped}
    if importlib.util.find_spec("torchcodec"):
        assert [song.file_name for song in scan.songs] == ["y.m4a", "z.aac"]
        assert all(song.duration == pytest.approx(2.0, abs=0.1) for song in scan.songs)
        assert str(folder.root) not in reasons["cut.m4a"]
    else:
        assert set(reasons) == {"cut.m4a", "y.m4a", "z.aac"}
        assert "Convert it (ffmpeg -i y.m4a y.flac)" in reasons["y.m4a"]


def test_other_audio_that_cannot_be_read_says_how_to_convert(folder):
    for suffix in (".m4a", ".aac", ".wma"):
        folder.write(f"x{suffix}", b"\0" * 3000)
    scan = folder.scan()
    assert not scan.songs
    assert len(scan.skipped) == 3
    advice = "Get an undamaged copy." if importlib.util.find_spec("torchcodec") else "Convert it"
    assert all(advice in skipped.reason for skipped in scan.skipped)


def _conversions(reason: str) -> list[tuple[str, str]]:
    """Source and target of each ffmpeg command in a reason."""
    commands = [part.split("); else")[0] for part in reason.split("ffmpeg -i ")[1:]]
    return [tuple(shlex.split(command)) for command in commands]


def test_a_file_is_never_converted_into_itself_or_over_another(folder):
    compressed = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 336, b"WAVE", b"fmt ", 16, 0x2000, 2, 44100, 0, 4, 16,
                             b"data", 300) + bytes(300)  # fmt: skip
    folder.song("taken.flac").write("taken.wav", compressed)
    for name in ("x.wav", "x y $(z).wav", "same.flac", "loud.FLAC"):
        folder.write(name, compressed)
    found = {skipped.file_name: _conversions(skipped.reason) for skipped in folder.scan().skipped}
    assert found == {
        "x.wav": [("x.wav", "x.flac")],
        "x y $(z).wav": [("x y $(z).wav", "x y $(z).flac")],
        "same.flac": [("same.flac", "same.converted.flac")],
        "loud.FLAC": [("loud.FLAC", "loud.converted.flac")],
        "taken.wav": [("taken.wav", "taken.converted.flac")],
    }


def test_what_is_damaged_or_no_audio_is_not_to_be_converted(folder):
    flac = write_audio(folder.root / "x.flac", music(0.5)).read_bytes()
    folder.write("x.flac", flac[:8] + b"\xff" * 40 + flac[48:]).write("start.flac", flac[:30])
    for suffix in (".wav", ".flac", ".mp3", ".ogg", ".opus"):
        folder.write(f"zeros{suffix}", bytes(3000)).write(f"text{suffix}", b"not audio at all\n" * 40)
    scan = folder.scan()
    assert len(scan.skipped) == 12
    assert not [skipped for skipped in scan.skipped if "onvert" in skipped.reason or "ffmpeg" in skipped.reason]
    assert all("copy" in skipped.reason for skipped in scan.skipped)
    reasons = {skipped.file_name: skipped.reason for skipped in scan.skipped}
    assert reasons["text.flac"] == "holds no audio of a format that is known here. Get an undamaged copy."
