import pytest

from acestep.songs.clean_lyrics import clean_file
from acestep.songs.lyrics import is_instrumental_mark, parse_lyrics


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [("[01:02]", 62.0), ("[01:02.5]", 62.5), ("[01:02.50]", 62.5), ("[01:02.500]", 62.5), ("[01:02:50]", 62.5),
     ("[1:02,25]", 62.25), ("[ 01:02.5 ]", 62.5), ("[1:01:02.50]", 3662.5), ("<01:02.50>", 62.5),
     ("[100:00.0]", 6000.0)],
)  # fmt: skip
def test_every_form_of_time_stamp_is_taken_out_and_kept(stamp, seconds):
    lyrics = parse_lyrics(f"{stamp}Hello there\n")
    assert lyrics.text == "Hello there"
    assert [(line.seconds, line.text) for line in lyrics.timed_lines] == [(seconds, "Hello there")]


def test_a_line_with_several_stamps_is_sung_at_each_of_them():
    lyrics = parse_lyrics("[00:01.00]one\n[Chorus]\n[00:10.00][00:30.00]la la\n[Verse 2]\n[00:20.00]two\n")
    assert lyrics.text == "one\n[Chorus]\nla la\n[Verse 2]\ntwo\n[Chorus]\nla la"
    assert [line.seconds for line in lyrics.timed_lines] == [1, 10, 20, 30]


def test_word_stamps_go_and_words_stay_apart():
    lyrics = parse_lyrics("[00:01.00] <00:01.00> Hello <00:01.50> wide <00:02.00>wor<00:02.20>ld\n")
    assert lyrics.text == "Hello wide world"
    assert [line.seconds for line in lyrics.timed_lines] == [1.0]
    assert parse_lyrics("<00:03.00>Hel<00:03.50>lo").timed_lines[0].seconds == 3.0
    assert parse_lyrics("[00:01.00]Hel[00:01.50]lo").text == "Hello"


@pytest.mark.parametrize(("tag", "seconds"), [("+500", 9.5), ("-500", 10.5), ("500", 9.5), ("99999", 0.0)])
def test_offset_moves_the_lines(tag, seconds):
    assert parse_lyrics(f"[offset:{tag}]\n[00:10.00]x").timed_lines[0].seconds == seconds


def test_id_tags_go():
    tags = "[ar:Someone]\n[ti: A song]\n[al:x]\n[by:me]\n[length:03:10]\n[re:editor]\n[ve:1]\n[#: a remark]\n"
    assert parse_lyrics(tags + "[00:01.00]words").text == "words"


@pytest.mark.parametrize(
    "tag",
    ["[Verse 1]", "[Chorus - female voice]", "[Intro: piano]", "[Bridge]", "[12]", "[00:75.00]", "[Outro: 4:3 feel]"],
)
def test_structure_tags_are_no_time_stamps(tag):
    lyrics = parse_lyrics(f"{tag}\nwords\n")
    assert lyrics.text == f"{tag}\nwords"
    assert lyrics.timed_lines == []
    assert lyrics.removed == 0


def test_a_structure_tag_may_have_a_time():
    lyrics = parse_lyrics("[00:05.00][Chorus]\n[00:06.00]la\n")
    assert lyrics.text == "[Chorus]\nla"
    assert lyrics.timed_lines[0].text == "[Chorus]"


def test_trailing_blank_lines_go_and_those_between_verses_stay():
    assert parse_lyrics("\n[Verse]\na\n\nb  \n\n \n\n").text == "[Verse]\na\n\nb"


def test_plain_lyrics_keep_times_that_are_words():
    text = "Meet me at [12:30] by the gate"
    assert parse_lyrics(text).text == text


@pytest.mark.parametrize(
    ("text", "is_mark"),
    [("[Instrumental]", True), ("[inst]", True), (" [INSTRUMENTAL]\n", True), ("[Intro]\n[Instrumental]", True),
     ("[Instrumental]\nla la la", False), ("[Verse]", False), ("instrumental", False), ("", False)],
)  # fmt: skip
def test_the_mark_for_no_singer(text, is_mark):
    assert is_instrumental_mark(text) is is_mark


@pytest.mark.parametrize(
    ("text", "removed"),
    [("[00:01.00]la\n", "1 time stamp or id tag"), ("la\n\n", "1 trailing blank line"),
     ("[ar:x]\n[00:01.00]la\n\n\n", "2 time stamps and id tags and 2 trailing blank lines")],
)  # fmt: skip
def test_cleaning_says_what_it_takes_out(tmp_path, text, removed):
    (tmp_path / "a.txt").write_text(text)
    assert clean_file(tmp_path / "a.txt", dry_run=True) == removed
