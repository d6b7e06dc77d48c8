from collections import Counter

import numpy as np
import pytest

from acestep.dataset.opening import open_dataset
from acestep.errors import UserError
from acestep.train.batches import (
    MicroBatches,
    StepLayout,
    TrainingSamples,
    collate,
    crop,
    crop_frames_of,
    epoch_order,
    prompt_kind,
    trained_lengths,
)
from acestep.train.draws import Draws


def lengths_of(rows: int) -> list[int]:
    """Frames of so many rows, all of them different."""
    return [40 + 7 * (number * 5 % rows) for number in range(rows)]


def steps_of(layout: StepLayout, rows: int, steps: int, first_step: int = 0) -> list[Counter]:
    """What counts in each step over all processes."""
    lengths = lengths_of(rows)
    found = [Counter() for _ in range(steps - first_step)]
    for process in range(layout.processes):
        sampler = MicroBatches(lengths, layout, process, seed=3, steps=steps, first_step=first_step)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        remaining = iter(batches)
        for step in range(first_step, steps):
            for _ in range(layout.micro_batches(layout.samples_of(step, rows))):
                batch = next(remaining)
                assert 1 <= len(batch) <= layout.batch_size
                for place in batch:
                    if place.weight:
                        found[step - first_step][place.epoch, place.index] += 1
    return found


def test_every_layout_trains_the_same_samples_at_the_same_step():
    layouts = [StepLayout(4, 1), StepLayout(1, 4), StepLayout(2, 1, 2), StepLayout(1, 2, 2), StepLayout(1, 1, 4)]
    for rows in (3, 4, 10, 12):
        first, *others = [steps_of(layout, rows, steps=7) for layout in layouts]
        assert all(other == first for other in others)


def test_an_epoch_holds_each_row_once_although_its_last_step_is_short():
    layout = StepLayout(2, 2)
    steps = steps_of(layout, rows=10, steps=6)
    assert [sum(step.values()) for step in steps] == [4, 4, 2, 4, 4, 2]
    assert sum(steps[:3], Counter()) == Counter({(0, index): 1 for index in range(10)})
    assert sum(steps[3:], Counter()) == Counter({(1, index): 1 for index in range(10)})


def test_a_short_step_costs_no_more_than_its_samples():
    """Seven rows at accumulation 64 are seven samples a step, not sixty-four."""
    assert len(list(MicroBatches([50] * 7, StepLayout(1, 64), 0, seed=0, steps=3))) == 21
    for process in range(2):  # both processes go in step; the second one fills up once
        batches = list(MicroBatches([50] * 7, StepLayout(1, 8, 2), process, seed=0, steps=1))
        assert [batch[0].weight for batch in batches] == [1, 1, 1, 0 if process else 1]


def test_a_run_that_goes_on_sees_what_it_would_have_seen():
    layout = StepLayout(1, 2, 2)
    assert steps_of(layout, rows=10, steps=9)[4:] == steps_of(layout, rows=10, steps=9, first_step=4)


def test_the_first_step_of_a_run_takes_the_longest_songs_and_every_epoch_all_of_them():
    lengths = lengths_of(23)
    for grouped in (False, True):
        first, second = (epoch_order(0, epoch, lengths, 4, grouped) for epoch in (0, 1))
        assert sorted(lengths[index] for index in first[:4]) == sorted(lengths)[-4:]
        assert sorted(first) == sorted(second) == list(range(23))
        assert first != second
    same = [50] * 23  # crops: nothing is moved
    assert epoch_order(0, 0, same, 4) == epoch_order(0, 0, same, 1)


def test_grouping_by_length_needs_less_padding_and_keeps_the_short_step_last():
    random = np.random.default_rng(0)
    lengths = random.integers(100, 7500, size=203).tolist()

    def padding(grouped: bool) -> int:
        order = epoch_order(0, 3, lengths, 4, grouped)
        steps = [[lengths[index] for index in order[at : at + 4]] for at in range(0, len(order), 4)]
        assert len(steps[-1]) == 3
        return sum(max(step) * len(step) - sum(step) for step in steps)

    assert padding(True) < padding(False) / 4
    assert epoch_order(0, 3, lengths, 4, True) != epoch_order(0, 4, lengths, 4, True)


def test_processes_pad_each_micro_batch_to_one_length():
    layout, lengths = StepLayout(2, 2, 2), lengths_of(13)
    batches = [list(MicroBatches(lengths, layout, process, seed=0, steps=4)) for process in range(2)]
    for mine, others in zip(*batches, strict=True):
        padded = {place.padded for place in mine + others}
        assert padded == {max(lengths[place.index] for place in mine + others)}
        assert len(mine) == len(others)


def test_crops_are_even_within_the_song_and_differ_by_epoch():
    starts = set()
    for epoch in range(200):
        start, length = crop(75, 40, Draws(0, epoch, "song"))
        assert length == 40
        assert start % 2 == 0
        assert 0 <= start <= 35
        starts.add(start)
    assert {0, 34} <= starts
    assert crop(75, 0, Draws(0, 0, "song")) == (0, 75)
    assert crop(30, 40, Draws(0, 0, "song")) == (0, 30)
    assert crop_frames_of(10.03) == 250
    with pytest.raises(UserError, match="--crop_seconds is -1"):
        crop_frames_of(-1)


def row(**fields) -> dict:
    return {"text_prompt": "a", "genre_text_prompt": "b", "prompt_override": None, "genre_ratio": 0} | fields


def test_genre_is_drawn_by_its_ratio_and_never_replaces_a_caption_by_nothing():
    kinds = Counter(prompt_kind(row(genre_ratio=30), Draws(0, epoch, "song")) for epoch in range(2000))
    assert kinds["genre"] / 2000 == pytest.approx(0.3, abs=0.04)
    assert prompt_kind(row(genre_ratio=100, genre_text_prompt=None), Draws(0, 0, "song")) == "caption"
    assert prompt_kind(row(text_prompt=None), Draws(0, 0, "song")) == "genre"
    assert prompt_kind(row(genre_ratio=100, prompt_override="caption"), Draws(0, 0, "song")) == "caption"
    assert prompt_kind(row(genre_ratio=0, prompt_override="genre"), Draws(0, 0, "song")) == "genre"


def test_a_sample_is_the_same_in_every_batch_and_workers_change_nothing(encoded):
    import torch
    from torch.utils.data import DataLoader

    rows, _ = open_dataset(str(encoded.dataset))
    samples = TrainingSamples(rows, seed=5, timestep_law="logit_normal_max", condition_dropout=0.3, crop_frames=40)

    def drawn(layout: StepLayout, workers: int) -> dict:
        found = {}
        loader = DataLoader(
            samples,
            batch_sampler=MicroBatches(trained_lengths(rows, 40), layout, 0, seed=5, steps=20 // layout.samples),
            num_workers=workers,
            collate_fn=collate,
        )
        for batch in loader:
            for at, name in enumerate(batch["id"]):
                found[batch["epoch"][at], name] = {
                    key: batch[key][at] for key in ("clean_latents", "noise", "timestep", "null_condition", "start")
                }
        return found

    first = drawn(StepLayout(5, 1), 0)
    for layout, workers in ((StepLayout(1, 5), 0), (StepLayout(1, 1), 2)):
        other = drawn(layout, workers)
        assert other.keys() == first.keys()
        for key, sample in first.items():
            assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(other[key][k])) for k, v in sample.items())


def test_condition_dropout_drops_its_share(encoded):
    rows, _ = open_dataset(str(encoded.dataset))
    from acestep.train.batches import Place

    samples = TrainingSamples(rows, seed=5, timestep_law="uniform", condition_dropout=0.15)
    dropped = [samples[Place(epoch, epoch % 5)]["null_condition"] for epoch in range(1000)]
    assert sum(dropped) / 1000 == pytest.approx(0.15, abs=0.03)
    never = TrainingSamples(rows, seed=5, timestep_law="uniform", condition_dropout=0.0)
    assert not any(never[Place(epoch, 0)]["null_condition"] for epoch in range(100))


def test_posterior_samples_have_its_mean_and_deviation(encoded):
    import torch

    from acestep.train.batches import Place

    rows, _ = open_dataset(str(encoded.dataset))
    mean = rows.tensor(0, "latents")
    samples = TrainingSamples(rows, seed=5, timestep_law="uniform", sample_latents=True)
    drawn = torch.stack([samples[Place(epoch, 0)]["clean_latents"] for epoch in range(200)])
    assert (drawn.mean(0) - mean).abs().mean() < 0.05
    assert drawn.std(0).mean() == pytest.approx(0.5, abs=0.02)
