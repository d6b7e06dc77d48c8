"""Options: defaults, then the recipe, then the command line."""

from dataclasses import dataclass

import pytest

from acestep.errors import UserError, run_script
from acestep.options import option, options_as_dict, parse_options, required


@dataclass
class Options:
    dataset: str = required("folder")
    rank: int = option(64, "rank")
    learning_rate: float = option(1e-4, "100% of it")
    alpha: float | None = option(None, "alpha")
    language: str = option("unknown", "language")
    schedule: str = option("cosine", "schedule", ["cosine", "constant"])
    layers: list[str] = option(["attention"], "layers")
    scales: list[float] = option([], "scales")
    compare: bool = option(False, "compare")
    backup: bool = option(True, "backup")


@pytest.fixture
def parse(tmp_path):
    def parse(*argv, recipe: str | None = None) -> Options:
        words = [str(word) for word in argv]
        if recipe is not None:
            (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
            words += ["--config", str(tmp_path / "recipe.yaml")]
        return parse_options(Options, "Says what it does.", words)

    return parse


def test_the_recipe_wins_over_defaults_and_the_command_line_over_the_recipe(parse):
    found = parse("--dataset", "d", "--rank", 8, recipe="rank: 16\nlearning_rate: 1e-3\n")
    assert (found.rank, found.learning_rate, found.schedule) == (8, 1e-3, "cosine")
    assert parse("--dataset", "d").learning_rate == 1e-4


def test_a_required_option_may_come_from_the_recipe(parse, capsys):
    assert parse(recipe="dataset: songs\n").dataset == "songs"
    for recipe in (None, "rank: 2\n", "dataset:\n"):
        with pytest.raises(SystemExit) as end:
            parse(recipe=recipe)
        assert end.value.code == 2
        assert "required: --dataset" in capsys.readouterr().err


def test_words_of_a_recipe_mean_what_they_mean_on_the_command_line(parse):
    recipe = "dataset: 010\nlanguage: no\nrank: 010\nlearning_rate: 1e-4\nalpha: ~\ncompare: yes\nbackup: off\n"
    with pytest.raises(UserError, match="'backup' is 'off'"):
        parse(recipe=recipe)
    found = parse(recipe=recipe.replace("off", "no"))
    assert (found.dataset, found.language, found.rank, found.learning_rate) == ("010", "no", 10, 1e-4)
    assert (found.alpha, found.compare, found.backup) == (None, True, False)


@pytest.mark.parametrize(
    ("argv", "recipe", "expected"),
    [
        ([], None, (False, True)),
        (["--compare"], None, (True, True)),
        (["--compare", "false"], None, (False, True)),
        (["--no_backup"], None, (False, False)),
        (["--no-backup"], None, (False, False)),
        (["--backup", "false"], None, (False, False)),
        ([], "compare: true\nbackup: false\n", (True, False)),
        (["--compare", "false", "--backup"], "compare: true\nbackup: false\n", (False, True)),
        (["--no_backup"], "backup: true\n", (False, False)),
    ],
)
def test_booleans(parse, argv, recipe, expected):
    found = parse("--dataset", "d", *argv, recipe=recipe)
    assert (found.compare, found.backup) == expected


def test_lists(parse):
    assert parse("--dataset", "d").layers == ["attention"]
    assert parse("--dataset", "d", "--layers", "to_q", "mlp").layers == ["to_q", "mlp"]
    found = parse("--dataset", "d", recipe="layers: [to_q, to_k]\nscales: 0.5\n")
    assert (found.layers, found.scales) == (["to_q", "to_k"], [0.5])
    assert parse("--dataset", "d", "--layers", "mlp", recipe="layers: [to_q]\n").layers == ["mlp"]
    assert parse("--dataset", "d", recipe="layers: []\n").layers == []
    first = parse("--dataset", "d")
    first.layers.append("changed")
    assert parse("--dataset", "d").layers == ["attention"]


def test_an_empty_value_leaves_the_default(parse):
    found = parse("--dataset", "d", recipe="# nothing chosen\nrank:\nschedule: null\n")
    assert (found.rank, found.schedule) == (64, "cosine")
    assert parse("--dataset", "d", recipe="").rank == 64
    assert parse("--dataset", "d", recipe="language: ''\n").language == ""


def test_an_unknown_key_of_a_recipe_is_refused_with_the_nearest_one(parse):
    with pytest.raises(UserError, match=r"recipe\.yaml: unknown option 'learnig_rate'. Did you mean 'learning_rate'\?"):
        parse("--dataset", "d", recipe="learnig_rate: 1\n")
    with pytest.raises(UserError, match=r"unknown option 'help'"):
        parse("--dataset", "d", recipe="help: true\n")


def test_an_unknown_flag_is_refused_with_the_nearest_one(parse, capsys):
    with pytest.raises(SystemExit) as end:
        parse("--dataset", "d", "--learnig_rate=1")
    assert end.value.code == 2
    assert "Did you mean '--learning_rate'?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse("--dataset", "d", "--lang", "en")  # no abbreviations: a later option could make them mean another
    assert "--lang" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("rank: fast\n", r"recipe\.yaml: 'rank' is 'fast': invalid int value"),
        ("rank: 1.5\n", r"'rank' is '1\.5': invalid int value"),
        ("rank: [1, 2]\n", r"'rank' is \['1', '2'\]; expected one value"),
        ("rank: {a: 1}\n", r"'rank' is \{'a': '1'\}; expected one value"),
        ("compare: perhaps\n", r"'compare' is 'perhaps': .*true/false"),
        ("schedule: cosin\n", r"'schedule' is 'cosin': invalid choice.*cosine"),
        ("layers: [to_q, [to_k]]\n", r"'layers' is .*expected plain values"),
        ("scales: [1, fast]\n", r"'scales' is \['1', 'fast'\]: invalid float value"),
        ("- rank\n", r"found a list; expected lines of `option: value`"),
        ("rank: 1\nrank: 2\n", r"recipe\.yaml: 'rank' is there 2 times"),
        ("rank: [1\n", r"--config .*recipe\.yaml: cannot be read as a YAML file"),
        ("rank: !!python/object/apply:os.getcwd []\n", r"cannot be read as a YAML file"),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_name_and_the_key(parse, recipe, message):
    with pytest.raises(UserError, match=message):
        parse("--dataset", "d", recipe=recipe)


def test_a_recipe_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--config .*none\.yaml: cannot be read"):
        parse_options(Options, "", ["--config", str(tmp_path / "none.yaml")])


@dataclass
class Cleaning:
    path: str = required("what to clean", positional="FILE_OR_FOLDER")
    depth: int = option(3, "how deep", positional="DEPTH")
    dry_run: bool = option(False, "change nothing")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["songs"], ("songs", 3, False)),
        (["songs", "5"], ("songs", 5, False)),
        (["--dry_run", "true", "songs"], ("songs", 3, True)),
        (["--dry_run", "songs"], ("songs", 3, True)),
        (["--dry-run", "no", "songs", "2"], ("songs", 2, False)),
        (["songs", "--dry_run"], ("songs", 3, True)),
        (["--path", "songs"], ("songs", 3, False)),
        (["--path=songs", "--depth=4", "--dry_run"], ("songs", 4, True)),
        (["--config", "RECIPE"], ("of the recipe", 7, True)),
        (["songs", "--config", "RECIPE"], ("songs", 7, True)),
        (["--config", "RECIPE", "--path", "songs", "--depth", "2"], ("songs", 2, True)),
        (["--config", "RECIPE", "--dry_run", "false", "--", "-songs"], ("-songs", 7, False)),
    ],
)
def test_a_positional_is_its_option_without_the_name(tmp_path, argv, expected):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("path: of the recipe\ndepth: 7\ndry_run: true\n")
    found = parse_options(Cleaning, "", [str(recipe) if word == "RECIPE" else word for word in argv])
    assert (found.path, found.depth, found.dry_run) == expected


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: FILE_OR_FOLDER"),
        (["--path", "a", "b"], "argument FILE_OR_FOLDER: not allowed with argument --path"),
        (["a", "deep"], "argument DEPTH: invalid int value: 'deep'"),
        (["a", "1", "b"], "unrecognized arguments: b"),
    ],
)
def test_a_positional_that_is_missing_or_said_twice_is_refused(argv, message, capsys):
    with pytest.raises(SystemExit) as end:
        parse_options(Cleaning, "", argv)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_a_recipe_names_a_positional_by_its_option(tmp_path):
    (tmp_path / "recipe.yaml").write_text("FILE_OR_FOLDER: songs\n")
    with pytest.raises(UserError, match="unknown option 'FILE_OR_FOLDER'"):
        parse_options(Cleaning, "", ["--config", str(tmp_path / "recipe.yaml")])


def test_options_are_plain_values_for_records(parse):
    record = options_as_dict(parse("--dataset", "d", "--scales", 1, 2))
    assert record["scales"] == [1.0, 2.0]
    assert set(record) == set(Options.__dataclass_fields__)


def test_help_shows_the_description_every_text_and_every_default(parse, capsys):
    with pytest.raises(SystemExit) as end:
        parse("--help")
    assert end.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for text in ("Says what it does.", "100% of it (default: 0.0001)", "--config RECIPE", "{cosine,constant}"):
        assert text in shown


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (1, 1)])
def test_the_status_of_a_script_is_what_its_main_returns(returned, status):
    with pytest.raises(SystemExit) as end:
        run_script(lambda: returned)
    assert end.value.code == status


def test_a_user_error_is_one_line_and_status_2(capsys):
    def main():
        raise UserError("song3.json: mend it")

    with pytest.raises(SystemExit) as end:
        run_script(main)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: song3.json: mend it\n"
