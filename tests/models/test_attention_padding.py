"""Padded batches: each song is computed and trained as it is alone, whatever stands in the padding."""

import pytest
import torch
import torch.nn.functional as F

from acestep.errors import UserError
from acestep.models.attention import install_attention, valid_lengths
from acestep.train.flow_matching import flow_matching_loss
from tests.models.attention_cases import (
    assert_equal_gradients,
    gradients_of,
    make_batch,
    make_transformer,
    velocity_of,
)

FRAMES = [37, 800, 1, 523]  # odd ones end within a patch
CONDITION = [5, 30, 1, 17]
GARBAGE = [0.0, 1e4, 1e30, float("inf"), float("nan")]


def songs_alone(seed: int = 0) -> list[dict]:
    return [
        make_batch(frames, tokens=tokens, seed=seed + number)
        for number, (frames, tokens) in enumerate(zip(FRAMES, CONDITION, strict=True))
    ]


def padded(songs: list[dict], garbage: float) -> dict:
    """All songs in one batch; what is beyond their ends is filled up with `garbage`."""
    batch = {}
    for key in songs[0]:
        tensors = [song[key][0] for song in songs]
        if tensors[0].dim():
            longest = max(len(tensor) for tensor in tensors)
            tensors = [F.pad(tensor, (0, 0, 0, longest - len(tensor)), value=garbage) for tensor in tensors]
        batch[key] = torch.stack(tensors)
    return batch


def losses_of(transformer, batch: dict, frames: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Velocity, and each song's loss towards zero."""
    velocity = velocity_of(transformer, batch)
    nothing = torch.zeros_like(velocity)
    return velocity, flow_matching_loss(velocity, nothing, nothing, torch.tensor(frames))


def trained_alone(transformer, songs: list[dict]) -> tuple[list, list, dict]:
    """Velocities, losses and the gradients of the losses' sum, song by song."""
    transformer.zero_grad()
    velocities, losses = [], []
    for song in songs:
        velocity, loss = losses_of(transformer, song, [song["hidden_states"].shape[1]])
        loss.sum().backward()
        velocities.append(velocity[0].detach())
        losses.append(loss.item())
    return velocities, losses, gradients_of(transformer)


def assert_as_alone(velocity: torch.Tensor, loss: torch.Tensor, alone: tuple, frames: list[int]) -> None:
    assert velocity.isfinite().all()
    for number, (length, expected, expected_loss) in enumerate(zip(frames, *alone[:2], strict=True)):
        assert (velocity[number, :length] - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max().item())
        assert loss[number].item() == pytest.approx(expected_loss, rel=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("window", [8, 128])
def test_a_padded_batch_has_velocities_losses_and_gradients_of_its_songs_alone(window, garbage, checkpointing):
    native, ours = make_transformer(window), make_transformer(window)
    install_attention(ours)
    if checkpointing:
        ours.enable_gradient_checkpointing()
    songs = songs_alone()
    alone = trained_alone(native, songs)  # the released attention
    with valid_lengths(ours, frames=FRAMES, condition=CONDITION):
        velocity, loss = losses_of(ours, padded(songs, garbage), FRAMES)
    loss.sum().backward()  # outside: the lengths are not set any more
    assert_as_alone(velocity.detach(), loss, alone, FRAMES)
    assert_equal_gradients(gradients_of(ours), alone[2])


@pytest.mark.parametrize("part", ["frames", "condition"])
def test_padding_of_one_kind_alone_is_masked(part):
    native, ours = make_transformer(8), make_transformer(8)
    install_attention(ours)
    songs = [make_batch(100 if part == "condition" else n, tokens=9 if part == "frames" else n) for n in (40, 7)]
    frames = [song["hidden_states"].shape[1] for song in songs]
    lengths = [song["encoder_hidden_states"].shape[1] for song in songs]
    alone = trained_alone(native, songs)
    with valid_lengths(ours, **{part: frames if part == "frames" else lengths}):
        velocity, loss = losses_of(ours, padded(songs, 3.0), frames)
    loss.sum().backward()
    assert_as_alone(velocity.detach(), loss, alone, frames)
    assert_equal_gradients(gradients_of(ours), alone[2])


def test_without_lengths_padding_would_change_what_is_learned():
    # otherwise the comparisons above would hold for a model that does not look at its padding
    transformer = make_transformer(8)
    songs = songs_alone()
    velocity = velocity_of(transformer, padded(songs, 0.0))
    assert (velocity[0, :37] - velocity_of(transformer, songs[0])[0]).abs().max() > 1e-2


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers_keep_their_lengths_through_other_passes(reentrant):
    native, ours = make_transformer(8), make_transformer(8)
    install_attention(ours)

    def checkpoint(function, *inputs):
        return torch.utils.checkpoint.checkpoint(function, *inputs, use_reentrant=reentrant)

    ours.enable_gradient_checkpointing(checkpoint)
    ours.proj_in_conv.requires_grad_(True)  # reentrant checkpoints train nothing behind inputs without a gradient
    native.proj_in_conv.requires_grad_(True)
    first, second = songs_alone(), songs_alone(seed=10)[::-1]
    expected = trained_alone(native, [*first, *second, songs_alone(20)[0]])
    total = 0.0
    with valid_lengths(ours, FRAMES, CONDITION):
        total = total + losses_of(ours, padded(first, 5.0), FRAMES)[1].sum()
    with valid_lengths(ours, FRAMES[::-1], CONDITION[::-1]):
        total = total + losses_of(ours, padded(second, 7.0), FRAMES[::-1])[1].sum()
    alone = losses_of(ours, songs_alone(20)[0], FRAMES[:1])[1].sum()
    with valid_lengths(ours, [3], [2]):  # others, when the layers are run again
        (total + alone).backward()
    assert_equal_gradients(gradients_of(ours), expected[2])
    assert (total + alone).item() == pytest.approx(sum(expected[1]), rel=1e-5)


def test_afterwards_nothing_is_left_on_the_model():
    transformer = make_transformer(8, layers=2)
    install_attention(transformer)
    transformer.enable_gradient_checkpointing()
    before = velocity_of(transformer, make_batch(50))
    function = transformer._gradient_checkpointing_func
    with pytest.raises(UserError, match="frames"), valid_lengths(transformer, [51], [3]):
        velocity_of(transformer, make_batch(50))
    lengths = transformer.layers[0].self_attn.processor.lengths
    assert lengths.tokens is None
    assert lengths.condition is None
    assert transformer._gradient_checkpointing_func is function
    assert torch.equal(velocity_of(transformer, make_batch(50)), before)


@pytest.mark.parametrize(
    ("frames", "condition"), [([0, 4], None), ([4], None), ([4, 11], None), (None, [1, 12]), (None, [1])]
)
def test_lengths_that_do_not_fit_are_refused(frames, condition):
    transformer = make_transformer(8, layers=2)
    install_attention(transformer)
    with (
        pytest.raises(UserError, match="expected 2 lengths between 1 and"),
        valid_lengths(transformer, frames, condition),
    ):
        velocity_of(transformer, make_batch(10, songs=2))


def test_the_released_attention_cannot_mask_padding():
    with pytest.raises(UserError, match="A padded batch needs our attention"), valid_lengths(make_transformer(), [1]):
        pass
