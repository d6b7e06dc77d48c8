"""`make_demo.py` as its user runs it."""

import subprocess
import sys
from pathlib import Path

from diffusers import AceStepPipeline

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_demo.py"


def _run(*arguments, python_options=()):
    command = [sys.executable, *python_options, SCRIPT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_answers_without_loading_torch():
    result = _run("--help", python_options=["-X", "importtime"])
    assert result.returncode == 0
    assert "--flow_steps" in result.stdout
    loaded = {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
    assert "acestep.options" in loaded
    assert not loaded & {"torch", "diffusers", "soundfile"}


def test_it_makes_songs_and_a_model_and_says_so(tmp_path):
    result = _run("--output_dir", tmp_path, "--practice_songs", "3", "--decoder_steps", "1", "--flow_steps", "1")
    assert result.returncode == 0, result.stderr
    songs, model = tmp_path / "songs", tmp_path / "model"
    assert f"{songs}: 6 songs" in result.stdout
    assert "flow-matching loss on them" in result.stdout
    assert (songs / "last_train_home.opus").stat().st_size > 10_000
    assert AceStepPipeline.from_pretrained(model).vae.hop_length == 1920


def test_a_number_of_steps_below_zero_is_refused(tmp_path):
    result = _run("--output_dir", tmp_path / "demo", "--flow_steps", "-1")
    assert result.returncode == 2
    assert "--flow_steps is -1; expected 0 or more" in result.stderr
    assert not (tmp_path / "demo").exists()
