"""Many prompts at once: files, their record, the page, going on after an interruption, and nothing lost in silence."""

import json
import re
import runpy
import sys

import numpy as np
import pytest
import soundfile
import torch
from peft import LoraConfig, OFTConfig

from acestep.models.checkpoint import Checkpoint
from acestep.models.tiny import save_tiny_pipeline, tiny_components
from acestep.train.adapter import save_lora
from tests.conftest import ROOT

PROMPTS = """\
- {name: piano, prompt: slow <b>piano</b>, seed: 3}
- {name: drums, prompt: drums, lyrics: la la, bpm: 120, duration: 0.28}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_tiny_pipeline(tiny_components(3, latent_channels=2, downsampling_ratios=(40, 48)), folder)
    return folder


def make_adapter(model, folder, config):
    transformer = Checkpoint(str(model)).transformer()
    transformer.add_adapter(config)
    torch.manual_seed(1)
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return save_lora(transformer, folder).parent


@pytest.fixture(scope="module")
def lora(model, tmp_path_factory):
    return make_adapter(model, tmp_path_factory.mktemp("lora"), LoraConfig(r=2, target_modules=["to_q", "to_v"]))


@pytest.fixture
def generate(model, tmp_path, monkeypatch, capsys):
    """The script, in this process: its exit status, standard output and standard error."""

    def generate(*arguments):
        argv = ["--pretrained_model_name_or_path", model, "--num_inference_steps", 1, *arguments]
        if "--source_audio" not in arguments:
            argv += ["--duration", 0.2]
        monkeypatch.setattr(sys, "argv", ["generate.py", *map(str, argv)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "scripts" / "generate.py"), run_name="__main__")
        return end.value.code, *capsys.readouterr()

    (tmp_path / "prompts.yaml").write_text(PROMPTS)
    return generate


def sound(path):
    return soundfile.read(path, dtype="float32")[0]


def music(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".flac", ".wav", ".mp3"))


def test_a_batch_is_what_its_prompts_are_alone(generate, tmp_path):
    out = tmp_path / "out"
    status, stdout, stderr = generate("--prompts", tmp_path / "prompts.yaml", "--output_dir", out, "--format", "wav")
    assert status == 0, stderr
    assert music(out) == ["drums.wav", "piano.wav"]
    assert "2 of 2 pieces are to be made" in stdout
    generate("--prompt", "slow <b>piano</b>", "--seed", 3, "--output", tmp_path / "alone.wav")
    assert np.array_equal(sound(tmp_path / "alone.wav"), sound(out / "piano.wav"))
    assert len(sound(out / "drums.wav")) == 8 * 1920  # its own duration, not that of all
    page = (out / "index.html").read_text()
    assert "slow &lt;b&gt;piano&lt;/b&gt;" in page
    assert re.findall(r' src="(.*?)"', page) == ["piano.wav", "drums.wav"]


def test_a_sweep_plays_each_strength_at_one_seed(generate, lora, tmp_path):
    arguments = ("--prompts", tmp_path / "prompts.yaml", "--output_dir", tmp_path / "out", "--lora", lora, "--compare")
    status, _, stderr = generate(*arguments, "--lora_scale_sweep", 0, 0.5, 1, "--lora_scale", 0.8)
    assert status == 0, stderr
    out = tmp_path / "out"
    assert len(music(out)) == 8
    heard = {name: sound(out / f"piano.{name}.flac") for name in ("base", "scale-0", "scale-0.5", "scale-1")}
    assert np.array_equal(heard["base"], heard["scale-0"])
    assert not np.array_equal(heard["scale-0.5"], heard["scale-0"])
    generate(
        "--prompt", "slow <b>piano</b>", "--seed", 3, "--lora", lora, "--lora_scale", 0.4, "--output", out / "x.flac"
    )
    assert np.array_equal(heard["scale-0.5"], sound(out / "x.flac"))
    page = (out / "index.html").read_text()
    assert re.findall(r'<th scope="col">(.*?)</th>', page) == ["prompt", "base", "scale 0", "scale 0.5", "scale 1"]


def test_a_sweep_of_one_prompt_has_a_page_beside_it(generate, lora, tmp_path):
    output = tmp_path / "one" / "song.mp3"
    sweep = ("--lora", lora, "--lora_scale_sweep", 0, 1.5)
    status, stdout, stderr = generate("--prompt", "x", "--output", output, *sweep)
    assert status == 0, stderr
    names = ["song.html", "song.scale-0.mp3", "song.scale-1.5.mp3"]
    assert sorted(path.name for path in output.parent.iterdir()) == names
    assert f"open {output.with_suffix('.html')}" in stdout


def test_several_outputs_have_seeds_that_follow_one_another(generate, tmp_path):
    status, _, stderr = generate("--prompt", "x", "--seed", 4, "--num_outputs", 2, "--output", tmp_path / "a.wav")
    assert status == 0, stderr
    generate("--prompt", "x", "--seed", 5, "--output", tmp_path / "five.wav")
    assert np.array_equal(sound(tmp_path / "a.seed-5.wav"), sound(tmp_path / "five.wav"))
    assert not np.array_equal(sound(tmp_path / "a.seed-4.wav"), sound(tmp_path / "five.wav"))


def test_a_folder_is_gone_on_with_and_never_written_over_in_silence(generate, lora, tmp_path):
    out = tmp_path / "out"
    arguments = ("--prompts", tmp_path / "prompts.yaml", "--output_dir", out, "--lora", lora)
    generate(*arguments)
    first = {name: (out / name).stat().st_mtime_ns for name in music(out)}
    status, _, stderr = generate(*arguments)
    assert status == 2
    assert "piano.flac and 1 more are there already" in stderr
    assert "--skip_existing, or replace with --overwrite" in stderr

    (out / "drums.flac").unlink()  # as an interruption would have left it
    status, stdout, _ = generate(*arguments, "--skip_existing")
    assert status == 0
    assert "1 of 2 pieces are to be made" in stdout
    assert (out / "piano.flac").stat().st_mtime_ns == first["piano.flac"]
    assert len(re.findall(r" src=", (out / "index.html").read_text())) == 2

    status, _, stderr = generate(*arguments, "--skip_existing", "--lora_scale", 0.5)
    assert status == 2
    assert "piano.flac and 1 more are made with other settings" in stderr
    before = sound(out / "piano.flac")
    status, stdout, _ = generate(*arguments, "--skip_existing", "--lora_scale", 0.5, "--overwrite")
    assert (status, "2 of 2" in stdout) == (0, True)
    assert not np.array_equal(before, sound(out / "piano.flac"))
    status, stdout, _ = generate(*arguments, "--skip_existing", "--lora_scale", 0.5)
    assert (status, "0 of 2" in stdout) == (0, True)


def test_the_record_says_how_each_file_was_made(generate, lora, tmp_path):
    generate("--prompts", tmp_path / "prompts.yaml", "--output_dir", tmp_path / "out", "--lora", lora)
    record = json.loads((tmp_path / "out" / "generated.json").read_text())
    settings = record["piano.flac"]["settings"]
    assert (settings["seed"], settings["steps"], settings["guidance"], settings["quantization"]) == (3, 1, 7.0, "none")
    assert settings["adapters"][0][1] == 1.0
    assert str(tmp_path) not in json.dumps(record)


def test_repainting_a_file_keeps_what_was_heard_outside(generate, tmp_path):
    time = np.arange(48_000) / 48_000
    source = np.stack([0.3 * np.sin(1400 * time), 0.2 * np.sin(900 * time)], 1)
    soundfile.write(tmp_path / "in.flac", source, 48_000, subtype="PCM_24")
    task = ("--task", "repaint", "--source_audio", tmp_path / "in.flac", "--repaint_start", 0.4, "--repaint_end", 0.6)
    status, _, stderr = generate("--prompt", "x", *task, "--output", tmp_path / "out.flac")
    assert status == 0, stderr
    made, exact = sound(tmp_path / "out.flac"), sound(tmp_path / "in.flac")
    outside = np.r_[0 : 10 * 1920, 15 * 1920 : 48_000]
    assert np.array_equal(made[outside], exact[outside])
    assert np.abs(made - exact)[10 * 1920 : 15 * 1920].mean() > 0.05
    status, _, stderr = generate("--prompt", "x", *task[:-1], 3, "--output", tmp_path / "late.flac")
    assert status == 2
    assert stderr.splitlines()[-1] == "error: --repaint_end is 3; the source is 1.00 s long."


def test_a_recording_that_is_damaged_is_refused(generate, tmp_path):
    soundfile.write(tmp_path / "whole.wav", np.ones((48_000, 2)) / 2, 48_000)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "whole.wav").read_bytes()[:50_000])
    for name, message in (("cut.wav", "cut.wav: "), ("prompts.yaml", "holds no audio of a format that is known")):
        arguments = ("--task", "cover", "--source_audio", tmp_path / name)
        status, _, stderr = generate("--prompt", "x", *arguments, "--output", tmp_path / "out.wav")
        assert status == 2
        assert stderr.splitlines()[-1].startswith("error: --source_audio")
        assert message in stderr
    assert not (tmp_path / "out.wav").exists()


def test_an_oft_adapter_has_no_strength_to_sweep(generate, model, tmp_path):
    rotation = make_adapter(model, tmp_path / "oft", OFTConfig(oft_block_size=8, r=0, target_modules=["to_q"]))
    output = ("--prompt", "x", "--output", tmp_path / "x.wav", "--lora", rotation)
    status, _, stderr = generate(*output, "--lora_scale_sweep", 1, 0.5)
    assert status == 2
    assert not list(tmp_path.glob("*.wav"))
    assert "an OFT adapter plays alone and at 1 only: a rotation has no strength" in stderr
    assert generate(*output, "--compare")[0] == 0
    assert not np.array_equal(sound(tmp_path / "x.wav"), sound(tmp_path / "x.base.wav"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected one of --prompt, which goes to --output, and --prompts"),
        (("--prompts", "p.yaml"), "--prompts needs an --output_dir"),
        (("--prompts", "p.yaml", "--output", "x.wav"), "--output goes with --prompt; write to --output_dir"),
    ],
)
def test_options_that_do_not_go_together_are_refused(generate, arguments, message):
    status, _, stderr = generate(*arguments)
    assert status == 2
    assert message in stderr


def test_two_takes_of_one_name_are_refused(generate, lora, tmp_path):
    (tmp_path / "same.yaml").write_text("- {name: a, prompt: x}\n- {name: a.base, prompt: y}\n")
    arguments = ("--prompts", tmp_path / "same.yaml", "--output_dir", tmp_path / "out", "--lora", lora, "--compare")
    status, _, stderr = generate(*arguments)
    assert status == 2
    assert "a.base.flac: both 'a' and 'a.base' would be written to it" in stderr
