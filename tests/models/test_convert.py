"""Converting a checkpoint to diffusers' layout, and fingerprints that the layout does not change."""

import json
import shutil
import weakref

import pytest
import torch
from diffusers import AceStepPipeline
from safetensors.torch import load_file, save_file

from acestep.errors import UserError
from acestep.models.checkpoint import CONVERTED, Checkpoint
from acestep.models.convert import convert_checkpoint
from acestep.models.names import diffusers_name
from acestep.models.tiny import save_tiny_pipeline, tiny_components
from acestep.models.weights import NamedWeights, WeightFile, write_safetensors
from tests.conftest import REFERENCE

TEXT_ENCODER = "Qwen3-Embedding-0.6B"


def convert(source, output, dtype=None):
    convert_checkpoint(Checkpoint(str(source)), output, dtype, report=lambda _: None)
    return output


def turbo_bundle(folder):
    """The base reference with the configuration of a turbo model."""
    shutil.copytree(REFERENCE / "base", folder)
    variant = (folder / "acestep-v15-base").rename(folder / "acestep-v15-turbo")
    config = json.loads((variant / "config.json").read_text()) | {"is_turbo": True, "model_version": "turbo"}
    (variant / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module", params=["base", "turbo", "xl"])
def converted(request, tmp_path_factory):
    """A name, an original bundle and its conversion."""
    folder = tmp_path_factory.mktemp(request.param)
    source = turbo_bundle(folder / "bundle") if request.param == "turbo" else REFERENCE / request.param
    return request.param, source, convert(source, folder / "made" / "model")


def original_weights(source) -> dict[str, dict[str, torch.Tensor]]:
    """By component, all of an original bundle's tensors under diffusers' names."""
    weights = {name: {} for name in CONVERTED}
    (file,) = source.glob("acestep-v15-*/model.safetensors")
    for original, tensor in load_file(file).items():
        component, name = diffusers_name(original)
        weights[component][name] = tensor
    silence = torch.load(file.parent / "silence_latent.pt", weights_only=True).transpose(1, 2)
    weights["condition_encoder"]["silence_latent"] = silence.repeat(1, 15_000 // silence.shape[1] + 1, 1)[:, :15_000]
    weights["vae"] = load_file(source / "vae" / "diffusion_pytorch_model.safetensors")
    weights["text_encoder"] = load_file(source / TEXT_ENCODER / "model.safetensors")
    return weights


def test_the_pipeline_opens_with_every_component_and_every_weight(converted):
    name, source, folder = converted
    pipeline = AceStepPipeline.from_pretrained(folder)
    assert all(component is not None for component in pipeline.components.values())
    assert pipeline.is_turbo == (name == "turbo")
    assert pipeline.scheduler.config.num_train_timesteps == 1
    for component, weights in original_weights(source).items():
        found = getattr(pipeline, component).state_dict()
        assert set(found) == set(weights)
        assert all(torch.equal(found[key], weights[key]) for key in weights)
    text = "# Caption\nein schönes Lied"
    assert pipeline.tokenizer(text).input_ids == Checkpoint(str(source)).tokenizer()(text).input_ids


def test_nothing_but_the_model_is_written_and_others_may_read_it(converted):
    _, _, folder = converted
    components = {"vae", "text_encoder", "tokenizer", "scheduler", *CONVERTED}
    assert {path.name for path in folder.iterdir()} == {"model_index.json", "acestep_training.json", *components}
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert folder.stat().st_mode & 0o777 == 0o755


def test_bf16_halves_every_weight_and_opens_as_bf16(tmp_path):
    folder = convert(REFERENCE / "xl", tmp_path / "model", torch.bfloat16)
    pipeline = AceStepPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    for component, weights in original_weights(REFERENCE / "xl").items():
        (file,) = (folder / component).glob("*.safetensors")
        found = load_file(file)
        assert all(torch.equal(found[key], weights[key].to(torch.bfloat16)) for key in weights)
        assert getattr(pipeline, component).dtype == torch.bfloat16
    assert json.loads((folder / "text_encoder" / "config.json").read_text())["dtype"] == "bfloat16"
    assert Checkpoint(str(folder)).text_encoder().dtype == torch.bfloat16


def test_a_conversion_of_a_conversion_is_the_same(converted, tmp_path):
    _, _, folder = converted
    again = convert(folder, tmp_path / "again")
    for path in folder.rglob("*.safetensors"):
        assert (again / path.relative_to(folder)).read_bytes() == path.read_bytes()
    AceStepPipeline.from_pretrained(again)


class Counted(NamedWeights):
    """Weights that count how many of those that were read are still in memory."""

    def __init__(self, count: int):
        self.names = {f"layer{number}": f"layer{number}" for number in range(count)}
        self.alive: weakref.WeakSet = weakref.WeakSet()
        self.most = 0

    def __getitem__(self, name):
        tensor = torch.full((3, 5), float(name.removeprefix("layer")))
        self.alive.add(tensor.untyped_storage())
        self.most = max(self.most, len(self.alive))
        return tensor

    def shape(self, name):
        return 3, 5

    def sample(self, name):
        return torch.zeros(1)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_one_tensor_is_in_memory_at_a_time(tmp_path, dtype):
    weights = Counted(20)
    write_safetensors(tmp_path / "model.safetensors", weights, dtype)
    assert weights.most == 1
    written = load_file(tmp_path / "model.safetensors")
    assert set(written) == set(weights.names)
    assert all(written[f"layer{number}"].eq(number).all() for number in range(20))


def test_integers_scalars_and_empty_tensors_are_written_as_they_are(tmp_path):
    tensors = {
        "steps": torch.tensor(7),
        "none": torch.zeros(0, 4),
        "half": torch.randn(2, 3).half(),
        "mask": torch.tensor([True, False]),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    source = WeightFile(tmp_path, "model")
    write_safetensors(tmp_path / "copy.safetensors", NamedWeights(source, {name: name for name in source}), None)
    copy = load_file(tmp_path / "copy.safetensors")
    assert all(torch.equal(copy[name], tensor) and copy[name].dtype == tensor.dtype for name, tensor in tensors.items())
    write_safetensors(
        tmp_path / "bf16.safetensors", NamedWeights(source, {name: name for name in source}), torch.bfloat16
    )
    dtypes = {name: tensor.dtype for name, tensor in load_file(tmp_path / "bf16.safetensors").items()}
    assert (dtypes["steps"], dtypes["mask"], dtypes["half"]) == (torch.int64, torch.bool, torch.bfloat16)


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for output in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(UserError, match=rf"--output_dir {output}: is there already and not empty"):
            convert(REFERENCE / "base", output)
    with pytest.raises(UserError, match=r"--output_dir .*mine\.txt/model: cannot be made"):
        convert(REFERENCE / "base", tmp_path / "mine.txt" / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert (convert(REFERENCE / "base", tmp_path / "empty") / "model_index.json").is_file()


def test_a_failure_leaves_nothing_behind(tmp_path):
    source = shutil.copytree(REFERENCE / "base", tmp_path / "source")
    (source / "acestep-v15-base" / "silence_latent.pt").unlink()  # met after VAE and text encoder are written
    with pytest.raises(UserError, match=r"silence_latent\.pt: is missing"):
        convert(source, tmp_path / "deep" / "down" / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_the_script_converts_and_says_how_to_open_the_result(tmp_path, run_script):
    output = tmp_path / "out"
    arguments = ("--checkpoint", REFERENCE / "xl", "--variant", "xl-base", "--output_dir", output, "--dtype", "bf16")
    done = run_script("convert_checkpoint.py", *arguments)
    assert f'AceStepPipeline.from_pretrained("{output}")' in done.stdout
    assert "add_timbre_token" in done.stdout
    assert Checkpoint(str(output)).is_xl
    again = run_script("convert_checkpoint.py", *arguments, check=False)
    assert again.returncode == 2
    assert again.stderr.strip().splitlines()[-1].startswith(f"error: --output_dir {output}: is there already")
    assert "Traceback" not in again.stderr


# Fingerprints


FINGERPRINTED = ("vae", "text_encoder", "condition_encoder", "transformer")


def fingerprints(folder) -> list[str]:
    checkpoint = Checkpoint(str(folder))
    return [checkpoint.fingerprint(component) for component in FINGERPRINTED]


def test_fingerprints_are_those_of_the_weights_whatever_layout_and_dtype(converted, tmp_path):
    _, source, folder = converted
    expected = fingerprints(source)
    assert len(set(expected)) == len(FINGERPRINTED)
    assert fingerprints(folder) == expected
    assert fingerprints(convert(source, tmp_path / "bf16", torch.bfloat16)) == expected


def test_fingerprints_tell_models_apart(tmp_path):
    found = []
    for seed in (0, 1):
        components = tiny_components(seed, latent_channels=8, downsampling_ratios=(40, 48))
        save_tiny_pipeline(components, tmp_path / str(seed))
        found.append(fingerprints(tmp_path / str(seed)))
    assert not any(first == second for first, second in zip(*found, strict=True))


def test_a_condition_encoders_fingerprint_knows_its_silence_and_its_window(tmp_path):
    folder = shutil.copytree(REFERENCE / "base", tmp_path / "bundle")
    before = Checkpoint(str(folder)).fingerprint("condition_encoder")
    path = folder / "acestep-v15-base" / "silence_latent.pt"
    torch.save(torch.load(path, weights_only=True) + 1, path)
    silent = Checkpoint(str(folder)).fingerprint("condition_encoder")
    path = folder / "acestep-v15-base" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sliding_window": 7}))
    assert len({before, silent, Checkpoint(str(folder)).fingerprint("condition_encoder")}) == 3
