"""Recipes written for songs and a GPU, and those that are shipped."""

import importlib.util
import re
import shlex

import pytest
import yaml

from acestep.errors import UserError
from acestep.options import parse_options
from acestep.train import recipes
from acestep.train.options import TrainOptions
from tests.conftest import ROOT
from tests.train.encoded import Encoded, make_dataset, make_model

NEEDED = ("--dataset", "d", "--pretrained_model_name_or_path", "m", "--output_dir", "o")


@pytest.fixture(scope="module")
def encoded(tmp_path_factory) -> Encoded:
    folder = tmp_path_factory.mktemp("songs")
    model = make_model(folder / "model")
    return Encoded(model, make_dataset(folder / "data", model, [60, 41, 75]))


def script():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("new_recipe", ROOT / "scripts" / "new_recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(file) -> TrainOptions:
    options = parse_options(TrainOptions, "", ["--config", str(file), *NEEDED])
    options.check()
    return options


def test_a_new_recipe_is_understood_and_says_why_and_how_to_start(encoded, run_script, tmp_path):
    file = tmp_path / "my.yaml"
    new = ["new_recipe.py", "--dataset", encoded.dataset, "--output", file, "--gpu_memory", "24GB", "--yes"]
    new += ["--model", encoded.model]
    printed = run_script(*new).stdout
    options = read(file)
    assert (options.num_train_epochs, options.mixed_precision, options.gradient_checkpointing) == (800, "bf16", True)
    assert "num_train_epochs: 800 # for 3 songs" in file.read_text()
    assert re.search(r"Estimated memory: 0\.\d GiB", file.read_text())  # of the tiny model
    launch = printed.split("start it with:")[1]
    words = shlex.split(launch.replace("\\\n", " "))
    assert words[words.index("--config") + 1] == str(file)
    parse_options(TrainOptions, "", words[words.index("scripts/train_lora.py") + 1 :])
    before = file.read_text()
    refused = run_script(*new, check=False)
    assert refused.returncode == 2
    assert "is there already and is not replaced" in refused.stderr
    assert file.read_text() == before


def test_epochs_follow_the_number_of_songs():
    assert [recipes.advised_epochs(songs) for songs in (1, 10, 20, 100)] == [800, 800, 800, 500]
    assert [recipes.advised_epochs(songs) for songs in (200, 1000, 100_000)] == [250, 50, 1]
    between = [recipes.advised_epochs(songs) for songs in range(20, 101)]
    assert between == sorted(between, reverse=True)


def situation(**changes) -> recipes.Situation:
    return recipes.Situation(**{"songs": 13, "rows": 13, "seconds": [200.0] * 13, "gpu_bytes": 16 * 2**30} | changes)


def test_advice_depends_on_songs_and_cards():
    options, reasons = recipes.advise(situation(), rank=32)
    assert (options.rank, options.validation_split, options.early_stopping_patience) == (32, 0.1, 5)
    assert set(reasons) >= {"rank", "num_train_epochs", "validation_split"}
    assert recipes.advise(situation(has_validation=True), 32)[0].validation_split == 0
    assert recipes.advise(situation(songs=4, rows=4), 32)[0].validation_split == 0  # too few to spare one
    assert recipes.advise(situation(has_bf16=False), 32)[0].mixed_precision == "fp16"
    assert recipes.advise(situation(gpu_bytes=None), 32)[0].cpu
    lengths = {"processes": 2, "seconds": [100.0, 200.0]}
    assert recipes.advise(situation(**lengths), 32)[0].group_by_length
    assert "multi_gpu.yaml --num_processes 2" in recipes.launch_line(
        recipes.advise(situation(**lengths), 32)[0], 2, "m", "d", ROOT / "r.yaml"
    )


def test_a_small_card_gets_what_fits_and_a_tiny_one_an_error(encoded, tmp_path):
    made = situation(songs=3, rows=3, seconds=[2.4, 1.6, 3.0], gpu_bytes=2**30)
    model, data, file = str(encoded.model), str(encoded.dataset), tmp_path / "r.yaml"
    text, _ = recipes.new_recipe(made, 16, 100, model, data, file)
    assert "quantization" not in text  # nothing is given up where it fits
    with pytest.raises(UserError, match=r"nothing fits into 0\.0 GiB; with all that helps \(.*--quantization nf4"):
        recipes.new_recipe(made.on(2**16), 16, 100, model, data, file)


def test_shipped_recipes_are_listed_shown_and_copied(run_script, tmp_path):
    listed = run_script("new_recipe.py", "--list").stdout
    assert all(name in listed for name in recipes.shipped())
    assert len(listed.splitlines()) == len(recipes.shipped()) >= 7
    shown = run_script("new_recipe.py", "--show", "low_vram_8gb").stdout
    assert shown == (ROOT / "recipes" / "low_vram_8gb.yaml").read_text()
    run_script("new_recipe.py", "--copy", "turbo", "--output", tmp_path / "mine.yaml")
    assert (tmp_path / "mine.yaml").read_text() == (ROOT / "recipes" / "turbo.yaml").read_text()
    with pytest.raises(UserError, match="no such recipe; expected one of album_16gb"):
        recipes.find("albums")


def test_a_finished_run_becomes_a_recipe_without_what_belongs_to_its_machine(encoded, tmp_path):
    from acestep.train.run import train

    made = ["--rank", "3", "--max_train_steps", "1", "--learning_rate", "2e-4", "--cpu", "--evaluation_draws", "0"]
    made += ["--target_modules", "self_attn", "mlp", "--lr_scheduler", "constant"]
    where = ["--dataset", encoded.dataset, "--pretrained_model_name_or_path", encoded.model]
    train(parse_options(TrainOptions, "", [*map(str, where), "--output_dir", str(tmp_path / "out"), *made]))
    text = recipes.recipe_text(recipes.from_run(tmp_path / "out"), ["again"])
    assert str(encoded.dataset) not in text
    assert str(tmp_path) not in text
    written = yaml.safe_load(text)
    assert written == {
        "rank": 3,
        "target_modules": ["self_attn", "mlp"],
        "max_train_steps": 1,
        "learning_rate": 2e-4,
        "lr_scheduler": "constant",
        "evaluation_draws": 0,
        "cpu": True,
    }
    file = recipes.write_new(tmp_path / "again.yaml", text)
    assert read(file).target_modules == ["self_attn", "mlp"]
    with pytest.raises(UserError, match=r"holds no training_summary\.json"):
        recipes.from_run(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--list", "--show", "turbo"], "choose one of"),
        ([], "choose one of"),
        (["--dataset", "nowhere"], "no such folder"),
        (["--dataset", "DATA", "--gpu_memory", "much"], "--gpu_memory much: expected a size"),
        (["--dataset", "DATA", "--rank", "0"], "--rank 0"),
    ],
)
def test_what_cannot_be_is_one_clear_line(encoded, tmp_path, monkeypatch, arguments, message):
    module = script()
    words = [str(encoded.dataset) if word == "DATA" else word for word in arguments]
    monkeypatch.setattr("sys.argv", ["new_recipe.py", *words, "--output", str(tmp_path / "r.yaml"), "--yes"])
    with pytest.raises(UserError) as error:
        module.main()
    assert message in str(error.value)
    assert not (tmp_path / "r.yaml").exists()


def test_sizes_are_read_as_people_write_them():
    module = script()
    assert module.parse_memory("12GB") == 12 * 2**30
    assert module.parse_memory("11.5GiB") == int(11.5 * 2**30)
    assert module.parse_memory("0") == 0
