import json

import pytest

from acestep.errors import UserError
from acestep.songs import SongOptions, scan_songs
from acestep.songs.dataset_json import export_dataset_json, import_dataset_json

SAMPLE_KEYS = [
    "id", "audio_path", "filename", "caption", "genre", "lyrics", "raw_lyrics", "formatted_lyrics", "bpm", "keyscale",
    "timesignature", "duration", "language", "is_instrumental", "custom_tag", "labeled", "prompt_override",
]  # fmt: skip


def _full(folder):
    folder.song(
        "sub/夜.wav", seed=1, seconds=1.5, lyrics="[Verse]\n[00:00.10]la",
        json={"caption": "c", "genre": "g", "bpm": 90, "key": "Am", "timesignature": 3, "language": "ja",
              "custom_tag": "own", "prompt_override": "genre"},
    ).song("b.flac", seed=2, lyrics="[Instrumental]")  # fmt: skip
    return folder


def _sample(folder, **values):
    return folder.write("dataset.json", json.dumps({"metadata": {}, "samples": [values]})).root / "dataset.json"


def test_export_has_the_original_tools_keys_and_relative_paths(folder):
    file = _full(folder).root.parent / "out" / "dataset.json"
    options = SongOptions(custom_tag="all", tag_position="append", genre_ratio=20)
    scan = scan_songs(folder.root, options)
    export_dataset_json(scan, file, options)
    content = json.loads(file.read_text(encoding="utf-8"))
    metadata = content["metadata"]
    assert (metadata["name"], metadata["custom_tag"], metadata["tag_position"]) == ("songs", "all", "append")
    assert (metadata["num_samples"], metadata["genre_ratio"]) == (2, 20)
    assert metadata["all_instrumental"] is False
    assert "T" in metadata["created_at"]
    instrumental, song = content["samples"]
    assert list(song) == SAMPLE_KEYS
    assert song["audio_path"] == "../songs/sub/夜.wav"
    assert (song["bpm"], song["duration"], song["custom_tag"], song["labeled"]) == (90, 1, "own", True)
    assert (song["keyscale"], song["timesignature"], song["lyrics"]) == ("A minor", "3", "[Verse]\nla")
    assert (instrumental["is_instrumental"], instrumental["bpm"]) == (True, None)
    export_dataset_json(scan, file, options, absolute_paths=True)
    assert json.loads(file.read_text())["samples"][1]["audio_path"] == (folder.root / "sub/夜.wav").as_posix()


def test_what_was_exported_is_imported_the_same(folder, tmp_path):
    file = folder.root / "dataset.json"
    before = _full(folder).scan()
    export_dataset_json(before, file, SongOptions())
    for sidecar in [*folder.root.rglob("*.txt"), folder.root / "sub/夜.json"]:
        sidecar.unlink()
    imported = import_dataset_json(file, folder.root)
    assert (sorted(imported.written), imported.skipped) == (["b.json", "sub/夜.json"], [])
    after = folder.scan()
    fields = ("file_name", "id", "caption", "genre", "lyrics", "bpm", "keyscale", "timesignature", "language",
              "is_instrumental", "custom_tag", "prompt_override")  # fmt: skip
    assert [[getattr(song, name) for name in fields] for song in after.songs] == [
        [getattr(song, name) for name in fields] for song in before.songs
    ]


def test_missing_keys_take_the_original_defaults(folder):
    import_dataset_json(_sample(folder.song(), filename="song1.wav"), folder.root)
    song = folder.only_song()
    assert (song.lyrics, song.language, song.is_instrumental) == ("[Instrumental]", "unknown", True)
    assert (song.caption, song.bpm, song.prompt_override) == ("", None, None)
    assert not any("does anybody sing?" in warning for warning in song.warnings)


def test_a_sample_with_lyrics_is_not_instrumental(folder):
    imported = import_dataset_json(_sample(folder.song(), filename="song1.wav", raw_lyrics="la"), folder.root)
    song = folder.only_song()
    assert (song.lyrics, song.is_instrumental) == ("la", False)
    assert any('"lyrics" is empty; "raw_lyrics" is taken' in note for note in imported.notes)


def test_settings_of_the_whole_dataset_reach_the_songs(folder):
    content = {"metadata": {"custom_tag": "t", "tag_position": "append", "genre_ratio": 40},
               "samples": [{"filename": "song1.wav", "caption": "c"}]}  # fmt: skip
    folder.song().write("d.json", json.dumps(content))
    imported = import_dataset_json(folder.root / "d.json", folder.root)
    assert folder.only_song().prompts() == {"caption": "c, t"}
    assert any("--genre_ratio 40" in note for note in imported.notes)


def test_an_absolute_path_of_another_machine_is_found_by_its_file_name(folder):
    file = _sample(folder.song("sub/a.wav"), audio_path="D:\\music\\a.wav", filename="a.wav", caption="c")
    assert import_dataset_json(file, folder.root).written == ["sub/a.json"]


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        ({"audio_path": "../secret.wav"}, "points outside the folder"),
        ({"audio_path": "/etc/passwd", "filename": "passwd"}, "points outside the folder"),
        ({"audio_path": "none.wav"}, "fits no song"),
        ({"caption": "x"}, 'has neither "audio_path" nor "filename"'),
        ({"filename": "x.wav"}, "fits a/x.wav, b/x.wav; write its path"),
        ({"filename": "../../song1.wav", "audio_path": "/x/song1.wav"}, "points outside the folder"),
    ],
)
def test_samples_that_cannot_be_taken_are_reported(folder, sample, reason):
    folder.song().song("a/x.wav", seed=1).song("b/x.wav", seed=2)
    imported = import_dataset_json(_sample(folder, **sample), folder.root)
    assert imported.written == []
    (skipped,) = imported.skipped
    assert reason in skipped.reason
    assert skipped.kind == "json_sample"
    assert not list(folder.root.parent.rglob("x.json"))


def test_an_existing_json_is_kept_unless_told_otherwise(folder):
    file = _sample(folder.song(json={"caption": "mine"}), filename="song1.wav", caption="theirs")
    (skipped,) = import_dataset_json(file, folder.root).skipped
    assert "song1.json exists and is kept" in skipped.reason
    assert folder.only_song().caption == "mine"
    assert import_dataset_json(file, folder.root, overwrite=True).written == ["song1.json"]
    assert folder.only_song().caption == "theirs"
    assert json.loads((folder.root / "song1.json.bak").read_text()) == {"caption": "mine"}


@pytest.mark.parametrize("content", ["{}", "[]", "x", '{"samples": 3}', '{"samples": [], "metadata": 3}'])
def test_what_is_no_dataset_json_is_an_error(folder, content):
    with pytest.raises(UserError, match=r"d\.json"):
        import_dataset_json(folder.song().write("d.json", content).root / "d.json", folder.root)


def test_a_dataset_json_in_the_folder_is_recognised_and_segments_are_not_exported(folder):
    file = _sample(folder.song(seconds=3.0), filename="song1.wav")
    scan = folder.scan(segment_seconds=1.0)
    assert any("dataset.json belongs to no song. It is a dataset of the original tool" in note for note in scan.notes)
    with pytest.raises(UserError, match="--segment_seconds"):
        export_dataset_json(scan, file, SongOptions())
