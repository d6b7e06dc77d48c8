"""What a crash, another number of processes and a change cost: nothing that is in the dataset."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import soundfile

from acestep.models.tiny import save_tiny_pipeline, tiny_components
from tests.conftest import ROOT
from tests.dataset.conftest import tone

KILLS, KILLS_BEFORE_THE_END = 20, 14
LAUNCH = (
    *(sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0", "--config_file"),
    str(ROOT / "accelerate_configs/cpu_2_processes.yaml"),
)
# One thread everywhere: how many there are could change the last bit of a sum.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def work(tmp_path_factory, scripts):
    """Eight short songs, a tiny model, and the dataset of an undisturbed run in one process."""
    work = tmp_path_factory.mktemp("work")
    (work / "songs").mkdir()
    for number in range(8):
        samples = tone(0.2 + 0.05 * number, 48_000, 200 + 25 * number)
        soundfile.write(work / "songs" / f"song{number}.wav", samples, 48_000)
        (work / "songs" / f"song{number}.json").write_text(json.dumps({"caption": f"number {number}", "lyrics": "la"}))
    components = tiny_components(0, latent_channels=8, encoder_hidden_size=16)
    save_tiny_pipeline(components, work / "model")
    done = scripts.run("prepare_dataset.py", *command(work, "undisturbed", "cache1", launch=())[1:])
    assert "8 encoded, 0 from the cache" in done.stdout
    return work


def command(work: Path, output: str, cache: str, *more, launch=(sys.executable,)) -> list[str]:
    options = ["--data_dir", work / "songs", "--pretrained_model_name_or_path", work / "model", "--decode_workers", 1]
    options += ["--output_dir", work / output, "--cache_dir", work / cache, "--validation_split", 0.3, *more]
    return [str(part) for part in (*launch, ROOT / "scripts/prepare_dataset.py", *options)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_processes_share_the_songs_and_the_dataset_is_the_same_bit_for_bit(work):
    process = command(work, "two", "cache2", launch=LAUNCH)
    done = subprocess.run(process, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "8 encoded, 0 from the cache" in done.stdout
    assert done.stdout.count("Totals") == 1  # one process scans and tells
    assert "/4 songs" in done.stderr  # its share of eight
    assert contents(work / "two") == contents(work / "undisturbed")


def test_killed_at_twenty_random_moments_the_dataset_is_that_of_an_undisturbed_run(work, scripts):
    script, *arguments = command(work, "killed", "cache3", "--overwrite", launch=())

    def run(seconds: float = 600.0) -> tuple[int, float]:
        kept = len(list((work / "cache3" / "latents").rglob("*.safetensors")))
        started = scripts.start(Path(script).name, *arguments)
        done = started.wait(seconds)
        if done.returncode == 0:  # whatever became of the runs before, no song that they had finished was lost
            assert f"{8 - kept} encoded, {kept} from the cache" in done.stdout
        return done.returncode, started.seconds

    status, whole = run()  # to know how long a run from nothing takes, and one that finds everything
    assert status == 0
    _, found = run()
    shutil.rmtree(work / "killed")
    draw, runs, kept = random.Random(0), 0, []
    while len(kept) < KILLS:
        # from nothing, so that every moment of a run comes up; going on from there; at last with all in the cache
        everything, runs = len(kept) >= KILLS_BEFORE_THE_END, runs + 1
        if everything and len(kept) == KILLS_BEFORE_THE_END:
            assert run()[0] == 0
        elif not everything and runs % 2:
            shutil.rmtree(work / "cache3", ignore_errors=True)
            shutil.rmtree(work / "killed", ignore_errors=True)
        status, took = run(draw.uniform(0.05, 0.98) * (found if everything else whole))
        assert status in (0, -9)
        if status == -9:
            kept.append(len(list((work / "cache3").rglob("*.safetensors"))))
        elif everything:  # the machine is less busy now than when the run was timed
            found = took
        if status == 0 or (work / "killed").exists():  # whole, or not there
            assert contents(work / "killed") == contents(work / "undisturbed")
    assert len(set(kept)) > 3  # at different moments, indeed
    assert run()[0] == 0
    assert contents(work / "killed") == contents(work / "undisturbed")
    assert not list(work.glob(".killed*"))  # nothing is left of the killed runs beside it


@pytest.fixture
def calls(monkeypatch) -> Counter[str]:
    """Counts calls where the work is done: a worker that decodes a file, the VAE, the text encoder, the condition's."""
    from acestep.dataset import encoder
    from acestep.songs import probe_cache, workers

    calls: Counter[str] = Counter()

    def count(place, name: str) -> None:
        function = getattr(place, name)

        def counted(*arguments, **options):
            calls[name] += 1
            return function(*arguments, **options)

        monkeypatch.setattr(place, name, counted)

    count(workers.Worker, "run")
    for name in ("encode_audio", "encode_texts", "encode_condition"):
        count(encoder, name)
    monkeypatch.setattr(probe_cache, "SETTLED_NS", 10_000_000)  # in place of two seconds, to wait less
    return calls


def test_after_one_caption_changed_one_condition_is_computed_and_no_audio_is_decoded(work, calls, capsys):
    from accelerate import PartialState
    from datasets import load_from_disk

    from acestep.dataset.options import PrepareOptions
    from acestep.dataset.prepare import prepare

    def run() -> tuple[dict[str, int], str]:
        calls.clear()
        assert prepare(PrepareOptions(**options, overwrite=True)) == 0
        PartialState._reset_state()  # other tests begin without it
        return dict(calls), capsys.readouterr().out

    shutil.copytree(work / "songs", work / "edited")
    time.sleep(0.02)
    options = {"data_dir": work / "edited", "output_dir": work / "data", "cache_dir": work / "cache4"}
    options |= {"pretrained_model_name_or_path": work / "model", "decode_workers": 1, "device": "cpu"}
    options = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    # eight files to check, then to encode
    assert run()[0] == {"run": 16, "encode_audio": 8, "encode_texts": 8, "encode_condition": 8}
    first = load_from_disk(str(work / "data")).with_format("numpy")[:]

    (work / "edited" / "song3.json").write_text(json.dumps({"caption": "another caption", "lyrics": "la"}))
    done, said = run()
    assert done == {"encode_texts": 1, "encode_condition": 1}
    size = sum(path.stat().st_size for path in (work / "cache4").rglob("*") if path.is_file())
    assert f"0 files checked, 8 known; 0 encoded, 8 from the cache (cache4, {size / 1e6:.1f} MB)" in said
    second = load_from_disk(str(work / "data")).with_format("numpy")[:]
    changed = [a != b for a, b in zip(first["conditions_sha256"], second["conditions_sha256"], strict=True)]
    assert changed == [False] * 3 + [True] + [False] * 4
    assert "another caption" in second["text_prompt"][3]
    assert list(first["latents_sha256"]) == list(second["latents_sha256"])

    before = contents(work / "data")
    assert run()[0] == {}
    assert contents(work / "data") == before
    options["clear_cache"] = True
    assert run()[0] == {"run": 16, "encode_audio": 8, "encode_texts": 8, "encode_condition": 8}
    assert contents(work / "data") == before


def test_another_decoder_has_only_that_encoded_again_which_it_decodes(work):
    from acestep.dataset.encoder import DatasetEncoder
    from acestep.dataset.store import TensorStore
    from acestep.models.checkpoint import Checkpoint
    from acestep.songs import Song, decode

    encoder = DatasetEncoder(Checkpoint(str(work / "model")), TensorStore(work / "cache5"))

    def keys() -> list[str]:
        kinds = [(48_000, False), (48_000, True), (44_100, False)]
        songs = [
            Song(file_name="a.mp3", path=Path("a.mp3"), id="1", duration=1, sample_rate=rate, channels=2, lossy=lossy)
            for rate, lossy in kinds
        ]
        return [encoder.latents_key(song) for song in songs]

    before = keys()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "decoder_version", lambda suffix: "libsndfile 9.9.9")
        assert [a == b for a, b in zip(before, keys(), strict=True)] == [True, False, True]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode.importlib.metadata, "version", lambda name: "9.9.9+cpu")
        assert [a == b for a, b in zip(before, keys(), strict=True)] == [True, True, False]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "DECODING_VERSION", 2)
        assert not set(before) & set(keys())


def test_the_latents_serve_another_model_with_the_same_vae(work, scripts):
    components = tiny_components(0, latent_channels=8, encoder_hidden_size=16)
    other = tiny_components(1, latent_channels=8, encoder_hidden_size=16)
    components["condition_encoder"] = other["condition_encoder"]
    save_tiny_pipeline(components, work / "other")
    options = command(work, "for-other", "cache1", "--pretrained_model_name_or_path", work / "other", launch=())[1:]
    done = scripts.run("prepare_dataset.py", *options)
    assert "0 encoded, 8 from the cache" in done.stdout
    assert "texts:" not in done.stderr
    assert "conditions: 100%" in done.stderr
