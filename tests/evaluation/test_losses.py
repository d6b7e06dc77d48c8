"""Losses song by song: the figures of training's validation, of every kind of adapter, and a model left as it was."""

import json

import numpy as np
import pytest
import torch

from acestep.dataset.opening import open_dataset
from acestep.errors import UserError
from acestep.evaluation.losses import measure_losses
from acestep.evaluation.model import MeasuredModel, labels
from acestep.models.checkpoint import Checkpoint

RUN = ("--rank", 4, "--learning_rate", 1e-2, "--max_train_steps", 2, "--evaluation_draws", 0, "--validation_draws", 3)


def measure(model: MeasuredModel, rows, **settings) -> np.ndarray:
    return measure_losses(model.velocity_loss, rows, model.device, **{"seed": 0, "draws": 3, **settings})


def mean_as_training(losses: np.ndarray) -> float:
    """The mean with the one rounding that training's sum over processes has."""
    sums = torch.zeros(losses.shape[1], dtype=torch.float64)
    for row in losses:
        sums += torch.from_numpy(row)
    return (sums.float().double() / len(losses)).mean().item()


@pytest.mark.parametrize(
    ("adapter", "settings"),
    [
        ("lora", {}),
        ("dora", {"precision": "bf16", "seed": 3, "crop": 2}),
        ("lokr", {}),
        ("loha", {}),
        ("oft", {}),
        ("lora", {"quantization": "nf4"}),
    ],
)
def test_the_mean_is_the_validation_of_training_to_the_bit(encoded, held, train_here, tmp_path, adapter, settings):
    precision, seed, crop = settings.get("precision", "no"), settings.get("seed", 0), settings.get("crop", 0)
    quantization = settings.get("quantization", "none")
    how = ("--mixed_precision", precision, "--seed", seed, "--crop_seconds", crop, "--quantization", quantization)
    train_here(tmp_path, *RUN, "--adapter", adapter, *how, "--validation_dataset", held, "--validation_steps", 2)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    by_event = {record["event"]: record for record in records}
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = MeasuredModel(Checkpoint(str(encoded.model)), "cpu", dtype, quantization)
    rows, _ = open_dataset(str(held))
    (contestant,) = model.read([str(tmp_path)], [1.0])
    same = {"seed": seed, "crop_frames": 25 * crop}
    before = measure(model, rows, **same)
    with model.playing(contestant):
        found = measure(model, rows, **same)
    assert mean_as_training(before) == by_event["base"]["loss"]
    assert mean_as_training(found) == by_event["validation"]["loss"]
    assert by_event["base"]["loss"] != by_event["validation"]["loss"]
    assert [loss for _, loss in by_event["validation"]["by_timestep"]] == pytest.approx(found.mean(axis=0), rel=1e-6)
    assert np.array_equal(measure(model, rows, **same), before)  # nothing of the adapter stays


def test_a_strength_of_zero_is_the_model_alone_and_half_is_neither(encoded, held, train_here, tmp_path):
    train_here(tmp_path, *RUN)
    model, (rows, _) = MeasuredModel(Checkpoint(str(encoded.model)), "cpu", torch.float32), open_dataset(str(held))
    contestants = model.read([str(tmp_path)] * 3, [0.0, 0.5, 1.0])
    assert [one.label for one in contestants] == [f"{tmp_path.name} x 0", f"{tmp_path.name} x 0.5", tmp_path.name]
    found = []
    for one in [None, *contestants]:
        with model.playing(one):
            found.append(measure(model, rows, draws=1).mean())
    assert found[1] == pytest.approx(found[0], abs=1e-6)
    assert len({f"{loss:.5f}" for loss in found[1:]}) == 3


def test_an_adapter_that_fails_half_way_leaves_the_model_alone(encoded, held, train_here, tmp_path):
    train_here(tmp_path, *RUN)
    model, (rows, _) = MeasuredModel(Checkpoint(str(encoded.model)), "cpu", torch.float32), open_dataset(str(held))
    (contestant,) = model.read([str(tmp_path)], [1.0])
    before = measure(model, rows, draws=1)
    with pytest.raises(KeyboardInterrupt), model.playing(contestant):
        raise KeyboardInterrupt
    assert np.array_equal(measure(model, rows, draws=1), before)


def test_adapters_are_told_apart_by_as_little_of_their_path_as_is_needed():
    assert labels(["runs/a", "b.safetensors"], [1, 0.5]) == ["a", "b.safetensors x 0.5"]
    assert labels(["runs/a/best", "runs/a"], [1, 1]) == ["a/best", "a"]
    assert labels(["one/a", "two/a", "two/a/checkpoint-20"], [1, 1, 1]) == ["one/a", "two/a", "two/a/checkpoint-20"]
    assert labels(["x/a", "x/a"], [1, 0.5]) == ["a", "a x 0.5"]
    assert labels(["base"], [1]) == ["base (LoRA)"]
    with pytest.raises(UserError, match="--lora x/a: is there 2 times"):
        labels(["x/a", "x/a"], [1, 1])


def test_adapters_that_do_not_fit_or_have_no_strength_are_refused_before_the_work(encoded, train_here, tmp_path):
    train_here(tmp_path / "oft", *RUN, "--adapter", "oft")
    model = MeasuredModel(Checkpoint(str(encoded.model)), "cpu", torch.float32)
    with pytest.raises(UserError, match=r"--lora_scale 0\.5: .* a rotation, which has none but 1"):
        model.read([str(tmp_path / "oft")], [0.5])
    with pytest.raises(UserError, match="--lora nowhere"):
        model.read(["nowhere"], [1.0])
