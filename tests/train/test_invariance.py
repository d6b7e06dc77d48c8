"""The same run is the same run: however a step's samples are laid out, the loss curve and the adapter are one.

Two processes are started by `accelerate launch` with the public script; every layout follows the first one's curve.
Songs are whole and of different length, odd ones too: batches of several are padded.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import ROOT

TWO_PROCESSES = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"),
    *("--config_file", str(ROOT / "accelerate_configs/cpu_2_processes.yaml")),
]
LAYOUTS = {
    "batch 1 x accumulation 4": (None, "--train_batch_size 1 --gradient_accumulation_steps 4"),
    "batch 4": (None, "--train_batch_size 4"),
    "2 loader workers": (
        None,
        "--train_batch_size 2 --gradient_accumulation_steps 2 --dataloader_num_workers 2",
    ),
    "gradient checkpointing": (
        None,
        "--train_batch_size 1 --gradient_accumulation_steps 4 --gradient_checkpointing",
    ),
    "2 processes x batch 2": (TWO_PROCESSES, "--train_batch_size 2"),
    "2 processes x batch 1 x accumulation 2": (
        TWO_PROCESSES,
        "--train_batch_size 1 --gradient_accumulation_steps 2",
    ),
}


@pytest.fixture(scope="module")
def runs(encoded, tmp_path_factory):
    """Curve and adapter of each layout; five songs in steps of four, so that every second step is short."""
    from accelerate.state import AcceleratorState

    from acestep.options import parse_options
    from acestep.train.options import TrainOptions
    from acestep.train.run import train

    results = {}
    for name, (launcher, layout) in LAYOUTS.items():
        output = tmp_path_factory.mktemp("run")
        options = ["--dataset", str(encoded.dataset), "--pretrained_model_name_or_path", str(encoded.model)]
        options += ["--output_dir", str(output), *layout.split(), "--max_train_steps", "10", "--rank", "4"]
        options += ["--learning_rate", "1e-3", "--seed", "3", "--cpu"]
        if launcher is None:  # this process, which spares the imports; the script is a few lines around it
            AcceleratorState._reset_state(True)
            train(parse_options(TrainOptions, "", options))
        else:
            process = subprocess.run(
                [*launcher, str(ROOT / "scripts/train_lora.py"), *options],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            assert process.returncode == 0, f"{name}:\n{process.stdout}\n{process.stderr}"
        records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        results[name] = (
            [record for record in records if record["event"] == "step"],
            load_file(output / "pytorch_lora_weights.safetensors"),
            json.loads((output / "training_summary.json").read_text()),
        )
    return results


@pytest.mark.parametrize("name", list(LAYOUTS)[1:])
def test_loss_curve_and_adapter_do_not_depend_on_the_layout(runs, name):
    steps, adapter, summary = runs[name]
    first_steps, first_adapter, first_summary = runs[next(iter(LAYOUTS))]
    assert [step["samples"] for step in steps] == [4, 1] * 5
    for step, first in zip(steps, first_steps, strict=True):
        assert step["loss"] == pytest.approx(first["loss"], rel=1e-5)
        assert step["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-4)
        assert step["learning_rate"] == first["learning_rate"]
        assert step["audio_seconds"] == first["audio_seconds"]
    assert adapter.keys() == first_adapter.keys()
    for key, weight in adapter.items():
        torch.testing.assert_close(weight, first_adapter[key], rtol=1e-5, atol=1e-5)
    assert summary["evaluation_after"]["loss"] == pytest.approx(first_summary["evaluation_after"]["loss"], rel=1e-5)


# Of the batch of four on an x86 processor; the other layouts are compared with the run of this machine above.
RECORDED = (
    *(3.440484046936035, 3.3393287658691406, 3.369356155395508, 3.7765965461730957, 3.4832053184509277),
    *(3.4673104286193848, 3.2713258266448975, 3.2935631275177, 3.25856351852417, 3.6326704025268555),
)


def test_the_curve_is_the_recorded_one(runs):
    """What a change of code must not change, or must record anew and say why."""
    steps, adapter, _ = runs["batch 4"]
    assert [step["loss"] for step in steps] == pytest.approx(RECORDED, rel=1e-5)
    norm = sum(weight.double().square().sum() for key, weight in adapter.items() if "lora_B" in key).sqrt()
    assert norm.item() == pytest.approx(0.2091315656787412, rel=1e-5)


def test_the_adapter_moved(runs):
    # otherwise the comparison above would hold for a trainer that does nothing
    _, adapter, summary = runs["batch 4"]
    assert max(weight.abs().max() for key, weight in adapter.items() if "lora_B" in key) > 1e-3
    assert summary["evaluation_after"]["loss"] < summary["evaluation_before"]["loss"]
