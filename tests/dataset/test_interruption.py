"""What a crash, another number of processes and a change cost: nothing that is in the dataset."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import soundfile

from acestep.models.tiny import save_tiny_pipeline, tiny_components
from tests.conftest import ROOT
from tests.dataset.conftest import tone

KILLS = 20
LAUNCH = (
    *(sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0", "--config_file"),
    str(ROOT / "accelerate_configs/cpu_2_processes.yaml"),
)
# One thread everywhere: how many there are could change the last bit of a sum.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Eight short songs, a tiny model, and the dataset of an undisturbed run in one process."""
    work = tmp_path_factory.mktemp("work")
    (work / "songs").mkdir()
    for number in range(8):
        samples = tone(1.0 + 0.3 * number, 48_000, 200 + 25 * number)
        soundfile.write(work / "songs" / f"song{number}.wav", samples, 48_000)
        (work / "songs" / f"song{number}.json").write_text(json.dumps({"caption": f"number {number}", "lyrics": "la"}))
    components = tiny_components(0, latent_channels=8, encoder_hidden_size=16)
    save_tiny_pipeline(components, work / "model")
    done = prepare(work, "undisturbed", "cache1")
    assert "8 encoded, 0 from the cache" in done.stdout
    return work


def command(work: Path, output: str, cache: str, *more, launch=(sys.executable,)) -> list[str]:
    options = ["--data_dir", work / "songs", "--pretrained_model_name_or_path", work / "model", "--decode_workers", 1]
    options += ["--output_dir", work / output, "--cache_dir", work / cache, "--validation_split", 0.3, *more]
    return [str(part) for part in (*launch, ROOT / "scripts/prepare_dataset.py", *options)]


def prepare(work: Path, *arguments, **kwargs) -> subprocess.CompletedProcess:
    process = command(work, *arguments, **kwargs)
    done = subprocess.run(process, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_processes_share_the_songs_and_the_dataset_is_the_same_bit_for_bit(work):
    done = prepare(work, "two", "cache2", launch=LAUNCH)
    assert "8 encoded, 0 from the cache" in done.stdout
    assert done.stdout.count("Totals") == 1  # one process scans and tells
    assert "/4 songs" in done.stderr  # its share of eight
    assert contents(work / "two") == contents(work / "undisturbed")


# Kills of a fork cost no start of Python and torch, so that twenty of them take seconds.
SERVER = """
import os, signal, sys, time
from acestep.quiet import quiet_libraries
quiet_libraries()
import accelerate, datasets, diffusers, torch, transformers
import acestep.dataset.encoder, acestep.dataset.assemble, acestep.dataset.prepare
from diffusers import AceStepPipeline, AutoencoderOobleck
from diffusers.pipelines.ace_step import AceStepConditionEncoder
from transformers import AutoModel, AutoTokenizer
from acestep.dataset.options import PrepareOptions
from acestep.options import parse_options
torch.set_num_threads(1)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        sys.stdin.close()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = acestep.dataset.prepare.prepare(parse_options(PrepareOptions, "", sys.argv[1:]))
        os._exit(status)
    began, limit = time.monotonic(), float(line)
    while time.monotonic() - began < limit:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.002)
    else:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    print("killed" if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), time.monotonic() - began, flush=True)
"""


def test_killed_at_twenty_random_moments_the_dataset_is_that_of_an_undisturbed_run(work):
    arguments = command(work, "killed", "cache3", "--overwrite")[2:]
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT, cwd=ROOT,
    ) as server:  # fmt: skip

        def run(seconds: float) -> tuple[str, float]:
            server.stdin.write(f"{seconds}\n")
            server.stdin.flush()
            how, took = server.stdout.readline().split()
            return how, float(took)

        how, whole = run(600)  # to know how long a run from nothing takes, and one that finds everything
        assert how == "0"
        _, found = run(600)
        shutil.rmtree(work / "killed")
        shutil.rmtree(work / "cache3")
        draw, kills, kept = random.Random(0), 0, []
        while kills < KILLS:
            # in the first half nothing is kept, so that every moment of a run comes up; then the runs go on
            if fresh := kills < KILLS // 2:
                shutil.rmtree(work / "cache3", ignore_errors=True)
            how, took = run(draw.uniform(0.05, 0.98) * (whole if fresh else found))
            if how != "killed":  # the machine is less busy now than when the run was timed
                assert how == "0"
                whole, found = (took, found) if fresh else (whole, took)
                continue
            kills += 1
            kept.append(len(list((work / "cache3").rglob("*.safetensors"))))
            if (work / "killed").exists():  # whole, or not there
                assert contents(work / "killed") == contents(work / "undisturbed")
        assert len(set(kept)) > 3  # at different moments, indeed
        assert run(600)[0] == "0"
        server.stdin.close()
    assert contents(work / "killed") == contents(work / "undisturbed")
    assert not list(work.glob(".killed*"))  # nothing is left of the killed runs beside it


def test_after_one_caption_changed_one_condition_is_computed_and_nothing_is_encoded(work, monkeypatch):
    """Counted where the work is done: the VAE, the encoders, decoding for them. The scan checks the files before."""
    import torch

    from acestep.dataset import encoder as module
    from acestep.dataset.encoder import DatasetEncoder
    from acestep.dataset.store import TensorStore
    from acestep.models.checkpoint import Checkpoint
    from acestep.songs import SongOptions, scan_songs

    calls: Counter[str] = Counter()

    def count(name: str) -> None:
        function = getattr(module, name)

        def counted(*arguments, **options):
            calls[name] += 1
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, counted)

    for name in ("decode_songs", "encode_audio", "encode_texts", "encode_condition"):
        count(name)
    monkeypatch.setattr(Checkpoint, "vae", lambda *_: pytest.fail("the VAE was opened"))
    scan = scan_songs(work / "songs", SongOptions(decode_workers=1))
    torch.manual_seed(0)
    encoder = DatasetEncoder(Checkpoint(str(work / "model")), TensorStore(work / "cache1"))
    assert encoder.encode(scan.songs).reused == 8
    assert not calls
    scan.songs[3].caption = "another caption"
    prepared = encoder.encode(scan.songs)
    assert calls == {"encode_texts": 1, "encode_condition": 1}
    assert "another caption" in encoder.row(scan.songs[3], prepared)["text_prompt"]


def test_the_latents_serve_another_model_with_the_same_vae(work):
    components = tiny_components(0, latent_channels=8, encoder_hidden_size=16)
    other = tiny_components(1, latent_channels=8, encoder_hidden_size=16)
    components["condition_encoder"] = other["condition_encoder"]
    save_tiny_pipeline(components, work / "other")
    done = prepare(work, "for-other", "cache1", "--pretrained_model_name_or_path", work / "other")
    assert "0 encoded, 8 from the cache" in done.stdout
    assert "texts:" not in done.stderr
    assert "conditions: 100%" in done.stderr
