"""What changes a computation changes the fingerprint, and nothing else does."""

import json
import shutil

import pytest
import torch

from acestep.models.checkpoint import Checkpoint
from acestep.models.conditioning import context_latents
from acestep.models.convert import convert_checkpoint
from tests.conftest import REFERENCE

COMPONENTS = ("vae", "text_encoder", "condition_encoder", "transformer")


def fingerprints(folder) -> dict[str, str]:
    checkpoint = Checkpoint(str(folder))
    return {component: checkpoint.fingerprint(component) for component in COMPONENTS}


@pytest.fixture
def bundle(tmp_path):
    return shutil.copytree(REFERENCE / "base", tmp_path / "bundle")


def change(path, **entries) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_layout_and_dtype_do_not_change_them(bundle, tmp_path, dtype):
    convert_checkpoint(Checkpoint(str(bundle)), tmp_path / "converted", dtype, report=lambda _name: None)
    assert fingerprints(tmp_path / "converted") == fingerprints(bundle)


@pytest.mark.parametrize(
    ("file", "entries", "changed"),
    [
        ("Qwen3-Embedding-0.6B/config.json", {"rms_norm_eps": 1e-5}, {"text_encoder"}),
        ("Qwen3-Embedding-0.6B/config.json", {"transformers_version": "9"}, set()),
        ("Qwen3-Embedding-0.6B/tokenizer.json", {"version": "2.0"}, {"text_encoder"}),
        ("acestep-v15-base/config.json", {"rope_theta": 10_000}, {"condition_encoder", "transformer"}),
        ("acestep-v15-base/config.json", {"sliding_window": 7}, {"condition_encoder", "transformer"}),
        ("vae/config.json", {"sampling_rate": 44_100}, {"vae"}),
    ],
)
def test_a_configuration_that_computes_otherwise_changes_them(bundle, file, entries, changed):
    before = fingerprints(bundle)
    change(bundle / file, **entries)
    after = fingerprints(bundle)
    assert {component for component in COMPONENTS if before[component] != after[component]} == changed


def test_the_timestep_law_survives_conversion(bundle, tmp_path):
    change(bundle / "acestep-v15-base" / "config.json", timestep_mu=0.3, timestep_sigma=0.8)
    convert_checkpoint(Checkpoint(str(bundle)), tmp_path / "converted", report=lambda _name: None)
    assert Checkpoint(str(tmp_path / "converted")).timestep_law() == (0.3, 0.8)


def test_silence_is_repeated_for_a_song_longer_than_it():
    silence = torch.randn(1, 100, 8)
    context = context_latents(silence, 230)
    assert context.shape == (230, 16)
    assert torch.equal(context[:, :8], torch.cat([silence[0], silence[0], silence[0, :30]]))
    assert context[:, 8:].eq(1).all()
    assert torch.equal(context_latents(silence, 60)[:, :8], silence[0, :60])
