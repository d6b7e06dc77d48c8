from collections import Counter

import pytest

from acestep.errors import UserError
from acestep.train.batches import (
    MicroBatches,
    StepLayout,
    TrainingSamples,
    check_lengths,
    collate,
    crop,
    crop_frames_of,
    prompt_kind,
)
from acestep.train.draws import Draws
from acestep.train.run import open_dataset


def steps_of(layout: StepLayout, rows: int, steps: int, first_step: int = 0) -> list[Counter]:
    """What counts in each step over all processes."""
    found = [Counter() for _ in range(steps - first_step)]
    for process in range(layout.processes):
        batches = list(MicroBatches(rows, layout, process, seed=3, steps=steps, first_step=first_step))
        sampler = MicroBatches(rows, layout, process, seed=3, steps=steps, first_step=first_step)
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
    assert len(list(MicroBatches(7, StepLayout(1, 64), 0, seed=0, steps=3))) == 21
    for process in range(2):  # both processes go in step; the second one fills up once
        batches = list(MicroBatches(7, StepLayout(1, 8, 2), process, seed=0, steps=1))
        assert [batch[0].weight for batch in batches] == [1, 1, 1, 0 if process else 1]


def test_a_run_that_goes_on_sees_what_it_would_have_seen():
    layout = StepLayout(1, 2, 2)
    assert steps_of(layout, rows=10, steps=9)[4:] == steps_of(layout, rows=10, steps=9, first_step=4)


def test_songs_that_would_need_padding_are_refused_with_the_way_out(encoded):
    rows, _ = open_dataset(str(encoded.dataset))
    check_lengths(rows, batch_size=1, crop_frames=0)
    check_lengths(rows, batch_size=4, crop_frames=40)
    with pytest.raises(UserError, match=r"song1.wav has 41 frames, song2.wav 75.*--crop_seconds 1\.6 or less"):
        check_lengths(rows, batch_size=4, crop_frames=0)
    with pytest.raises(UserError, match="padding would change"):
        check_lengths(rows, batch_size=2, crop_frames=50)


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
            batch_sampler=MicroBatches(len(rows), layout, 0, seed=5, steps=20 // layout.samples),
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
