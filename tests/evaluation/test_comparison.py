"""The answer in one line, and on which songs it rests."""

import json
from types import SimpleNamespace

import datasets
import numpy as np
import pytest

from acestep.adapters.reading import read_adapter
from acestep.dataset.opening import open_dataset
from acestep.dataset.splits import held_out
from acestep.errors import UserError
from acestep.evaluation.comparison import compare_all, notes, pair_line, verdict
from acestep.evaluation.held_out import HeldOut, Training, open_held_out, open_training
from tests.train.encoded import Encoded, make_dataset

RUN = ("--rank", 2, "--max_train_steps", 1, "--evaluation_draws", 0, "--validation_draws", 1)
OPTIONS = {
    **{"dataset_revision": None, "streaming": False, "validation_dataset": None, "validation_split": 0.0, "seed": 0},
}


class Names:
    """Rows of which only the names are asked."""

    def __init__(self, songs):
        self.songs = songs

    def __len__(self):
        return len(self.songs)

    def column(self, name):
        return self.songs if name == "song_id" else [f"{song}.wav" for song in self.songs]


def held_songs(count: int) -> HeldOut:
    return HeldOut(Names([f"song{number}" for number in range(count)]), None, None, "")


UNSEEN = Training(Names(["another"]))


def answers(factors, training=UNSEEN, songs=12, **others):
    """Verdicts about adapters whose losses are the model's times `factors`, give or take a percent by song."""
    random = np.random.default_rng(0)
    base = random.uniform(1, 1.5, (songs, 2))
    spread = 1 + 0.01 * np.resize([1, -1, 0.5, -0.5], songs)[:, None]
    losses = {"base": base}
    for number, factor in enumerate(factors):
        losses[f"lora{number}"] = base * factor * spread
    held = held_songs(songs)
    alone, pairs = compare_all(losses, held.songs)
    return [verdict(found, held, training) for found in alone], [pair_line(pair) for pair in pairs]


def test_the_answer_tells_helps_from_hurts_from_neither():
    (helps, hurts, neither), _ = answers([0.95, 1.1, 1.0])
    assert helps.startswith("lora0 helps on 12 unseen songs: loss 1.2")
    assert " 5.0 % lower (95 % interval 4." in helps
    assert helps.endswith(", better on 12 of 12 songs.")
    assert hurts.startswith("lora1 hurts on 12 unseen songs: loss 1.2")
    assert " 10.0 % higher (95 % interval 9." in hurts
    assert hurts.endswith(", better on 0 of 12 songs.")
    assert neither.startswith("lora2 makes no clear difference on 12 unseen songs: loss 1.2")
    assert "interval -0." in neither
    assert neither.endswith("better on 6 of 12 songs.")


def test_the_interval_of_a_rise_is_told_as_a_rise():
    ((hurts,), _) = answers([1.1])
    low, high = hurts.split("interval ")[1].split(" %")[0].split(" to ")
    assert 9 < float(low) < 10 < float(high) < 11


def test_too_few_songs_and_losses_that_are_no_numbers_give_no_answer():
    ((few,), _) = answers([0.5], songs=4)
    assert few.startswith("lora0: too few songs to say (4 unseen, at least 5 needed): loss 1.")
    assert "interval" not in few
    ((broken,), _) = answers([np.nan])
    assert broken.startswith("lora0 cannot be measured on 12 songs: loss 1.")


def test_songs_that_were_trained_on_are_no_answer_and_unknown_ones_are_not_called_unseen():
    ((some,), _) = answers([0.9], Training(Names(["song3", "song4", "another"])))
    assert some.startswith("lora0 was trained on 2 of these 12 songs, so this says nothing about songs it has not seen")
    ((every,), _) = answers([0.9], Training(Names([f"song{number}" for number in range(12)])))
    assert every.startswith("lora0 was trained on these songs, so this says nothing")
    ((unknown,), _) = answers([0.9], Training(reason="no one knows"))
    assert unknown.startswith("lora0 helps on 12 held-out songs: ")


def test_adapters_are_compared_with_each_other_by_the_same_songs():
    _, (first, second, third) = answers([0.9, 0.95, 0.95])
    assert first.startswith("lora0 is better than lora1: loss ")
    assert second.startswith("lora0 is better than lora2: loss ")
    assert third.startswith("lora1 and lora2 do not clearly differ: ")
    assert answers([0.95, 0.9])[1][0].startswith("lora0 is worse than lora1: loss ")


def test_differences_by_timestep_are_those_of_that_timestep():
    losses = {"base": np.tile([1.0, 2.0], (6, 1)), "lora": np.tile([0.5, 2.2], (6, 1))}
    ((found,), _) = compare_all(losses, [f"song{number}" for number in range(6)])
    shown = [(t, round(result["improvement"], 6), round(result["loss"], 6)) for t, result in found.by_timestep]
    assert shown == [(0.25, 0.5, 0.5), (0.75, -0.1, 2.2)]
    assert found.whole["improvement"] == pytest.approx(1 - 2.7 / 3)
    json.dumps(found.record())


def options(dataset, **given) -> SimpleNamespace:
    return SimpleNamespace(**{**OPTIONS, "dataset": str(dataset), **given})


def test_held_out_songs_are_those_that_training_holds_out_and_it_is_said_which(encoded, held, tmp_path):
    whole = open_held_out(options(encoded.dataset))
    assert (len(whole.rows), whole.training, whole.what) == (5, None, f"all 5 songs of {encoded.dataset}")
    share = open_held_out(options(encoded.dataset, validation_split=0.5, seed=1))
    every, _ = open_dataset(str(encoded.dataset))
    expected = held_out(every.column("song_id"), 0.5, 1)
    assert share.songs == [every.column("song_id")[index] for index in expected]
    assert len(share.rows) + len(share.training) == 5
    assert share.what.endswith("held out by --validation_split 0.5 --seed 1")
    other = open_held_out(options(encoded.dataset, validation_dataset=str(held)))
    assert (len(other.rows), len(other.training), other.what) == (6, 5, f"the 5 songs of {held}")
    both = {"train": datasets.load_from_disk(str(encoded.dataset)), "validation": datasets.load_from_disk(str(held))}
    datasets.DatasetDict(both).save_to_disk(str(tmp_path / "both"))
    own = open_held_out(options(tmp_path / "both"))
    assert (own.songs, own.what) == (other.songs, f"the 5 songs of {tmp_path / 'both'}'s validation split")
    with pytest.raises(UserError, match="choose one of them"):
        open_held_out(options(encoded.dataset, validation_split=0.5, validation_dataset=str(held)))


def test_what_an_adapter_was_trained_on_is_read_from_its_run(encoded, held, train_here, tmp_path):
    train_here(tmp_path / "run", *RUN, "--validation_split", 0.5, "--seed", 1)
    trained = [open_training(read_adapter(tmp_path / "run" / name), []) for name in ("", "best")]
    kept = open_held_out(options(encoded.dataset, validation_split=0.5, seed=1))
    for training in trained:
        assert training.rows.column("song_id") == kept.training.column("song_id")
        assert training.seen(kept.songs) == set()
        assert training.seen([*kept.songs, *kept.training.column("song_id")[:1]]) == {training.rows.texts(0)["song_id"]}
    assert [training.chosen for training in trained] == [False, True]
    whole = open_held_out(options(encoded.dataset))
    (warning,) = notes(whole, "run", trained[0])
    assert warning.startswith(f"warning: run was trained on {len(kept.training)} of the 5 songs (song")
    assert warning.endswith("Hold out what its run held out: --validation_split 0.5 --seed 1.")
    assert "was kept because its loss on held-out songs was the lowest" in notes(kept, "best", trained[1])[0]
    assert notes(kept, "run", trained[0]) == []


def test_what_is_not_known_of_a_run_is_said(encoded, train_here, tmp_path):
    data = Encoded(encoded.model, make_dataset(tmp_path / "data", encoded.model, [40, 44]))
    train_here(tmp_path / "run", *RUN, data=data)
    adapter = read_adapter(tmp_path / "run")
    assert len(open_training(adapter, []).rows) == 2
    (tmp_path / "data").rename(tmp_path / "moved")
    gone = open_training(adapter, [])
    assert gone.seen(["x"]) is None
    assert gone.reason == f"it was trained on {tmp_path / 'data'}, which is not here"
    make_dataset(tmp_path / "data", encoded.model, [40, 44, 50])
    assert open_training(adapter, []).reason == f"{tmp_path / 'data'} has been changed since it was trained"
    (tmp_path / "run" / "training_summary.json").unlink()
    alone = open_training(adapter, [])
    assert alone.reason == "no training_summary.json lies beside it"
    (note,) = notes(held_songs(3), "run", alone)
    assert note == f"run: cannot tell whether it was trained on these songs: {alone.reason}."
