"""Every recipe and every command that is written down goes through the real parser of its script."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import yaml

from acestep.options import parse_options
from acestep.train.options import TrainOptions
from tests.conftest import ROOT

SCRIPTS = sorted(ROOT.glob("scripts/**/*.py"))
PAGES = [ROOT / "README.md", ROOT / "recipes" / "README.md", *sorted(ROOT.glob("docs/*.md"))]


class Parsed(Exception):
    """Ends a script once its options are read."""


def commands(text: str) -> list[str]:
    """Commands that run one of the scripts, lines joined."""
    joined = re.sub(r"\\+\n\s*(# *)?", " ", text)
    found = re.findall(r"^[# ]*((?:accelerate launch|python) .*?scripts/\S+\.py.*)$", joined, flags=re.MULTILINE)
    return [command for command in found if "..." not in command and "FILE_OR_FOLDER" not in command]


def written_down() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        found += [(page.name, command) for block in blocks for command in commands(block)]
    for file in [*SCRIPTS, *sorted(ROOT.glob("recipes/*.yaml"))]:
        text = file.read_text(encoding="utf-8")
        found += [(file.name, command) for command in commands(text.split('"""')[1] if file.suffix == ".py" else text)]
    return found


def test_the_search_finds_commands():
    found = written_down()
    assert len(found) >= 15
    assert {name for name, _ in found} >= {"README.md", "train_lora.py", "album_16gb.yaml"}


@pytest.mark.parametrize(("where", "command"), written_down())
def test_every_written_command_is_understood(where, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    # a recipe that an earlier command writes
    command = command.replace("--config my-recipe.yaml", "--config recipes/album_16gb.yaml")
    words = shlex.split(re.split(r" {2,}#| > ", command)[0])
    position = next(at for at, word in enumerate(words) if re.fullmatch(r"scripts/\S+\.py", word))
    script, arguments = ROOT / words[position], words[position + 1 :]
    assert script.is_file(), f"{where}: {command}"
    spec = importlib.util.spec_from_file_location(f"script_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def read_and_end(options_class, description, argv=None):
        parse_options(options_class, description, argv)
        raise Parsed

    def parse_and_end(parser, argv=None, namespace=None):
        parser.parse_known_args(argv, namespace)
        raise Parsed

    if hasattr(module, "parse_options"):
        monkeypatch.setattr(module, "parse_options", read_and_end)
    else:  # a positional argument is nothing for a recipe
        monkeypatch.setattr("argparse.ArgumentParser.parse_args", parse_and_end)
    monkeypatch.setattr("sys.argv", [str(script), *arguments])
    with pytest.raises(Parsed):
        module.main()


@pytest.mark.parametrize("recipe", sorted(ROOT.glob("recipes/*.yaml")), ids=lambda path: path.name)
def test_every_recipe_is_understood_and_makes_sense(recipe: Path):
    needed = ["--dataset", "d", "--pretrained_model_name_or_path", "m", "--output_dir", "o"]
    options = parse_options(TrainOptions, "", ["--config", str(recipe), *needed])
    options.check()
    for key, value in yaml.safe_load(recipe.read_text()).items():
        assert getattr(options, key) == value, key
    assert recipe.name in (ROOT / "recipes" / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    for path in re.findall(r"`((?:scripts|recipes|docs|tests|accelerate_configs)/[\w./-]+\.\w+)`", page.read_text()):
        assert (ROOT / path).exists(), f"{page.name}: {path}"
