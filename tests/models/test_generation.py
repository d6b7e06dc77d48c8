"""Music from prompts: the variants' own settings, adapters alone and together, and the files that are written."""

import runpy
import sys

import pytest
import soundfile
import torch
from diffusers import AceStepPipeline
from peft import LoraConfig, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from acestep.errors import UserError
from acestep.models.checkpoint import Checkpoint
from acestep.models.generation import Generator
from acestep.models.generation_requests import Sampling, default_sampling
from acestep.models.timbre import add_timbre_token
from acestep.models.tiny import save_tiny_pipeline, tiny_components
from acestep.train.adapter import save_lora
from tests.conftest import ROOT

SECONDS, FRAMES = 0.4, 10
SHORT = Sampling(steps=2, shift=1.0, guidance=7.0)
WEIGHTS = "pytorch_lora_weights.safetensors"


def make_lora(model, folder, seed: int, factor: float = 0.3, alpha: int = 4):
    """A LoRA of rank 2 with random weights, for the model in a folder; factor 0 is one that changes nothing."""
    transformer = Checkpoint(str(model)).transformer()
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    torch.manual_seed(seed)
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=alpha, target_modules=targets))
    for name, parameter in transformer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=factor)
    return save_lora(transformer, folder).parent


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A tiny model of each kind, by name."""
    folder = tmp_path_factory.mktemp("models")
    for variant in ("base", "turbo", "xl"):
        components = tiny_components(3, variant, latent_channels=8, downsampling_ratios=(40, 48))
        save_tiny_pipeline(components, folder / variant)
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def loras(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("loras")
    return {
        "first": make_lora(models["base"], folder / "first", 1),
        "second": make_lora(models["base"], folder / "second", 2),
        "nothing": make_lora(models["base"], folder / "nothing", 1, factor=0),
        "xl": make_lora(models["xl"], folder / "xl", 1),
    }


def play(model, loras=(), scales=None, seed=5, sampling=SHORT, **options):
    generator = Generator(Checkpoint(str(model)), "cpu", torch.float32, [str(lora) for lora in loras], scales)
    generator.pipeline.set_progress_bar_config(disable=True)
    return generator("bright", "la", seed, sampling, vocal_language="en", audio_duration=SECONDS, **options)


@pytest.fixture
def generate(models, monkeypatch, capsys):
    """The script, in this process: its exit status, standard output and standard error."""

    def generate(*arguments, model="base"):
        argv = [
            "--pretrained_model_name_or_path",
            models[model],
            "--prompt",
            "bright",
            "--duration",
            SECONDS,
            *arguments,
        ]
        monkeypatch.setattr(sys, "argv", ["generate.py", *map(str, argv)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "scripts" / "generate.py"), run_name="__main__")
        return end.value.code, *capsys.readouterr()

    return generate


# The same noise


def test_the_same_seed_is_the_same_music_and_another_seed_is_not(models):
    first, again, other = (play(models["base"], seed=seed) for seed in (5, 5, 6))
    assert first.shape == (2, FRAMES * 1920)
    assert first.dtype == torch.float32
    assert first.abs().max() == pytest.approx(10 ** (-1 / 20), rel=1e-3)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_audio_is_that_of_the_diffusers_pipeline(models):
    pipeline = AceStepPipeline.from_pretrained(models["base"])
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 2, "shift": 1.0, "guidance_scale": 7.0, "audio_duration": SECONDS}
    expected = pipeline("bright", lyrics="la", generator=torch.Generator().manual_seed(5), **options).audios[0]
    torch.testing.assert_close(play(models["base"]), expected, atol=1e-5, rtol=0)


def test_xl_plays_with_its_timbre_token_which_diffusers_leaves_out(models):
    pipeline = AceStepPipeline.from_pretrained(models["xl"])
    pipeline.set_progress_bar_config(disable=True)

    def diffusers_audio():
        options = {"num_inference_steps": 2, "shift": 1.0, "guidance_scale": 7.0, "audio_duration": SECONDS}
        return pipeline("bright", lyrics="la", generator=torch.Generator().manual_seed(5), **options).audios[0]

    found, without = play(models["xl"]), diffusers_audio()
    assert not torch.allclose(found, without, atol=1e-3)
    add_timbre_token(pipeline.condition_encoder)
    torch.testing.assert_close(found, diffusers_audio(), atol=1e-5, rtol=0)


# The variants' own settings


def test_default_settings_are_those_of_the_variant():
    assert default_sampling(is_turbo=True) == Sampling(steps=8, shift=3.0, guidance=1.0)
    assert default_sampling(is_turbo=False) == Sampling(steps=50, shift=1.0, guidance=7.0)


@pytest.mark.parametrize(
    ("model", "arguments", "sampling"),
    [
        ("turbo", (), Sampling(8, 3.0, 1.0)),
        ("base", ("--num_inference_steps", 3), Sampling(3, 1.0, 7.0)),
        ("base", ("--num_inference_steps", 2, "--shift", 2, "--guidance_scale", 1), Sampling(2, 2.0, 1.0)),
    ],
)
def test_the_script_plays_at_the_variants_settings(models, generate, tmp_path, model, arguments, sampling):
    output = tmp_path / "music.wav"
    status, _, stderr = generate("--output", output, "--seed", 5, "--lyrics", "la", *arguments, model=model)
    assert status == 0, stderr
    expected = Generator(Checkpoint(str(models[model])), "cpu", torch.float32)(
        "bright", "la", 5, sampling, vocal_language="unknown", audio_duration=SECONDS
    )
    found = torch.from_numpy(soundfile.read(output, dtype="float32")[0]).T
    assert (found - expected).abs().max() < 2**-23


# Adapters


def test_an_adapter_is_heard_and_one_of_zeros_is_not(models, loras):
    base = play(models["base"])
    assert not torch.allclose(play(models["base"], [loras["first"]]), base, atol=1e-3)
    assert torch.equal(play(models["base"], [loras["nothing"]]), base)
    assert torch.equal(play(models["base"], [loras["first"]], use_adapters=False), base)


def test_scale_zero_is_the_model_alone(models, loras):
    assert torch.equal(play(models["base"], [loras["first"]], [0.0]), play(models["base"]))


def test_the_dropout_of_training_is_not_played(models, loras, tmp_path):
    transformer = Checkpoint(str(models["base"])).transformer()
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=4, lora_dropout=0.5, target_modules=targets))
    set_peft_model_state_dict(transformer, {k.removeprefix("transformer."): w for k, w in first_weights(loras).items()})
    dropping = save_lora(transformer, tmp_path).parent
    torch.testing.assert_close(play(models["base"], [dropping]), play(models["base"], [loras["first"]]))


def first_weights(loras):
    return load_file(loras["first"] / WEIGHTS)


def test_several_adapters_add_up_by_their_scales(models, loras):
    scales = {"first": 0.5, "second": -0.25}
    pipeline = AceStepPipeline.from_pretrained(models["base"])
    weights = dict(pipeline.transformer.named_parameters())
    for name, scale in scales.items():
        update = load_file(loras[name] / WEIGHTS)
        for key, down in update.items():
            if ".lora_A." in key:
                layer = key.removeprefix("transformer.").split(".lora_A.")[0]
                up = update[key.replace("lora_A", "lora_B")]
                weights[f"{layer}.weight"].data += scale * 4 / 2 * up @ down  # alpha / rank
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 2, "shift": 1.0, "guidance_scale": 7.0, "audio_duration": SECONDS}
    expected = pipeline("bright", lyrics="la", generator=torch.Generator().manual_seed(5), **options).audios[0]
    found = play(models["base"], [loras["first"], loras["second"]], list(scales.values()))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert not torch.allclose(found, play(models["base"], [loras["first"]], [0.5]), atol=1e-3)


def test_a_file_is_taken_as_its_folder_is(models, loras):
    expected = play(models["base"], [loras["first"]])
    assert torch.equal(play(models["base"], [loras["first"] / WEIGHTS]), expected)


def test_an_adapter_without_its_strength_in_the_header_is_played_with_a_warning(models, loras, tmp_path, caplog):
    save_file(load_file(loras["first"] / WEIGHTS), tmp_path / "plain.safetensors")
    plain = play(models["base"], [tmp_path / "plain.safetensors"], [2.0])
    assert "plain.safetensors: its header has no lora_adapter_metadata" in caplog.text
    torch.testing.assert_close(plain, play(models["base"], [loras["first"]]), atol=1e-5, rtol=0)
    assert caplog.text.count("lora_adapter_metadata") == 1


@pytest.mark.parametrize(("lora", "equal"), [("first", False), ("nothing", True)])
def test_compare_writes_the_same_seed_with_and_without(models, loras, generate, tmp_path, lora, equal):
    output = tmp_path / "new" / "song.flac"
    status, stdout, stderr = generate(
        *("--output", output, "--lora", loras[lora], "--compare", "--num_inference_steps", 2, "--lora_scale", 0.8)
    )
    assert status == 0, stderr
    assert sorted(path.name for path in output.parent.iterdir()) == ["song.base.flac", "song.flac"]
    assert "song.flac: 0.4 s" in stdout
    assert "no LoRA" in stdout
    with_lora, without = (soundfile.read(output.parent / name)[0] for name in ("song.flac", "song.base.flac"))
    assert (with_lora == without).all() == equal
    generate("--output", tmp_path / "alone.flac", "--num_inference_steps", 2)
    assert (soundfile.read(tmp_path / "alone.flac")[0] == without).all()


def test_an_mp3_is_written_whole(generate, tmp_path):
    status, _, stderr = generate("--output", tmp_path / "song.mp3", "--num_inference_steps", 1)
    assert status == 0, stderr
    info = soundfile.info(tmp_path / "song.mp3")
    assert (info.format, info.subtype, info.samplerate, info.channels) == ("MP3", "MPEG_LAYER_III", 48_000, 2)
    generate("--output", tmp_path / "song.wav", "--num_inference_steps", 1)
    lossy, exact = (soundfile.read(tmp_path / f"song.{suffix}")[0] for suffix in ("mp3", "wav"))
    assert lossy.shape == exact.shape
    assert (lossy - exact).std() < 0.1 * exact.std()


@pytest.mark.parametrize(("name", "container"), [("song.wav", "WAV"), ("song.FLAC", "FLAC")])
def test_the_file_is_24_bit_stereo_at_48_khz(generate, tmp_path, name, container):
    status, _, stderr = generate("--output", tmp_path / name, "--num_inference_steps", 1)
    assert status == 0, stderr
    info = soundfile.info(tmp_path / name)
    assert (info.format, info.subtype, info.samplerate, info.channels) == (container, "PCM_24", 48_000, 2)
    assert info.frames == FRAMES * 1920


# What is refused


def test_an_adapter_for_another_geometry_is_refused_with_its_layers(models, loras, tmp_path):
    with pytest.raises(UserError, match=r"^--lora .*xl: .* wrong shape: transformer\.layers\.0\..* for a layer of \["):
        play(models["base"], [loras["xl"]])
    deeper = {key.replace("layers.3.", "layers.9."): w for key, w in load_file(loras["first"] / WEIGHTS).items()}
    save_file(deeper, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match=r"16 unknown: transformer\.layers\.9\..* and 8 more"):
        play(models["base"], [loras["second"], tmp_path])


def test_an_adapter_that_is_none_is_refused(models, loras, tmp_path):
    save_file({"text_encoder.layers.0.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((loras["first"] / WEIGHTS).read_bytes()[:500])
    torch.save({}, tmp_path / "pickled.bin")
    (tmp_path / "empty").mkdir()
    for lora, message in (
        (tmp_path / "empty", f"--lora {tmp_path}/empty: holds no {WEIGHTS}, which train_lora.py writes"),
        (tmp_path / "nowhere", "--lora .*nowhere: no such folder, and not a Hub id"),
        (tmp_path / "other.safetensors", "--lora .*other.safetensors: "),
        (tmp_path / "cut.safetensors", "cut.safetensors: not a whole safetensors file"),
        (tmp_path / "pickled.bin", r"ends with '\.bin'; expected a \.safetensors file"),
        ("user/lora", "--lora user/lora: could not be downloaded"),
    ):
        with pytest.raises(UserError, match=message):
            play(models["base"], [lora])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--duration", 0), "--duration is 0.0; expected more than 0"),
        (("--duration", "nan"), "--duration is nan"),
        (("--num_inference_steps", 0), "--num_inference_steps is 0"),
        (("--shift", 0), "--shift is 0.0"),
        (("--guidance_scale", -1), "--guidance_scale is -1.0"),
        (("--seed", -1), "--seed is -1"),
        (("--bpm", 7), '--bpm is "7"; expected a number between 30 and 300'),
        (("--language", "klingon"), '--language is "klingon"; expected a language the model knows'),
        (("--compare",), "--compare needs a --lora"),
        (("--lora_scale", 1), "--lora_scale needs a --lora"),
        (("--lora", "a", "b", "c", "--lora_scale", 1, 2), "--lora_scale has 2 values for 3 LoRAs"),
        (("--lora_scale_sweep", 1), "--lora_scale_sweep needs a --lora"),
        (("--lora", "a", "--lora_scale_sweep", 1, 1), "expected different numbers"),
        (("--output", "song.ogg"), "--output song.ogg: ends with '.ogg'; expected .wav, .flac or .mp3"),
        (("--output_dir", "folder"), "--output_dir goes with --prompts; write to --output"),
        (("--prompts", "p.yaml"), "expected one of --prompt, which goes to --output, and --prompts"),
        (("--skip_existing",), "--skip_existing is about files in --output_dir, and there is none"),
        (("--num_outputs", 0), "--num_outputs is 0; expected at least 1"),
        (("--cpu_offload", "--device", "cpu"), "--cpu_offload: the device is the CPU"),
        (("--lyrics", "la", "--lyrics_file", "x.txt"), "--lyrics_file and --lyrics are both there"),
        (("--reference_audio", "nowhere.wav"), "nowhere.wav: there is no such recording"),
        (("--source_audio", "x.wav"), "--source_audio needs a task that uses it: repaint or cover"),
        (("--cover_strength", 1), "--cover_strength belongs to the task cover, and the task is text2music"),
        (("--lyrics_file", "nowhere.txt"), "--lyrics_file nowhere.txt: cannot be read"),
        (("--device", "toaster"), "--device toaster"),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_line(generate, arguments, message):
    status, _, stderr = generate(*arguments)
    assert status == 2
    assert message in stderr
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1


def test_guidance_is_refused_for_turbo(generate):
    status, _, stderr = generate("--guidance_scale", 7, model="turbo")
    assert status == 2
    assert "is a turbo model, which has none" in stderr


def test_a_user_sees_no_traceback(models, loras, tmp_path, run_script):
    done = run_script(
        *(
            "generate.py",
            "--pretrained_model_name_or_path",
            models["base"],
            "--prompt",
            "bright",
            "--duration",
            SECONDS,
        ),
        *("--lora", loras["xl"], "--output", tmp_path / "song.wav"),
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: --lora")
    assert not (tmp_path / "song.wav").exists()
