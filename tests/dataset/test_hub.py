"""A dataset on the Hub with the real clients: prepared and pushed, then loaded, streamed and trained on elsewhere."""

import io
import json
import subprocess
import sys
from collections import Counter

import pytest
import soundfile
import yaml

from tests.conftest import ROOT
from tests.dataset.conftest import tone
from tests.forked_scripts import ForkedScripts
from tests.hub_server import HubServer, environment

PLANTED = "planteduser"  # in the path of the songs, their tags, the environment
FOLDER = "plantedfolder"  # within the songs; the person at the screen sees it, the Hub does not
TOKEN = "hf_plantedtoken"
ID, UNDISTURBED = "studio/songs", "studio/undisturbed"
LAUNCH = (
    *(sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0", "--config_file"),
    str(ROOT / "accelerate_configs/cpu_2_processes.yaml"),
)


def run(hub, cache, *command, **variables):
    """A command, in a new process, that uses the Hub with its own cache."""
    env = environment(hub, cache) | {"OMP_NUM_THREADS": "1", "USER": PLANTED, **variables}
    done = subprocess.run([str(c) for c in command], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{done.stdout}\n{done.stderr}")
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of songs under a path that must not be found on the Hub."""
    place = tmp_path_factory.mktemp("hub") / "home" / PLANTED
    folder = place / "songs" / FOLDER
    folder.mkdir(parents=True)
    for number, seconds in enumerate((2.0, 2.0, 3.0, 2.4, 2.0, 3.0)):
        path = folder / f"song{number}.flac"
        with soundfile.SoundFile(path, "w", 48_000, 2, format="FLAC") as file:
            file.comment = f"/home/{PLANTED}/{TOKEN}"
            file.write(tone(seconds, 48_000, 200 + 30 * number))
        path.with_suffix(".json").write_text(
            json.dumps({"caption": f"song number {number}", "bpm": 90 + number, "language": "en", "lyrics": "la la"})
        )
    return place


@pytest.fixture(scope="module")
def hub():
    with HubServer(token=TOKEN, read_token="hf_reader") as hub:
        yield hub


@pytest.fixture(scope="module")
def scripts(hub, place):
    """Scripts that use the Hub, with a cache that they share."""
    with ForkedScripts(environment(hub, place / "cache") | {"USER": PLANTED}) as scripts:
        yield scripts


def start(scripts, place, model, *more, repo_id=ID, **variables):
    command = ["prepare_dataset.py", "--data_dir", place / "songs", "--output_dir", place / "data"]
    command += ["--pretrained_model_name_or_path", model, "--decode_workers", 1, "--validation_split", 0.4]
    return scripts.start(*command, "--push_to_hub", "--hub_dataset_id", repo_id, *more, **variables)


PUBLISH = ("--license", "cc-by-4.0", "--private", "--include_audio", "--overwrite")


@pytest.fixture(scope="module")
def pushed(hub, scripts, place, model):
    """Uploads of one dataset, each with the files that it sent: whole or, where the line broke, in part.

    The first is killed in the middle of its second shard; the second is refused the commit; the third one's answer is
    lost. A fourth has another repository to itself.
    """

    def sent() -> list[tuple[str, int, bool]]:
        """Address, bytes that arrived, and whether they were all, of the files sent since the last call."""
        puts = [request for request in hub.requests if request.method == "PUT"][len(known) :]
        known.extend(puts)
        return [(put.path.partition("?")[0], len(put.body), put.status == 200) for put in puts]

    known: list = []
    runs = []
    hub.cut_next("/storage/", method="PUT")  # the line breaks in the middle of the first shard
    half = hub.hold_next("/storage/", after=3)  # it is sent again, then an index, then half of the second shard
    first = start(scripts, place, model, *PUBLISH)
    assert half.wait(60)
    first.kill()
    runs.append((first.wait(), sent()))
    hub.fail_next("/commit/", status=500, times=10, method="POST")
    runs.append((start(scripts, place, model, *PUBLISH).wait(), sent()))
    hub.faults.clear()
    hub.cut_next("/commit/", method="POST")  # the commit is made, the answer lost
    runs.append((start(scripts, place, model, *PUBLISH).wait(), sent()))
    arrived = dict(hub.objects)
    hub.objects.clear()  # files of other repositories need not be sent again either
    runs.append((start(scripts, place, model, *PUBLISH, repo_id=UNDISTURBED).wait(), sent()))
    assert hub.objects == arrived
    return runs


def test_an_upload_that_was_killed_or_failed_goes_on_and_comes_to_the_same(hub, pushed):
    (killed, first), (refused, second), (again, third), (undisturbed, fourth) = pushed
    assert killed.returncode == -9
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith(f"error: --hub_dataset_id {ID}: the Hub cannot be reached")
    assert "--overwrite goes on" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert (again.returncode, undisturbed.returncode) == (0, 0)
    assert "6 rows are on the Hub" in again.stdout
    assert hub.repositories["dataset", ID].private

    # a shard and an index a split: half of the first and of the second shard got lost, and nothing went twice
    train, train_index, validation, validation_index = ((path, size) for path, size, _ in fourth)
    assert [(path, whole) for path, _, whole in first] == [
        (train[0], False), (train[0], True), (train_index[0], True), (validation[0], False)
    ]  # fmt: skip
    assert [(path, size) for path, size, _ in second] == [validation, validation_index]
    assert third == []  # by their content, the Hub has them
    whole = sum(size for path, size, whole in (*first, *second) if whole)
    assert whole == train[1] + train_index[1] + validation[1] + validation_index[1]
    one, other = ({name: content for name, content in hub.files(name_of, "dataset").items() if name != "README.md"}
        for name_of in (ID, UNDISTURBED))  # fmt: skip
    assert one == other


def test_no_path_user_or_token_is_in_rows_card_or_log(hub, pushed):
    from pyarrow import parquet

    files = hub.files(ID, "dataset")
    assert sorted(files) == [
        *(".gitattributes",) * (".gitattributes" in files),
        "README.md",
        *(f"data/{split}-00000-of-00001.parquet" for split in ("train", "validation")),
        *(f"index/{split}.parquet" for split in ("train", "validation")),
    ]
    everything = list(files.values())
    for name, content in files.items():
        if name.endswith(".parquet"):  # compressed: look at the values too
            table = parquet.read_table(io.BytesIO(content))
            texts = [column for column in table.column_names if table.schema.field(column).type == "string"]
            everything.append(json.dumps(table.select(texts).to_pylist()).encode())
    for content in everything:
        for planted in (PLANTED, FOLDER, TOKEN, "/home", "/tmp"):
            assert planted.encode() not in content
    for done, _ in pushed:
        for planted in (PLANTED, TOKEN, "/home", "/tmp"):
            assert planted not in done.stdout + done.stderr
    storage = [request for request in hub.requests if "/storage/" in request.path]
    assert storage
    assert not any(TOKEN in json.dumps(request.headers) + request.path for request in storage)


def test_the_card_says_what_is_in_it(hub, pushed, model):
    card = hub.files(ID, "dataset")["README.md"].decode()
    data = yaml.safe_load(card.split("---")[1])
    assert data["license"] == "cc-by-4.0"
    assert data["language"] == ["en"]
    assert {"music", "ace-step", "audio"} <= set(data["tags"])
    assert [part["split"] for part in data["configs"][0]["data_files"]] == ["train", "validation"]
    for fact in ("| songs | 6 in 6 rows |", "| hours | 0.00 |", "90 to 95 bpm", "en 6", "tiny-base, fingerprint"):
        assert fact in card
    assert f"--dataset {ID}" in card


def test_the_audio_is_left_out_unless_it_is_asked_for(hub, scripts, pushed, place, model):
    from pyarrow import parquet

    start(scripts, place, model, "--license", "mit", "--overwrite", repo_id="studio/no-audio").wait()
    files, with_audio = hub.files("studio/no-audio", "dataset"), hub.files(ID, "dataset")
    name = "data/train-00000-of-00001.parquet"
    columns, all_columns = (parquet.read_schema(io.BytesIO(part[name])).names for part in (files, with_audio))
    assert columns == [column for column in all_columns if column != "audio"] != all_columns
    assert len(files[name]) < len(with_audio[name]) / 2
    assert "| audio | not included |" in files["README.md"].decode()
    assert not hub.repositories["dataset", "studio/no-audio"].private


LOOK = """
import json, sys
from datasets import Audio, load_dataset
from acestep.dataset.opening import open_dataset
loaded, _ = open_dataset(sys.argv[1])
streamed, record = open_dataset(sys.argv[1], streaming=True)
names = [loaded.texts(i)["id"] for i in range(len(loaded))]
equal = all((a is None and b is None) or a.equal(b)
    for i in range(len(loaded)) for c in ("latents", "latents_std", "encoder_hidden_states",
        "genre_encoder_hidden_states") for a, b in [(loaded.tensor(i, c, 2, 30), streamed.tensor(i, c, 2, 30))])
plain = load_dataset(sys.argv[1], split="train", streaming=True).cast_column("audio", Audio(decode=False))
first = list(plain)[0]
print(json.dumps({"names": names, "same": names == streamed.column("id"), "equal": equal, "model": record.model,
    "version": record.schema_version, "audio": len(first["audio"]["bytes"]), "path": first["audio"]["path"],
    "file_name": first["file_name"]}))
"""


def test_in_another_process_with_an_empty_cache_it_loads_and_streams_alike_through_faults(hub, pushed, tmp_path):
    hub.fail_next("data/train", status=500, method="HEAD")  # a server that stumbles, and a line that breaks
    hub.cut_next("/storage/", times=2, method="GET")
    answer = json.loads(run(hub, tmp_path, sys.executable, "-c", LOOK, ID).stdout.splitlines()[-1])
    assert answer["same"]
    assert answer["equal"]
    assert (answer["model"], answer["version"]) == ("tiny-base", 2)
    assert answer["audio"] > 1000
    assert answer["path"] == f"{answer['names'][0]}.flac"
    assert "/" not in answer["file_name"]


def training(model, output, *more):
    options = ["--dataset", ID, "--pretrained_model_name_or_path", model, "--output_dir", output, "--rank", 4, "--cpu"]
    return [*options, "--learning_rate", 1e-2, "--max_train_steps", 4, "--evaluation_draws", 0, *more]


# Each process signs its requests, to tell afterwards which of them fetched what.
SIGNED = """
import os, runpy, sys
os.environ["HF_HUB_USER_AGENT_ORIGIN"] = "process-" + os.environ["RANK"]
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

PLAY = """
import sys
import torch
from diffusers import AceStepPipeline
from huggingface_hub import HfApi
model, folder, repo = sys.argv[1:]
HfApi().create_repo(repo)
HfApi().upload_folder(repo_id=repo, folder_path=folder, allow_patterns="*.safetensors")
pipeline = AceStepPipeline.from_pretrained(model)
pipeline.load_lora_weights(repo, weight_name="pytorch_lora_weights.safetensors")
print("adapters", pipeline.get_active_adapters())
"""


def test_it_trains_streamed_as_downloaded_on_one_process_and_two_and_the_adapter_loads_by_id(
    hub, pushed, model, tmp_path
):
    import torch
    from safetensors.torch import load_file

    for name in ("loaded", "streamed"):
        (tmp_path / name).mkdir()
    options = training(model, tmp_path / "loaded" / "lora", "--gradient_accumulation_steps", 2)
    run(hub, tmp_path / "loaded" / "cache", sys.executable, "scripts/train_lora.py", *options)
    before = len(hub.requests)
    (tmp_path / "signed.py").write_text(SIGNED)
    options = training(model, tmp_path / "streamed" / "lora", "--streaming", "--dataloader_num_workers", 1)
    run(hub, tmp_path / "streamed" / "cache", *LAUNCH, tmp_path / "signed.py", "scripts/train_lora.py", *options)
    one, two = (load_file(tmp_path / name / "lora/pytorch_lora_weights.safetensors") for name in ("loaded", "streamed"))
    for key, weight in one.items():
        torch.testing.assert_close(two[key], weight, rtol=1e-5, atol=1e-5)

    # of the shards, pieces were read, and no row by both processes in an epoch; a row read shortly before is kept
    sizes = {name: len(content) for name, content in hub.files(ID, "dataset").items()}
    reads = [request for request in hub.requests[before:] if "/storage/" in request.path and request.method == "GET"]
    shard = [request for request in reads if "data%2Ftrain" in request.path]
    assert {request.status for request in shard} == {206}
    fetched = Counter()
    for request in shard:
        fetched[request.headers["user-agent"].rpartition("origin/")[2]] += len_of(request.headers["range"])
    assert set(fetched) == {"process-0", "process-1"}
    assert fetched.total() < sizes["data/train-00000-of-00001.parquet"] * 0.9  # no audio, no standard deviations
    pieces = Counter((request.path.partition("?")[0], request.headers["range"]) for request in shard)
    assert max(pieces.values()) <= 2  # in each of two epochs once, by one process or the other

    answer = run(hub, tmp_path / "play", sys.executable, "-c", PLAY, model, tmp_path / "loaded" / "lora", "studio/lora")
    assert "adapters ['default_0']" in answer.stdout


def len_of(header: str) -> int:
    start, stop = header.removeprefix("bytes=").split("-")
    return int(stop) - int(start) + 1


@pytest.mark.parametrize(
    ("token", "more", "message"),
    [
        ("hf_reader", ("--license", "mit"), "the token may not do this"),
        ("hf_wrong", ("--license", "mit"), "the Hub refused the token"),
        (TOKEN, (), "--license is missing"),
    ],
)
def test_what_cannot_be_uploaded_is_refused_before_the_work(scripts, pushed, place, model, token, more, message):
    done = start(scripts, place, model, *more, "--output_dir", place / "other", HF_TOKEN=token).wait()
    assert done.returncode == 2
    assert message in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error")]) == 1
    assert "Traceback" not in done.stderr
    assert not (place / "other").exists()


@pytest.mark.parametrize(
    ("dataset", "more", "token", "message"),
    [
        ("studio/nothing", (), TOKEN, "no such repository"),
        (ID, ("--dataset_revision", "nowhere"), TOKEN, "no such branch, tag or commit"),
        (ID, (), "hf_wrong", "the Hub refused the token"),
        (ID, (), "", "or there is none. Run `hf auth login`"),
    ],
)
@pytest.mark.parametrize("way", [("--streaming",), ()])
def test_a_dataset_that_is_not_to_be_had_is_one_line(
    scripts, pushed, model, tmp_path, dataset, more, token, message, way
):
    options = training(model, tmp_path / "lora", "--dataset", dataset, *more, *way)
    done = scripts.run("train_lora.py", *options, check=False, HF_TOKEN=token)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
