"""A folder of songs through the public script, and what the dataset holds."""

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
from datasets import load_from_disk

from acestep.dataset.schema import read_record
from acestep.models.checkpoint import Checkpoint
from tests.dataset.conftest import CHANNELS, tone


def prepare(run, songs, model, output, *more, check=True):
    return run(
        *("prepare_dataset.py", "--data_dir", songs, "--pretrained_model_name_or_path", model),
        *("--output_dir", output, "--decode_workers", 1, *more),
        check=check,
    )


def test_a_folder_becomes_a_dataset_whose_numbers_are_the_pipelines(run_script, songs, model, tmp_path):
    soundfile.write(songs / "one.wav", tone(2.0, 44_100, 220), 44_100)  # to be resampled
    process = prepare(run_script, songs, model, tmp_path / "data", "--storage_dtype", "float32", "--genre_ratio", 20)
    assert "3 songs in 3 rows" in process.stdout
    assert "0 skipped" in process.stdout
    data = load_from_disk(str(tmp_path / "data")).with_format("numpy")
    rows = {row["file_name"]: row for row in data}
    assert list(data["file_name"]) == ["one.wav", "three.mp3", "two.flac"]
    one = rows["one.wav"]
    assert (one["caption"], one["bpm"], one["language"]) == ("warm folk", 96, "en")
    assert one["lyrics"] == "[Verse 1]\nwalking down the street"
    assert json.loads(one["sources"])["bpm"] == "one.json"
    assert one["latents"].shape == one["latents_std"].shape == (50, CHANNELS)
    assert rows["two.flac"]["frames"] == 63  # 2.5 s: the last frame is filled up
    assert (rows["three.mp3"]["bpm"], rows["three.mp3"]["keyscale"]) == (128, "D major")

    # the pipeline's own functions on the same audio and texts
    pipeline = Checkpoint(str(model)).pipeline(torch.float32)
    import torchaudio

    audio = torch.from_numpy(soundfile.read(songs / "one.wav", dtype="float32")[0].T.copy())
    audio = torchaudio.functional.resample(audio, 44_100, 48_000)
    with torch.no_grad():
        posterior = pipeline.vae.encode(audio[None]).latent_dist
        assert abs(one["latents"] - posterior.mean[0].T.numpy()).max() < 1e-5
        assert abs(one["latents_std"] - posterior.std[0].T.numpy()).max() < 1e-5
        states = pipeline.encode_prompt(
            "warm folk", "[Verse 1]\nwalking down the street", "cpu", vocal_language="en", audio_duration=2.0, bpm=96
        )
        condition, _ = pipeline.condition_encoder(
            *states, pipeline.condition_encoder.silence_latent[:, :750], torch.zeros(1, dtype=torch.long)
        )
    assert one["encoder_hidden_states"].shape == condition[0].shape
    assert abs(one["encoder_hidden_states"] - condition[0].numpy()).max() < 1e-6
    assert "- bpm: 96\n- timesignature: N/A\n- keyscale: N/A\n- duration: 2 seconds\n" in one["text_prompt"]
    assert np.ndim(one["genre_encoder_hidden_states"]) == 0  # none
    assert "# Caption\ndance\n" in rows["three.mp3"]["genre_text_prompt"]
    assert rows["three.mp3"]["genre_encoder_hidden_states"].shape[1] == condition.shape[-1]


def test_the_record_names_the_model_and_no_path(scripts, songs, model, tmp_path):
    prepare(scripts.run, songs, model, tmp_path / "data")
    data = load_from_disk(str(tmp_path / "data"))
    record, checkpoint = read_record(data, "data"), Checkpoint(str(model))
    assert record.model == "tiny-base"
    assert record.condition_encoder == checkpoint.fingerprint("condition_encoder")
    assert record.vae == checkpoint.fingerprint("vae")
    assert data.features["latents"].dtype == "float16"
    for path in (tmp_path / "data").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name


def test_a_second_run_encodes_only_what_changed(scripts, songs, model, tmp_path):
    prepare(scripts.run, songs, model, tmp_path / "data")
    first = load_from_disk(str(tmp_path / "data")).with_format("numpy")[:]
    refused = prepare(scripts.run, songs, model, tmp_path / "data", check=False)
    assert refused.returncode == 2
    assert "--overwrite" in refused.stderr
    (songs / "one.lyrics.txt").write_text("another line", encoding="utf-8")
    process = prepare(scripts.run, songs, model, tmp_path / "data", "--overwrite")
    assert "0 encoded, 3 from the cache" in process.stdout
    assert "conditions: 100%" in process.stderr
    assert "1/1" in process.stderr.split("conditions:")[-1]
    second = load_from_disk(str(tmp_path / "data")).with_format("numpy")[:]
    assert all(np.array_equal(a, b) for a, b in zip(first["latents"], second["latents"], strict=True))
    assert first["lyrics"][0] != second["lyrics"][0]
    assert not np.array_equal(first["encoder_hidden_states"][0], second["encoder_hidden_states"][0])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".acestep_cache", "data", "songs"]


def test_a_damaged_cache_entry_is_made_again_and_said(scripts, songs, model, tmp_path):
    prepare(scripts.run, songs, model, tmp_path / "data")
    entry = sorted((tmp_path / ".acestep_cache" / "latents").rglob("*.safetensors"))[0]
    content = bytearray(entry.read_bytes())
    content[-5] ^= 0xFF
    entry.write_bytes(content)
    first = load_from_disk(str(tmp_path / "data")).with_format("numpy")["latents"][:]
    process = prepare(scripts.run, songs, model, tmp_path / "again")
    assert "1 encoded, 2 from the cache" in process.stdout
    assert f"{entry.name}: was damaged and has been made again" in process.stdout
    again = load_from_disk(str(tmp_path / "again")).with_format("numpy")["latents"][:]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_songs_that_cannot_be_used_are_skipped_counted_and_end_with_a_status(scripts, songs, model, tmp_path):
    (songs / "broken.mp3").write_bytes(b"this is no audio at all" * 100)
    process = prepare(scripts.run, songs, model, tmp_path / "data", check=False)
    assert process.returncode == 1
    assert "skipped: broken.mp3" in process.stdout
    assert "1 skipped" in process.stdout
    assert len(load_from_disk(str(tmp_path / "data"))) == 3
    allowed = prepare(scripts.run, songs, model, tmp_path / "data2", "--allow_skips")
    assert "1 skipped" in allowed.stdout


def test_texts_that_are_cut_are_warned_about(scripts, songs, model, tmp_path):
    (songs / "one.json").write_text(json.dumps({"caption": "very " * 300, "lyrics": "x"}), encoding="utf-8")
    (songs / "one.lyrics.txt").write_text("la la la la\n" * 400, encoding="utf-8")
    process = prepare(scripts.run, songs, model, tmp_path / "data")
    assert "one.wav (caption): the prompt has" in process.stdout
    assert "cut off first: shorten the caption" in process.stdout
    assert "one.wav (caption): the lyrics have" in process.stdout


def test_segments_are_rows_of_one_song(scripts, tmp_path, model):
    folder = tmp_path / "songs"
    folder.mkdir()
    soundfile.write(folder / "long.wav", tone(5.0, 48_000, 220), 48_000)
    process = prepare(scripts.run, folder, model, tmp_path / "data", "--segment_seconds", 2, "--all_instrumental")
    assert "1 song in 3 rows" in process.stdout
    data = load_from_disk(str(tmp_path / "data")).with_format("numpy")
    assert len(set(data["song_id"])) == 1
    assert len(set(data["id"])) == len(data) >= 2
    assert [int(row["frames"]) for row in data] == [int(np.ceil(row["duration"] * 25 - 1e-4)) for row in data]
    assert f"duration: {int(data[0]['duration'])} seconds" in data[0]["text_prompt"]


def test_a_folder_that_is_no_dataset_is_not_replaced(scripts, songs, model, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    process = prepare(scripts.run, songs, model, tmp_path / "mine", "--overwrite", check=False)
    assert process.returncode == 2
    assert "no dataset" in process.stderr
    assert (tmp_path / "mine" / "letter.txt").read_text() == "keep me"


@pytest.mark.parametrize("what", ["--data_dir", "--pretrained_model_name_or_path"])
def test_what_is_not_there_is_one_clear_line(scripts, songs, model, tmp_path, what):
    process = prepare(scripts.run, songs, model, tmp_path / "data", what, tmp_path / "nowhere", check=False)
    assert process.returncode == 2
    assert "nowhere" in process.stderr
    assert "Traceback" not in process.stderr
    shutil.rmtree(tmp_path / ".acestep_cache", ignore_errors=True)
    assert [path.name for path in tmp_path.iterdir()] == ["songs"]
