"""Compiled layers compute the same, and are not compiled anew for every length."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from acestep.models.attention import install_attention, valid_lengths
from acestep.models.compiling import compile_layers
from tests.models.attention_cases import assert_equal_steps, make_batch, make_transformer, step_of


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_graphs_are_made_for_kinds_of_layers_and_lengths_and_then_hold_for_all_lengths():
    transformer = make_transformer(8, layers=4)
    ours, counter = copy.deepcopy(transformer), CompileCounterWithBackend("eager")
    install_attention(ours)
    compile_layers(ours, backend=counter, fullgraph=True)
    for tokens in (100, 200, 300):  # too short for a block of 128 and two windows, one block, more
        step_of(ours, make_batch(2 * tokens))
    # The sliding layer's three kinds, as first layer and as a later one; the full layer.
    made = counter.frame_count
    assert made <= 7
    for tokens in (31, 143, 144, 271, 272, 301, 640, 1001):
        batch = make_batch(2 * tokens - tokens % 2, tokens=5 + tokens % 7)
        assert_equal_steps(step_of(ours, batch), step_of(transformer, batch))
    assert counter.frame_count == made


def test_compiled_layers_train_padded_batches_with_checkpointing_as_before():
    transformer = make_transformer(8, layers=1)
    transformer.proj_in_conv.requires_grad_(True)  # before the layer: the gradient of its input shows there
    install_attention(transformer)
    ours = copy.deepcopy(transformer)
    ours.enable_gradient_checkpointing()
    compile_layers(ours)
    batch, lengths = make_batch(700, songs=2), ([700, 301], [4, 11])
    with valid_lengths(ours, *lengths):
        found = step_of(ours, batch)
    with valid_lengths(transformer, *lengths):
        expected = step_of(transformer, batch)
    assert_equal_steps(found, expected)
