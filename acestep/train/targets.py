"""Which linear layers get an adapter, and of which rank: by name, by group, by expression, by layer, by a file."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from acestep.errors import UserError

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
MLP = ("gate_proj", "up_proj", "down_proj")
GROUPS = {
    "attention": ATTENTION,
    "self_attn": tuple(f"self_attn.{name}" for name in ATTENTION),
    "cross_attn": tuple(f"cross_attn.{name}" for name in ATTENTION),
    "mlp": MLP,
}
_EXPRESSION = re.compile(r"[\\*+?^$()\[\]{}|]")  # no layer's name has such a sign
_BLOCK = re.compile(r"layers\.(\d+)\.")


def linear_layers(transformer: nn.Module) -> dict[str, nn.Linear]:
    """All linear layers by their full name, such as `layers.0.self_attn.to_q`."""
    return {name: module for name, module in transformer.named_modules() if isinstance(module, nn.Linear)}


def expand_target_modules(names: list[str], transformer: nn.Module, layers: list[str] | None = None) -> list[str]:
    """What PEFT takes as `target_modules`.

    Args:
        names: groups ("attention", "self_attn", "cross_attn", "mlp"), ends of names, or regular expressions, which must
            match a full name.
        layers: numbers and ranges ("3", "8-11") of the transformer's blocks; None: all of them.

    Returns:
        Ends of names where these say it, else full names.

    Raises:
        UserError: for a name or expression that no linear layer has, or a block that is not there.
    """
    linear = list(linear_layers(transformer))
    expanded = list(dict.fromkeys(part for name in names for part in GROUPS.get(name, (name,))))
    chosen: list[str] = []
    for target in expanded:
        found = [name for name in linear if _is_meant(name, target)]
        if not found:
            known = sorted({_BLOCK.sub("", name) for name in linear})
            raise UserError(
                f"--target_modules {target}: the transformer has no such linear layer. Expected attention, self_attn, "
                f"cross_attn, mlp, a regular expression for names such as {linear[-1]}, or some of: {', '.join(known)}."
            )
        chosen += found
    if layers is None and not any(_EXPRESSION.search(target) for target in expanded):
        return expanded
    blocks = None if layers is None else parse_layers(layers, len(transformer.layers))
    kept = [name for name in linear if name in set(chosen) and (blocks is None or _block(name) in blocks)]
    if not kept:
        raise UserError(f"--layers {' '.join(layers or [])}: none of --target_modules {' '.join(names)} is in them.")
    return kept


def targeted(targets: Iterable[str], transformer: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that `expand_target_modules`'s result stands for."""
    ends = tuple(f".{target}" for target in targets)
    return {name: module for name, module in linear_layers(transformer).items() if f".{name}".endswith(ends)}


def parse_layers(layers: list[str], count: int) -> set[int]:
    """Block numbers of "3", "8-11" and the like.

    Raises:
        UserError: for something else, or a number that is not below `count`.
    """
    numbers: set[int] = set()
    for part in layers:
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not match:
            raise UserError(f"--layers {part}: expected numbers and ranges such as 3 8-11.")
        first, last = int(match.group(1)), int(match.group(2) or match.group(1))
        if not first <= last < count:
            raise UserError(f"--layers {part}: the transformer has blocks 0 to {count - 1}.")
        numbers.update(range(first, last + 1))
    return numbers


@dataclass(frozen=True)
class Patterns:
    """Ranks and alphas that differ from the run's, by expressions for the end of a layer's name (as PEFT has them)."""

    rank: dict[str, int] = field(default_factory=dict)
    alpha: dict[str, float] = field(default_factory=dict)

    def check(self, names: Iterable[str], source: str) -> None:
        """Raise UserError for a pattern that matches none of the layers that get an adapter."""
        names = list(names)
        for key in [*self.rank, *self.alpha]:
            if not any(re.match(rf"(.*\.)?({key})$", name) for name in names):
                raise UserError(f"{source}: {key!r} matches no layer that gets an adapter, such as {names[0]}.")


def read_patterns(file: str, default_alpha: bool) -> Patterns:
    """Read `rank_pattern` and `alpha_pattern` from a YAML or JSON file.

    Args:
        default_alpha: whether alpha follows the rank: a pattern of ranks is then one of alphas too.

    Raises:
        UserError: for a file that cannot be read, other keys, or values that are no ranks or alphas.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--rank_pattern_file {file}: cannot be read as YAML or JSON: {error}") from None
    known = ("rank_pattern", "alpha_pattern")
    if not isinstance(content, dict) or not content or set(content) - set(known):
        raise UserError(f"--rank_pattern_file {file}: expected {' and '.join(known)}, each `layer's name: value`.")
    rank = _values(content.get("rank_pattern"), f"{file}: rank_pattern", int, "a whole number of at least 1")
    alpha = _values(content.get("alpha_pattern"), f"{file}: alpha_pattern", (int, float), "a number above 0")
    if default_alpha:
        alpha |= {key: value for key, value in rank.items() if key not in alpha}
    return Patterns(rank, alpha)


def _values(given: Any, where: str, kind: Any, expected: str) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise UserError(f"{where} is {given!r}; expected lines of `layer's name: value`.")
    for key, value in given.items():
        if not isinstance(value, kind) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise UserError(f"{where}: {key!r} is {value!r}; expected {expected}.")
        try:
            re.compile(str(key))
        except re.error as error:
            raise UserError(f"{where}: {key!r} is no regular expression: {error}.") from None
    return {str(key): value for key, value in given.items()}


def _is_meant(name: str, target: str) -> bool:
    if not _EXPRESSION.search(target):
        return name == target or name.endswith(f".{target}")
    try:
        return re.fullmatch(target, name) is not None
    except re.error as error:
        raise UserError(f"--target_modules {target}: no regular expression: {error}.") from None


def _block(name: str) -> int | None:
    match = _BLOCK.match(name)
    return int(match.group(1)) if match else None
