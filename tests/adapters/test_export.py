"""Every layout that is written plays, in the hands of those it is written for, as what was trained."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from acestep.adapters.export import export
from acestep.adapters.names import COMFYUI_PREFIXES
from acestep.adapters.options import ExportOptions
from acestep.adapters.reading import read_adapter
from acestep.errors import UserError
from acestep.models.adapter_loading import load_adapter
from acestep.models.checkpoint import Checkpoint
from tests.adapters.making import FILE, KINDS, assert_same, velocity
from tests.adapters.players import comfyui_velocity, diffusers_velocity, peft_velocity
from tests.conftest import REFERENCE

GEOMETRIES = ("base", "xl")
LORAS = ["lora", "lora-alpha", "rslora", "dora"]


def exported(lora, to, folder, model=None, **options):
    """The first file written, and what was said."""
    said = []
    model = None if model is None else str(model)
    options = ExportOptions(
        lora=str(lora), to=to, output_dir=str(folder), pretrained_model_name_or_path=model, **options
    )
    return export(options, said.append)[0], "\n".join(said)


def transformer_of(model):
    return Checkpoint(str(model)).transformer(torch.float32)


def played(model, adapter):
    """By this project's own loading, which reads every layout."""
    transformer = transformer_of(model)
    load_adapter(transformer, adapter, "played")
    return velocity(transformer)


# diffusers


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kind", LORAS)
def test_the_pipeline_of_diffusers_plays_what_was_trained(models, made, tmp_path, kind, geometry):
    trained = made(kind, geometry)
    file, said = exported(trained.folder, "diffusers", tmp_path / "out", models[geometry])
    assert file.name == FILE
    assert "velocity of" in said
    assert_same(diffusers_velocity(models[geometry], file.parent), trained.velocity())
    assert_same(played(models[geometry], file.parent), trained.velocity())


@pytest.mark.parametrize("kind", ["lokr", "lokr-whole", "lokr-both"])
def test_the_transformer_of_diffusers_plays_a_lokr(models, made, tmp_path, kind):
    file, said = exported(made(kind).folder, "diffusers", tmp_path)
    assert "pipeline.transformer.load_lora_adapter(" in said
    transformer = transformer_of(models["base"])
    transformer.load_lora_adapter(file.parent, weight_name=file.name)
    assert_same(velocity(transformer.eval()), made(kind).velocity())


def test_a_baked_lora_plays_without_its_header_too(models, made, tmp_path):
    from safetensors.torch import save_file

    for kind in ("lora-alpha", "rslora"):
        file, _ = exported(made(kind).folder, "diffusers", tmp_path / kind, bake_alpha=True)
        adapter = read_adapter(file)
        assert adapter.alphas == adapter.ranks
        assert not adapter.rslora
        save_file(load_file(file), file)
        transformer = transformer_of(models["base"])
        # what diffusers makes of a file without configuration needs its ranks to be told by shapes alone
        transformer.load_lora_adapter(file.parent, weight_name=file.name)
        assert_same(velocity(transformer.eval()), made(kind).velocity())


# The original tools


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kind", KINDS)
def test_peft_plays_the_original_tools_folder_on_the_originals_names(models, made, tmp_path, kind, geometry):
    trained = made(kind, geometry)
    file, _ = exported(trained.folder, "peft", tmp_path / "out", models[geometry])
    config = json.loads((file.parent / "adapter_config.json").read_text())
    assert config["task_type"] == "FEATURE_EXTRACTION"
    assert config["base_model_name_or_path"] == geometry  # the folder's name, and no path
    assert all(key.startswith("base_model.model.layers.") for key in load_file(file))
    assert_same(peft_velocity(transformer_of(models[geometry]), file.parent), trained.velocity())
    assert_same(played(models[geometry], file.parent), trained.velocity())


# ComfyUI


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "oft"])
def test_comfyui_plays_what_was_trained(models, made, tmp_path, kind, geometry):
    trained = made(kind, geometry)
    file, _ = exported(trained.folder, "comfyui", tmp_path / "out", models[geometry], file_name="my lora.safetensors")
    assert [path.name for path in file.parent.iterdir()] == ["my lora.safetensors"]
    assert_same(comfyui_velocity(transformer_of(models[geometry]), file), trained.velocity())
    assert_same(played(models[geometry], file), trained.velocity())


@pytest.mark.parametrize("kind", ["lora-alpha", "lokr", "loha"])
@pytest.mark.parametrize("prefix", COMFYUI_PREFIXES)
def test_comfyui_knows_the_layers_by_every_prefix(models, made, tmp_path, prefix, kind):
    file, _ = exported(made(kind).folder, "comfyui", tmp_path / "out", comfyui_prefix=prefix)
    assert all(key.startswith(prefix) for key in load_file(file))
    assert_same(comfyui_velocity(transformer_of(models["base"]), file), made(kind).velocity())
    assert_same(played(models["base"], file), made(kind).velocity())


@pytest.mark.parametrize("kind", ["rslora", "dora", "lokr-whole", "loha"])
def test_from_comfyui_back_to_the_original_tools(models, made, tmp_path, kind):
    there, _ = exported(made(kind).folder, "comfyui", tmp_path / "there", models["base"])
    back, _ = exported(there, "peft", tmp_path / "back", models["base"])
    assert_same(peft_velocity(transformer_of(models["base"]), back.parent), made(kind).velocity())


def test_a_dora_for_comfyui_needs_the_model_and_so_does_reading_it(models, made, tmp_path):
    with pytest.raises(UserError, match="a DoRA for ComfyUI needs the model's own weights: give --pretrained_model"):
        exported(made("dora").folder, "comfyui", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    file, _ = exported(made("dora").folder, "comfyui", tmp_path / "out", models["base"])
    with pytest.raises(UserError, match=r"is a DoRA in ComfyUI's form, .* --pretrained_model_name_or_path"):
        read_adapter(file)


# The original code's own results


@pytest.mark.parametrize("to", ["diffusers", "peft", "comfyui", "lora"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_an_adapter_of_the_original_tools_keeps_the_velocity_of_the_original_code(tmp_path, geometry, to):
    folder = REFERENCE / geometry
    file, _ = exported(folder / "lora_adapter", to, tmp_path / "out", folder)
    expected = load_file(folder / "expected.safetensors")
    t = expected["song0.timestep"]

    def song(transformer):
        return transformer(
            hidden_states=t * expected["song0.noise"] + (1 - t) * expected["song0.clean_latents"],
            timestep=t,
            timestep_r=t,
            encoder_hidden_states=expected["song0.encoder_hidden_states"],
            context_latents=expected["song0.context_latents"],
            return_dict=False,
        )[0]

    transformer = transformer_of(folder)
    if to in ("diffusers", "lora"):
        transformer.load_lora_adapter(file.parent, weight_name=file.name)
    elif to == "peft":
        peft_velocity(transformer, file.parent)
    else:
        comfyui_velocity(transformer, file)
    with torch.no_grad():
        assert_same(song(transformer.eval()), expected["song0.lora_velocity"], 1e-6)


# A plain LoRA


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_plain_lora_at_full_rank(models, made, tmp_path, kind, geometry):
    trained = made(kind, geometry)
    options = {} if "lora" in kind and kind != "dora" else {"resize_rank": 64}
    file, _ = exported(trained.folder, "lora", tmp_path / "out", models[geometry], **options)
    adapter = read_adapter(file)
    assert (adapter.kind, adapter.layout, adapter.alphas) == ("lora", "diffusers", adapter.ranks)
    assert_same(diffusers_velocity(models[geometry], file.parent), trained.velocity())


@pytest.mark.parametrize("kind", ["lokr", "lokr-both", "loha"])
def test_the_rank_that_is_advised_holds_the_adapter_exactly(models, made, tmp_path, kind):
    with pytest.raises(UserError, match=r"a plain LoRA is no Lo.* A plain LoRA of rank (\d+) is the same") as caught:
        exported(made(kind).folder, "lora", tmp_path)
    rank = int(str(caught.value).split(" of rank ")[1].split()[0])
    file, said = exported(made(kind).folder, "lora", tmp_path / "out", resize_rank=rank)
    assert "100.0000 % of the updates' squared norm is kept" in said
    assert_same(diffusers_velocity(models["base"], file.parent), made(kind).velocity())


# What is refused leaves nothing


@pytest.mark.parametrize(
    ("kind", "to", "message"),
    [
        ("loha", "diffusers", "--to diffusers: AceStepPipeline plays no LoHa. A plain LoRA of rank 9 is the same"),
        ("oft", "diffusers", "plays no OFT. A plain LoRA comes close, .* with --pretrained_model_name_or_path"),
        ("oft", "comfyui", "ComfyUI plays no OFT"),
        ("dora", "lora", "a plain LoRA is no DoRA. .* --to peft and --fuse keep it as it is"),
    ],
)
def test_a_kind_that_a_layout_cannot_hold_is_refused(made, tmp_path, kind, to, message):
    with pytest.raises(UserError, match=message):
        exported(made(kind).folder, to, tmp_path / "new" / "out")
    assert not list(tmp_path.iterdir())


def test_an_adapter_of_another_model_is_refused_before_anything_is_written(models, made, tmp_path):
    with pytest.raises(UserError, match=r"lora-base0 on .*xl: the weights do not fit the model; 12 wrong shape"):
        exported(made("lora").folder, "peft", tmp_path / "out", models["xl"])
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_replaced(made, tmp_path):
    file, _ = exported(made("lora").folder, "comfyui", tmp_path)
    with pytest.raises(UserError, match=r"holds .*safetensors already"):
        exported(made("dora").folder, "comfyui", tmp_path, file_name=file.name)
    exported(made("lora").folder, "comfyui", tmp_path, file_name="other.safetensors")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("with_model", [True, False])
@pytest.mark.parametrize("to", ["diffusers", "peft", "comfyui"])
def test_a_file_that_plays_otherwise_than_it_should_is_not_left(models, made, tmp_path, monkeypatch, to, with_model):
    import safetensors.torch

    from acestep.adapters import writing

    def spoilt(tensors, path, metadata):
        key = next(key for key in tensors if "layers.3.mlp.up_proj.lora" in key)
        safetensors.torch.save_file({**tensors, key: tensors[key] * 1.001}, path, metadata=metadata)

    monkeypatch.setattr(writing, "save_file", spoilt)  # a fault of the library, say
    with pytest.raises(UserError, match=r"not what was to be: layers\.3\.mlp\.up_proj is off by 1\.0e-03"):
        exported(made("rslora").folder, to, tmp_path / "out", models["base"] if with_model else None)
    assert not list(tmp_path.iterdir())


def test_the_header_says_what_it_is_for_and_no_path(models, made, tmp_path):
    file, _ = exported(made("lora").folder, "diffusers", tmp_path / "out", models["base"])
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    assert metadata["base_model"] == "base"
    assert str(models["base"].parent) not in json.dumps(metadata)
