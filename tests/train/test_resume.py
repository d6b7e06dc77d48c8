"""A run that cannot be lost: what is interrupted goes on bit for bit."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file

from acestep.errors import UserError
from acestep.train.checkpoints import complete_checkpoints, damage, load_checkpoint, save_checkpoint
from tests.conftest import ROOT
from tests.train.encoded import Encoded, make_dataset

WEIGHTS = "pytorch_lora_weights.safetensors"


def command(encoded, output, *more) -> list[str]:
    parts = [sys.executable, ROOT / "scripts/train_lora.py", "--dataset", encoded.dataset]
    parts += ["--pretrained_model_name_or_path", encoded.model, "--output_dir", output, "--cpu", "--rank", 4]
    parts += ["--gradient_accumulation_steps", 2, "--max_train_steps", 12, "--learning_rate", 1e-2, *more]
    return [str(part) for part in parts]


def run(encoded, output, *more) -> subprocess.CompletedProcess:
    return subprocess.run(command(encoded, output, *more), capture_output=True, text=True, check=False)


def losses(output) -> list[tuple]:
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [(r["step"], r["loss"], r["grad_norm"], r["learning_rate"]) for r in records if r["event"] == "step"]


@pytest.fixture(scope="module")
def undisturbed(encoded, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed")
    process = run(encoded, output, "--checkpointing_steps", 5)
    assert process.returncode == 0, process.stderr
    return output


def assert_same_run(output, undisturbed) -> None:
    assert losses(output) == losses(undisturbed)
    found, expected = load_file(output / WEIGHTS), load_file(undisturbed / WEIGHTS)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_ctrl_c_saves_and_the_run_goes_on_bit_for_bit(encoded, undisturbed, tmp_path):
    """Stopped in the middle of an epoch (five songs, two a step) by a real signal."""
    output = tmp_path / "out"
    process = subprocess.Popen(command(encoded, output), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not (output / "metrics.jsonl").exists() or '"step": 2,' not in (output / "metrics.jsonl").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + signal.SIGINT, printed
    assert "everything is saved" in printed
    assert not (output / WEIGHTS).exists()
    resumed = run(encoded, output, "--resume_from_checkpoint", "latest", "--dataloader_num_workers", 1)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from" in resumed.stdout
    assert_same_run(output, undisturbed)


def test_a_damaged_checkpoint_is_named_and_passed_over(undisturbed, train_here, tmp_path, capsys):
    output = tmp_path / "out"
    shutil.copytree(undisturbed, output)
    (output / WEIGHTS).unlink()
    newest = output / "checkpoint-10" / "training_state.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    same = ("--rank", 4, "--gradient_accumulation_steps", 2, "--max_train_steps", 12, "--learning_rate", 1e-2)
    with pytest.raises(UserError, match=r"training_state\.safetensors is not what was written"):
        train_here(output, *same, "--resume_from_checkpoint", output / "checkpoint-10")
    train_here(output, *same, "--resume_from_checkpoint", "latest")
    printed = capsys.readouterr().out
    assert "checkpoint-10 is damaged" in printed
    assert "step 5 of 12" in printed
    assert_same_run(output, undisturbed)


def test_what_must_match_is_compared_and_the_first_difference_named(encoded, undisturbed, train_here, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(undisturbed, output)
    same = ("--rank", 4, "--gradient_accumulation_steps", 2, "--max_train_steps", 12, "--learning_rate", 1e-2)
    resume = (*same, "--resume_from_checkpoint", output / "checkpoint-5")
    with pytest.raises(UserError, match=r"seed was 0 in the checkpoint and is 1 now.*--allow_resume_mismatch"):
        train_here(output, *resume, "--seed", 1)
    other = make_dataset(tmp_path / "other", encoded.model, [60, 41, 75, 60, 50])
    with pytest.raises(UserError, match="dataset was"):
        train_here(output, *resume, data=Encoded(encoded.model, other))
    train_here(output, *resume, "--max_train_steps", 14)  # more steps than before are allowed
    assert [step for step, *_ in losses(output)] == list(range(1, 15))
    train_here(output, *resume, "--seed", 1, "--allow_resume_mismatch")


EVERY_STATE = {
    "adamw, mean, held-out songs": ("--ema_decay", 0.9, "--validation_split", 0.5, "--validation_steps", 2),
    "8-bit moments": ("--optimizer", "adamw8bit", "--rank", 128, "--ema_decay", 0.9),
    "prodigy": ("--optimizer", "prodigy", "--learning_rate", 1),
    "adafactor, grouped by length": ("--optimizer", "adafactor", "--group_by_length", "--train_batch_size", 2),
    "float16": ("--mixed_precision", "fp16", "--ema_decay", 0.9),
    "dropout, LoRA+": ("--lora_dropout", 0.2, "--loraplus_lr_ratio", 4, "--sample_latents"),
}


@pytest.mark.parametrize("name", EVERY_STATE)
def test_every_kind_of_state_goes_on_bit_for_bit(train_here, tmp_path, name):
    """Cut in the middle of an epoch, in this process: losses, adapter, its mean and the best one."""
    options = ("--max_train_steps", 7, "--rank", 4, "--learning_rate", 1e-2, "--gradient_accumulation_steps", 2)
    options += ("--evaluation_draws", 1, "--checkpointing_steps", 2, *EVERY_STATE[name])
    train_here(tmp_path / "whole", *options)
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "cut" / "checkpoint-4")
    if "8-bit" in name:
        kept = load_file(tmp_path / "cut" / "checkpoint-4" / "training_state.safetensors")
        assert any(tensor.dtype == torch.uint8 for tensor in kept.values())
    train_here(tmp_path / "cut", *options, "--resume_from_checkpoint", "latest")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")[4:]
    for folder in (".", "ema", "best"):
        whole, cut = tmp_path / "whole" / folder / WEIGHTS, tmp_path / "cut" / folder / WEIGHTS
        # the best adapter may be older than the checkpoint, which copies no other folder
        assert whole.exists() == cut.exists() or folder == "best"
        if cut.exists():
            whole, cut = load_file(whole), load_file(cut)
            assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_two_processes_go_on_bit_for_bit(encoded, tmp_path):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    launch += ["--config_file", str(ROOT / "accelerate_configs/cpu_2_processes.yaml")]
    outputs = [tmp_path / "whole", tmp_path / "resumed"]
    more = ("--checkpointing_steps", 4, "--max_train_steps", 6, "--ema_decay", 0.9)
    more += ("--optimizer", "adamw8bit", "--rank", 128, "--train_batch_size", 2)  # wide enough for 8 bits
    for output in outputs:
        arguments = command(encoded, output, *more)[1:]
        done = subprocess.run([*launch, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    for name in (WEIGHTS, "training_summary.json"):
        (outputs[1] / name).unlink()
    shutil.rmtree(outputs[1] / "ema")
    done = subprocess.run(
        [*launch, *arguments, "--resume_from_checkpoint", "latest"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "going on from" in done.stdout
    assert_same_run(outputs[1], outputs[0])
    first, second = (load_file(output / "ema" / WEIGHTS) for output in outputs)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_fsdp2_trains_saves_and_goes_on_as_one_process_does(encoded, train_here, tmp_path):
    """Over gloo with the shipped configuration; see `tests.train.sharded` for what it takes on a CPU."""
    shipped = yaml.safe_load((ROOT / "accelerate_configs/fsdp2.yaml").read_text())
    config = tmp_path / "fsdp2.yaml"
    config.write_text(yaml.safe_dump({**shipped, "use_cpu": True, "mixed_precision": "no"}))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    launch += ["--config_file", config, "-m", "tests.train.sharded"]
    options = ("--max_train_steps", 6, "--rank", 4, "--learning_rate", 1e-3, "--ema_decay", 0.9)
    options += ("--evaluation_draws", 2)
    train_here(tmp_path / "one", *options, "--train_batch_size", 4)
    arguments = ["--dataset", encoded.dataset, "--pretrained_model_name_or_path", encoded.model, "--cpu", *options]
    arguments += ["--train_batch_size", 2, "--checkpointing_steps", 3, "--output_dir", tmp_path / "two"]

    def run_two(*more) -> str:
        done = subprocess.run(
            [*map(str, [*launch, *arguments, *more])], capture_output=True, text=True, check=False, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def saved() -> dict:
        return {folder: load_file(tmp_path / "two" / folder / WEIGHTS) for folder in (".", "ema")}

    assert "FSDP2" in run_two()
    whole, curve = saved(), losses(tmp_path / "two")
    for folder, weights in whole.items():
        one = load_file(tmp_path / "one" / folder / WEIGHTS)
        assert all(torch.allclose(weights[key], one[key], rtol=1e-5, atol=1e-5) for key in one)
    assert [loss for _, loss, *_ in curve] == pytest.approx(
        [loss for _, loss, *_ in losses(tmp_path / "one")], rel=1e-5
    )
    (tmp_path / "two" / WEIGHTS).unlink()
    assert "going on from" in run_two("--resume_from_checkpoint", "latest")
    assert losses(tmp_path / "two") == curve
    assert all(torch.equal(weights[key], saved()[folder][key]) for folder, weights in whole.items() for key in weights)


def test_kill_9_at_every_write_of_a_checkpoint_loses_only_the_steps_since(encoded, train_here, tmp_path):
    """The real trainer, killed at every second touch of its two checkpoints' files; see `tests.train.killing`."""
    options = ("--rank", 2, "--target_modules", "self_attn.to_q", "--max_train_steps", 5, "--checkpointing_steps", 2)
    options += ("--checkpoints_total_limit", 1, "--evaluation_draws", 0, "--learning_rate", 1e-2)
    train_here(tmp_path / "undisturbed", *options)
    program = [sys.executable, "-m", "tests.train.killing", tmp_path / "runs", "--dataset", encoded.dataset, "--cpu"]
    program += ["--pretrained_model_name_or_path", encoded.model, *options]
    done = subprocess.run([*map(str, program)], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    kills = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(kills) >= 20
    assert {kill["from"] for kill in kills} == {0, 2, 4}
    touched = " ".join(kill["event"] for kill in kills)
    assert all(
        what in touched
        for what in ("manifest.json", "state.json", "os.rename", "os.rmdir", "training_state", "os.mkdir")
    )
    saved_before = 0
    for kill in kills:
        assert kill["from"] >= saved_before  # what was saved once is never lost
        saved_before = kill["from"]
        assert kill["left"] == []
        assert_same_run(tmp_path / "runs" / str(kill["moment"]), tmp_path / "undisturbed")


WRITER = """
import sys, torch
from pathlib import Path
from acestep.train.checkpoints import save_checkpoint
output, begin = Path(sys.argv[1]), int(sys.argv[2])
for step in range(begin, begin + 1000):
    tensors = {"weight/a": torch.full((200_000,), float(step)), "optimizer/a/step": torch.tensor(float(step))}
    save_checkpoint(output, step, tensors, {"progress": {"step": step}},
                    lambda folder: (folder / "adapter").write_bytes(bytes([step % 256]) * 100_000), keep=3)
    print(step, flush=True)
"""


def test_kill_9_at_any_moment_leaves_the_last_whole_checkpoint(tmp_path):
    """Random moments of a program that does nothing but save: in the middle of a file, too."""
    moments, last = random.Random(0), 0
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(last + 1)], stdout=subprocess.PIPE, text=True
        )
        reported = int(process.stdout.readline())  # it runs
        time.sleep(moments.uniform(0.0, 0.05))
        process.send_signal(signal.SIGKILL)
        reported = max([reported, *map(int, process.stdout.read().split())])
        process.wait()
        saved = load_checkpoint("latest", tmp_path, say=pytest.fail)
        assert saved.state["progress"]["step"] >= reported  # nothing that was reported is lost
        last = saved.state["progress"]["step"]
        assert saved.tensors["weight/a"].eq(last).all()
        assert damage(saved.path) is None


def test_each_file_that_is_missing_cut_or_changed_is_noticed(tmp_path):
    def write_adapter(folder):
        (folder / "adapter").write_text("weights")

    path = save_checkpoint(tmp_path, 7, {"weight/a": torch.ones(3)}, {"progress": {"step": 7}}, write_adapter)
    assert damage(path) is None
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for content in (None, whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
            file.unlink() if content is None else file.write_bytes(content)
            if file.name != "manifest.json" or content != whole[:-1]:  # its last byte is a line's end
                assert damage(path) is not None, (file.name, content)
            file.write_bytes(whole)
    assert load_checkpoint("latest", tmp_path).state == {"progress": {"step": 7}}
    assert load_checkpoint("latest", tmp_path / "empty") is None
    with pytest.raises(UserError, match="no checkpoint there"):
        load_checkpoint(str(tmp_path), tmp_path)


def test_old_checkpoints_go_only_when_the_new_one_is_whole(tmp_path, monkeypatch):
    for step in range(1, 6):
        save_checkpoint(tmp_path, step, {"weight/a": torch.ones(3)}, {}, lambda folder: None, keep=2)
    assert [step for step, _ in complete_checkpoints(tmp_path)] == [4, 5]

    def disk_full(folder):
        raise OSError(28, os.strerror(28))

    with pytest.raises(UserError, match=r"No space left on device.*Earlier checkpoints are whole"):
        save_checkpoint(tmp_path, 6, {"weight/a": torch.ones(3)}, {}, disk_full, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-5"]
