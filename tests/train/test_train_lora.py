"""The training script as users run it, and the adapter that it writes."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from acestep.dataset.opening import open_dataset
from acestep.errors import UserError
from acestep.models.checkpoint import Checkpoint
from acestep.train.adapter import add_adapter, save_lora
from tests.train.encoded import CHANNELS, make_dataset, make_model

WEIGHTS = "pytorch_lora_weights.safetensors"


def arguments(encoded, output, *more) -> list:
    return [
        *("--dataset", encoded.dataset, "--pretrained_model_name_or_path", encoded.model, "--output_dir", output),
        *("--rank", 4, "--learning_rate", 1e-2, "--cpu", *more),
    ]


def test_a_run_leaves_adapter_metrics_picture_summary_and_checkpoints(encoded, tmp_path, run_script):
    output = tmp_path / "out"
    process = run_script(
        "train_lora.py", *arguments(encoded, output, "--num_train_epochs", 3, "--save_every_n_epochs", 1)
    )
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["event"] == "step"]
    assert [record["step"] for record in steps] == list(range(1, 16))
    assert steps[-1]["epoch"] == 3.0
    assert steps[0]["learning_rate"] < max(step["learning_rate"] for step in steps) == pytest.approx(1e-2)
    assert steps[-1]["learning_rate"] < 1e-3  # a cosine ends near nothing
    assert (output / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in output.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-5"]
    assert not list(output.rglob(".saving*"))
    summary = json.loads((output / "training_summary.json").read_text())
    assert summary["evaluation_after"]["loss"] < summary["evaluation_before"]["loss"]
    assert summary["evaluation_after"]["pairs"] == 20
    assert "15 steps of 1" in process.stdout
    final, earlier = load_file(output / WEIGHTS), load_file(output / "checkpoint-5" / WEIGHTS)
    assert any(not torch.equal(final[key], earlier[key]) for key in final)
    assert {weight.dtype for weight in final.values()} == {torch.float32}
    targets = {key.split(".lora_")[0].split(".", 3)[3] for key in final}
    assert targets == {
        f"{kind}.{name}" for kind in ("self_attn", "cross_attn") for name in ("to_q", "to_k", "to_v", "to_out.0")
    }

    again = run_script("train_lora.py", *arguments(encoded, output), check=False)
    assert again.returncode == 2
    assert "--overwrite_output_dir" in again.stderr
    assert "Traceback" not in again.stderr


def test_bf16_checkpointing_and_mlp_targets_run(encoded, tmp_path, run_script):
    more = ("--max_train_steps", 3, "--mixed_precision", "bf16", "--gradient_checkpointing")
    run_script("train_lora.py", *arguments(encoded, tmp_path, *more, "--target_modules", "attention", "mlp"))
    weights = load_file(tmp_path / WEIGHTS)
    assert any(".mlp.gate_proj." in key for key in weights)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_another_model_is_refused_with_both_names(encoded, tmp_path, run_script):
    other = make_model(tmp_path / "other-model", seed=1)
    process = run_script(
        *("train_lora.py", "--dataset", encoded.dataset, "--pretrained_model_name_or_path", other),
        *("--output_dir", tmp_path / "out"),
        check=False,
    )
    assert process.returncode == 2
    assert "was encoded for model" in process.stderr
    assert "other-model" in process.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--rank", 0), "--rank is 0"),
        (("--target_modules", "to_x"), "--target_modules to_x"),
        (("--report_to", "tensorbored"), "--report_to tensorbored"),
        (("--dataset", "nowhere"), "prepare_dataset.py"),
        (("--learning_rate", "nan"), "--learning_rate is nan"),
        (("--adam_beta1", 2), "--adam_beta1 is 2.0"),
        (("--crop_seconds", "inf"), "--crop_seconds is inf"),
        (("--lora_alpha", 0), "--lora_alpha is 0"),
        (("--lr_scheduler", "constant", "--lr_warmup_steps", 3), "constant_with_warmup"),
    ],
)
def test_what_cannot_be_trained_is_one_clear_line(train_here, tmp_path, more, message):
    with pytest.raises(UserError) as error:
        train_here(tmp_path / "out", *more)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_error_is_one_line_without_a_traceback(encoded, tmp_path, run_script):
    process = run_script("train_lora.py", *arguments(encoded, tmp_path / "out", "--rank", 0), check=False)
    assert process.returncode == 2
    assert process.stderr.strip() == "error: --rank is 0; expected at least 1."


def broken_songs(folder, model, broken: set[int]):
    random = np.random.default_rng(0)
    latents = [random.standard_normal((40, CHANNELS), dtype=np.float32) for _ in range(5)]
    dataset = make_dataset(folder / "data", model, [40] * 5, latents)
    # written to the Arrow file as a crash or a bad disk would leave it: our own writer refuses them
    path = next(dataset.glob("*.arrow"))
    content = path.read_bytes()
    for number in broken:
        old = latents[number].tobytes()
        assert content.count(old) == 1
        content = content.replace(old, np.full_like(latents[number], np.nan).tobytes())
    path.write_bytes(content)
    return dataset


def test_a_step_that_is_not_finite_is_skipped_and_counted(encoded, tmp_path, run_script):
    dataset = broken_songs(tmp_path, encoded.model, {2})
    more = ("--dataset", dataset, "--max_train_steps", 10, "--evaluation_draws", 0)
    process = run_script("train_lora.py", *arguments(encoded, tmp_path / "out", *more))
    summary = json.loads((tmp_path / "out" / "training_summary.json").read_text())
    assert summary["skipped_steps"] == 2  # once an epoch
    assert "2 steps were not finite" in process.stdout
    assert "song2.wav" in process.stdout + process.stderr
    weights = load_file(tmp_path / "out" / WEIGHTS)
    assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_ten_in_a_row_stop_the_run_with_the_songs_names(encoded, tmp_path, run_script):
    dataset = broken_songs(tmp_path, encoded.model, {0, 1, 2, 3, 4})
    more = ("--dataset", dataset, "--max_train_steps", 30, "--evaluation_draws", 0)
    process = run_script("train_lora.py", *arguments(encoded, tmp_path / "out", *more), check=False)
    assert process.returncode == 2
    assert "10 steps in a row were not finite" in process.stderr
    assert "song" in process.stderr.split("not finite")[-1]
    assert not (tmp_path / "out" / WEIGHTS).exists()


def test_an_adapter_that_is_not_finite_is_not_saved(encoded, tmp_path, run_script):
    more = ("--learning_rate", 1e30, "--max_train_steps", 6, "--evaluation_draws", 2)
    process = run_script("train_lora.py", *arguments(encoded, tmp_path, *more), check=False)
    assert process.returncode == 2
    assert "not finite and is not saved" in process.stderr
    assert not (tmp_path / WEIGHTS).exists()
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_precision_is_what_accelerate_was_launched_with_unless_said(encoded, tmp_path, run_script):
    more = ("--max_train_steps", 2, "--evaluation_draws", 0)
    launched = {"ACCELERATE_MIXED_PRECISION": "bf16"}
    process = run_script("train_lora.py", *arguments(encoded, tmp_path / "a", *more), env=launched)
    assert "mixed precision bf16" in process.stdout
    more = (*more, "--mixed_precision", "no")
    process = run_script("train_lora.py", *arguments(encoded, tmp_path / "b", *more), env=launched)
    assert "mixed precision no" in process.stdout


def test_overwriting_leaves_nothing_of_the_run_before(encoded, tmp_path, run_script):
    more = ("--num_train_epochs", 3, "--save_every_n_epochs", 1, "--evaluation_draws", 0)
    run_script("train_lora.py", *arguments(encoded, tmp_path, *more))
    (tmp_path / "notes.txt").write_text("mine")
    more = ("--max_train_steps", 2, "--evaluation_draws", 0, "--overwrite_output_dir", "--rank", 2)
    run_script("train_lora.py", *arguments(encoded, tmp_path, *more))
    assert not list(tmp_path.glob("checkpoint-*"))
    assert load_file(tmp_path / WEIGHTS)["transformer.layers.0.self_attn.to_q.lora_A.weight"].shape[0] == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert json.loads((tmp_path / "training_summary.json").read_text())["model"] == str(encoded.model)


@pytest.mark.parametrize(
    ("alpha", "use_rslora", "targets"),
    [(4, False, ["attention"]), (8, False, ["attention"]), (8, True, ["attention", "mlp"]), (2.5, False, ["to_q"])],
)
@pytest.mark.parametrize("variant", ["base", "xl"])
@torch.no_grad()
def test_the_pipeline_plays_the_adapter_that_was_trained(tmp_path, alpha, use_rslora, targets, variant):
    """Velocity for velocity, at any alpha: diffusers takes the strength from the file's header."""
    model = make_model(tmp_path / "model", variant=variant)
    checkpoint = Checkpoint(str(model))
    trained = checkpoint.transformer(torch.float32)
    for number, parameter in enumerate(add_adapter(trained, targets, 4, alpha, use_rslora, seed=0)):
        parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) / 4)
    path = save_lora(trained, tmp_path / "lora")
    with safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()["lora_adapter_metadata"])
    assert metadata["transformer.lora_alpha"] == alpha
    assert str(tmp_path) not in json.dumps(metadata)

    pipeline = checkpoint.pipeline(torch.float32)
    generator = torch.Generator().manual_seed(1)
    inputs = {
        "hidden_states": torch.randn(1, 50, CHANNELS, generator=generator),
        "timestep": torch.tensor([0.4]),
        "timestep_r": torch.tensor([0.4]),
        "encoder_hidden_states": torch.randn(1, 9, checkpoint.condition_size, generator=generator),
        "context_latents": torch.randn(1, 50, 2 * CHANNELS, generator=generator),
    }
    base = pipeline.transformer(**inputs).sample
    pipeline.load_lora_weights(str(tmp_path / "lora"))
    assert torch.equal(pipeline.transformer(**inputs).sample, trained(**inputs).sample)
    assert not torch.allclose(trained(**inputs).sample, base, atol=1e-3)


def test_the_loader_reads_only_what_a_crop_needs(encoded):
    rows, record = open_dataset(str(encoded.dataset))
    assert record.model == "model"
    whole = rows.tensor(2, "latents")
    assert whole.shape == (75, CHANNELS)
    assert torch.equal(rows.tensor(2, "latents", 10, 30), whole[10:30])
    assert rows.tensor(0, "genre_encoder_hidden_states") is None
