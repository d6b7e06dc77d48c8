import unicodedata

import pytest

from acestep.songs import song_table


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
    assert "scripts/prepare_dataset.py --data_dir songs" in steps


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
