import os

import numpy as np
import pytest

from acestep.errors import UserError
from acestep.songs import SongOptions, scan_songs
from tests.songs.clips import music, write_audio


def test_five_formats_in_any_letter_case_recursively_and_sorted(folder):
    for name in ("z.wav", "B.MP3", "sub/c.Flac", "sub/deep/d.OGG", "a.opus"):
        write_audio(folder.root / name, music(0.3, seed=len(name)))
    scan = folder.scan()
    assert [song.file_name for song in scan.songs] == ["B.MP3", "a.opus", "sub/c.Flac", "sub/deep/d.OGG", "z.wav"]
    assert not scan.skipped
    assert all(abs(song.duration - 0.3) < 0.06 for song in scan.songs)
    assert all((song.sample_rate, song.channels) == (48000, 2) for song in scan.songs)


def test_hidden_files_resource_forks_and_empty_files_are_reported(folder):
    folder.song().song(".hidden.wav").song("__MACOSX/x.wav").song(".git/y.wav").write("._song1.wav", b"x")
    folder.write("empty.mp3", b"").write("cover.jpg", b"x").write("Makefile", b"x")
    scan = folder.scan()
    assert [song.file_name for song in scan.songs] == ["song1.wav"]
    assert [(s.file_name, s.reason) for s in scan.skipped] == [
        ("empty.mp3", "is empty (0 bytes). Copy or download it again.")
    ]
    hidden = next(note for note in scan.notes if note.startswith("hidden, not read"))
    assert all(name in hidden for name in (".hidden.wav", "__MACOSX/", ".git/", "._song1.wav"))
    assert "neither audio nor a text for it: 1 without suffix, 1 .jpg" in scan.notes


def test_links_out_of_the_folder_are_refused_and_links_within_are_read(folder, tmp_path):
    write_audio(tmp_path / "elsewhere/out.wav", music(0.2))
    folder.song("real.wav", seed=1)
    os.symlink(tmp_path / "elsewhere/out.wav", folder.root / "out.wav")
    os.symlink(tmp_path / "elsewhere", folder.root / "linked")
    os.symlink("real.wav", folder.root / "within.wav")
    os.symlink("nowhere.wav", folder.root / "broken.wav")
    scan = folder.scan()
    assert [song.file_name for song in scan.songs] == ["real.wav", "within.wav"]
    reasons = {skipped.file_name: skipped.reason for skipped in scan.skipped}
    assert set(reasons) == {"broken.wav", "linked/", "out.wav"}
    assert "points outside the folder" in reasons["out.wav"]
    assert "linked folder" in reasons["linked/"]


def test_a_sidecar_that_is_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    folder.song()
    os.symlink(tmp_path / "secret.txt", folder.root / "song1.txt")
    scan = folder.scan()
    assert [skipped.file_name for skipped in scan.skipped] == ["song1.txt"]
    assert scan.songs[0].lyrics == "[Instrumental]"


@pytest.mark.parametrize("name", ["../out.wav", "/etc/passwd", "a/../../b.wav", "C:\\b.wav", "x\0y"])
def test_a_json_that_names_a_file_outside_the_folder_skips_its_song(folder, name):
    (skipped,) = folder.song(json={"caption": "c", "audio_path": name}).scan().skipped
    assert skipped.file_name == "song1.wav"
    assert 'song1.json: "audio_path"' in skipped.reason


def test_the_folder_itself_may_be_a_link_and_its_own_absolute_path_is_inside(folder, tmp_path):
    path = str((folder.root / "song1.wav").resolve())
    folder.song(json={"caption": "c", "file": path})
    os.symlink(folder.root, tmp_path / "link")
    assert scan_songs(tmp_path / "link").songs[0].caption == "c"


def test_names_that_are_no_unicode_are_refused(folder):
    folder.song()
    try:
        os.rename(write_audio(folder.root / "x.wav", music(0.2)), os.fsencode(folder.root) + b"/b\xffd.wav")
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    (skipped,) = folder.scan().skipped
    assert skipped.reason == "has a name that is not valid Unicode. Rename it."
    skipped.file_name.encode()


def test_a_folder_that_is_none_or_has_no_songs_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        scan_songs(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="no such folder"):
        scan_songs(tmp_path / "file")
    with pytest.raises(UserError, match="no audio found"):
        scan_songs(tmp_path)


def test_two_files_of_one_stem_share_their_texts_and_that_is_said(folder):
    folder.song("x.wav", seed=1, lyrics="la").song("x.flac", seed=2)
    scan = folder.scan()
    assert [song.lyrics for song in scan.songs] == ["la", "la"]
    assert "2 audio files are called x: the texts beside them belong to all." in scan.notes


@pytest.mark.parametrize(
    "wrong",
    [{"genre_ratio": 101}, {"genre_ratio": -1}, {"segment_seconds": 0.5}, {"segment_seconds": np.nan},
     {"max_decoded_gb": 0}, {"decode_workers": 0}, {"decode_timeout": 0}, {"tag_position": "middle"},
     {"sidecar_format": "toml"}],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused_by_name(tmp_path, wrong):
    with pytest.raises(UserError, match=f"--{next(iter(wrong))} is "):
        scan_songs(tmp_path, SongOptions(**wrong))
