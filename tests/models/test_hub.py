"""Opening checkpoints from the Hub: what is found, what is downloaded, and what is said when it is not to be had."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from acestep.models.checkpoint import Checkpoint
from acestep.models.convert import convert_checkpoint
from acestep.models.layout import BUNDLE
from tests.conftest import REFERENCE, ROOT
from tests.hub_server import HubServer, environment

VARIANT = "acestep-v15-base"
TEXT_ENCODER = "Qwen3-Embedding-0.6B"
# The clients read `HF_ENDPOINT` when they are imported, so all questions go to one process of their own. What each
# downloads is told by its repository's name.
ASK = """
import json, sys
from acestep.errors import UserError
from acestep.models.checkpoint import Checkpoint
answers = {}
for label, (options, parts) in json.loads(sys.argv[1]).items():
    try:
        checkpoint = Checkpoint(**options)
        for part in parts:
            found = getattr(checkpoint, part)
            found() if callable(found) else found
        answers[label] = {"commit": checkpoint.commit, "name": checkpoint.name, "is_turbo": checkpoint.is_turbo}
    except UserError as error:
        answers[label] = {"error": str(error)}
print(json.dumps(answers))
"""
QUESTIONS = {
    "whole": ({"name": "user/diffusers"}, ["pipeline"]),
    "old": ({"name": "user/moved", "revision": "OLD"}, ["transformer_config"]),
    "tag": ({"name": "user/moved", "revision": "v1"}, ["transformer_config"]),
    "new": ({"name": "user/moved"}, ["transformer_config"]),
    "no revision": ({"name": "user/moved", "revision": "nowhere"}, []),
    "no repository": ({"name": "user/nothing"}, []),
    "gated": ({"name": "user/gated"}, []),
    "server error": ({"name": "user/broken"}, []),
    "no weights": ({"name": "user/late"}, ["transformer"]),
    "no model": ({"name": "user/empty"}, []),
    "configs": ({"name": "user/configs"}, ["is_xl", "condition_size", "timestep_law"]),
    "transformer": ({"name": "user/transformer"}, ["transformer"]),
    "conditions": ({"name": "user/conditions"}, ["tokenizer", "text_encoder", "condition_encoder", "silence_latent"]),
    "tokenizer": ({"name": "user/tokenizer"}, ["tokenizer"]),
    "encoders": ({"name": "user/encoders"}, ["vae"]),
    "variant": ({"name": "user/variant"}, ["pipeline"]),
    "variant by name": ({"name": f"user/{VARIANT}", "variant": "base"}, []),
    "named bundle": ({"name": "user/variant2", "bundle": "user/parts"}, ["tokenizer"]),
    "no bundle": ({"name": "user/variant3", "bundle": "user/empty"}, ["vae"]),
    "ambiguous": ({"name": "user/several"}, []),
    "chosen": ({"name": "user/several", "variant": "turbo"}, ["transformer"]),
    "original configs": ({"name": "user/variant4"}, ["is_turbo", "condition_size", "timestep_law"]),
}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def under(name: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{name}/{path}": content for path, content in files.items()}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    converted = tmp_path_factory.mktemp("converted") / "model"
    convert_checkpoint(Checkpoint(str(REFERENCE / "base")), converted, report=lambda _: None)
    diffusers = files_of(converted) | {
        "README.md": b"# Model",
        "transformer/diffusion_pytorch_model.bin": b"pickled",  # the same weights in a form that nobody reads
    }
    variant = files_of(REFERENCE / "base" / VARIANT) | {"modeling.py": b"", "old/model.safetensors": b"another"}
    parts = {
        name: content
        for part in ("vae", TEXT_ENCODER)
        for name, content in under(part, files_of(REFERENCE / "base" / part)).items()
    }
    turbo = variant | {"config.json": json.dumps(json.loads(variant["config.json"]) | {"is_turbo": True}).encode()}
    with HubServer() as hub:
        for name in ("diffusers", "configs", "transformer", "conditions", "tokenizer", "encoders", "broken", "late"):
            late = hub.add_repo(f"user/{name}", diffusers)
        for name in ("variant", "variant2", "variant3", "variant4", VARIANT):
            hub.add_repo(f"user/{name}", variant)
        hub.add_repo("user/gated", diffusers, gated=True)
        hub.add_repo("user/empty", {"README.md": b"nothing"})
        hub.add_repo("user/parts", parts)
        hub.add_repo("user/several", parts | under(VARIANT, variant) | under("acestep-v15-turbo", turbo))
        hub.add_repo(BUNDLE, parts | under("acestep-v15-turbo", turbo))
        hub.old = hub.add_repo("user/moved", variant)
        hub.repositories["model", "user/moved"].tags["v1"] = hub.old
        hub.new = hub.add_commit("user/moved", turbo)
        hub.fail_next("user/broken", times=1000)
        hub.fail_next(f"user/late/resolve/{late}/transformer/diffusion", status=403, times=1000)
        yield hub


@pytest.fixture(scope="module")
def answers(hub, tmp_path_factory):
    questions = json.loads(json.dumps(QUESTIONS).replace("OLD", hub.old))
    command = [sys.executable, "-c", ASK, json.dumps(questions)]
    variables = environment(hub, tmp_path_factory.mktemp("cache"))
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def downloaded(hub, repository: str) -> set[str]:
    """The files of a repository that were asked for."""
    pattern = re.compile(rf"/{re.escape(repository)}/resolve/[^/]+/([^?]+)")
    return {match[1] for request in hub.requests if (match := pattern.match(request.path))}


def weights(names: set[str]) -> set[str]:
    return {name for name in names if not name.endswith((".json", ".txt", ".jinja"))}


def test_a_repository_in_diffusers_layout_opens_as_a_whole(hub, answers):
    assert answers["whole"]["name"] == "user/diffusers"
    assert answers["whole"]["commit"] == hub.commits("user/diffusers")[0].oid
    assert not any(name.endswith((".bin", ".md")) for name in downloaded(hub, "user/diffusers"))


def test_a_revision_is_a_commit_a_tag_or_else_the_newest(hub, answers):
    assert (answers["old"]["commit"], answers["old"]["is_turbo"]) == (hub.old, False)
    assert answers["tag"]["commit"] == hub.old
    assert (answers["new"]["commit"], answers["new"]["is_turbo"]) == (hub.new, True)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("no revision", r"^--revision nowhere: user/moved has no such branch, tag or commit"),
        ("no repository", r"^user/nothing: neither a folder here nor a repository .*`hf auth login`"),
        ("gated", r"^user/gated: the repository is gated\. Ask for access"),
        ("server error", r"^user/broken: could not be downloaded \(.*Check the connection"),
        ("no weights", r"^user/late: could not be downloaded \(.*what has been downloaded is kept"),
        ("no model", r"^user/empty: no ACE-Step model found\. Looked for model_index\.json"),
        ("ambiguous", r"^user/several holds several models; choose --variant from: base, turbo\."),
        ("no bundle", r"^user/empty: has no folder vae/.*--bundle takes a folder or Hub id"),
    ],
)
def test_what_is_not_to_be_had_is_one_line_with_the_remedy(answers, question, message):
    assert re.search(message, answers[question]["error"]), answers[question]
    assert "\n" not in answers[question]["error"]


def test_configurations_cost_no_weights(hub, answers):
    assert "error" not in answers["configs"] | answers["original configs"]
    for repository in ("user/configs", "user/variant4"):
        assert weights(downloaded(hub, repository)) == set()


def test_the_transformer_alone_brings_only_its_own_weights(hub, answers):
    assert "error" not in answers["transformer"]
    assert weights(downloaded(hub, "user/transformer")) == {"transformer/diffusion_pytorch_model.safetensors"}


def test_conditions_bring_no_weights_of_transformer_and_vae(hub, answers):
    assert "error" not in answers["conditions"]
    assert weights(downloaded(hub, "user/conditions")) == {
        "text_encoder/model.safetensors",
        "condition_encoder/diffusion_pytorch_model.safetensors",
    }


def test_the_vae_alone_brings_only_its_own_weights(hub, answers):
    assert "error" not in answers["encoders"]
    assert weights(downloaded(hub, "user/encoders")) == {"vae/diffusion_pytorch_model.safetensors"}


def test_the_tokenizer_brings_no_weights(hub, answers):
    assert "error" not in answers["tokenizer"] | answers["named bundle"]
    for repository in ("user/tokenizer", "user/parts"):
        assert f"{'tokenizer' if repository == 'user/tokenizer' else TEXT_ENCODER}/tokenizer.json" in downloaded(
            hub, repository
        )
        assert weights(downloaded(hub, repository)) == set()


def test_a_repository_of_one_variant_takes_vae_and_text_encoder_from_the_released_bundle(hub, answers):
    assert answers["variant"]["name"] == "user/variant"
    assert weights(downloaded(hub, "user/variant")) == {"model.safetensors", "silence_latent.pt"}
    assert weights(downloaded(hub, BUNDLE)) == {
        "vae/diffusion_pytorch_model.safetensors",
        f"{TEXT_ENCODER}/model.safetensors",
    }
    assert "error" not in answers["variant by name"]


def test_the_variant_of_a_bundle_that_is_chosen_is_the_one_downloaded(hub, answers):
    assert answers["chosen"] == {
        "commit": hub.commits("user/several")[0].oid,
        "name": "user/several/acestep-v15-turbo",
        "is_turbo": True,
    }
    assert weights(downloaded(hub, "user/several")) == {
        "acestep-v15-turbo/model.safetensors",
        "acestep-v15-turbo/silence_latent.pt",
    }
