"""The script: its first line, its files, what it plays, and what it refuses."""

import json
import re
import runpy
import shutil
import sys

import numpy as np
import pytest
import soundfile
import torch

from acestep.dataset.opening import open_dataset
from acestep.evaluation.heard import measure_pieces
from acestep.evaluation.playing import Piece
from acestep.models.checkpoint import Checkpoint
from acestep.models.generation import Generator
from acestep.models.generation_requests import Sampling
from acestep.players import Clip
from tests.conftest import ROOT
from tests.evaluation.conftest import held  # noqa: F401
from tests.evaluation.tiny_clap import save_tiny_clap
from tests.train.conftest import encoded, train_here  # noqa: F401


@pytest.fixture(scope="module")
def lora(encoded, held, tmp_path_factory):  # noqa: F811
    """An adapter that learned something, with checkpoints, and what its run found on the held-out songs."""
    from accelerate.state import AcceleratorState

    from acestep.options import parse_options
    from acestep.train.options import TrainOptions
    from acestep.train.run import train

    folder = tmp_path_factory.mktemp("runs") / "lora"
    AcceleratorState._reset_state(True)
    train(
        parse_options(
            TrainOptions,
            "",
            [
                *("--dataset", str(encoded.dataset), "--pretrained_model_name_or_path", str(encoded.model), "--cpu"),
                *("--output_dir", str(folder), "--rank", "4", "--learning_rate", "3e-2", "--max_train_steps", "8"),
                *("--checkpointing_steps", "2", "--validation_dataset", str(held), "--evaluation_draws", "0"),
            ],
        )
    )
    return folder


@pytest.fixture
def evaluate(encoded, monkeypatch, capsys):  # noqa: F811
    """The script, in this process: its exit status, standard output and standard error."""

    def evaluate(*arguments, dataset=None):
        argv = ["--dataset", dataset or encoded.dataset, "--pretrained_model_name_or_path", encoded.model, *arguments]
        monkeypatch.setattr(sys, "argv", ["evaluate_lora.py", *map(str, argv)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "scripts" / "evaluate_lora.py"), run_name="__main__")
        return end.value.code, *capsys.readouterr()

    return evaluate


def test_the_first_line_answers_and_its_figures_are_those_of_the_run(run_script, lora, encoded, held):  # noqa: F811
    done = run_script(
        "evaluate_lora.py",
        *("--dataset", encoded.dataset, "--pretrained_model_name_or_path", encoded.model),
        *("--validation_dataset", held, "--lora", lora),
    )
    found = re.match(
        r"lora helps on 5 unseen songs: loss (\S+) -> (\S+), (\S+) % lower \(95 % interval (\S+) to (\S+) %\), "
        r"better on 5 of 5 songs\.\n",
        done.stdout,
    )
    before, after, lower, low, high = map(float, found.groups())
    events = [json.loads(line) for line in (lora / "metrics.jsonl").read_text().splitlines()]
    by_event = {event["event"]: event for event in events}
    assert before == pytest.approx(by_event["base"]["loss"], abs=6e-4)
    assert after == pytest.approx(by_event["validation"]["loss"], abs=6e-4)
    assert lower == pytest.approx(100 * (1 - after / before), abs=0.1)
    assert low <= lower <= high
    for (t, loss), line in zip(by_event["base"]["by_timestep"], done.stdout.splitlines()[4:], strict=False):
        assert line.split()[:2] == [f"{t:.4g}", f"{loss:#.4g}"]


def test_everything_is_kept_in_json_and_pictures(evaluate, lora, held, tmp_path):  # noqa: F811
    out, arguments = tmp_path / "out", ("--validation_draws", 2, "--lora", lora / "checkpoint-2", lora)
    status, stdout, stderr = evaluate(*arguments, "--validation_dataset", held, "--output_dir", out)
    assert status == 0, stderr
    assert sorted(path.name for path in out.iterdir()) == [
        "evaluation.json",
        "loss_by_song.png",
        "loss_by_timestep.png",
    ]
    assert all((out / f"loss_by_{what}.png").read_bytes().startswith(b"\x89PNG") for what in ("song", "timestep"))
    record = json.loads((out / "evaluation.json").read_text())
    assert record["verdicts"] == stdout.splitlines()[:2]
    assert list(record["adapters"]) == ["lora/checkpoint-2", "lora"]
    assert [(pair["label"], pair["against"]) for pair in record["pairs"]] == [("lora/checkpoint-2", "lora")]
    assert stdout.splitlines()[2].startswith("lora/checkpoint-2 is worse than lora: loss ")
    songs = record["songs"]
    assert len(songs) == 5
    whole = record["adapters"]["lora"]
    weights = np.array([1, 1, 1, 1, 2])  # the last song has two segments
    for label, loss in (("base", whole["reference_loss"]), ("lora", whole["loss"])):
        assert np.average([song["loss"][label] for song in songs], weights=weights) == pytest.approx(loss)
    status, _, stderr = evaluate(*arguments, "--validation_dataset", held, "--output_dir", out)
    assert status == 2
    assert "holds evaluation.json of another evaluation" in stderr


def test_songs_that_were_trained_on_are_said_first_of_all(evaluate, lora, encoded, tmp_path):  # noqa: F811
    status, stdout, _ = evaluate("--validation_draws", 1, "--lora", lora)
    assert status == 0
    assert stdout.startswith("lora was trained on these songs, so this says nothing about songs it has not seen: loss ")
    assert "warning: lora was trained on 5 of the 5 songs (song0.wav, song1.wav, song2.wav, ...). Hold out" in stdout
    unknown = tmp_path / "alone"
    unknown.mkdir()
    shutil.copy(lora / "pytorch_lora_weights.safetensors", unknown)
    _, stdout, _ = evaluate("--validation_draws", 1, "--lora", unknown)
    assert stdout.startswith("alone helps on 5 held-out songs: ")
    assert "alone: cannot tell whether it was trained on these songs: no training_summary.json" in stdout


@pytest.fixture(scope="module")
def played(lora, held, encoded, tmp_path_factory):  # noqa: F811
    """A run of the script with music for two prompts."""
    out, monkeypatch = tmp_path_factory.mktemp("played"), pytest.MonkeyPatch()
    argv = (
        "--dataset",
        encoded.dataset,
        "--pretrained_model_name_or_path",
        encoded.model,
        "--validation_dataset",
        held,
    )
    argv += ("--lora", lora, "--validation_draws", 1, "--output_dir", out, "--num_generations", 2)
    argv += ("--num_inference_steps", 2, "--seed", 3, "--clap", save_tiny_clap(tmp_path_factory.mktemp("clap")))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["evaluate_lora.py", *map(str, argv)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "scripts" / "evaluate_lora.py"), run_name="__main__")
    assert end.value.code == 0
    return out


def test_what_is_played_is_what_the_pipeline_plays_for_the_songs_texts(played, lora, encoded, held):  # noqa: F811
    """Texts encoded anew, another attention, another loader of adapters: the same music."""
    rows, _ = open_dataset(str(held))
    generator = Generator(Checkpoint(str(encoded.model)), "cpu", torch.float32, [str(lora)])
    for number, index in enumerate((0, 2)):
        row = rows.texts(index)
        for label, use_adapters in (("base", False), ("lora", True)):
            expected = generator(
                row["caption"],
                row["lyrics"],
                3 + number,
                Sampling(2, 1.0, 7.0),
                use_adapters=use_adapters,
                vocal_language=row["language"],
                audio_duration=row["frames"] / 25,  # the column's float32 is a little more, and the pipeline rounds up
                bpm=row["bpm"],
                keyscale=row["keyscale"],
                timesignature=row["timesignature"],
            )
            file = played / "pieces" / f"{number + 1:02d}-song{index}-{label}.flac"
            found = soundfile.read(file, dtype="float32")[0].T
            assert found.shape == expected.shape == (2, row["frames"] * 1920)
            assert np.abs(found - expected.numpy()).max() < 2e-3, file


def test_what_was_played_is_measured_and_stands_on_a_page(played):
    record = json.loads((played / "evaluation.json").read_text())
    found = record["generated"]
    assert list(found) == ["base", "lora", "held-out song", "training songs"]
    for label in ("base", "lora"):
        assert found[label]["frechet_latents"]["predictions"] == 4  # whole seconds of 60 and 71 frames
        assert found[label]["frechet_latents"]["references"] == 2 + 4 + 2 + 4 + 2 + 2
        assert found[label]["frechet_clap"]["predictions"] == found[label]["frechet_clap"]["references"] == 4
        assert found[label]["tempo"]["pieces"] == 2
        assert 0 <= found[label]["training_similarity"]["share_above"] <= 1
    assert found["training songs"]["frechet_latents"]["frechet_distance"] < min(
        found[label]["frechet_latents"]["frechet_distance"] for label in ("base", "lora")
    )
    page = (played / "index.html").read_text()
    files = re.findall(r' src="(.*?)"', page)
    assert len(files) == 6
    assert all((played / file).is_file() for file in files)
    assert record["verdicts"][0].replace(">", "&gt;") in page
    assert re.findall('<th scope="col">(.*?)</th>', page) == ["prompt", "base", "lora", "held-out song"]


def test_a_copy_of_a_training_song_is_noticed(encoded, held, tmp_path):  # noqa: F811
    """A model cannot be made to copy here; its pieces are put in its place."""
    training, _ = open_dataset(str(encoded.dataset))
    others, _ = open_dataset(str(held))
    real = [Piece(Clip(), others.tensor(index, "latents")) for index in (1, 3)]
    copied = [Piece(Clip(), training.tensor(index, "latents")[5:58]) for index in (0, 2)]
    new = [Piece(Clip(), torch.randn(60, 8, generator=torch.Generator().manual_seed(1)) + 1) for _ in range(2)]
    pieces = {"copies": copied, "new": new, "held-out song": real}
    found = measure_pieces(pieces, others, training, [others.texts(1), others.texts(3)], torch.device("cpu"))
    assert found["copies"]["training_similarity"]["share_above"] == 1
    assert found["copies"]["training_similarity"]["highest"] == pytest.approx(1, abs=1e-5)
    assert found["new"]["training_similarity"]["highest"] < 0.5
    assert "tempo" not in found["new"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--num_generations", 2), "--num_generations needs an --output_dir for the music"),
        (("--clap", "x"), "--clap is about what is generated; say --num_generations 4"),
        (("--lora_scale", 1, 2), "--lora_scale has 2 values for 1 LoRAs; expected one each"),
        (("--validation_draws", 0), "--validation_draws is 0; expected at least 1"),
        (("--validation_split", 1), "--validation_split is 1.0; expected at least 0 and less than 1"),
        (("--device", "tpu"), "--device tpu: cannot be used"),
    ],
)
def test_options_that_make_no_sense_are_refused(evaluate, lora, arguments, message):
    status, _, stderr = evaluate("--lora", lora, *arguments)
    assert status == 2
    assert message in stderr


def test_an_adapter_in_lower_precision_on_a_quantized_model_is_measured(evaluate, lora, held):  # noqa: F811
    status, stdout, stderr = evaluate(
        *("--lora", lora, "--validation_dataset", held, "--validation_draws", 1),
        *("--dtype", "bfloat16", "--quantization", "int8"),
    )
    assert status == 0, stderr
    assert stdout.startswith("lora helps on 5 unseen songs: ")
