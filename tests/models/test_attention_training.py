"""Our attention in the surroundings that training has: checkpoints, quantized layers, several processes."""

import copy
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from peft import LoraConfig
from torch.nn.parallel import DistributedDataParallel

from acestep.models.attention import install_attention, valid_lengths
from acestep.models.quantization import quantize
from tests.models.attention_cases import (
    TARGETS,
    assert_equal_gradients,
    assert_equal_steps,
    gradients_of,
    make_batch,
    make_transformer,
    step_of,
    velocity_of,
)

FRAMES, CONDITION = [[90, 31], [75, 60]], [[11, 3], [7, 9]]  # of two processes


def test_with_gradient_checkpointing_every_gradient_is_the_same():
    transformer = make_transformer(16)
    ours = copy.deepcopy(transformer)
    install_attention(ours)
    ours.enable_gradient_checkpointing()
    batch = make_batch(777)
    assert_equal_steps(step_of(ours, batch), step_of(transformer, batch))


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_with_quantized_layers_every_gradient_is_the_same(kind):
    transformer = make_transformer(16, layers=2, hidden_size=64, num_attention_heads=8)
    transformer.delete_adapters("default")
    quantize(transformer, kind, torch.float32, torch.device("cpu"))
    transformer.add_adapter(LoraConfig(r=4, target_modules=TARGETS, init_lora_weights=False))
    batch = make_batch(500)
    native = step_of(transformer, batch)
    install_attention(transformer)
    # 8-bit products round their inputs: a difference in the last digit can move one to the next step.
    assert_equal_steps(step_of(transformer, batch), native, 1e-5 if kind == "nf4" else 1e-2)


def loss_of(transformer: torch.nn.Module, rank: int) -> torch.Tensor:
    """Of one process's two songs, in one padded batch."""
    batch = make_batch(max(FRAMES[rank]), songs=2, seed=rank)
    with valid_lengths(transformer, FRAMES[rank], CONDITION[rank]):
        velocity = velocity_of(transformer, batch)
    return sum(velocity[number, :frames].square().mean() for number, frames in enumerate(FRAMES[rank]))


def train_in_a_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    transformer = make_transformer(8, layers=2)
    install_attention(transformer)
    transformer.enable_gradient_checkpointing()
    wrapped = DistributedDataParallel(transformer)
    loss_of(wrapped, rank).backward()
    torch.save(gradients_of(transformer), os.path.join(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def test_two_processes_with_padded_checkpointed_batches_have_the_mean_of_their_gradients(tmp_path):
    # Forked: starting Python and its imports twice would take longer than everything else here.
    torch.multiprocessing.start_processes(train_in_a_process, (str(tmp_path),), nprocs=2, start_method="fork")
    transformer = make_transformer(8, layers=2)
    install_attention(transformer)
    (sum(loss_of(transformer, rank) for rank in range(2)) / 2).backward()
    expected = gradients_of(transformer)
    for rank in range(2):
        assert_equal_gradients(torch.load(tmp_path / f"{rank}.pt", weights_only=True), expected)
