import json
import runpy
import shlex
import sys

import pytest

from acestep.options import parse_options
from acestep.train.options import TrainOptions
from tests.conftest import ROOT
from tests.train.encoded import make_dataset, make_model

SCRIPT = ROOT / "scripts" / "estimate_memory.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def estimate_here(monkeypatch, capsys):
    """Run the script in this process, which spares the imports; returns status, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return end.value.code, *capsys.readouterr()

    return run


def test_a_recipe_and_a_dataset_are_estimated_as_a_user_does_it(run_script, model, tmp_path):
    data = make_dataset(tmp_path / "data", model, [60, 250, 75])
    recipe = ROOT / "recipes" / "tiny_cpu.yaml"
    process = run_script(
        *("estimate_memory.py", "--config", recipe, "--dataset", data, "--pretrained_model_name_or_path", model)
    )
    rows = [line.split()[:3] for line in process.stdout.splitlines()]
    names, sizes = [row[0] for row in rows], [float(row[1]) for row in rows]
    assert names[0] == "weights"
    assert names[-1] == "total"
    assert all(row[2] == "GiB" for row in rows)
    assert sizes[-1] == pytest.approx(sum(sizes[:-1]), abs=0.03)  # of numbers with two decimals
    assert "8 s (condition" in process.stdout  # the recipe's crop of the longest song, of ten seconds
    assert process.stderr == ""


def test_json_has_bytes(estimate_here, model):
    config = model / "transformer" / "config.json"
    status, out, err = estimate_here("--pretrained_model_name_or_path", config, "--seconds", 10, "--json")
    found = json.loads(out)
    assert (status, err) == (0, "")
    assert found["total"] == sum(found["parts"].values())
    assert (found["seconds"], found["condition_tokens"]) == ([10.0], [700])


def test_weights_are_not_needed(estimate_here, model, tmp_path):
    for part in ("transformer", "condition_encoder"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text((model / part / "config.json").read_text())
    (tmp_path / "model_index.json").write_text((model / "model_index.json").read_text())
    both = [
        estimate_here("--pretrained_model_name_or_path", folder, "--seconds", 10, "--json")[1]
        for folder in (tmp_path, model)
    ]
    assert both[0] == both[1]


def test_an_original_configuration_alone_is_enough(estimate_here):
    config = ROOT / "tests" / "reference" / "xl" / "acestep-v15-xl-base" / "config.json"
    status, out, _ = estimate_here("--pretrained_model_name_or_path", config, "--seconds", 4, "--json")
    assert status == 0
    assert json.loads(out)["parts"]["weights"] > 0


def test_the_command_of_the_first_fit_trains(estimate_here, model):
    arguments = ("--pretrained_model_name_or_path", model, "--seconds", 600, "--mixed_precision", "bf16", "--rank", 8)
    status, out, _ = estimate_here(*arguments, "--fit", "580MB")
    assert status == 0
    lines = out.splitlines()
    assert lines[0].startswith("as it is: ")
    assert lines[0].endswith("GiB, too much")
    assert lines[1].startswith("--gradient_checkpointing: ")
    command = shlex.split(out[out.index("accelerate launch") :].replace("\\\n", " "))
    assert command[:3] == ["accelerate", "launch", "scripts/train_lora.py"]
    options = parse_options(TrainOptions, "", command[3:])
    assert (options.dataset, options.pretrained_model_name_or_path) == ("data", str(model))
    assert options.gradient_checkpointing
    assert (options.rank, options.mixed_precision) == (8, "bf16")


def test_nothing_that_fits_is_status_1(estimate_here, model):
    changed = ("--gradient_checkpointing", "--optimizer", "adamw8bit", "--quantization", "nf4")
    arguments = ("--pretrained_model_name_or_path", model, "--seconds", 40, "--mixed_precision", "bf16", *changed)
    status, out, err = estimate_here(*arguments, "--fit", "1MB", "--json")
    assert status == 1
    found = json.loads(out)
    assert (found["fits"], found["command"]) == (False, None)
    assert found["tried"][-1]["change"] == "--crop_seconds 30"
    assert "--crop_seconds 30: " in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "2b"), "--dataset and --seconds: expected one of them"),
        (("--seconds", "60"), "--model and --pretrained_model_name_or_path: expected one of them"),
        (("--model", "2b", "--seconds", "0"), "--seconds 0 --condition_tokens 700: expected 1 to 3600"),
        (("--model", "2b", "--seconds", "nan"), "--seconds nan"),
        (("--model", "2b", "--seconds", "60", "--fit", "8"), "--fit 8: expected a card's memory such as 8GB"),
        (("--model", "2b", "--dataset", "/nowhere"), "--dataset /nowhere: "),
        (("--pretrained_model_name_or_path", "/nowhere", "--seconds", "9"), "/nowhere"),
        (("--model", "2b", "--seconds", "60", "--rank", "0"), "--rank is 0; expected at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(estimate_here, arguments, message):
    status, out, err = estimate_here(*arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_configuration_of_something_else_is_refused(estimate_here, model):
    status, _, err = estimate_here("--pretrained_model_name_or_path", model / "vae" / "config.json", "--seconds", 9)
    assert status == 2
    assert "is of no ACE-Step 1.5 transformer" in err


def test_presets_are_those_of_the_script():
    from acestep.train.memory_inputs import PRESETS

    assert tuple(PRESETS) == runpy.run_path(str(SCRIPT))["PRESETS"]
