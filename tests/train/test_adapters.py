"""Kinds of adapters, optimizers and quantized bases: each is trained, saved, and played by the pipeline as trained."""

import json

import pytest
import torch
from safetensors.torch import load_file

from acestep.errors import UserError
from acestep.models.checkpoint import Checkpoint
from acestep.models.generation import Generator
from acestep.models.quantization import quantize
from acestep.options import parse_options
from acestep.train.adapter import add_adapter, save_lora
from acestep.train.optimizer_state import (
    group_settings,
    restore_group_settings,
    restore_training_tensors,
    trainable,
    training_tensors,
)
from acestep.train.optimizers import make_optimizer
from acestep.train.options import ADAPTERS, OPTIMIZERS, TrainOptions
from tests.train.encoded import CHANNELS

WEIGHTS = "pytorch_lora_weights.safetensors"


def inputs(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 50, CHANNELS, generator=generator),
        "timestep": torch.tensor([0.4]),
        "timestep_r": torch.tensor([0.4]),
        "encoder_hidden_states": torch.randn(1, 9, checkpoint.condition_size, generator=generator),
        "context_latents": torch.randn(1, 50, 2 * CHANNELS, generator=generator),
    }


@torch.no_grad()
def shake(parameters: list) -> None:
    for number, parameter in enumerate(parameters):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        parameter.add_(noise / 10)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_every_kind_starts_as_the_base_and_is_played_as_it_was_trained(encoded, tmp_path, kind):
    checkpoint = Checkpoint(str(encoded.model))
    with torch.no_grad():
        base = checkpoint.transformer(torch.float32)(**inputs(checkpoint)).sample
    trained = checkpoint.transformer(torch.float32)
    parameters = add_adapter(trained, ["attention", "mlp"], 8, 16, False, seed=0, kind=kind)
    assert all(parameter.dtype == torch.float32 for parameter in parameters)
    torch.testing.assert_close(trained(**inputs(checkpoint)).sample, base, rtol=0, atol=1e-5)
    shake(parameters)
    trained(**inputs(checkpoint)).sample.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in parameters)
    save_lora(trained, tmp_path)
    generator = Generator(checkpoint, "cpu", torch.float32, [str(tmp_path)])
    with torch.no_grad():
        velocity = trained(**inputs(checkpoint)).sample
        played = generator.pipeline.transformer(**inputs(checkpoint)).sample
        generator.pipeline.disable_lora()
        without = generator.pipeline.transformer(**inputs(checkpoint)).sample
    torch.testing.assert_close(played, velocity, rtol=0, atol=1e-5)
    torch.testing.assert_close(without, base, rtol=0, atol=1e-6)
    assert (velocity - base).abs().max() > 1e-3


def options(*more: str) -> TrainOptions:
    needed = ["--dataset", "d", "--pretrained_model_name_or_path", "m", "--output_dir", "o", "--cpu"]
    return parse_options(TrainOptions, "", [*needed, *more])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns_and_goes_on_from_its_saved_state(name):
    """Weights of 128 x 128: large enough for the 8-bit optimizers to use 8 bits."""

    def fresh() -> tuple:
        torch.manual_seed(0)
        model = torch.nn.Linear(128, 128)
        return model, make_optimizer(trainable(model), options("--optimizer", name, "--learning_rate", "1e-2"))

    def steps(model, optimizer, count: int, first: int = 0) -> list[float]:
        losses = []
        for number in range(first, first + count):
            data = torch.randn(32, 128, generator=torch.Generator().manual_seed(number))
            loss = (model(data) - data.flip(1)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    model, optimizer = fresh()
    losses = steps(model, optimizer, 6)
    assert losses[-1] < losses[0]
    kept = {key: value.clone() for key, value in training_tensors(trainable(model), optimizer).items()}
    if "8bit" in name:
        assert any(value.dtype == torch.uint8 for value in kept.values())
    settings = json.loads(json.dumps(group_settings(optimizer)))  # as a checkpoint keeps them
    undisturbed = steps(model, optimizer, 4, first=6)
    again, resumed = fresh()
    steps(again, resumed, 1)  # another state, to be replaced
    restore_training_tensors(kept, trainable(again), resumed)
    restore_group_settings(settings, resumed)
    assert steps(again, resumed, 4, first=6) == undisturbed
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_lora_plus_gives_the_b_matrices_their_rate(encoded):
    transformer = Checkpoint(str(encoded.model)).transformer(torch.float32)
    add_adapter(transformer, ["attention"], 4, 4, False, seed=0)
    optimizer = make_optimizer(trainable(transformer), options("--loraplus_lr_ratio", "16"))
    rates = {
        name: group["lr"]
        for group in optimizer.param_groups
        for name, parameter in trainable(transformer)
        if any(parameter is other for other in group["params"])
    }
    assert {rate for name, rate in rates.items() if ".lora_B." in name} == {16e-4}
    assert {rate for name, rate in rates.items() if ".lora_A." in name} == {1e-4}


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantized_base_is_close_and_trained_through(encoded, kind):
    checkpoint = Checkpoint(str(encoded.model))
    transformer = checkpoint.transformer(torch.float32)
    with torch.no_grad():
        exact = transformer(**inputs(checkpoint)).sample
    before = sum(parameter.numel() * parameter.element_size() for parameter in transformer.layers.parameters())
    quantize(transformer, kind, torch.float32, torch.device("cpu"))
    after = sum(parameter.numel() * parameter.element_size() for parameter in transformer.layers.parameters())
    assert after < before / 3
    parameters = add_adapter(transformer, ["attention"], 4, 4, False, seed=0)
    velocity = transformer(**inputs(checkpoint)).sample
    assert (velocity - exact).square().mean() < 0.1 * exact.square().mean()
    shake(parameters)
    transformer(**inputs(checkpoint)).sample.square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() and parameter.grad.any() for parameter in parameters)


def test_nf4_with_dora_an_8_bit_optimizer_and_checkpointing_runs_through_the_script(encoded, tmp_path, run_script):
    run_script(
        *("train_lora.py", "--dataset", encoded.dataset, "--pretrained_model_name_or_path", encoded.model),
        *("--output_dir", tmp_path, "--cpu", "--rank", 8, "--adapter", "dora", "--optimizer", "adamw8bit"),
        *("--quantization", "nf4", "--gradient_checkpointing", "--learning_rate", 1e-2, "--num_train_epochs", 4),
    )
    summary = json.loads((tmp_path / "training_summary.json").read_text())
    assert summary["evaluation_after"]["loss"] < summary["evaluation_before"]["loss"]
    weights = load_file(tmp_path / WEIGHTS)
    assert any("lora_magnitude_vector" in key for key in weights)
    assert all(torch.isfinite(weight).all() for weight in weights.values())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--adapter", "lokr", "--use_rslora"), "--use_rslora"),
        (("--adapter", "oft", "--loraplus_lr_ratio", "4"), "--loraplus_lr_ratio"),
        (("--checkpoints_total_limit", "0"), "--checkpoints_total_limit is 0"),
    ],
)
def test_options_that_do_not_go_together_are_refused(more, message):
    with pytest.raises(UserError, match=message):
        options(*more).check()


def test_oft_blocks_that_do_not_divide_a_layer_are_one_clear_line(encoded):
    transformer = Checkpoint(str(encoded.model)).transformer(torch.float32)
    with pytest.raises(UserError, match="--adapter oft"):
        add_adapter(transformer, ["attention"], 7, 7, False, seed=0, kind="oft")
