"""Adapters from the Hub: which file is taken, and that nothing else is downloaded."""

import json
import re
import subprocess
import sys

import pytest

from tests.conftest import REFERENCE, ROOT
from tests.hub_server import HubServer, environment

# The clients read `HF_ENDPOINT` when they are imported, so all questions go to one process of their own.
ASK = """
import json, sys
from acestep.adapters.reading import read_adapter
from acestep.errors import UserError
answers = {}
for label, arguments in json.loads(sys.argv[1]).items():
    try:
        adapter = read_adapter(*arguments)
        answers[label] = [adapter.kind, adapter.layout, sorted(set(adapter.alphas.values())), adapter.warnings]
    except UserError as error:
        answers[label] = str(error)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def hub():
    original = {path.name: path.read_bytes() for path in (REFERENCE / "base" / "lora_adapter").iterdir()}
    weights = original["adapter_model.safetensors"]
    with HubServer() as hub:
        hub.first = hub.add_repo("user/original", original | {"optimizer.bin": b"pickled", "README.md": b"# LoRA"})
        hub.add_commit(
            "user/original", {"adapter_config.json": original["adapter_config.json"].replace(b": 8", b": 2")}
        )
        hub.add_repo("user/several", {"first.safetensors": weights, "old/second.safetensors": weights})
        hub.add_repo("user/pickled", {"adapter_model.bin": b"pickled"})
        yield hub


@pytest.fixture(scope="module")
def answers(hub, tmp_path_factory):
    questions = {
        "newest": ["user/original"],
        "revision": ["user/original", hub.first],
        "file": ["user/several/old/second.safetensors"],
        "folder": ["user/several"],
        "missing": ["user/several/third.safetensors"],
        "pickled": ["user/pickled/adapter_model.bin"],
        "nothing": ["user/pickled"],
        "typo": ["nowhere.safetensors"],
    }
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(questions)],
        cwd=ROOT,
        env=environment(hub, tmp_path_factory.mktemp("cache")),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def downloaded(hub, repository: str) -> set[str]:
    pattern = re.compile(rf"/{re.escape(repository)}/resolve/[^/]+/([^?]+)")
    return {match[1] for request in hub.requests if (match := pattern.match(request.path))}


def test_a_repository_of_the_original_tools_is_read_at_its_revision(hub, answers):
    assert answers["newest"] == ["lora", "peft", [2.0], []]
    assert answers["revision"] == ["lora", "peft", [8.0], []]
    assert downloaded(hub, "user/original") == {"adapter_model.safetensors", "adapter_config.json"}


def test_one_file_of_a_repository_is_read_by_its_path(hub, answers):
    kind, layout, alphas, warnings = answers["file"]
    assert (kind, layout, alphas, len(warnings)) == ("lora", "peft", [4.0], 1)
    assert downloaded(hub, "user/several") == {"old/second.safetensors"}


def test_what_is_not_there_is_said_and_pickles_are_not_fetched(hub, answers):
    assert "For another file on the Hub give user/name/file.safetensors." in answers["folder"]
    assert answers["missing"] == "user/several/third.safetensors: user/several has no file third.safetensors."
    assert "Pickles can run code and are not opened" in answers["pickled"]
    assert "holds no pytorch_lora_weights.safetensors" in answers["nothing"]
    assert answers["typo"] == "nowhere.safetensors: no such file."
    assert downloaded(hub, "user/pickled") == set()
