import codecs
import unicodedata

import pytest

from acestep.songs.song import Song


def test_all_sidecars_together(folder):
    folder.song(
        lyrics="[Verse]\nla la\n",
        caption="a quiet song\n",
        json={"bpm": "96", "keyscale": "F♯m", "timesignature": "3/4", "language": "Japanese", "genre": "pop"},
    )
    song = folder.only_song()
    assert (song.caption, song.lyrics) == ("a quiet song", "[Verse]\nla la")
    assert (song.bpm, song.keyscale, song.timesignature, song.language) == (96, "F# minor", "3", "ja")
    assert song.genre == "pop"
    assert not song.is_instrumental
    assert song.sources["caption"] == "song1.caption.txt"
    assert song.sources["lyrics"] == "song1.lyrics.txt"
    assert song.sources["bpm"] == "song1.json"


@pytest.mark.parametrize(
    "content",
    [
        "é 夜\r\nzwei\r\n\r\n".encode(),
        codecs.BOM_UTF8 + "é 夜\nzwei".encode(),
        "\ufeffé 夜\nzwei".encode("utf-16-le"),
        "\ufeffé 夜\nzwei".encode("utf-16-be"),
        "é 夜\rzwei\r".encode(),
    ],
    ids=["utf8 crlf", "utf8 bom", "utf16 le", "utf16 be", "old mac"],
)
def test_encodings_and_line_ends(folder, content):
    assert folder.song().write("song1.lyrics.txt", content).only_song().lyrics == "é 夜\nzwei"


@pytest.mark.parametrize(
    "content",
    [
        "Über".encode("latin-1"),
        "Uber".encode("utf-16-le"),
        codecs.BOM_UTF32_LE + "x".encode("utf-32-le"),
        b"\xff\xfe\x00",
    ],
    ids=["latin-1", "utf16 without bom", "utf32", "half a utf16 unit"],
)
def test_another_encoding_is_a_clear_error(folder, content):
    scan = folder.song().write("song1.lyrics.txt", content).scan()
    (skipped,) = scan.skipped
    assert skipped.file_name == "song1.wav"
    assert skipped.reason.startswith("song1.lyrics.txt: ")
    assert "expected UTF-8" in skipped.reason
    assert "Save it as UTF-8." in skipped.reason


@pytest.mark.parametrize(("audio", "text"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_unicode_names_match_in_either_form(folder, audio, text):
    folder.song(unicodedata.normalize(audio, "Café.wav"))
    folder.write(unicodedata.normalize(text, "Café.lyrics.txt"), "la")
    folder.write("k.csv", "File,BPM\n" + unicodedata.normalize(text, "Café.wav") + ",120\n")
    song = folder.only_song()
    assert (song.lyrics, song.bpm) == ("la", 120)


def test_lyrics_txt_wins_over_txt_and_txt_over_json(folder):
    folder.song("a.wav", seed=1, lyrics="one", txt="two", json={"lyrics": "three"})
    folder.song("b.wav", seed=2, txt="two\nlines", json={"lyrics": "three"})
    folder.song("c.wav", seed=3, json={"lyrics": "three"})
    a, b, c = folder.scan().songs
    assert [a.lyrics, b.lyrics, c.lyrics] == ["one", "two\nlines", "three"]
    assert [song.sources["lyrics"] for song in (a, b, c)] == ["a.lyrics.txt", "b.txt", "c.json"]
    assert "a.txt is not used: a.lyrics.txt has the lyrics" in a.warnings


def test_json_wins_over_caption_file_and_csv_over_json(folder):
    folder.song("a.wav", seed=1, caption="file", json={"caption": "json", "bpm": 100, "key": "C"})
    folder.song("b.wav", seed=2, caption="file", json={"caption": "json", "bpm": 100, "key": "C"})
    folder.song("c.wav", seed=3, caption="file", json={"caption": ""})
    folder.write("t.csv", "File,BPM,Key,caption\nb.wav,140,Am,csv\n")
    a, b, c = folder.scan().songs
    assert (a.caption, a.bpm, a.keyscale) == ("json", 100, "C major")
    assert (b.caption, b.bpm, b.keyscale) == ("csv", 140, "A minor")
    assert b.sources["caption"] == b.sources["bpm"] == "t.csv row 2"
    assert (c.caption, c.sources["caption"]) == ("file", "c.caption.txt")


@pytest.mark.parametrize(
    ("json", "field", "value"),
    [
        ({"tempo": "88"}, "bpm", 88),
        ({"key": "Dm"}, "keyscale", "D minor"),
        ({"scale": "Dm"}, "keyscale", "D minor"),
        ({"time_signature": 6}, "timesignature", "6"),
        ({"vocal_language": "fr"}, "language", "fr"),
        ({"lang": "fr"}, "language", "fr"),
        ({"genres": ["pop", "jazz"]}, "genre", "pop, jazz"),
        ({"tags": "mytag"}, "custom_tag", "mytag"),
        ({"trigger": "mytag"}, "custom_tag", "mytag"),
        ({"BPM": 70.4}, "bpm", 70),
        ({"Time Signature": "3/4"}, "timesignature", "3"),
        ({"prompt_override": "Caption", "caption": "x"}, "prompt_override", "caption"),
        ({"is_instrumental": "true"}, "is_instrumental", True),
        ({"lyrics": "la"}, "lyrics", "la"),
    ],
)
def test_json_fields_and_their_aliases(folder, json, field, value):
    song = folder.song(json=json).only_song()
    assert getattr(song, field) == value
    assert song.sources[field] == "song1.json"


def test_what_cannot_be_used_is_said_with_file_key_value_and_expectation(folder):
    song = folder.song(json={"bpm": "fast", "key": "loud", "captoin": "x", "mood": "sad", "bmp": 3}).only_song()
    text = "\n".join(song.warnings)
    assert (
        'song1.json: "bpm" is "fast"; expected a number between 30 and 300. Not used; correct it or remove it.' in text
    )
    assert '"key" is "loud"' in text
    assert 'unknown key "captoin", not used. Did you mean "caption"?' in text
    assert 'unknown key "bmp", not used. Did you mean "bpm"?' in text
    assert song.bpm is None
    assert any("mood (1)" in note for note in folder.scan().notes)


def test_a_name_wins_over_its_alias_and_the_disagreement_is_said(folder):
    song = folder.song(json='{"tempo": 80, "bpm": 160, "key": "C", "key": "D"}').only_song()
    assert (song.bpm, song.keyscale) == (160, "D major")
    assert 'song1.json: "bpm" and "tempo" disagree; "bpm" is used.' in song.warnings
    assert 'song1.json: "key" occurs 2 times; the last one is used.' in song.warnings


def test_tags_that_describe_a_song_are_said(folder):
    song = folder.song(json={"tags": "pop, female voice, synths"}).only_song()
    assert any('"tags" is read as the trigger tag' in warning for warning in song.warnings)


@pytest.mark.parametrize("content", ["{", "[1]", '"x"', "null", "", '{"a": ' + "9" * 5000 + "}", "[" * 100_000])
def test_a_json_that_is_none_skips_its_song_with_the_reason(folder, content):
    (skipped,) = folder.song(json=content).scan().skipped
    assert skipped.reason.startswith("song1.json: ")


def test_a_text_that_looks_like_a_caption_is_reported(folder):
    folder.song("a.wav", seed=1, txt="upbeat pop, female voice, synths, 120 bpm")
    folder.song("b.wav", seed=2, txt="caption: a song\nbpm: 120\n")
    folder.song("c.wav", seed=3, txt="[Verse]\nhello, hello, hello\n")
    folder.song("d.wav", seed=4, txt="Last train home and the carriage sways\nHalf asleep through the end of days")
    a, b, c, d = folder.scan().songs
    assert any("a.txt looks like a caption, but is read as lyrics; rename it to a.caption.txt" in w for w in a.warnings)
    assert any('b.txt looks like "key: value" lines' in w and "--sidecar_format keyvalue" in w for w in b.warnings)
    assert not any("looks like" in w for song in (c, d) for w in song.warnings)


def test_key_value_lines_are_understood_when_asked_for(folder):
    text = "caption: a song: part 2\nBPM: 120\nkey: Am\nsignature: 3/4\nnonsense\nlyrics:\n[Verse]\nla: la\n\nla\n"
    folder.song("a.wav", seed=1, txt=text)
    folder.song("b.wav", seed=2, txt="[Verse]\nplain lyrics")
    folder.song("c.wav", seed=3, txt="caption: x\nbpm: 90", caption="file", json={"bpm": 91})
    a, b, c = folder.scan(sidecar_format="keyvalue").songs
    assert (a.caption, a.bpm, a.keyscale, a.timesignature) == ("a song: part 2", 120, "A minor", "3")
    assert a.lyrics == "[Verse]\nla: la\n\nla"
    assert a.sources["caption"] == "a.txt"
    assert any('line 5 is "nonsense"; expected "key: value"' in warning for warning in a.warnings)
    assert b.lyrics == "[Verse]\nplain lyrics"
    assert (c.caption, c.bpm) == ("file", 91)


def test_lrc_times_are_kept_and_lrc_files_are_read(folder):
    folder.song(lrc="[ar:x]\n[00:01.50]one\n[00:03.00]two\n")
    song = folder.only_song()
    assert song.lyrics == "one\ntwo"
    assert song.line_times == [(1.5, "one"), (3.0, "two")]
    assert song.sources["lyrics"] == "song1.lrc"


def test_a_text_without_a_song_and_an_empty_text_are_reported(folder):
    scan = folder.song(lyrics="  \n").write("other.txt", "la").scan()
    assert any(note.startswith("other.txt belongs to no song.") for note in scan.notes)
    assert "song1.lyrics.txt is empty" in scan.songs[0].warnings


def test_instrumental_is_said_in_four_ways(folder):
    folder.song("a.wav", seed=1, lyrics="[Instrumental]\n")
    folder.song("b.wav", seed=2, txt="[inst]")
    folder.song("c.wav", seed=3, json={"language": "instrumental"})
    folder.song("d.wav", seed=4, json={"is_instrumental": True, "language": "en"})
    folder.song("e.wav", seed=5)
    *marked, asked = folder.scan().songs
    assert all(song.is_instrumental and song.lyrics == "[Instrumental]" for song in marked)
    assert not any("does anybody sing?" in warning for song in marked for warning in song.warnings)
    assert marked[2].language == "unknown"
    assert any("does anybody sing?" in warning for warning in asked.warnings)
    assert asked.sources["is_instrumental"] == "default"
    silenced = folder.scan(all_instrumental=True).songs[-1]
    assert silenced.sources["is_instrumental"] == "--all_instrumental"
    assert not any("does anybody sing?" in warning for warning in silenced.warnings)


def test_a_song_with_lyrics_is_never_instrumental(folder):
    folder.song("a.wav", seed=1, lyrics="la la", json={"is_instrumental": True})
    folder.song("b.wav", seed=2, lyrics="la la", json={"language": "instrumental"})
    for song in folder.scan(all_instrumental=True).songs:
        assert not song.is_instrumental
        assert song.lyrics == "la la"
        assert any("so it is not instrumental although" in warning for warning in song.warnings)


def _song(**fields) -> Song:
    return Song(file_name="a", path=None, id="0", duration=1.0, sample_rate=1, channels=1, **fields)


def test_the_trigger_tag_joins_every_text():
    assert _song(caption="c", genre="g", custom_tag="t").prompts() == {"caption": "t, c", "genre": "t, g"}
    assert _song(caption="c", custom_tag="t", tag_position="append").prompts() == {"caption": "c, t"}
    assert _song(caption="c", custom_tag="t", tag_position="replace").prompts() == {"caption": "t"}
    assert _song(genre="g").prompts() == {"genre": "g"}
    assert _song(custom_tag="t").prompts() == {"caption": "t"}
    assert _song().prompts() == {"caption": ""}


def test_a_song_may_have_its_own_trigger_tag(folder):
    folder.song("a.wav", seed=1, json={"caption": "c"})
    folder.song("b.wav", seed=2, json={"caption": "c", "custom_tag": "own", "tag_position": "replace"})
    a, b = folder.scan(custom_tag="all", tag_position="append", genre_ratio=30).songs
    assert a.prompts() == {"caption": "c, all"}
    assert b.prompts() == {"caption": "own"}
    assert (a.sources["custom_tag"], b.sources["custom_tag"]) == ("--custom_tag", "b.json")
    assert (a.genre_ratio, b.genre_ratio) == (30, 30)


def test_an_override_to_a_text_that_is_not_there_is_said(folder):
    song = folder.song(json={"caption": "c", "prompt_override": "genre"}).only_song()
    assert any('prompt_override is "genre", but it has no genre' in warning for warning in song.warnings)
    assert song.prompts() == {"caption": "c"}
