"""Scaling, merging, resizing, rounding: what should be exact is, and what costs something says how much."""

import re

import pytest
import torch

from acestep.adapters.export import export
from acestep.adapters.options import ExportOptions
from acestep.adapters.reading import read_adapter
from acestep.adapters.updates import exact_rank, norm, update
from acestep.errors import UserError
from acestep.models.checkpoint import Checkpoint
from tests.adapters.making import KINDS, TARGETS, assert_same, configurations, make_adapter, velocity
from tests.adapters.players import comfyui_velocity, diffusers_velocity, peft_velocity


def exported(lora, to, folder, model=None, **options):
    said = []
    model = None if model is None else str(model)
    options = ExportOptions(
        lora=str(lora), to=to, output_dir=str(folder), pretrained_model_name_or_path=model, **options
    )
    return export(options, said.append)[0], "\n".join(said)


def transformer_of(model):
    return Checkpoint(str(model)).transformer(torch.float32)


def trained_update(made, layer: str) -> torch.Tensor:
    """What the adapter adds to a layer, asked of the layer itself: its answer to the identity, less the base's."""
    module = made.transformer.get_submodule(layer)
    identity = torch.eye(module.in_features)
    with torch.no_grad():
        return (module(identity) - module.get_base_layer()(identity)).T


def velocity_with_updates(model, *parts) -> torch.Tensor:
    """Of the model with weighted updates in its weights; `parts` are (trained adapter, weight)."""
    transformer = transformer_of(model)
    with torch.no_grad():
        for made, weight in parts:
            for layer in TARGETS:
                transformer.get_submodule(layer).weight += weight * trained_update(made, layer)
    return velocity(transformer)


@pytest.mark.parametrize("kind", KINDS)
def test_the_update_is_what_peft_computes_with(models, made, kind):
    trained, adapter = made(kind), read_adapter(made(kind).folder)
    base = transformer_of(models["base"])
    for layer in TARGETS:
        found = update(adapter, layer, base.get_submodule(layer).weight)
        assert_same(found, trained_update(trained, layer), 1e-5)
        if kind not in ("dora", "oft"):
            assert norm(adapter, layer) == pytest.approx(float(found.norm()), rel=1e-5)


# Scale


@pytest.mark.parametrize("factor", [0.5, -1.5])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("dora", "oft")])
def test_a_scaled_adapter_adds_so_many_times_the_update(models, made, tmp_path, kind, factor):
    file, _ = exported(made(kind).folder, "comfyui", tmp_path, models["base"], scale=factor)
    expected = velocity_with_updates(models["base"], (made(kind), factor))
    assert_same(comfyui_velocity(transformer_of(models["base"]), file), expected)


@pytest.mark.parametrize("to", ["diffusers", "comfyui"])
def test_a_scaled_dora_is_a_dora_that_adds_so_many_times_the_update(models, made, tmp_path, to):
    file, _ = exported(made("dora").folder, to, tmp_path, models["base"], scale=0.5)
    expected = velocity_with_updates(models["base"], (made("dora"), 0.5))
    if to == "comfyui":
        found = comfyui_velocity(transformer_of(models["base"]), file)
        assert_same(
            comfyui_velocity(transformer_of(models["base"]), file, 0.0), velocity(transformer_of(models["base"]))
        )
    else:
        found = diffusers_velocity(models["base"], tmp_path)
        assert read_adapter(file).kind == "dora"
    assert_same(found, expected)


def test_what_cannot_be_scaled_says_what_to_do(models, made, tmp_path):
    with pytest.raises(UserError, match="--scale of a DoRA needs the model's own weights"):
        exported(made("dora").folder, "diffusers", tmp_path / "out", scale=0.5)
    with pytest.raises(UserError, match=r"no half of a turn\. Add --resize_rank"):
        exported(made("oft").folder, "peft", tmp_path / "out", models["base"], scale=0.5)
    exported(made("oft").folder, "lora", tmp_path, models["base"], scale=0.5, resize_rank=64)
    expected = velocity_with_updates(models["base"], (made("oft"), 0.5))
    assert_same(diffusers_velocity(models["base"], tmp_path), expected)


@pytest.mark.parametrize("kind", ["rslora", "dora", "lokr", "lokr-whole", "loha"])
def test_a_baked_adapter_has_alpha_equal_to_its_rank_and_plays_the_same(models, made, tmp_path, kind):
    file, _ = exported(made(kind).folder, "peft", tmp_path, models["base"], bake_alpha=True)
    adapter = read_adapter(file)
    assert adapter.alphas == adapter.ranks
    assert_same(peft_velocity(transformer_of(models["base"]), tmp_path), made(kind).velocity())


# Merging


@pytest.fixture(scope="module")
def other(models, tmp_path_factory):
    """An adapter on other layers too, of another rank."""
    config = configurations()["rslora"]
    config.target_modules, config.r = {"to_v", "layers.0.self_attn.to_q", "down_proj"}, 3
    return make_adapter("rslora", transformer_of(models["base"]), tmp_path_factory.mktemp("other"), config)


def test_merged_adapters_add_up_exactly(models, made, other, tmp_path):
    from diffusers import AceStepPipeline

    weights = {"first": 0.7, "second": -0.4, "third": 1.5}
    folders = {"first": made("lora-alpha").folder, "second": other.folder, "third": made("loha").folder}
    file, said = exported(
        folders["first"],
        "diffusers",
        tmp_path,
        models["base"],
        merge=[str(folders["second"]), str(folders["third"])],
        merge_weights=list(weights.values()),
    )
    assert "off by" not in said
    ranks = read_adapter(file).ranks
    assert ranks["layers.0.self_attn.to_q"] == 2 + 2 + 9
    assert ranks["layers.3.self_attn.to_v"] == 3
    pipeline = AceStepPipeline.from_pretrained(models["base"])
    for name in ("first", "second"):
        pipeline.load_lora_weights(folders[name], adapter_name=name)
    pipeline.set_adapters(["first", "second"], [weights["first"], weights["second"]])
    with torch.no_grad():
        for layer in TARGETS:
            weight = pipeline.transformer.get_submodule(layer).weight
            weight += weights["third"] * trained_update(made("loha"), layer)
    assert_same(diffusers_velocity(models["base"], tmp_path), velocity(pipeline.transformer.eval()))


def test_merging_and_resizing_go_together(models, made, other, tmp_path):
    file, said = exported(made("lora").folder, "comfyui", tmp_path, merge=[str(other.folder)], resize_rank=3)
    assert set(read_adapter(file).ranks.values()) == {3}
    assert "% of the updates' squared norm is kept" in said


def test_kinds_of_full_rank_are_not_merged(made, tmp_path):
    with pytest.raises(UserError, match=r"is a DoRA, whose update is of full rank .* --to lora --resize_rank R"):
        exported(made("lora").folder, "diffusers", tmp_path, merge=[str(made("dora").folder)])


# What costs something


@pytest.mark.parametrize("kind", ["lora-alpha", "lokr", "loha", "dora", "oft"])
def test_resizing_is_as_close_as_its_rank_can_be_and_says_how_close(models, made, tmp_path, kind):
    file, said = exported(made(kind).folder, "lora", tmp_path, models["base"], resize_rank=2)
    squares, kept, costs = 0.0, 0.0, {}
    for layer in TARGETS:
        values = torch.linalg.svdvals(trained_update(made(kind), layer).double()).square()
        squares, kept = squares + values.sum(), kept + values[:2].sum()
        costs[layer] = float((values[2:].sum() / values.sum()).sqrt())
    share = float(re.search(r"rank 2: (\S+) % of the updates' squared norm is kept", said)[1])
    assert share == pytest.approx(float(100 * kept / squares), abs=2e-3)
    printed = dict(re.findall(r"  (\S+): the update is off by (\S+) of its norm", said))
    assert printed.keys() == costs.keys()
    for layer, cost in costs.items():
        assert float(printed[layer]) == pytest.approx(cost, rel=1e-2, abs=1e-5)
    overall = float(re.search(r"all together the updates are off by (\S+) of their norm", said)[1])
    assert overall == pytest.approx(float((1 - kept / squares).sqrt()), rel=1e-2)
    assert "velocity of" in said
    assert set(read_adapter(file).ranks.values()) == {2}


def test_a_resized_dora_keeps_its_magnitudes_where_the_layout_holds_them(made, tmp_path):
    file, said = exported(made("dora").folder, "diffusers", tmp_path, resize_rank=2)
    found, source = read_adapter(file), read_adapter(made("dora").folder)
    assert (found.kind, set(found.ranks.values())) == ("dora", {2})
    for name, layer in found.layers.items():
        part = "lora_magnitude_vector"
        assert torch.equal(layer.weights[part], source.layers[name].weights[part])
    assert "the factors (before the model's weights come in) are off by" in said


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr", "loha", "oft"])
@pytest.mark.parametrize(("dtype", "least", "most"), [("bf16", 1e-4, 5e-3), ("fp16", 1e-5, 1e-3)])
def test_rounding_is_small_and_said(models, made, tmp_path, kind, dtype, least, most):
    file, said = exported(made(kind).folder, "peft", tmp_path, models["base"], dtype=dtype)
    stored = {weight.dtype for weight in read_adapter(file).state_dict().values()}
    assert stored == {{"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]}
    overall = float(re.search(r"all together the updates are off by (\S+) of their norm", said)[1])
    assert least < overall < most * (20 if kind in ("dora", "oft") else 1)  # their updates are differences
    assert "off by" in said.splitlines()[-2]


def test_weights_that_are_too_large_for_fp16_are_refused(made, tmp_path):
    with pytest.raises(UserError, match=r"--dtype float16: .* too large for it. Take bf16"):
        exported(made("lora").folder, "diffusers", tmp_path / "out", dtype="fp16", scale=1e7, bake_alpha=True)
    assert not (tmp_path / "out").exists()


def test_a_bf16_adapter_is_baked_without_rounding(made, tmp_path):
    bf16, _ = exported(made("rslora").folder, "diffusers", tmp_path / "bf16", dtype="bf16")
    _, said = exported(bf16, "lora", tmp_path / "baked")
    assert "as given" in said


def test_a_wide_layer_is_resized_as_closely_as_it_can_be():
    """Wide updates of full rank go through a randomized decomposition; here beside the whole one."""
    from acestep.adapters.changing import _components

    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(768, 768, generator=generator))[0] for _ in range(2))
    values = 1 / (1 + torch.arange(768.0))
    matrix = (left * values) @ right
    u, s, v, square = _components(matrix, 16)
    assert square == pytest.approx(float(values.square().sum()), rel=1e-4)
    best = float(values[16:].square().sum().sqrt())
    assert float((matrix - (u * s) @ v).norm()) == pytest.approx(best, rel=1e-2)


def test_the_exact_rank_of_a_product_of_low_ranks(made):
    ranks = {"lora": 4, "lokr": 2 * 4, "loha": 9, "dora": None, "oft": None}
    for kind, rank in ranks.items():
        assert exact_rank(read_adapter(made(kind).folder)) == rank


@pytest.mark.parametrize("kind", ["lokr", "loha"])
def test_a_resized_adapter_is_what_peft_converts_it_to(made, tmp_path, kind):
    from peft import convert_to_lora

    transformer = made(kind).transformer
    _, converted = convert_to_lora(transformer, rank=2)
    adapter = read_adapter(exported(made(kind).folder, "lora", tmp_path, resize_rank=2)[0])
    for layer in TARGETS:
        expected = converted[f"{layer}.lora_B.weight"] @ converted[f"{layer}.lora_A.weight"]
        assert_same(update(adapter, layer), expected, 1e-4)
