"""DeepSpeed ZeRO-2, where it is installed (`pip install -e '.[deepspeed]'`), as two processes on the CPU over gloo."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from acestep.errors import UserError
from acestep.options import parse_options
from acestep.train.options import TrainOptions
from acestep.train.zero import check_zero
from tests.conftest import ROOT
from tests.train.encoded import Encoded
from tests.train.test_resume import WEIGHTS, losses
from tests.train.test_train_lora import broken_songs

STATE = "checkpoint-3/training_state.safetensors"


def with_nan(values: tuple) -> list[float]:
    """A step's numbers; JSON has null for those that are not finite."""
    return [math.nan if value is None else value for value in values]


def test_deepspeed_trains_saves_and_goes_on_as_one_process_does(encoded, train_here, tmp_path):
    """With the shipped configuration, two groups of weights, clipping, a short step and a song that is not finite."""
    pytest.importorskip("deepspeed", reason="the extra deepspeed is not installed", exc_type=ImportError)
    data = Encoded(encoded.model, broken_songs(tmp_path, encoded.model, {2}))
    shipped = yaml.safe_load((ROOT / "accelerate_configs/deepspeed_zero2.yaml").read_text())
    config = tmp_path / "deepspeed.yaml"
    config.write_text(yaml.safe_dump({**shipped, "mixed_precision": "no"}))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    launch += ["--config_file", config, "-m", "tests.train.zeroed"]
    options = ("--max_train_steps", 6, "--rank", 4, "--learning_rate", 1e-3, "--loraplus_lr_ratio", 4)
    options += ("--max_grad_norm", 0.5, "--ema_decay", 0.9, "--evaluation_draws", 0, "--checkpointing_steps", 3)
    one, two = tmp_path / "one", tmp_path / "two"
    expected = train_here(one, *options, "--train_batch_size", 4, data=data)
    assert expected["skipped_steps"] == 3  # once an epoch
    arguments = ["--dataset", data.dataset, "--pretrained_model_name_or_path", data.model, *options]
    arguments += ["--train_batch_size", 1, "--gradient_accumulation_steps", 2, "--output_dir", two]
    # its operators are compiled by a ninja that may lie beside this python
    environment = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }

    def run_two(*more) -> str:
        command = [*map(str, [*launch, *arguments, *more])]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def saved() -> dict:
        return {name: load_file(two / name) for name in (WEIGHTS, f"ema/{WEIGHTS}")}

    assert "DeepSpeed" in run_two()
    whole, curve = saved(), losses(two)
    for name, weights in {**whole, STATE: load_file(two / STATE)}.items():
        alone = load_file(one / name)
        assert weights.keys() == alone.keys()
        assert all(torch.allclose(weights[key], alone[key], rtol=1e-5, atol=1e-5) for key in alone)
    for step, alone in zip(curve, losses(one), strict=True):
        assert with_nan(step) == pytest.approx(with_nan(alone), rel=1e-5, nan_ok=True)
    assert {path.suffix for path in (two / "checkpoint-3").iterdir()} == {".json", ".safetensors"}  # no pickles
    (two / WEIGHTS).unlink()
    assert "going on from" in run_two("--resume_from_checkpoint", "latest")
    assert losses(two) == curve
    assert all(torch.equal(weights[key], saved()[name][key]) for name, weights in whole.items() for key in weights)


class Launched:
    """An accelerator as far as the check looks at it."""

    def __init__(self, **zero):
        self.state = self.deepspeed_plugin = self
        self.deepspeed_config = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "none"}, **zero}}


@pytest.mark.parametrize(
    ("more", "zero", "message"),
    [
        (("--optimizer", "adamw8bit"), {}, "--optimizer adamw8bit"),
        (("--quantization", "nf4"), {}, "--quantization nf4"),
        (("--attention", "native", "--train_batch_size", 2), {}, "--attention native"),
        ((), {"stage": 3}, "zero_stage: 3"),
        ((), {"offload_optimizer": {"device": "cpu"}}, "offload_optimizer_device: cpu"),
    ],
)
def test_what_does_not_go_together_with_deepspeed_is_named_with_the_way_out(more, zero, message, monkeypatch):
    arguments = ("--dataset", "data", "--pretrained_model_name_or_path", "model", "--output_dir", "out")
    options = parse_options(TrainOptions, "", [*map(str, (*arguments, *more))])
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.19.8")
    with pytest.raises(UserError, match=rf"{message}.*does not go together.*multi_gpu\.yaml"):
        check_zero(options, "no", Launched(**zero))
    plain = parse_options(TrainOptions, "", [*arguments])
    check_zero(plain, "bf16", Launched())
    with pytest.raises(UserError, match="--mixed_precision fp16"):
        check_zero(plain, "fp16", Launched())
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.18.9")
    with pytest.raises(UserError, match=r"deepspeed 0\.18\.9.*pip install.*multi_gpu\.yaml"):
        check_zero(plain, "no", Launched())
