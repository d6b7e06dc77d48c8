"""The card of a run, and its way to the Hub: through the script, against a server on loopback."""

import re

import pytest
import yaml

from acestep.adapters.card import NO_RIGHTS
from acestep.errors import UserError
from acestep.options import parse_options
from acestep.train.options import TrainOptions
from tests.hub_server import HubServer, environment
from tests.train.encoded import make_dataset, make_model

TOKEN = "hf_plantedTokenThatMustNotLeave"
WEIGHTS = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run from folders whose names tell who the user is, pushed with its checkpoints through two faults."""
    import os
    import subprocess
    import sys

    from tests.conftest import ROOT

    home = tmp_path_factory.mktemp("home") / "planted-user"
    model = make_model(home / "secret-models" / "base")
    data = make_dataset(home / "secret-songs", model, [60, 41, 75, 60], custom_tag="my|tag")
    (home / "prompts.yaml").write_text("- {prompt: a | b <i>, duration: 2, name: x, num_inference_steps: 2}\n")
    output = home / "out"
    with HubServer(token=TOKEN) as hub:
        hub.fail_next("/commit/", status=500)
        hub.fail_next("/commit/", status=503)
        command = [sys.executable, ROOT / "scripts/train_lora.py", "--dataset", data, "--output_dir", output, "--cpu"]
        command += ["--pretrained_model_name_or_path", model, "--rank", 4, "--max_train_steps", 4]
        command += ["--checkpointing_steps", 2, "--push_to_hub", "--hub_model_id", "user/my-lora", "--push_checkpoints"]
        command += ["--validation_split", 0.5, "--preview_prompts", home / "prompts.yaml", "--preview_steps", 2]
        command += ["--license", "cc-by-4.0", "--rights", "All songs are mine.", "--learning_rate", 1e-2]
        env = {**os.environ, **environment(hub, home / "cache"), "HF_TOKEN": TOKEN, "HOME": str(home)}
        done = subprocess.run(
            [*map(str, command)], capture_output=True, text=True, check=False, env={**env, "USER": "planted-user"}
        )
        assert done.returncode == 0, done.stderr
        refused = subprocess.run(
            [*map(str, [*command, "--overwrite_output_dir"])],
            capture_output=True,
            text=True,
            check=False,
            env={**env, "HF_TOKEN": "hf_wrong"},
        )
        yield done, output, hub.files("user/my-lora"), hub, refused


def test_only_what_belongs_there_is_uploaded(run):
    _, output, files, _, _ = run
    expected = {"README.md", WEIGHTS, f"best/{WEIGHTS}", "loss.png", f"checkpoint-2/{WEIGHTS}"}
    expected |= {"previews/base/x.flac", "previews/step-000004/x.flac"}  # the last ones, not every step's
    assert set(files) - {".gitattributes"} == expected
    assert files[WEIGHTS] == (output / WEIGHTS).read_bytes()
    assert files["README.md"] == (output / "README.md").read_bytes()


def test_the_repository_is_private_and_nothing_planted_leaves(run):
    done, output, files, hub, _ = run
    assert hub.repositories["model", "user/my-lora"].private
    text = files["README.md"].decode()
    for secret in (TOKEN, "planted-user", "secret-models", "secret-songs", str(output)):
        assert all(secret.encode() not in content for content in files.values()), secret
    assert TOKEN not in done.stdout + done.stderr
    assert TOKEN not in (output / "training_summary.json").read_text() + (output / "metrics.jsonl").read_text()
    assert "uploaded to user/my-lora" in done.stdout
    assert "/home" not in text


def test_the_card_says_what_the_adapter_is(run):
    _, _, files, _, _ = run
    text = files["README.md"].decode()
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "cc-by-4.0"
    assert front["library_name"] == "diffusers"
    assert front["pipeline_tag"] == "text-to-audio"
    assert front["instance_prompt"] == "my|tag"
    assert front["widget"] == [{"text": "a | b <i>", "output": {"url": "previews/step-000004/x.flac"}}]
    assert "lora" in front["tags"]
    assert "All songs are mine." in text
    assert "LoRA rank 4, alpha 4" in text
    assert re.search(r"held-out loss \| \d\.\d+ without adapter, \d\.\d+ at best", text)
    assert '<audio controls src="previews/base/x.flac"></audio>' in text
    assert "a &#124; b &lt;i&gt;" in text
    assert 'load_lora_weights("user/my-lora")' in text
    assert "![Loss by step](loss.png)" in text


def test_a_refused_token_is_known_before_the_run(run):
    _, output, _, _, refused = run
    assert refused.returncode == 2
    assert "--hub_model_id user/my-lora: the Hub refused the token" in refused.stderr
    assert (output / WEIGHTS).exists()  # nothing was begun


def test_without_a_statement_the_card_says_that_there_is_none(tmp_path):
    from acestep.adapters.card import model_card
    from acestep.options import options_as_dict

    needed = ("--dataset", "user/songs", "--pretrained_model_name_or_path", "ACE-Step/acestep-v15-base")
    options = parse_options(TrainOptions, "", [*needed, "--output_dir", str(tmp_path), "--adapter", "lokr"])
    summary = {
        **{"options": options_as_dict(options), "model_revision": "a" * 40, "dataset_model": "x", "songs": 1},
        **{"dataset_minutes": 90, "dataset_id": "user/songs", "dataset_revision": "b" * 40, "trigger_tags": []},
        **{"adapter": "LoKr", "steps": 5, "effective_batch": 1, "learning_rate": 1e-4, "timestep_law": "uniform"},
        **{"condition_dropout": 0.1, "evaluation_before": None, "best": None, "validation_base": None, "versions": {}},
        **{"validation_rows": 0, "peak_memory": 2**30, "device": "a CPU", "seconds": 60, "processes": 1},
    }
    text = model_card(tmp_path, summary)
    front = yaml.safe_load(text.split("---")[1])
    assert (front["base_model"], front["base_model_relation"]) == ("ACE-Step/acestep-v15-base", "adapter")
    assert front["datasets"] == "user/songs"
    assert NO_RIGHTS in text
    assert "1 song (1.50 hours) of [user/songs]" in text
    assert "does not load adapters of this kind (lokr)" in text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--push_to_hub"], "each needs the other"),
        (["--hub_model_id", "user/x"], "each needs the other"),
        (["--push_checkpoints"], "--push_checkpoints: needs --push_to_hub"),
    ],
)
def test_options_of_the_hub_that_do_not_go_together(more, message):
    needed = ("--dataset", "d", "--pretrained_model_name_or_path", "m", "--output_dir", "o")
    with pytest.raises(UserError) as error:
        parse_options(TrainOptions, "", [*needed, *more]).check()
    assert message in str(error.value)
