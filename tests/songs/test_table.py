import json
import os
import shlex
import unicodedata

import numpy as np
import pytest

from acestep.dataset.options import PrepareOptions
from acestep.options import parse_options
from acestep.songs import scan_songs, song_table
from acestep.songs.measure import Measures, measure_warnings
from acestep.songs.report_json import report_json
from acestep.songs.showing import counted


def _columns(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)


@pytest.mark.parametrize("width", [60, 80, 140, 220])
def test_the_table_is_as_wide_as_it_is_told(folder, width):
    folder.song(
        "夜の電車が走るよどこまでも.wav", seed=1, lyrics="la\nla", json={"caption": "80年代のシンセ" * 9, "bpm": 99}
    )
    folder.song("b" * 80 + ".wav", seed=2, json={"caption": "c", "language": "en"}, txt="[Verse]\nla")
    lines = song_table(folder.scan(), width).split("\n\n")[0].split("\n")
    assert {_columns(line) for line in lines} == {width}
    titles = lines[0].split()
    assert width < 140 or titles == [
        "song",
        "length",
        "caption",
        "lyrics",
        "bpm",
        "key",
        "language",
        "sources",
        "problems",
    ]


def test_problems_skips_notes_totals_and_next_steps_are_all_there(folder):
    folder.song("a.wav", seed=1).song("b.wav", seed=2, lyrics="la\nla").write("c.mp3", b"x" * 500)
    folder.write("k.csv", "File,BPM\nnone.wav,1\n")
    text = song_table(folder.scan(), 120)
    assert "  a.wav: no caption: nothing describes it" in text
    assert "  c.mp3: " in text.split("Skipped")[1]
    assert 'k.csv row 2: "none.wav" fits no song' in text.split("Notes")[1]
    totals = text.split("Totals")[1]
    assert "2 songs, 0.0 minutes" in totals
    assert "1 with lyrics, 1 instrumental; languages: unknown 1" in totals
    assert "1 song skipped, 2 with problems" in totals
    steps = text.split("Next\n")[1]
    assert "Say for 1 song if anybody sings" in steps
    assert "Describe 2 songs" in steps
    assert "--allow_skips" in steps
    assert "scripts/prepare_dataset.py --data_dir " in steps


def test_names_cannot_control_the_terminal(folder):
    folder.song("a\x1b[31mred\nline.wav", json={"caption": "x\x1b]0;title\x07"})
    text = song_table(folder.scan(), 200)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "a�[31mred�line.wav" in text


def test_a_folder_where_nothing_is_left_says_so(folder):
    text = song_table(folder.write("c.mp3", b"x" * 500).scan(), 100)
    assert "0 songs" in text
    assert "Nothing can be trained on yet." in text


def test_the_command_that_is_next_can_be_pasted(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder.root = tmp_path / "my band's $ongs"
    folder.song()
    for given in (folder.root.name, str(folder.root), os.path.join("..", tmp_path.name, folder.root.name)):
        (line,) = [line for line in song_table(scan_songs(given)).splitlines() if "prepare_dataset.py" in line]
        words = shlex.split(line)
        options = parse_options(PrepareOptions, "", words[words.index("scripts/prepare_dataset.py") + 1 :])
        assert options.data_dir == given
        assert options.pretrained_model_name_or_path


def test_what_is_next_is_not_said_where_it_is_being_done(folder):
    scan = folder.song().write("c.mp3", b"x" * 500).scan()
    text = song_table(scan, 100, next_steps=False)
    assert "Next" not in text
    assert "prepare_dataset.py" not in text
    assert song_table(scan, 100).startswith(text.rstrip("\n"))


def test_the_exit_status_is_explained(folder):
    folder.song().write("c.mp3", b"x" * 500)
    assert "(1 song): the exit status is 1 because of it, unless --allow_skips accepts it\n" in song_table(
        folder.scan()
    )
    folder.write("d.mp3", b"x" * 500)
    assert "(2 songs): the exit status is 1 because of them, unless --allow_skips" in song_table(folder.scan())
    (folder.root / "c.mp3").unlink()
    (folder.root / "d.mp3").unlink()
    assert "--allow_skips" not in song_table(folder.scan())


def test_songs_rows_files_and_folders_that_are_skipped_are_counted_apart(folder, tmp_path):
    folder.song().write("c.mp3", b"x" * 500)
    folder.write("k.csv", "File,BPM\n../a.wav,100\n/b.wav,100\nsong1.wav,90\n../c.wav,100\n")
    (tmp_path / "secret.txt").write_text("secret")
    os.symlink(tmp_path / "secret.txt", folder.root / "song1.txt")
    os.symlink(tmp_path, folder.root / "linked")
    scan = folder.scan()
    shown = "1 song, 3 CSV rows, 1 other file and 1 folder"
    text = song_table(scan)
    assert f"  {shown} skipped, 1 with problems\n" in text
    assert f"Mend or remove what was skipped ({shown}): " in text
    content = json.loads(report_json(scan))
    kinds = {skipped["file_name"]: skipped["kind"] for skipped in content["skipped"]}
    assert kinds == {
        "../a.wav": "csv_row",
        "../c.wav": "csv_row",
        "/b.wav": "csv_row",
        "c.mp3": "song",
        "linked/": "folder",
        "song1.txt": "file",
    }
    assert content["totals"]["skipped"] == 6
    assert content["totals"]["skipped_by_kind"] == {
        "song": 1, "csv_row": 3, "json_sample": 0, "file": 1, "folder": 1
    }  # fmt: skip


def test_nothing_skipped_is_said(folder):
    assert "  nothing skipped, 1 with problems" in song_table(folder.song().scan())


def test_one_is_no_plural(folder):
    assert (counted(1, "song"), counted(0, "song"), counted(2, "entry", "entries")) == (
        "1 song",
        "0 songs",
        "2 entries",
    )
    assert "  1 song, 0.0 minutes" in song_table(folder.song().scan())
    measures = Measures(frames=9, peak=1.0, rms=0.1, clipped=1, clicks=1, silent_channels=1, window_peaks=np.ones(1))
    assert measure_warnings(measures, lossless=True) == [
        "clipping: 1 sample lies in runs at full scale",
        "1 of its channels is silent",
        "1 single sample stands out as clicks: the file may be damaged",
    ]
