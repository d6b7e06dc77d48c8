import pytest

HEADER = "File,Artist,Title,BPM,Key,Camelot"


def test_the_export_of_key_bpm_finder(folder):
    song = folder.song().write("keys.csv", HEADER + "\nsong1.wav,,,190,D major,10B\n").only_song()
    assert (song.bpm, song.keyscale) == (190, "D major")
    assert song.sources["bpm"] == song.sources["keyscale"] == "keys.csv row 2"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_dialects(folder, delimiter, encoding):
    lines = ["FILE", "artist", "Title", "bpm", "KEY", "Camelot", "Caption"], ["song1.wav", "", "", "90", "", "8A", "夜"]
    text = "\r\n".join(delimiter.join(cells) for cells in lines) + "\r\n"
    song = folder.song().write("keys.CSV", text.encode(encoding)).only_song()
    assert (song.bpm, song.keyscale, song.caption) == (90, "A minor", "夜")


@pytest.mark.parametrize("title", ["caption", "Description", "PROMPT"])
def test_a_caption_column_by_any_of_its_names(folder, title):
    text = f'{HEADER},{title}\nsong1.wav,,,100,C,8B,"happy, with ""strings""\nand a choir"\n'
    assert folder.song().write("k.csv", text).only_song().caption == 'happy, with "strings"\nand a choir'


def test_excels_separator_line_and_decimal_comma(folder):
    song = folder.song().write("k.csv", "sep=;\nFile;BPM\nsong1.wav;127,6\n").only_song()
    assert song.bpm == 128
    assert song.sources["bpm"] == "k.csv row 3"


def test_camelot_fills_a_missing_key_only(folder):
    folder.song("a.wav", seed=1).song("b.wav", seed=2).song("c.wav", seed=3)
    folder.write("k.csv", "File,Key,Camelot\na.wav,,5A\nb.wav,D major,5A\nc.wav,,99Z\n")
    a, b, c = folder.scan().songs
    assert (a.keyscale, b.keyscale, c.keyscale) == ("C minor", "D major", "")
    assert any("Key D major and Camelot 5A (C minor) disagree; Key is used" in warning for warning in b.warnings)
    assert any('Camelot is "99Z"; expected 1A to 12B' in warning for warning in c.warnings)


def test_rows_match_by_path_then_name_then_stem(folder):
    folder.song("a/x.wav", seed=1).song("b/x.wav", seed=2).song("b/y.flac", seed=3).song("b/Mr. Blue.wav", seed=4)
    folder.write("b/k.csv", "File,BPM\nx.wav,60\n")  # by path: b/x.wav, although a/x.wav has that name too
    folder.write("k.csv", "File,BPM\na\\x.wav,70\nY.wav,80\nMr. Blue,90\n")
    tempo = {song.file_name: song.bpm for song in folder.scan().songs}
    assert tempo == {"a/x.wav": 70, "b/Mr. Blue.wav": 90, "b/x.wav": 60, "b/y.flac": 80}


def test_ambiguous_and_unmatched_rows_are_reported_and_never_guessed(folder):
    folder.song("a/x.wav", seed=1).song("b/x.wav", seed=2).song("c/z.wav", seed=3).song("c/z.flac", seed=3)
    folder.write("k.csv", "File,BPM\nx.wav,60\nnone.wav,70\nz.mp3,80\n,90\n")
    scan = folder.scan()
    assert all(song.bpm is None for song in scan.songs)
    assert 'k.csv row 2: "x.wav" fits a/x.wav, b/x.wav; write its path. Not used.' in scan.notes
    assert 'k.csv row 3: "none.wav" fits no song. Not used.' in scan.notes
    assert 'k.csv row 4: "z.mp3" fits c/z.flac, c/z.wav; write its path. Not used.' in scan.notes
    assert "k.csv row 5 names no file. Not used." in scan.notes


def test_several_csvs_merge_by_field_and_conflicts_are_said(folder):
    folder.song()
    folder.write("1.csv", "File,BPM,Key\nsong1.wav,100,\n").write("2.csv", "File,BPM,Key,genre\nsong1.wav,50,Am,pop\n")
    song = folder.only_song()
    assert (song.bpm, song.keyscale, song.genre) == (100, "A minor", "pop")
    assert (song.sources["bpm"], song.sources["keyscale"]) == ("1.csv row 2", "2.csv row 2")
    assert any("2.csv row 2: bpm 50 is not used: 1.csv row 2 has 100" in warning for warning in song.warnings)


def test_an_unquoted_comma_in_a_caption_is_reported(folder):
    song = folder.song().write("k.csv", "File,BPM,caption\nsong1.wav,100,happy, fast\n").only_song()
    assert song.caption == ""
    assert any("k.csv row 2 is not used: it has 4 cells, the header 3" in warning for warning in song.warnings)


def test_a_bad_cell_is_said_and_the_others_are_used(folder):
    song = folder.song().write("k.csv", "File,BPM,Key\nsong1.wav,fast,Am\n").only_song()
    assert (song.bpm, song.keyscale) == (None, "A minor")
    assert any('k.csv row 2: bpm is "fast"; expected a number between 30 and 300' in w for w in song.warnings)


@pytest.mark.parametrize(("text", "found"), [("", "an empty file"), ("name,price\nx,1\n", '"name,price"')])
def test_a_csv_about_something_else_is_reported(folder, text, found):
    (note,) = folder.song().write("k.csv", text).scan().notes
    assert f'k.csv is not used: found {found}; expected a header with a "File" column.' in note


def test_unknown_columns_are_reported(folder):
    (note,) = folder.song().write("k.csv", "File,BPM,Mood\nsong1.wav,100,sad\n").scan().notes
    assert note == "k.csv: columns not used: mood"


@pytest.mark.parametrize("name", ["../out.wav", "/etc/passwd", "C:\\out.wav", "\\\\host\\out.wav", "sub/../../out.wav"])
def test_a_row_that_points_outside_the_folder_is_refused(folder, name):
    (folder.root.parent / "out.wav").parent.mkdir(exist_ok=True)
    scan = folder.song("out.wav").write("k.csv", f"File,BPM\n{name},100\n").scan()
    (skipped,) = scan.skipped
    assert "points outside the folder" in skipped.reason
    assert "k.csv row 2" in skipped.reason
    assert scan.songs[0].bpm is None
