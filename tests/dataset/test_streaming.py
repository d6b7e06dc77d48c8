"""What processes that stream a dataset fetch: together what one would, and of each shard their own rows alone."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from datasets import load_from_disk

from acestep.dataset import publish
from acestep.dataset.assemble import write_dataset
from acestep.dataset.row import song_prompts, song_row
from acestep.dataset.schema import ModelRecord
from acestep.songs import Song
from tests.conftest import ROOT
from tests.hub_server import HubServer, environment

ID, ROWS, ROWS_A_SHARD = "studio/long-songs", 24, 6
# name: process, accumulation, processes, steps (an epoch of two samples a step, or one of one)
READERS = {"alone": (0, 2, 1, 12), "first": (0, 1, 2, 12), "second": (1, 1, 2, 12), "one-step": (0, 1, 1, 1)}
READERS["forgetful"] = (0, 1, 1, 2)
AGAIN = 3  # times that each row is read

# Each reader is a process that takes the samples which a training of so many processes gives it.
READ = """
import hashlib, json, os, sys
import datasets, huggingface_hub, torch
from acestep.dataset.opening import open_dataset
from acestep.dataset import streaming
from acestep.train.batches import MicroBatches, StepLayout
repo_id, readers = sys.argv[1], json.loads(sys.argv[2])
for name, (process, accumulation, processes, steps) in readers.items():
    if os.fork():
        continue
    huggingface_hub.constants.HF_HUB_USER_AGENT_ORIGIN = name
    if name == "forgetful":
        streaming.KEPT_BYTES = 1
    rows, _ = open_dataset(repo_id, streaming=True)
    order = []
    layout = StepLayout(1, accumulation, processes)
    for batch in MicroBatches(rows.column("frames"), layout, process, seed=3, steps=steps):
        for place in batch:
            digest = hashlib.sha256()
            for column in ("latents", "encoder_hidden_states") * int(sys.argv[3]):
                digest.update(rows.tensor(place.index, column).numpy().tobytes())
            order.append((rows.texts(place.index)["id"], digest.hexdigest()))
    with open(f"{name}.samples", "w") as file:
        json.dump(order, file)
    os._exit(0)
for _ in readers:
    assert os.wait()[1] == 0
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> dict[str, bytes]:
    """A dataset as `prepare_dataset.py` uploads it: four shards of six rows, each row a tenth of a megabyte."""
    folder, draw = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)

    def rows():
        for number in range(ROWS):
            frames = 300 + 2 * number
            values = {"id": f"{number:032x}", "duration": frames / 25, "sample_rate": 48_000, "channels": 2}
            song = Song(file_name=f"{number}.wav", path=Path(f"{number}.wav"), caption="a", **values)
            mean, std = (draw.standard_normal((frames, 64), dtype=np.float32) for _ in range(2))
            condition = draw.standard_normal((60, 128), dtype=np.float32)
            yield song_row(song, song_prompts(song), {"caption": condition}, mean, std)

    record = ModelRecord(model="test", revision=None, vae="v", text_encoder="t", condition_encoder="c")
    write_dataset(rows, folder / "data", record, channels=64, condition_size=128)
    dataset = load_from_disk(str(folder / "data"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "SHARD_BYTES", dataset._estimate_nbytes() * ROWS_A_SHARD // ROWS + 1000)
        files = dict(publish._files("train", publish.public_rows(dataset), folder))
    return {name: part if isinstance(part, bytes) else part.read_bytes() for name, part in files.items()}


@pytest.fixture(scope="module")
def fetched(shards, tmp_path_factory):
    """The samples of each reader, in order; and the ranges of shards that it fetched, footers apart from rows."""
    cache = tmp_path_factory.mktemp("cache")
    with HubServer() as hub:
        hub.add_repo(ID, shards, repo_type="dataset")
        command = [sys.executable, "-c", READ, ID, json.dumps(READERS), str(AGAIN)]
        env = {**environment(hub, cache), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=cache, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        samples = {name: json.loads((cache / f"{name}.samples").read_text()) for name in READERS}
        footers, rows = (defaultdict(list) for _ in range(2))
        for request in hub.requests:
            if request.method != "GET" or "/storage/" not in request.path or "index" in request.path:
                continue
            assert request.status == 206, "a whole shard was fetched"
            reader = request.headers["user-agent"].rpartition("origin/")[2]
            shard = next(name for name in shards if name.replace("/", "%2F") in request.path)
            start, last = map(int, request.headers["range"].removeprefix("bytes=").split("-"))
            kind = footers if last == len(shards[shard]) - 1 else rows
            kind[reader].append((shard, start, last + 1))
    # nothing is kept on the disk
    assert not [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size > 10_000]
    return samples, footers, rows


def size(ranges: list[tuple[str, int, int]]) -> int:
    return sum(stop - start for _, start, stop in ranges)


def test_two_processes_take_the_samples_of_one_in_its_order(fetched):
    samples, _, _ = fetched
    assert len({name for name, _ in samples["alone"]}) == ROWS
    pairs = zip(samples["first"], samples["second"], strict=True)
    assert [sample for pair in pairs for sample in pair] == samples["alone"]


def test_two_processes_together_fetch_the_bytes_that_one_fetches_and_none_twice(shards, fetched):
    _, footers, rows = fetched
    assert len(shards) == ROWS // ROWS_A_SHARD + 1
    assert sorted(rows["first"] + rows["second"]) == sorted(rows["alone"])
    assert len(set(rows["alone"])) == len(rows["alone"]) == 2 * ROWS  # each row's latents and condition, once
    assert 0.4 < size(rows["first"]) / size(rows["alone"]) < 0.6
    for reader in ("alone", "first", "second"):
        assert len(footers[reader]) == ROWS // ROWS_A_SHARD  # each shard's once


def test_no_process_fetches_a_shard_for_the_rows_that_it_needs(shards, fetched):
    _, footers, rows = fetched
    total = sum(len(content) for name, content in shards.items() if name.startswith("data/"))
    assert size(rows["alone"]) < 0.62 * total  # no standard deviations
    assert size(rows["first"]) < 0.35 * total
    (shard,) = {shard for shard, _, _ in rows["one-step"] + footers["one-step"]}
    assert size(rows["one-step"]) < 1.1 * size(rows["alone"]) / ROWS < 0.11 * len(shards[shard])


def test_what_is_kept_of_the_rows_read_last_has_a_bound(fetched):
    _, _, rows = fetched
    assert len(rows["forgetful"]) == 2 * 2 * AGAIN
    assert len(set(rows["forgetful"])) == 2 * 2
