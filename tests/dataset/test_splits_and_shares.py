"""Which songs are held out, and who encodes which."""

import random
from pathlib import Path

import pytest

from acestep.dataset.options import PrepareOptions
from acestep.dataset.processes import share_by_length
from acestep.dataset.schema import ModelRecord, parse_records
from acestep.dataset.splits import split_songs
from acestep.errors import UserError
from acestep.songs import Song


def song(number: int, segment: int | None = None, duration: float = 60.0) -> Song:
    path = Path(f"{number}.wav")
    values = {"id": f"{number:032x}", "duration": duration, "sample_rate": 48_000, "channels": 2, "segment": segment}
    return Song(file_name=path.name, path=path, **values)


def ids(songs: list[Song]) -> set[str]:
    return {song.song_id for song in songs}


def test_a_song_keeps_its_side_when_others_come_and_its_segments_stay_together():
    few = [song(number, segment) for number in range(50) for segment in range(3)]
    many = [song(number) for number in range(1000)]
    first, second = split_songs(few, 0.2, 0), split_songs(many, 0.2, 0)
    assert not ids(first["train"]) & ids(first["validation"])
    assert sum(map(len, first.values())) == 150
    assert ids(first["validation"]) == ids(second["validation"]) & ids(few)
    assert len(second["validation"]) / 1000 == pytest.approx(0.2, abs=0.03)
    assert split_songs(many, 0.2, 0) == second
    assert ids(split_songs(many, 0.2, 1)["validation"]) != ids(second["validation"])
    assert ids(split_songs(many, 0.3, 0)["validation"]) > ids(second["validation"])
    assert split_songs(few, 0, 0) == {"train": few}


def test_a_share_that_takes_none_or_all_names_one_that_does_not():
    songs = [song(number) for number in range(4)]
    for share in (1e-6, 0.999999):
        with pytest.raises(UserError, match=r"holds out (no|every) song of 4.*Take a share of (0\.\d+) or") as refused:
            split_songs(songs, share, 0)
        advised = float(str(refused.value).split("Take a share of ")[1].split()[0])
        assert all(split_songs(songs, advised, 0).values())
    with pytest.raises(UserError, match="Take more songs"):
        split_songs(songs[:1], 0.5, 0)


def test_audio_is_shared_out_by_length_and_files_stay_whole():
    draw = random.Random(0)
    songs = [song(number, segment, draw.uniform(10, 600)) for number in range(40) for segment in range(2)]
    for processes in (1, 2, 3, 8):
        shares = share_by_length(songs, processes)
        assert sorted(s.row_id for share in shares for s in share) == sorted(s.row_id for s in songs)
        seconds = [sum(s.duration for s in share) for share in shares]
        assert max(seconds) < 1.1 * sum(seconds) / processes
        files = [{s.path for s in share} for share in shares]
        assert sum(map(len, files)) == 40
        assert all(share == sorted(share, key=songs.index) for share in shares)
    assert share_by_length([], 3) == [[], [], []]


def test_rows_of_different_models_and_unknown_schemas_are_refused_by_name():
    one = ModelRecord(model="a", revision=None, vae="v", text_encoder="t", condition_encoder="c")
    other = ModelRecord(model="b", revision=None, vae="v", text_encoder="t", condition_encoder="d")
    assert parse_records([one.as_json()], "data") == one
    with pytest.raises(UserError, match=r"data: its rows were encoded by 2 different models \(a, b\)"):
        parse_records([one.as_json(), other.as_json()], "data")
    for version in (0, 3):
        other = one.as_json().replace('"schema_version": 2', f'"schema_version": {version}')
        with pytest.raises(
            UserError, match=f"data: has schema version {version}, this software reads versions 1 and 2"
        ):
            parse_records([other], "data")
    with pytest.raises(UserError, match="is not what prepare_dataset"):
        parse_records(["nonsense"], "data")


def test_schema_1_is_read(tmp_path):
    import json
    from dataclasses import asdict

    from datasets import Dataset

    from acestep.dataset.opening import open_dataset

    record = asdict(ModelRecord(model="a", revision=None, vae="v", text_encoder="t", condition_encoder="c"))
    old = {name: record[name] for name in ("model", "revision", "vae", "text_encoder", "condition_encoder")}
    dataset = Dataset.from_dict({"id": ["x"], "frames": [3]})
    dataset.info.description = json.dumps({"acestep_dataset": {**old, "schema_version": 1}})
    dataset.save_to_disk(tmp_path / "data")
    rows, found = open_dataset(str(tmp_path / "data"))
    assert len(rows) == 1
    assert (found.model, found.schema_version) == ("a", 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_split": 1.0}, "--validation_split is 1.0"),
        ({"private": True}, "--private: only with --push_to_hub"),
        ({"push_to_hub": True, "license": "mit"}, "--hub_dataset_id is missing"),
        ({"push_to_hub": True, "hub_dataset_id": "a/b"}, "--license is missing"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        PrepareOptions(data_dir="s", pretrained_model_name_or_path="m", output_dir="d", **options).check()
