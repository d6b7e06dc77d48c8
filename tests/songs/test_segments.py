import pytest

LRC = "[Verse]\n[00:00.50]one\n[00:01.20]two\n[Chorus]\n[00:02.00]three\n[00:02.90]four\n[Outro]\n"


def test_off_by_default(folder):
    (song,) = folder.song(seconds=5.0).scan().songs
    assert song.segment is None
    assert song.row_id == song.id == song.song_id


def test_segments_are_rows_with_start_duration_and_an_id_of_their_own(folder):
    rows = folder.song(seconds=5.5, json={"caption": "c", "bpm": 100}).scan(segment_seconds=2.0).songs
    assert [(row.start, row.duration) for row in rows] == [(0, 2), (2, 2), (4, 1.5)]
    assert [row.row_id for row in rows] == [f"{rows[0].id}-{number:04d}" for number in range(3)]
    assert len({row.song_id for row in rows}) == 1
    assert all((row.caption, row.bpm) == ("c", 100) for row in rows)


@pytest.mark.parametrize(("seconds", "durations"), [(4.5, [2, 2.5]), (5.0, [2, 2, 1]), (2.9, [2.9]), (2.0, [2])])
def test_a_rest_under_a_second_stays_with_the_segment_before_it(folder, seconds, durations):
    rows = folder.song(seconds=seconds).scan(segment_seconds=2.0).songs
    assert [row.duration for row in rows] == pytest.approx(durations)


def test_each_segment_has_its_own_lines_and_times(folder):
    rows = folder.song(seconds=5.0, lyrics=LRC).scan(segment_seconds=1.0).songs
    assert [row.lyrics for row in rows] == [
        "[Verse]\none",
        "two",
        "[Chorus]\nthree\nfour",
        "[Instrumental]",
        "[Outro]",
    ]
    assert rows[1].line_times == [(pytest.approx(0.2), "two")]
    assert [row.is_instrumental for row in rows] == [False, False, False, True, False]
    assert not any("without times" in warning for row in rows for warning in row.warnings)


def test_without_times_every_segment_has_the_whole_lyrics_and_a_warning(folder):
    rows = folder.song(seconds=4.0, lyrics="one\ntwo").scan(segment_seconds=2.0).songs
    assert [row.lyrics for row in rows] == ["one\ntwo", "one\ntwo"]
    assert all(any("lyrics without times" in warning for warning in row.warnings) for row in rows)


def test_segments_of_an_instrumental_song_are_instrumental(folder):
    rows = folder.song(seconds=4.0, lyrics="[inst]").scan(segment_seconds=2.0).songs
    assert all(row.is_instrumental and row.lyrics == "[Instrumental]" for row in rows)
    assert not any("without times" in warning for row in rows for warning in row.warnings)
