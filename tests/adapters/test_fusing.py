"""A model with adapters in its weights is the model with the adapters on, in either layout."""

import shutil

import pytest
import torch
from diffusers import AceStepPipeline
from safetensors.torch import load_file

from acestep.adapters.export import export
from acestep.adapters.options import ExportOptions
from acestep.errors import UserError
from acestep.models.checkpoint import Checkpoint
from acestep.models.names import diffusers_name
from tests.adapters.making import KINDS, TARGETS, assert_same, make_adapter, velocity
from tests.conftest import REFERENCE


def fused(lora, layout, folder, model, **options):
    said = []
    options = ExportOptions(
        lora=str(lora), fuse=layout, output_dir=str(folder), pretrained_model_name_or_path=str(model), **options
    )
    return export(options, said.append)[0], "\n".join(said)


def transformer_of(model):
    return Checkpoint(str(model)).transformer(torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fused_model_in_diffusers_layout_plays_without_the_adapter(models, made, tmp_path, kind):
    folder, said = fused(made(kind).folder, "diffusers", tmp_path / "out", models["base"])
    assert "velocity of the fused model: within" in said
    pipeline = AceStepPipeline.from_pretrained(folder)
    assert_same(velocity(pipeline.transformer), made(kind).velocity())
    before = load_file(models["base"] / "transformer" / "diffusion_pytorch_model.safetensors")
    after = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {key for key in before if not torch.equal(before[key], after[key])} == {f"{name}.weight" for name in TARGETS}


@pytest.fixture(scope="module")
def on_reference(tmp_path_factory):
    """A DoRA on the base with the original's layout, and on XL an OFT."""
    kept = {}
    for geometry, kind in (("base", "dora"), ("xl", "oft")):
        folder = tmp_path_factory.mktemp(geometry)
        kept[geometry] = make_adapter(kind, transformer_of(REFERENCE / geometry), folder)
    return kept


@pytest.mark.parametrize("geometry", ["base", "xl"])
@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_a_fused_model_from_the_originals_layout(on_reference, tmp_path, geometry, layout):
    bundle = REFERENCE / geometry
    folder, _ = fused(on_reference[geometry].folder, layout, tmp_path / "out", bundle)
    found = Checkpoint(str(folder))
    assert found.layout.kind == layout
    assert_same(velocity(found.transformer(torch.float32)), on_reference[geometry].velocity())
    if layout == "original":
        (variant,) = bundle.glob("acestep-v15-*")
        before, after = (load_file(path / "model.safetensors") for path in (variant, folder))
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        assert {diffusers_name(key)[1].removesuffix(".weight") for key in changed} == set(TARGETS)
        for name in ("config.json", "silence_latent.pt"):
            assert (folder / name).read_bytes() == (variant / name).read_bytes()


def test_several_adapters_are_fused_by_their_weights_dora_and_oft_too(models, made, tmp_path):
    kinds, weights = ("dora", "oft", "lokr"), (0.5, -0.7, 2.0)
    folder, _ = fused(
        made("dora").folder,
        "diffusers",
        tmp_path / "out",
        models["base"],
        merge=[str(made(kind).folder) for kind in kinds[1:]],
        merge_weights=list(weights),
    )
    transformer = transformer_of(models["base"])
    with torch.no_grad():
        for layer in TARGETS:
            for kind, weight in zip(kinds, weights, strict=True):
                module = made(kind).transformer.get_submodule(layer)
                identity = torch.eye(module.in_features)
                transformer.get_submodule(layer).weight += (
                    weight * (module(identity) - module.get_base_layer()(identity)).T
                )
    assert_same(velocity(transformer_of(folder)), velocity(transformer))


def test_fusing_in_bf16_says_what_that_rounds(models, made, tmp_path):
    folder, said = fused(made("lora").folder, "diffusers", tmp_path / "out", models["base"], dtype="bf16")
    assert "storing the sums rounded them, by " in said
    assert Checkpoint(str(folder)).transformer().dtype == torch.bfloat16


def test_what_cannot_be_fused_leaves_nothing(models, made, tmp_path):
    with pytest.raises(UserError, match=r"--fuse original: .* is in diffusers' layout"):
        fused(made("lora").folder, "original", tmp_path / "out", models["base"])
    with pytest.raises(UserError, match="12 wrong shape"):
        fused(made("lora").folder, "diffusers", tmp_path / "out", models["xl"])
    with pytest.raises(UserError, match="--fuse needs the model to fuse into"):
        ExportOptions(lora="x", fuse="diffusers", output_dir="y").check()
    assert not list(tmp_path.iterdir())
    shutil.copytree(made("lora").folder, tmp_path / "out")
    with pytest.raises(UserError, match="is there already and not empty"):
        fused(made("lora").folder, "diffusers", tmp_path / "out", models["base"])


def test_a_fused_model_that_plays_otherwise_is_not_left(models, made, tmp_path, monkeypatch):
    from acestep.adapters import fusing

    update = fusing.update
    spoilt = lambda adapter, layer, weight: 1.01 * update(adapter, layer, weight)  # noqa: E731
    monkeypatch.setattr(fusing, "update", spoilt)
    with pytest.raises(UserError, match=r"is off by .* of its largest value; expected 1e-05 at most"):
        fused(made("lora").folder, "diffusers", tmp_path / "new" / "out", models["base"])
    assert not list(tmp_path.iterdir())
