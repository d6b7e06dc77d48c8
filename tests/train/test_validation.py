"""Held-out songs, the best adapter, early stopping, the adapter's mean."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from acestep.errors import UserError
from acestep.train.adapter import WEIGHTS_NAME
from acestep.train.validation import Best
from tests.train.encoded import Encoded, make_dataset, make_model

RUN = ("--rank", 4, "--learning_rate", 1e-2, "--evaluation_draws", 0, "--validation_draws", 3)


def events(folder, kind: str) -> list[dict]:
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if record["event"] == kind]


@pytest.fixture(scope="module")
def held(encoded, tmp_path_factory):
    """Three other songs."""
    folder = tmp_path_factory.mktemp("held") / "data"
    return make_dataset(folder, encoded.model, [44, 61, 50], ids=[f"{9 + number:032x}" for number in range(3)])


def test_held_out_songs_are_measured_alike_for_base_and_adapter_and_the_best_adapter_is_kept(
    encoded, held, train_here, tmp_path
):
    validate = ("--validation_dataset", held, "--validation_steps", 2, "--max_train_steps", 7)
    summary = train_here(tmp_path / "a", *RUN, *validate)
    (base,), found = events(tmp_path / "a", "base"), events(tmp_path / "a", "validation")
    assert [record["step"] for record in found] == [2, 4, 6, 7]
    assert [t for t, _ in base["by_timestep"]] == [t for t, _ in found[0]["by_timestep"]]
    assert base["pairs"] == found[0]["pairs"] == 9
    lowest = min(found, key=lambda record: record["loss"])
    assert summary["best"] == {"loss": lowest["loss"], "step": lowest["step"], "average": False, "since": 0} | {
        "since": len(found) - 1 - found.index(lowest)
    }
    # the adapter in best/ has that loss: measured anew, without a step, by the same pairs
    again = ("--validation_dataset", held, "--max_train_steps", 1, "--learning_rate", 1e-30)
    train_here(tmp_path / "b", *RUN, *again, "--init_lora", tmp_path / "a" / "best")
    assert events(tmp_path / "b", "validation")[-1]["loss"] == pytest.approx(lowest["loss"], rel=1e-6)
    assert events(tmp_path / "b", "base")[0]["loss"] == base["loss"]  # of the model, not of the adapter it began with
    about = json.loads((tmp_path / "a" / "best" / "validation.json").read_text())
    assert about == {"loss": lowest["loss"], "step": lowest["step"], "average": False}


def test_a_share_of_the_songs_is_held_out_by_song_and_not_trained_on(encoded, train_here, tmp_path):
    segments = make_dataset(
        tmp_path / "data", encoded.model, [44, 61, 50, 48, 52, 60], ids=[f"{number // 2:032x}" for number in range(6)]
    )
    data = Encoded(encoded.model, segments)
    summary = train_here(tmp_path / "out", *RUN, "--validation_split", 0.5, "--max_train_steps", 2, data=data)
    assert summary["validation_rows"] in (2, 4)  # whole songs, of two segments each
    assert summary["dataset_rows"] + summary["validation_rows"] == 6


def test_the_validation_split_of_the_dataset_is_used(encoded, held, train_here, tmp_path):
    import datasets

    both = datasets.DatasetDict(
        {"train": datasets.load_from_disk(str(encoded.dataset)), "validation": datasets.load_from_disk(str(held))}
    )
    both.save_to_disk(str(tmp_path / "data"))
    data = Encoded(encoded.model, tmp_path / "data")
    summary = train_here(tmp_path / "out", *RUN, "--max_train_steps", 2, data=data)
    assert (summary["dataset_rows"], summary["validation_rows"]) == (5, 3)
    with pytest.raises(UserError, match="has a validation split already"):
        train_here(tmp_path / "no", *RUN, "--validation_split", 0.5, data=data)


def test_what_is_held_out_must_not_be_trained_on_nor_be_of_another_model(encoded, train_here, tmp_path):
    with pytest.raises(UserError, match=r"5 songs are trained on as well, such as song0\.wav"):
        train_here(tmp_path / "out", *RUN, "--validation_dataset", encoded.dataset)
    other = make_dataset(tmp_path / "other", make_model(tmp_path / "model", seed=1), [40], ids=["f" * 32])
    with pytest.raises(UserError, match="was encoded for model"):
        train_here(tmp_path / "out", *RUN, "--validation_dataset", other)
    with pytest.raises(UserError, match="--validation_dataset nowhere: no such folder"):
        train_here(tmp_path / "out", *RUN, "--validation_dataset", "nowhere")


def test_a_run_that_no_longer_gets_better_stops_early_and_goes_on_to_the_same_end(encoded, held, train_here, tmp_path):
    """A rate so high that held-out songs get worse soon."""
    wild = ("--rank", 4, "--learning_rate", 0.3, "--evaluation_draws", 0, "--validation_draws", 3)
    wild += ("--validation_dataset", held, "--validation_steps", 1, "--early_stopping_patience", 3)
    wild += ("--max_train_steps", 60, "--lr_scheduler", "constant", "--max_grad_norm", 0)
    summary = train_here(tmp_path / "whole", *wild, "--checkpointing_steps", 2)
    assert summary["stopped_early"]
    assert summary["steps"] == summary["best"]["step"] + 3 < 60
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "cut" / "checkpoint-2")
    again = train_here(tmp_path / "cut", *wild, "--resume_from_checkpoint", "latest")
    assert (again["steps"], again["best"]) == (summary["steps"], summary["best"])


def test_best_counts_validations_since_the_lowest():
    best = Best()
    assert best.take(1, 2.0, None)
    assert not best.take(2, 2.0, None)
    assert not best.take(3, float("nan"), None)
    assert best.since == 2
    assert best.take(4, 3.0, 1.5)
    assert (best.loss, best.average, best.since) == (1.5, True, 0)


def test_the_mean_of_the_adapter_follows_its_formula_and_both_are_saved(encoded, held, train_here, tmp_path):
    """Checkpoints after every step give the weights whose mean it is: decay `(1 + n) / (10 + n)`, at most 0.5."""
    options = (*RUN, "--ema_decay", 0.3, "--max_train_steps", 6, "--checkpointing_steps", 1)
    summary = train_here(tmp_path, *options, "--validation_dataset", held, "--validation_steps", 3)
    adapters = [load_file(tmp_path / f"checkpoint-{step}" / WEIGHTS_NAME) for step in range(1, 6)]
    adapters.append(load_file(tmp_path / WEIGHTS_NAME))
    mean = None
    for count, weights in enumerate(adapters):
        decay = 0.0 if count == 0 else min((1 + count) / (10 + count), 0.3)
        mean = {
            key: weight if mean is None else mean[key] - (1 - decay) * (mean[key] - weight)
            for key, weight in weights.items()
        }
    saved = load_file(tmp_path / "ema" / WEIGHTS_NAME)
    assert all(torch.allclose(saved[key], mean[key], atol=1e-7) for key in mean)
    assert max((saved[key] - adapters[-1][key]).abs().max() for key in mean) > 1e-4
    found = events(tmp_path, "validation")
    assert all(record["ema_loss"] != record["loss"] for record in found)
    assert summary["best"]["loss"] == min(min(record["loss"], record["ema_loss"]) for record in found)
