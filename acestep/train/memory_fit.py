"""What to change so that a run fits: what each change saves, and the first set of changes that is enough."""

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from acestep.dataset.schema import FRAMES_PER_SECOND
from acestep.errors import UserError
from acestep.train.memory import GIB, Estimate, estimate
from acestep.train.options import TrainOptions

CROPS = (180, 120, 90, 60, 45, 30)  # seconds
# Of what a card has: the error that estimates are tested to, and what no allocator of PyTorch's counts (CUDA's context,
# libraries). Both are choices, the second one not measured.
MARGIN, RESERVE = 1.1, GIB // 2


@dataclass(frozen=True)
class Change:
    """Options that need less memory.

    Attributes:
        text: what it means, as an error tells it.
        values: the options that change.
    """

    text: str
    values: dict[str, Any]

    def applied(self, options: TrainOptions) -> TrainOptions:
        return dataclasses.replace(options, **self.values)

    @property
    def flags(self) -> str:
        """As on the command line."""
        return " ".join(_flag(name, value) for name, value in self.values.items())


@dataclass(frozen=True)
class Fit:
    """What was tried for a card, in order, each with all changes before it; the last one fits if any does."""

    tried: list[tuple[str, TrainOptions, Estimate]]
    fits: bool

    @property
    def options(self) -> TrainOptions:
        return self.tried[-1][1]

    @property
    def estimate(self) -> Estimate:
        return self.tried[-1][2]


def changes(options: TrainOptions, precision: str) -> list[Change]:
    """What would need less and is not chosen yet, in the order in which it is tried; crops are apart (`CROPS`)."""
    batch, accumulation = options.train_batch_size, options.gradient_accumulation_steps
    possible = [
        (precision == "no", "weights and activations in half the bytes", {"mixed_precision": "bf16"}),
        (
            not options.gradient_checkpointing,
            "activations of one block instead of all, computed twice",
            {"gradient_checkpointing": True},
        ),
        (
            batch > 1,
            "the same run, one song at a time",
            {"train_batch_size": 1, "gradient_accumulation_steps": accumulation * batch},
        ),
        (
            options.optimizer in ("adamw", "prodigy"),
            "the adapter's moments in a quarter of the bytes",
            {"optimizer": "adamw8bit"},
        ),
        (
            options.quantization != "nf4"
            and options.adapter not in ("lokr", "loha")
            and not options.init_lora_weights.startswith("pissa"),
            "the frozen weights in a quarter of bf16's bytes",
            {"quantization": "nf4"},
        ),
    ]
    return [Change(text, values) for applies, text, values in possible if applies]


def savings(
    options: TrainOptions,
    lengths: Sequence[int],
    condition_lengths: Sequence[int],
    transformer_config: dict[str, Any],
    *,
    precision: str | None = None,
    device: str = "cuda",
    processes: int = 1,
) -> list[tuple[str, int]]:
    """What each change alone would save at the peak, in bytes, the one that saves most first; some seconds for each.

    Args:
        The same as those of `estimate`.

    Returns:
        Pairs of a change, flags and words, and the bytes saved; changes that save nothing are left out.
    """
    precision = precision or options.mixed_precision or "no"

    def total(changed: TrainOptions, precision: str) -> int:
        more = {"precision": precision, "device": device, "processes": processes}
        return estimate(changed, lengths, condition_lengths, transformer_config, **more).total

    possible = changes(options, precision)
    longest = max(lengths) / FRAMES_PER_SECOND
    if longest > 60 and not 0 < options.crop_seconds <= 60:
        possible.append(Change("a minute of each song at a time", {"crop_seconds": 60.0}))
    if options.rank > 16 and not options.init_lora and options.adapter != "oft":
        possible.append(Change("a smaller adapter and states", {"rank": options.rank // 2}))
    before = total(options, precision)
    found = [
        (
            f"{change.flags}: {change.text}",
            before - total(change.applied(options), change.values.get("mixed_precision", precision)),
        )
        for change in possible
    ]
    return sorted([(text, saved) for text, saved in found if saved > 0], key=lambda pair: -pair[1])


def fit(
    options: TrainOptions,
    card: int,
    lengths: Sequence[int],
    condition_lengths: Sequence[int],
    transformer_config: dict[str, Any],
    *,
    precision: str | None = None,
    processes: int = 1,
    tell: Callable[[str], None] = lambda _: None,
) -> Fit:
    """The first options that fit into a card, one change after the other: those of `changes`, then shorter crops.

    Args:
        card: bytes that the card has; see `needed`.
        tell: is told each try.

    The others are those of `estimate`.
    """
    precision = precision or options.mixed_precision or "no"
    tried: list[tuple[str, TrainOptions, Estimate]] = []

    def fits(what: str, changed: TrainOptions) -> bool:
        more = {"precision": changed.mixed_precision or precision, "processes": processes}
        found = estimate(changed, lengths, condition_lengths, transformer_config, **more)
        tried.append((what, changed, found))
        enough = needed(found) <= card
        tell(f"{what}: {found.total / GIB:.2f} GiB{'' if enough else ', too much'}")
        return enough

    if fits("as it is", options):
        return Fit(tried, True)
    for change in changes(options, precision):
        options = change.applied(options)
        if fits(change.flags, options):
            return Fit(tried, True)
    longest = min(max(lengths) / FRAMES_PER_SECOND, options.crop_seconds or float("inf"))
    for seconds in CROPS:
        if seconds < longest:
            options = dataclasses.replace(options, crop_seconds=float(seconds))
            if fits(f"--crop_seconds {seconds}", options):
                return Fit(tried, True)
    return Fit(tried, False)


def needed(found: Estimate) -> int:
    """Bytes that a card should have for an estimate."""
    return int(found.total * MARGIN) + RESERVE


def parse_size(text: str) -> int:
    """Bytes of "8GB" or "7900MiB". GB and GiB are both 2**30 bytes, as cards are sold.

    Raises:
        UserError: for anything else.
    """
    units = {"gb": GIB, "gib": GIB, "g": GIB, "mb": 2**20, "mib": 2**20, "m": 2**20}
    number = text.strip().lower().rstrip("gimb ")
    unit = text.strip().lower()[len(number) :].strip()
    try:
        size = float(number) * units[unit]
    except (ValueError, KeyError):
        size = 0
    if not 0 < size < float("inf"):
        raise UserError(f"--fit {text}: expected a card's memory such as 8GB, 11.5GiB or 7900MiB.")
    return int(size)


def launch_line(options: TrainOptions) -> str:
    """The command that trains with these options; those that are at their defaults are left out."""
    words = ["accelerate launch scripts/train_lora.py"]
    for field in dataclasses.fields(TrainOptions):
        value = getattr(options, field.name)
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        if value is not None and value != default:
            words.append(_flag(field.name, value))
    return " \\\n    ".join(words)


def _flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no_{name}"
    values = value if isinstance(value, list) else [value]
    return " ".join([f"--{name}", *(shlex.quote(f"{v:g}" if isinstance(v, float) else str(v)) for v in values)])
