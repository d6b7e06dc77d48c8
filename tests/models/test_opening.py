"""Opening checkpoints from disk: every layout, and every way in which one can be broken."""

import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from acestep.errors import UserError
from acestep.models.checkpoint import Checkpoint
from acestep.models.convert import convert_checkpoint
from acestep.models.layout import BUNDLE
from tests.conftest import REFERENCE

TEXT_ENCODER = "Qwen3-Embedding-0.6B"
COMPONENTS = {  # component -> its file in an original bundle, and the prefix of its weights there
    "transformer": ("acestep-v15-base/model.safetensors", "decoder."),
    "condition_encoder": ("acestep-v15-base/model.safetensors", "encoder."),
    "vae": ("vae/diffusion_pytorch_model.safetensors", ""),
    "text_encoder": (f"{TEXT_ENCODER}/model.safetensors", ""),
}


@pytest.fixture
def bundle(tmp_path):
    """An original bundle with one variant, to be changed at will."""
    folder = tmp_path / "bundle"
    for name in ("acestep-v15-base", "vae", TEXT_ENCODER):
        shutil.copytree(REFERENCE / "base" / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The reference model in diffusers' layout."""
    folder = tmp_path_factory.mktemp("converted") / "model"
    convert_checkpoint(Checkpoint(str(REFERENCE / "base")), folder, report=lambda _: None)
    return folder


def add_variant(bundle, name: str, **changes):
    folder = shutil.copytree(bundle / "acestep-v15-base", bundle / name)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def change_weights(path, change) -> None:
    weights = load_file(path)
    change(weights)
    save_file(weights, path, {"format": "pt"})


def shard(path, parts: int = 3) -> None:
    """Replace a safetensors file by shards and their index."""
    weights, stem = load_file(path), path.name.removesuffix(".safetensors")
    names = {key: f"{stem}-{i % parts + 1:05}-of-{parts:05}.safetensors" for i, key in enumerate(weights)}
    for name in set(names.values()):
        save_file({key: weights[key] for key in weights if names[key] == name}, path.parent / name, {"format": "pt"})
    path.with_name(path.name + ".index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    path.unlink()


def assert_opens(checkpoint: Checkpoint) -> None:
    """The weights that came out are those of the reference."""
    original = load_file(REFERENCE / "base" / "acestep-v15-base" / "model.safetensors")
    found = checkpoint.transformer().state_dict()
    assert torch.equal(
        found["layers.3.self_attn.to_out.0.weight"], original["decoder.layers.3.self_attn.o_proj.weight"]
    )
    assert torch.equal(checkpoint.null_condition(), original["null_condition_emb"])
    assert checkpoint.silence_latent().shape == (1, 15_000, 8)
    vae = load_file(REFERENCE / "base" / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(tensor, vae[name]) for name, tensor in checkpoint.vae().state_dict().items())
    text = load_file(REFERENCE / "base" / TEXT_ENCODER / "model.safetensors")
    assert all(torch.equal(tensor, text[name]) for name, tensor in checkpoint.text_encoder().state_dict().items())
    assert checkpoint.tokenizer()("la").input_ids


# Layouts


@pytest.mark.parametrize("variant", ["turbo", "acestep-v15-turbo"])
def test_a_variant_of_a_bundle_is_chosen_by_its_short_or_full_name(bundle, variant):
    add_variant(bundle, "acestep-v15-turbo", is_turbo=True)
    checkpoint = Checkpoint(str(bundle), variant=variant)
    assert checkpoint.is_turbo
    assert not Checkpoint(str(bundle), variant="base").is_turbo
    assert checkpoint.name == f"{bundle}/acestep-v15-turbo"
    assert_opens(checkpoint)


def test_a_bundle_of_several_models_is_refused_without_a_variant_and_they_are_listed(bundle):
    add_variant(bundle, "acestep-v15-turbo", is_turbo=True)
    with pytest.raises(UserError, match=r"holds several models; choose --variant from: base, turbo\."):
        Checkpoint(str(bundle))
    with pytest.raises(UserError, match=r"--variant sft is not in .*; choose --variant from: base, turbo\."):
        Checkpoint(str(bundle), variant="sft")


def test_a_bundle_of_one_model_needs_no_variant(bundle):
    assert_opens(Checkpoint(str(bundle)))
    with pytest.raises(UserError, match="--variant turbo is not in"):
        Checkpoint(str(bundle), variant="turbo")


def test_a_variants_folder_takes_vae_and_text_encoder_from_beside_it(bundle, monkeypatch):
    folder = bundle / "acestep-v15-base"
    assert_opens(Checkpoint(str(folder)))
    assert Checkpoint(str(folder), variant="base").name == str(folder)
    with pytest.raises(UserError, match=r"--variant turbo: .* holds one model only"):
        Checkpoint(str(folder), variant="turbo")
    monkeypatch.chdir(folder)
    assert_opens(Checkpoint(".", variant="base"))


def test_a_variants_folder_elsewhere_takes_them_from_the_bundle_that_is_named(bundle, tmp_path):
    alone = shutil.move(bundle / "acestep-v15-base", tmp_path / "alone" / "mine")
    assert_opens(Checkpoint(str(alone), bundle=str(bundle)))
    assert Checkpoint(str(alone)).layout.bundle.name == BUNDLE
    with pytest.raises(UserError, match=r"could not be downloaded.*--bundle takes a folder"):
        Checkpoint(str(alone)).vae()
    shutil.rmtree(bundle / "vae")
    with pytest.raises(UserError, match=r"has no folder vae/.*--bundle takes"):
        Checkpoint(str(alone), bundle=str(bundle)).vae()


def test_a_folder_in_diffusers_layout(converted):
    assert_opens(Checkpoint(str(converted)))
    with pytest.raises(UserError, match=r"--variant base: .* in diffusers' layout and holds one model"):
        Checkpoint(str(converted), variant="base")
    with pytest.raises(UserError, match=r"--bundle x/y: .* in diffusers' layout"):
        Checkpoint(str(converted), bundle="x/y")
    with pytest.raises(UserError, match=r"--revision main: .* is a folder"):
        Checkpoint(str(converted), revision="main")


def test_sharded_weights(bundle, converted, tmp_path):
    for path, _ in COMPONENTS.values():
        if (bundle / path).is_file():
            shard(bundle / path)
    assert not list(bundle.rglob("model.safetensors"))
    assert_opens(Checkpoint(str(bundle)))
    folder = shutil.copytree(converted, tmp_path / "diffusers")
    for name in ("transformer", "condition_encoder", "vae"):
        shard(folder / name / "diffusion_pytorch_model.safetensors")
    assert_opens(Checkpoint(str(folder)))


def test_a_shard_that_is_not_there_and_a_broken_index_are_named(bundle):
    path = bundle / "acestep-v15-base" / "model.safetensors"
    shard(path)
    path.with_name("model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json: names model-00002-of-00003\.safetensors"):
        Checkpoint(str(bundle)).transformer()
    for content, message in (("[]", "expected a JSON object"), ("{}", "weight_map"), ("{", "cannot be read as JSON")):
        path.with_name("model.safetensors.index.json").write_text(content)
        with pytest.raises(UserError, match=rf"model\.safetensors\.index\.json: .*{message}"):
            Checkpoint(str(bundle)).transformer()


# What does not fit


@pytest.mark.parametrize("component", COMPONENTS)
def test_missing_unknown_and_wrongly_shaped_weights_are_listed(bundle, tmp_path, component):
    path, prefix = COMPONENTS[component]
    keys = sorted(key for key in load_file(bundle / path) if key.startswith(prefix) and "special_token" not in key)
    lost, bent = keys[0], keys[-1]

    def change(weights):
        del weights[lost]
        weights[bent] = weights[bent][:-1].clone()
        weights[prefix + "surplus.weight"] = torch.zeros(2)

    change_weights(bundle / path, change)
    checkpoint = Checkpoint(str(bundle))
    with pytest.raises(UserError) as refused:
        getattr(checkpoint, component)()
    text = str(refused.value)
    assert "1 missing: " in text
    assert lost.rpartition(".")[2] in text
    assert f"1 unknown: {prefix}surplus.weight" in text
    assert f"1 wrong shape: {bent} [" in text
    assert "], expected [" in text
    with pytest.raises(UserError, match="1 missing"):
        convert_checkpoint(checkpoint, tmp_path / "out", report=lambda _: None)
    assert not (tmp_path / "out").exists()


def test_a_weight_of_no_component_is_unknown(bundle):
    path = bundle / COMPONENTS["transformer"][0]
    change_weights(path, lambda weights: weights.update({"vocoder.weight": torch.zeros(2)}))
    with pytest.raises(UserError, match=r"1 unknown: vocoder\.weight"):
        Checkpoint(str(bundle)).transformer()


def test_many_keys_are_counted_and_some_named(bundle):
    path = bundle / COMPONENTS["transformer"][0]
    change_weights(path, lambda weights: [weights.pop(key) for key in list(weights) if key.startswith("decoder.")])
    with pytest.raises(UserError, match=r"\d\d missing: .* and \d+ more") as refused:
        Checkpoint(str(bundle)).transformer()
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_file_that_was_cut_is_named(bundle, component):
    path = bundle / COMPONENTS[component][0]
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=rf"{path}: not a whole safetensors file .* Download it again"):
        getattr(Checkpoint(str(bundle)), component)()
    path.unlink()
    with pytest.raises(UserError, match=rf"{path.parent}: neither {path.name} nor {path.name}.index.json is there"):
        getattr(Checkpoint(str(bundle)), component)()


def test_a_missing_silence_latent_or_null_condition_is_named(bundle, converted, tmp_path):
    path = bundle / "acestep-v15-base" / "silence_latent.pt"
    path.unlink()
    with pytest.raises(UserError, match=r"silence_latent\.pt: is missing"):
        Checkpoint(str(bundle)).silence_latent()
    folder = shutil.copytree(converted, tmp_path / "diffusers")
    weights = folder / "condition_encoder" / "diffusion_pytorch_model.safetensors"
    change_weights(weights, lambda found: [found.pop(name) for name in ("silence_latent", "null_condition_emb")])
    for ask, name in (("silence_latent", "silence_latent"), ("null_condition", "null_condition_emb")):
        with pytest.raises(UserError, match=rf"1 missing: {name}"):
            getattr(Checkpoint(str(folder)), ask)()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(1, 8), r"silence latent is \[1, 8\]"),
        (torch.zeros(1, 9, 30), r"silence latent is \[1, 30, 9\] .*; expected 8 channels"),
        ({"silence": torch.zeros(1, 8, 30)}, "holds a dict; expected a tensor"),
    ],
)
def test_a_silence_latent_of_another_shape_is_refused(bundle, content, message):
    torch.save(content, bundle / "acestep-v15-base" / "silence_latent.pt")
    with pytest.raises(UserError, match=rf"silence_latent\.pt: .*{message}"):
        Checkpoint(str(bundle)).condition_encoder()


def test_a_short_silence_latent_is_repeated(bundle):
    torch.save(torch.arange(24.0).reshape(1, 8, 3), bundle / "acestep-v15-base" / "silence_latent.pt")
    silence = Checkpoint(str(bundle)).silence_latent()
    assert silence.shape == (1, 15_000, 8)
    assert silence[0, :4, 0].tolist() == [0, 1, 2, 0]


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_malicious_silence_latent_is_refused_and_not_run(bundle, tmp_path, write):
    write(Malicious(tmp_path / "run"), bundle / "acestep-v15-base" / "silence_latent.pt")
    with pytest.raises(UserError, match=r"silence_latent\.pt: .*pickled code is not run") as refused:
        Checkpoint(str(bundle)).silence_latent()
    assert not (tmp_path / "run").exists()
    assert "\n" not in str(refused.value)


def test_a_folder_that_is_no_checkpoint_is_refused_with_what_was_looked_for(tmp_path):
    with pytest.raises(UserError) as refused:
        Checkpoint(str(tmp_path))
    for looked_for in (str(tmp_path), "model_index.json", "config.json", "acestep-v15-*/config.json"):
        assert looked_for in str(refused.value)


def test_a_name_that_is_nothing_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    for name, message in (
        (tmp_path / "nowhere", "no such folder, and not a Hub id"),
        ("./nowhere", "no such folder"),
        ("a/b/c", "no such folder"),
        ("no model", "no such folder"),
        (tmp_path / "model.safetensors", "is a file; expected the folder"),
    ):
        with pytest.raises(UserError, match=message):
            Checkpoint(str(name))


def test_another_pipeline_or_a_broken_configuration_is_refused(bundle, tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(UserError, match=r"of a StableDiffusionPipeline; expected an AceStepPipeline"):
        Checkpoint(str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"_class_name": "AceStepPipeline"}')
    with pytest.raises(UserError, match=r"has no transformer/config\.json and no condition_encoder/config\.json"):
        Checkpoint(str(tmp_path)).transformer()
    path = bundle / "acestep-v15-base" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in config.items() if key != "head_dim"}))
    with pytest.raises(UserError, match=r"config\.json: has no entry 'head_dim'"):
        Checkpoint(str(bundle)).transformer()
    path.write_text(json.dumps(config | {"layer_types": ["full_attention"] * 4}))
    with pytest.raises(UserError, match=r"config\.json: layer_types is .*; expected sliding and full"):
        Checkpoint(str(bundle)).transformer()
    for content in ("{", "[1]"):
        path.write_text(content)
        with pytest.raises(UserError, match=rf"{path}: .*JSON"):
            Checkpoint(str(bundle))


def test_a_broken_tokenizer_or_text_encoder_configuration_is_refused(bundle):
    folder = bundle / TEXT_ENCODER
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=f"{folder}: the tokenizer cannot be read"):
        Checkpoint(str(bundle)).tokenizer()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=f"{folder}: has no tokenizer.json"):
        Checkpoint(str(bundle)).tokenizer()
    (folder / "config.json").write_text('{"model_type": "no_such_model"}')
    with pytest.raises(UserError, match=r"config\.json: is of no text encoder that transformers knows"):
        Checkpoint(str(bundle)).text_encoder()


# No code of the model's own, and only what is needed


def test_code_beside_the_weights_is_not_run(bundle, tmp_path):
    for name in ("acestep-v15-base", TEXT_ENCODER, "vae"):
        code = f"import os\nos.mkdir({str(tmp_path / 'run')!r})\nclass Model:\n    pass\n"
        (bundle / name / "modeling_own.py").write_text(code)
        path = bundle / name / "config.json"
        auto_map = dict.fromkeys(("AutoConfig", "AutoModel", "AutoTokenizer"), "modeling_own.Model")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": auto_map}))
    path = bundle / TEXT_ENCODER / "tokenizer_config.json"
    own = {"auto_map": {"AutoTokenizer": ["modeling_own.Model", "modeling_own.Model"]}}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    assert_opens(Checkpoint(str(bundle)))
    Checkpoint(str(bundle)).pipeline()
    convert_checkpoint(Checkpoint(str(bundle)), tmp_path / "out", report=lambda _: None)
    assert not (tmp_path / "run").exists()
    assert not list((tmp_path / "out").rglob("*.py"))
    assert "auto_map" not in (tmp_path / "out" / "text_encoder" / "config.json").read_text()


def test_opening_one_component_needs_no_file_of_the_others(bundle, converted, tmp_path):
    shutil.rmtree(bundle / "vae")
    shutil.rmtree(bundle / TEXT_ENCODER)
    Checkpoint(str(bundle)).transformer()
    folder = shutil.copytree(converted, tmp_path / "diffusers")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    checkpoint = Checkpoint(str(folder))
    for component in ("condition_encoder", "vae", "text_encoder", "tokenizer"):
        getattr(checkpoint, component)()
    with pytest.raises(UserError, match=r"neither diffusion_pytorch_model\.safetensors nor"):
        checkpoint.transformer()


def test_a_dtype_is_that_of_all_weights_and_none_keeps_the_stored_one(bundle):
    checkpoint = Checkpoint(str(bundle))
    for component in COMPONENTS:
        stored = {tensor.dtype for tensor in getattr(checkpoint, component)().state_dict().values()}
        assert stored == {torch.float32}
        model = getattr(checkpoint, component)(torch.bfloat16)
        assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())
