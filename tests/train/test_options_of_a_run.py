"""Schedules of the learning rate, and what a run says that does not fit into memory."""

import pytest
import torch

from acestep.errors import UserError
from acestep.options import parse_options
from acestep.train.optimizers import make_schedule
from acestep.train.options import SCHEDULES, TrainOptions
from acestep.train.stepping import memory_advice, raise_out_of_memory


def options(*more: str) -> TrainOptions:
    needed = ("--dataset", "d", "--pretrained_model_name_or_path", "m", "--output_dir", "o")
    parsed = parse_options(TrainOptions, "", [*needed, *more])
    parsed.check()
    return parsed


def rates(*more: str, steps: int = 40) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = make_schedule(optimizer, options(*more), steps)
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def test_every_schedule_of_diffusers_runs_and_has_its_shape():
    from diffusers.optimization import SchedulerType

    assert set(SCHEDULES) == {kind.value for kind in SchedulerType}
    assert rates("--lr_scheduler", "constant") == [1.0] * 40
    assert rates("--lr_scheduler", "constant_with_warmup", "--lr_warmup_steps", "4")[:6] == [0, 0.25, 0.5, 0.75, 1, 1]
    steps = rates("--lr_scheduler", "piecewise_constant", "--lr_step_rules", "1:10,0.1:20,0.01")
    assert steps == [1.0] * 10 + [0.1] * 10 + [0.01] * 20
    restarted = rates("--lr_scheduler", "cosine_with_restarts", "--lr_num_cycles", "2", "--lr_warmup_steps", "0")
    assert restarted[0] == restarted[20] == 1.0
    assert restarted[19] < 0.02
    linear = rates("--lr_scheduler", "polynomial", "--lr_warmup_steps", "0")
    curved = rates("--lr_scheduler", "polynomial", "--lr_power", "2", "--lr_warmup_steps", "0")
    assert curved[20] == pytest.approx(linear[20] ** 2, rel=1e-3)
    assert rates("--lr_scheduler", "linear", "--lr_warmup_steps", "0")[20] == pytest.approx(0.5)
    assert rates("--lr_scheduler", "cosine", "--lr_warmup_steps", "0")[20] == pytest.approx(0.5)


def test_rules_that_are_none_are_named():
    with pytest.raises(UserError, match="--lr_step_rules ten: expected factors"):
        rates("--lr_scheduler", "piecewise_constant", "--lr_step_rules", "ten")


def test_what_does_not_fit_says_what_to_change_and_leaves_other_errors_alone():
    def advice() -> str:
        return memory_advice(options("--train_batch_size", "2"))

    with pytest.raises(RuntimeError) as error:
        torch.empty(2**58, dtype=torch.uint8)  # a quarter of an exabyte
    with pytest.raises(UserError, match=r"out of memory: (?s:.*)--gradient_checkpointing(?s:.*)--train_batch_size 1"):
        raise_out_of_memory(error.value, advice)
    with pytest.raises(UserError, match="out of memory: CUDA"):
        raise_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), advice)
    with pytest.raises(RuntimeError, match="sizes"):
        raise_out_of_memory(RuntimeError("sizes do not match"), advice)
    small = memory_advice(options("--quantization", "nf4", "--optimizer", "adamw8bit", "--gradient_checkpointing"))
    assert "--quantization" not in small
    assert "--crop_seconds 60" in small
