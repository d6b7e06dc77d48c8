"""Adapters read from files: what comes out plays as what was trained, and what is not an adapter is refused by name."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from acestep.adapters.adapter import in_model_order
from acestep.adapters.applying import check_fit, put_on
from acestep.adapters.names import layer_of, original_name
from acestep.adapters.reading import METADATA, read_adapter
from acestep.errors import UserError
from acestep.models.adapter_loading import load_adapter
from acestep.models.checkpoint import Checkpoint
from acestep.models.names import diffusers_name
from tests.adapters.making import FILE, KINDS, TARGETS, assert_same, velocity
from tests.conftest import REFERENCE


def transformer_of(model, dtype=torch.float32):
    return Checkpoint(str(model)).transformer(dtype)


def test_every_linear_layer_is_known_by_all_its_names(models):
    transformer = transformer_of(models["base"])
    names = [name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)]
    assert len(names) == 4 * 11 + 7
    for name in names:
        original = original_name(name)
        assert diffusers_name(f"decoder.{original}.weight") == ("transformer", f"{name}.weight")
        flat = original.replace(".", "_")
        for spelling in (
            *(
                name,
                original,
                f"transformer.{name}",
                f"base_model.model.{original}",
                f"diffusion_model.decoder.{original}",
            ),
            *(f"lycoris_{flat}", f"lora_unet_decoder_{flat}", f"lora_unet_{name.replace('.', '_')}"),
        ):
            assert layer_of(spelling) == name
    for other in ("encoder.layers.0.self_attn.q_proj", "layers.0.self_attn_norm", "proj_in.1", "layers.0.mlp", "x"):
        assert layer_of(other) is None


@pytest.mark.parametrize("geometry", ["base", "xl"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_plays_as_it_was_trained(models, made, kind, geometry):
    trained = made(kind, geometry)
    adapter = read_adapter(trained.folder)
    assert adapter.layout == "diffusers"
    assert not adapter.warnings
    assert adapter.modules == in_model_order(TARGETS)
    transformer = transformer_of(models[geometry])
    base = velocity(transformer)
    put_on(transformer, adapter, "read")
    assert_same(velocity(transformer), trained.velocity(), 1e-6)
    assert (trained.velocity() - base).abs().max() > 1e-2 * base.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_those_of_the_file_bit_for_bit(made, kind):
    """Only so can training go on from them."""
    stored = {key.removeprefix("transformer."): weight for key, weight in load_file(made(kind).file).items()}
    found = read_adapter(made(kind).file).state_dict()
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[key], stored[key]) for key in stored)


@pytest.mark.parametrize("geometry", ["base", "xl"])
def test_the_original_tools_folder_plays_as_the_original_code(geometry):
    folder = REFERENCE / geometry
    expected = load_file(folder / "expected.safetensors")
    transformer = Checkpoint(str(folder)).transformer(torch.float32)
    adapter = load_adapter(transformer, folder / "lora_adapter", "original")
    assert (adapter.kind, adapter.layout, set(adapter.ranks.values()), set(adapter.alphas.values())) == (
        *("lora", "peft"),
        *({4}, {8}),
    )
    t = expected["song0.timestep"]
    with torch.no_grad():
        found = transformer(
            hidden_states=t * expected["song0.noise"] + (1 - t) * expected["song0.clean_latents"],
            timestep=t,
            timestep_r=t,
            encoder_hidden_states=expected["song0.encoder_hidden_states"],
            context_latents=expected["song0.context_latents"],
            return_dict=False,
        )[0]
    assert_same(found, expected["song0.lora_velocity"], 1e-6)


def test_a_bare_file_of_the_original_tools_is_taken_at_alpha_equal_rank_with_a_warning(tmp_path):
    shutil.copy(REFERENCE / "base" / "lora_adapter" / "adapter_model.safetensors", tmp_path)
    adapter = read_adapter(tmp_path)
    assert set(adapter.alphas.values()) == {4}
    assert len(adapter.warnings) == 1
    assert "no adapter_config.json lies beside it; the strength may be another" in adapter.warnings[0]


def test_patterns_of_an_original_configuration_are_matched_against_the_originals_names(tmp_path):
    for file in (REFERENCE / "base" / "lora_adapter").iterdir():
        shutil.copy(file, tmp_path)
    path = tmp_path / "adapter_config.json"
    pattern = {"alpha_pattern": {"q_proj": 3, r"layers\.1\.cross_attn\.o_proj": 5}, "use_rslora": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | pattern))
    adapter = read_adapter(tmp_path)
    assert {name for name, alpha in adapter.alphas.items() if alpha == 3} == {
        f"layers.{number}.{part}_attn.to_q" for number in range(4) for part in ("self", "cross")
    }
    assert adapter.alphas["layers.1.cross_attn.to_out.0"] == 5
    assert adapter.layers["layers.1.cross_attn.to_out.0"].scale == 5 / 2


def test_a_checkpoint_folder_of_the_trainer_is_read(made, tmp_path):
    shutil.copy(made("lora").file, tmp_path)
    save_file({"weight.x": torch.zeros(2)}, tmp_path / "training_state.safetensors")
    assert read_adapter(tmp_path).kind == "lora"


def resaved(made, tmp_path, change, name=FILE):
    """The LoRA's file with its tensors changed."""
    with safe_open(made("lora").file, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(made("lora").file)
    change(tensors)
    save_file(tensors, tmp_path / name, metadata=metadata)
    return tmp_path / name


KEY = "transformer.layers.0.self_attn.to_q.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(KEY), "not a whole adapter: transformer.layers.0.self_attn.to_q lacks lora_A.weight"),
        (
            lambda t: t.update({"transformer.layers.0.norm.weight": t[KEY].clone()}),
            "layers.0.norm.weight: not known as weights",
        ),
        (
            lambda t: t.update({"text_encoder.x.lora_A.weight": t[KEY].clone()}),
            "text_encoder.x.lora_A.weight: not known",
        ),
        (lambda t: t.update({KEY.replace("lora_A", "lora_down"): t[KEY].clone()}), "are the same weight"),
        (lambda t: t.update({KEY: t[KEY][:3].clone()}), r"lora_A.weight \[3, 32\], lora_B.weight \[32, 4\]"),
        (lambda t: t.update({KEY: t[KEY] / 0}), "to_q.lora_A.weight is not finite"),
        (lambda t: t.update({KEY: t[KEY].to(torch.int8)}), "to_q.lora_A.weight is int8"),
        (lambda t: t.update({KEY: t[KEY].reshape(-1)}), r"to_q.lora_A.weight is \[128\]"),
        (lambda t: t.update({KEY.replace("lora_A.weight", "lokr_w1"): t[KEY].clone()}), "holds lora and lokr"),
        (
            lambda t: t.update({KEY.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(32)}),
            "lacks lora_magnitude_vector or dora_scale, .* and 3 more",
        ),
    ],
)
def test_a_file_that_is_not_right_is_refused_and_the_key_is_named(made, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        read_adapter(resaved(made, tmp_path, change))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"transformer.init_lora_weights": "pissa"}, "belongs to a model that its start was taken out of"),
        ({"transformer.peft_type": "IA3"}, "\"peft_type\" is 'IA3'; expected LORA"),
        ({"transformer.r": 9}, "has rank 4, its configuration says 9"),
        ({"transformer.lora_bias": True}, '"lora_bias" is True, which would be lost here'),
        ({"transformer.modules_to_save": ["norm_out"]}, '"modules_to_save" is'),
    ],
)
def test_a_configuration_that_would_be_lost_is_refused(made, tmp_path, values, message):
    with safe_open(made("lora").file, framework="pt") as opened:
        metadata = opened.metadata()
    metadata[METADATA] = json.dumps(json.loads(metadata[METADATA]) | values)
    save_file(load_file(made("lora").file), tmp_path / FILE, metadata=metadata)
    with pytest.raises(UserError, match=message):
        read_adapter(tmp_path)


def test_pickles_and_folders_without_an_adapter_are_refused(made, tmp_path):
    with pytest.raises(UserError, match=r"holds no pytorch_lora_weights.safetensors, .* and no adapter_model"):
        read_adapter(tmp_path)
    torch.save({}, tmp_path / "adapter_model.bin")
    for path in (tmp_path, tmp_path / "adapter_model.bin"):
        with pytest.raises(UserError, match=r"ends with '\.bin'; .* Pickles can run code and are not opened"):
            read_adapter(path)
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(made("lora").file, tmp_path / name)
    with pytest.raises(UserError, match=r"several .safetensors files \(a.safetensors, b.safetensors\)"):
        read_adapter(tmp_path)


def test_an_adapter_for_another_geometry_is_named_by_its_layers(models, made, tmp_path):
    for kind in ("lora", "dora", "lokr", "loha", "oft"):
        with pytest.raises(UserError, match=r"12 wrong shape: transformer\.layers\.0\..* for a layer of \[48"):
            check_fit(read_adapter(made(kind).folder), transformer_of(models["xl"]), "the file")
    deeper = resaved(made, tmp_path, lambda t: t.update({KEY.replace(".0.", ".9."): t.pop(KEY)}))
    with pytest.raises(UserError, match="lacks lora_A"):
        read_adapter(deeper)
