"""Previews while training: what generate.py would play, without touching the run, and a page to compare by ear."""

import dataclasses
import json
import os
import re
from types import SimpleNamespace

import pytest
import soundfile
import torch
from accelerate import Accelerator

from acestep.errors import UserError
from acestep.models.checkpoint import Checkpoint
from acestep.models.generation import Generator
from acestep.models.generation_requests import Request
from acestep.models.quantization import quantize
from acestep.train.adapter import add_adapter, save_lora
from acestep.train.previews import Previews, clear_previews
from acestep.train.trackers import log_audio
from tests.train.encoded import make_model

CPU = torch.device("cpu")
SHORT = {"num_inference_steps": 2, "duration": 0.4}
PIANO = Request("piano", "slow piano", "la la", language="en", bpm=96, seed=5, **SHORT)
DRUMS = Request("drums", "<b>drums</b> & bass", "[Instrumental]", seed=6, **SHORT)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {variant: make_model(folder / variant, 3, variant) for variant in ("base", "turbo", "xl")}


def trained(model, kind="lora", quantization="none", dtype=torch.float32, amount=0.1):
    """A transformer with an adapter that has learned something, trainable, as a run has it."""
    transformer = Checkpoint(str(model)).transformer(dtype)
    if quantization != "none":
        quantize(transformer, quantization, torch.float32, CPU)
    size = {"lora": 2, "dora": 2, "oft": 8}.get(kind, 4)
    parameters = add_adapter(transformer, ["attention"], size, 4, False, 0, kind=kind)
    torch.manual_seed(1)
    for parameter in parameters:
        parameter.data += (5 if kind == "loha" else 1) * amount * torch.randn_like(parameter)
    return transformer.train()


def previews_of(model, folder, requests=(PIANO,), dtype=torch.float32, accelerator=None):
    return Previews(Checkpoint(str(model)), list(requests), folder, CPU, dtype, accelerator)


def heard(folder, name="piano", step="step-000010"):
    audio, rate = soundfile.read(folder / "previews" / step / f"{name}.flac", dtype="float32")
    assert rate == 48_000
    return torch.from_numpy(audio.T)


def generated(model, request, loras=(), quantization="none", **options):
    generator = Generator(Checkpoint(str(model)), "cpu", torch.float32, list(map(str, loras)), None, quantization)
    generator.pipeline.set_progress_bar_config(disable=True)
    sampling = request.sampling(generator.checkpoint.is_turbo, str)
    tags = {"bpm": request.bpm, "vocal_language": request.language, "audio_duration": request.duration}
    return generator(request.prompt, request.lyrics, request.seed, sampling, **tags, **options)


def assert_same(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-5  # a FLAC of 24 bits


# What is heard


@pytest.mark.parametrize(
    ("variant", "kind"),
    [("base", "lora"), ("turbo", "lora"), ("xl", "lora"), ("base", "dora"), ("base", "lokr"), ("base", "loha")],
)
def test_a_preview_is_what_generate_plays_with_the_saved_adapter(models, tmp_path, variant, kind):
    transformer = trained(models[variant], kind)
    previews_of(models[variant], tmp_path).make(transformer, 10)
    adapter = save_lora(transformer, tmp_path)
    with_adapter = generated(models[variant], PIANO, [adapter])
    alone = generated(models[variant], PIANO, [adapter], use_adapters=False)
    assert not torch.allclose(with_adapter, alone, atol=1e-2)
    assert_same(heard(tmp_path), with_adapter)
    assert_same(heard(tmp_path, step="base"), alone)


def test_the_base_of_an_oft_run_is_the_model_alone(models, tmp_path):
    previews_of(models["base"], tmp_path).make(trained(models["base"], "oft"), 10)
    alone = generated(models["base"], PIANO)
    assert_same(heard(tmp_path, step="base"), alone)
    assert not torch.allclose(heard(tmp_path), alone, atol=1e-2)


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_quantized_run_is_heard_as_generate_plays_it_quantized(models, tmp_path, quantization):
    transformer = trained(models["base"], quantization=quantization)
    previews_of(models["base"], tmp_path).make(transformer, 10)
    adapter = save_lora(transformer, tmp_path)
    quantized = (heard(tmp_path) - generated(models["base"], PIANO, [adapter], quantization)).abs().max()
    plain = (heard(tmp_path) - generated(models["base"], PIANO, [adapter])).abs().max()
    assert_same(heard(tmp_path, step="base"), generated(models["base"], PIANO, (), quantization))
    assert quantized < 1e-5
    assert plain > 1e-3


HALF = [(kind, torch.bfloat16) for kind in ("lora", "lokr", "loha", "oft")] + [("lora", torch.float16)]


@pytest.mark.parametrize(("kind", "dtype"), HALF)
def test_a_float32_adapter_on_a_model_in_half_precision_is_heard(models, tmp_path, kind, dtype):
    transformer = trained(models["base"], kind, dtype=dtype, amount=1.0 if kind == "oft" else 0.3)
    assert {p.dtype for p in transformer.parameters() if p.requires_grad} == {torch.float32}
    previews_of(models["base"], tmp_path, dtype=dtype).make(transformer, 10)
    found, base = heard(tmp_path), heard(tmp_path, step="base")
    exact, alone = (
        generated(models["base"], PIANO, [save_lora(transformer, tmp_path)]),
        generated(models["base"], PIANO),
    )
    assert (found - exact).std() < 0.3 * (found - base).std()
    assert (base - alone).std() < 0.3 * (found - base).std()


def likeness(a, b):
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]


def test_a_run_under_accelerates_autocast_is_heard(models, tmp_path):
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    plain = trained(models["base"], dtype=torch.bfloat16)
    adapter = save_lora(plain, tmp_path)
    transformer = accelerator.unwrap_model(accelerator.prepare(plain))
    previews_of(models["base"], tmp_path, dtype=torch.bfloat16, accelerator=accelerator).make(transformer, 10)
    assert likeness(heard(tmp_path), generated(models["base"], PIANO, [adapter])) > 0.98
    assert torch.is_tensor(transformer(**_inputs(transformer)).sample)  # training goes on


def _inputs(transformer):
    config = transformer.config
    channels, dtype = config.audio_acoustic_hidden_dim, torch.bfloat16
    return {
        "hidden_states": torch.zeros(1, 4, channels, dtype=dtype),
        "timestep": torch.zeros(1),
        "timestep_r": torch.zeros(1),
        "encoder_hidden_states": torch.zeros(1, 3, config.encoder_hidden_size, dtype=dtype),
        "context_latents": torch.zeros(1, 4, 2 * channels, dtype=dtype),
    }


# What is left alone


def test_the_run_is_left_as_it_was(models, tmp_path):
    transformer = trained(models["base"], "dora")
    transformer.enable_gradient_checkpointing()
    frozen = next(parameter for name, parameter in transformer.named_parameters() if "lora_B" in name)
    frozen.requires_grad_(False)
    before = {name: (p.requires_grad, p.detach().clone()) for name, p in transformer.named_parameters()}
    random = torch.get_rng_state()
    previews_of(models["base"], tmp_path).make(transformer, 10)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in transformer.modules())
    for name, parameter in transformer.named_parameters():
        assert parameter.requires_grad == before[name][0], name
        assert torch.equal(parameter, before[name][1]), name
        assert parameter.grad is None


def test_the_base_is_played_once_also_when_a_run_goes_on(models, tmp_path):
    transformer = trained(models["base"])
    previews = previews_of(models["base"], tmp_path)
    previews.make(transformer, 10)
    base = tmp_path / "previews" / "base" / "piano.flac"
    os.utime(base, ns=(1, 1))
    previews.make(transformer, 20)
    previews_of(models["base"], tmp_path).make(transformer, 30)
    assert base.stat().st_mtime_ns == 1
    other = dataclasses.replace(PIANO, seed=9)
    previews_of(models["base"], tmp_path, [other]).make(transformer, 40)
    assert base.stat().st_mtime_ns != 1
    assert_same(heard(tmp_path, step="base"), generated(models["base"], other))


def test_a_base_that_was_played_before_training_is_kept(models, tmp_path):
    plain = Checkpoint(str(models["base"])).transformer()
    previews = previews_of(models["base"], tmp_path)
    previews.make_base(plain)
    assert_same(heard(tmp_path, step="base"), generated(models["base"], PIANO))
    assert [path.name for path in (tmp_path / "previews").iterdir() if path.is_dir()] == ["base"]


def test_the_rest_of_a_pissa_model_is_not_taken_for_the_model(models, tmp_path):
    transformer = trained(models["base"])
    transformer.peft_config["default"].init_lora_weights = "pissa"
    previews_of(models["base"], tmp_path).make(transformer, 10)
    assert not (tmp_path / "previews" / "base").exists()
    assert "base" not in columns(tmp_path)


def test_only_the_main_process_makes_anything(models, tmp_path):
    follower = SimpleNamespace(is_main_process=False, trackers=[])
    previews = previews_of(models["base"], tmp_path, accelerator=follower)
    previews.make_base(None)
    previews.make(None, 10)
    assert not any(tmp_path.iterdir())


# What goes wrong ends the previews, not the run


def test_music_that_is_not_finite_is_said_on_the_page(models, tmp_path, caplog):
    transformer = trained(models["base"])
    previews = previews_of(models["base"], tmp_path)
    previews.make(transformer, 10)
    next(p for name, p in transformer.named_parameters() if "lora_B" in name).data[:] = torch.nan
    previews.make(transformer, 10)
    assert "preview piano at step 10 is not finite" in caplog.text
    assert not (tmp_path / "previews" / "step-000010" / "piano.flac").exists()
    assert "not finite" in page(tmp_path)
    assert transformer.training


def test_too_little_memory_is_said_once(models, tmp_path, caplog):
    transformer = trained(models["base"])
    previews = previews_of(models["base"], tmp_path)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    hook = transformer.register_forward_pre_hook(full)
    previews.make(transformer, 10)
    hook.remove()
    previews.make(transformer, 20)
    assert caplog.text.count("no more previews in this run: there is not enough memory") == 1
    assert transformer.training
    assert not list(tmp_path.rglob("*.flac"))


def test_a_folder_that_cannot_be_written_ends_the_previews(models, tmp_path, caplog):
    transformer = trained(models["base"])
    previews = previews_of(models["base"], tmp_path)
    (tmp_path / "previews").write_text("in the way")
    previews.make(transformer, 10)
    assert "no more previews in this run: " in caplog.text


def test_guidance_is_refused_for_turbo_before_anything_is_read(models, tmp_path):
    guided = dataclasses.replace(PIANO, guidance_scale=7.0)
    with pytest.raises(UserError, match=r"preview 'piano': \"guidance_scale\" is 7: this is a turbo model"):
        previews_of(models["turbo"], tmp_path, [guided])


# The page


def page(folder):
    return (folder / "previews" / "index.html").read_text(encoding="utf-8")


def columns(folder):
    return re.findall(r'<th scope="col">(.*?)</th>', page(folder))


def test_the_page_has_a_row_a_prompt_and_a_column_a_step(models, tmp_path):
    transformer = trained(models["base"])
    previews_of(models["base"], tmp_path, [PIANO, DRUMS]).make(transformer, 200)
    previews = previews_of(models["base"], tmp_path, [PIANO, DRUMS])  # the run goes on
    previews.make(transformer, 1000)
    previews.make(transformer, 400)
    assert columns(tmp_path) == ["prompt", "base", "step 200", "step 400", "step 1000"]
    text = page(tmp_path)
    sources = re.findall(r' src="(.*?)"', text)
    assert len(sources) == 8
    assert all((tmp_path / "previews" / source).is_file() for source in sources)
    assert sources[:2] == ["base/piano.flac", "step-000200/piano.flac"]
    assert "&lt;b&gt;drums&lt;/b&gt; &amp; bass" in text
    assert "<b>drums" not in text
    audio = heard(tmp_path, "drums", "step-000400")
    assert f"0.4 s, peak {audio.abs().max():.3f}, RMS {audio.square().mean().sqrt():.3f}" in text
    assert "http" not in text


def test_what_was_asked_otherwise_is_not_compared(models, tmp_path):
    transformer = trained(models["base"])
    previews_of(models["base"], tmp_path, [PIANO, DRUMS]).make(transformer, 10)
    other = dataclasses.replace(DRUMS, prompt="violins")
    previews_of(models["base"], tmp_path, [PIANO, other]).make(transformer, 20)
    shown = re.findall(r' src="(.*?)"', page(tmp_path))
    assert "step-000010/piano.flac" in shown
    assert "step-000010/drums.flac" not in shown
    assert {"step-000020/drums.flac", "base/drums.flac"} <= set(shown)


def test_a_damaged_record_costs_its_column_only(models, tmp_path):
    transformer = trained(models["base"])
    previews = previews_of(models["base"], tmp_path)
    previews.make(transformer, 10)
    (tmp_path / "previews" / "step-000010" / "clips.json").write_text("{")
    previews.make(transformer, 20)
    assert columns(tmp_path) == ["prompt", "base", "step 20"]


def test_clearing_removes_what_was_made_and_nothing_else(models, tmp_path):
    previews_of(models["base"], tmp_path).make(trained(models["base"]), 10)
    mine = tmp_path / "previews" / "step-000010" / "notes.txt"
    mine.write_text("the best so far")
    clear_previews(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]
    clear_previews(tmp_path)


# Trackers


def test_tensorboard_gets_the_audio_of_every_preview(models, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=tmp_path / "logs")
    accelerator.init_trackers("run")
    previews_of(models["base"], tmp_path, accelerator=accelerator).make(trained(models["base"]), 10)
    accelerator.end_training()
    events = EventAccumulator(str(tmp_path / "logs" / "run")).Reload()
    assert events.Tags()["audio"] == ["preview_base/piano", "preview/piano"]
    (event,) = events.Audio("preview/piano")
    assert (event.step, event.sample_rate, event.length_frames) == (10, 48_000, heard(tmp_path).shape[1])
    (tmp_path / "sound.wav").write_bytes(event.encoded_audio_string)
    mono = soundfile.read(tmp_path / "sound.wav", dtype="float32")[0]
    assert (torch.from_numpy(mono) - heard(tmp_path).mean(0)).abs().max() < 1e-4


def test_a_tracker_that_takes_no_audio_is_left_out():
    silent = SimpleNamespace(trackers=[SimpleNamespace(name="mlflow")])
    assert log_audio(silent, "preview/piano", torch.zeros(2, 10), 48_000, 1) == []


def test_the_record_says_what_was_asked(models, tmp_path):
    previews_of(models["base"], tmp_path).make(trained(models["base"]), 10)
    record = json.loads((tmp_path / "previews" / "step-000010" / "clips.json").read_text())
    assert record["step"] == 10
    assert record["clips"]["piano"]["settings"]["bpm"] == 96
    assert record["clips"]["piano"]["peak"] == pytest.approx(10 ** (-1 / 20), rel=1e-3)


def test_a_run_plays_its_prompts_by_step_beside_the_model_alone(encoded, run_script, tmp_path):
    """Through the script, with a checkpoint to go on from: base once, then by step, and a page to listen through."""
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text("- {prompt: lo-fi piano, duration: 2, seed: 3, name: piano, num_inference_steps: 2}\n")
    train = ["train_lora.py", "--dataset", encoded.dataset, "--pretrained_model_name_or_path", encoded.model, "--cpu"]
    train += ["--output_dir", tmp_path / "out", "--rank", 4, "--max_train_steps", 5, "--evaluation_draws", 0]
    train += ["--preview_prompts", prompts, "--preview_steps", 2, "--learning_rate", 0.05]
    run_script(*train)
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out/previews").rglob("*.flac"))
    assert found == [f"previews/{name}/piano.flac" for name in ("base", "step-000002", "step-000004", "step-000005")]
    page = (tmp_path / "out" / "previews" / "index.html").read_text()
    assert page.count("<audio") == 4
    again = run_script(*train, check=False)
    assert "holds pytorch_lora_weights.safetensors" in again.stderr
