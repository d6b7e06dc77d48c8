"""Options of every script: a dataclass filled from its defaults, then `--config recipe.yaml`, then the command line."""

import argparse
import dataclasses
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from acestep.errors import UserError
from acestep.plain_yaml import read_plain_yaml

Options = TypeVar("Options")


def option(
    default: Any,
    help: str,
    choices: Sequence | None = None,
    aliases: Sequence[str] = (),
    positional: str | None = None,
) -> Any:
    """A dataclass field that is an option: its help text stands here and nowhere else.

    Args:
        default: the value without the option; `dataclasses.MISSING` makes it required, a list is copied.
        choices: the allowed values; anything else is an error that lists them.
        aliases: further spellings with their dashes, such as `-m`.
        positional: what `--help` calls the value where it stands on the command line without its option's name.
    """
    metadata: dict[str, Any] = {"help": help.replace("%", "%%")}
    if choices is not None:
        metadata["choices"] = list(choices)
    if aliases:
        metadata["aliases"] = list(aliases)
    if positional:
        metadata["positional"] = positional
    if default is dataclasses.MISSING:
        # keyword-only, so that a required option may follow one with a default, also in a subclass
        return dataclasses.field(metadata=metadata, kw_only=True)
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def required(help: str, choices: Sequence | None = None, positional: str | None = None) -> Any:
    """A required option, see `option`."""
    return option(dataclasses.MISSING, help, choices, positional=positional)


def parse_options(options_class: type[Options], description: str, argv: Sequence[str] | None = None) -> Options:
    """Fill `options_class` from its defaults, then the YAML file of `--config`, then the command line.

    Args:
        options_class: a dataclass whose fields are made by `option`.
        description: what `--help` shows first, as a rule the script's docstring.
        argv: the arguments without the program's name; `sys.argv[1:]` if None.

    Raises:
        UserError: for a recipe that cannot be read, an unknown key (the nearest one is named) or a value of the wrong
            kind. Errors of the command line end the program with status 2, as argparse does.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _parser(options_class, description)
    recipe = _value_of_config(argv)
    if recipe is not None:
        _apply_recipe(recipe, parser)
    values = vars(parser.parse_args(_closed_flags(parser, argv) if parser.positionals else argv))
    values.pop("config")
    for name, (action, needed) in parser.positionals.items():
        given = values.pop(name)
        if given is not None:
            values[action.dest] = given
        elif needed and values[action.dest] is None:
            parser.error(f"the following arguments are required: {name}")
    return options_class(**values)


def options_as_dict(options: Any) -> dict[str, Any]:
    """The options as plain values, for records and resuming."""
    return dataclasses.asdict(options)


def _parser(options_class: type, description: str) -> argparse.ArgumentParser:
    # Only this submodule: the whole of transformers would make --help wait.
    from transformers.hf_argparser import HfArgumentParser

    class Parser(HfArgumentParser):
        def __init__(self, *arguments: Any, **settings: Any):
            self.positionals: dict[str, tuple[argparse.Action, bool]] = {}  # name: its option, whether required
            super().__init__(*arguments, **settings)

        def add_argument(self, *flags: str, positional: str | None = None, **settings: Any) -> argparse.Action:
            if positional is None:
                return super().add_argument(*flags, **settings)
            # Two actions, since a recipe sets the option's default and an absent positional would win over the option.
            needed = settings.pop("required", False)
            either = self.add_mutually_exclusive_group()
            action = either.add_argument(*flags, **settings)
            shown = {key: settings[key] for key in ("help", "type", "choices") if key in settings}
            either.add_argument(positional, nargs="?", **shown)
            self.positionals[positional] = action, needed
            return action

        def error(self, message: str) -> NoReturn:
            unknown = [word for word in message.split() if word.startswith("--")]
            if message.startswith("unrecognized arguments") and unknown:
                flag = unknown[0].split("=")[0]
                message += _nearest(flag, [o for action in self._actions for o in action.option_strings])
            super().error(message)

    class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        pass

    parser = Parser(options_class, description=description, formatter_class=Formatter, allow_abbrev=False)
    parser.add_argument("--config", metavar="RECIPE", help="YAML file with options; the command line wins over it")
    return parser


def _closed_flags(parser: argparse.ArgumentParser, argv: list[str]) -> list[str]:
    """Write `--flag` as `--flag=true` unless a truth value follows, or it would take the positional for its value."""
    closed = []
    for index, word in enumerate(argv):
        action, following = parser._option_string_actions.get(word), "".join(argv[index + 1 : index + 2]).lower()
        is_flag = action is not None and action.nargs == "?" and action.const is True
        has_value = following in ("true", "false", "yes", "no", "t", "f", "y", "n", "1", "0")
        closed.append(f"{word}=true" if is_flag and not has_value else word)
    return closed


def _value_of_config(argv: list[str]) -> Path | None:
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path)
    return finder.parse_known_args(argv)[0].config


def _apply_recipe(recipe: Path, parser: argparse.ArgumentParser) -> None:
    """Make the recipe's values the parser's defaults, each checked as argparse would check it on the command line."""
    content = read_plain_yaml(recipe, f"--config {recipe}")
    if content is None:
        return
    if not isinstance(content, dict):
        raise UserError(f"--config {recipe}: found a {type(content).__name__}; expected lines of `option: value`.")
    actions: dict[str, argparse.Action] = {}
    for action in parser._actions:
        if action.option_strings and action.dest not in ("help", "config"):
            actions.setdefault(action.dest, action)  # `--no_flag` comes after `--flag` and takes no value
    for key, value in content.items():
        if key not in actions:
            raise UserError(f"{recipe}: unknown option {key!r}." + _nearest(str(key), actions))
        if value is None:  # an empty value chooses nothing: the default stays
            continue
        action = actions[key]
        if isinstance(value, dict) or (isinstance(value, list) and action.nargs != "+"):
            raise UserError(f"{recipe}: {key!r} is {value!r}; expected one value.")
        try:
            items = [_checked(parser, action, item) for item in (value if isinstance(value, list) else [value])]
        except argparse.ArgumentError as error:
            raise UserError(f"{recipe}: {key!r} is {value!r}: {error.message}.") from None
        parser.set_defaults(**{key: items if action.nargs == "+" else items[0]})
        action.required = False


def _checked(parser: argparse.ArgumentParser, action: argparse.Action, item: Any) -> Any:
    if not isinstance(item, str):
        raise argparse.ArgumentError(None, f"found {item!r} in it; expected plain values")
    value = parser._get_value(action, item)
    parser._check_value(action, value)
    return value


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
