"""What is asked of the model: a piece's texts, its seed, its task, and how the flow is integrated."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acestep.errors import UserError
from acestep.models.conditioning import Prompt

TASKS = ("text2music", "repaint", "cover")
DEFAULT_SECONDS, MOST_SECONDS = 60.0, 600.0
LEAST_REPAINT = 0.04  # seconds: one latent frame


@dataclass(frozen=True)
class Sampling:
    """How the flow is integrated.

    Attributes:
        steps: Euler steps.
        shift: of the timesteps, `shift*u / (1 + (shift - 1)*u)`.
        guidance: scale of adaptive projected guidance; 1 is none, and turbo always has none.
    """

    steps: int
    shift: float
    guidance: float


def default_sampling(is_turbo: bool) -> Sampling:
    """What the model's authors use: turbo 8 steps, shift 3, no guidance; base and sft 50 steps, shift 1, guidance 7."""
    return Sampling(steps=8, shift=3.0, guidance=1.0) if is_turbo else Sampling(steps=50, shift=1.0, guidance=7.0)


@dataclass(frozen=True)
class Request:
    """One piece of music; fields are named as the options of `scripts/generate.py`.

    Attributes:
        name: of its files, without ending.
        prompt, lyrics: as the model reads them; `[Instrumental]` without words.
        duration: seconds; None takes the source's, or a minute.
        num_inference_steps, shift, guidance_scale: None takes what the variant was made for.
        reference_audio: recording whose timbre is taken.
        task, source_audio: what becomes of the source.
        repaint_start, repaint_end: seconds of the source; None is its end.
        cover_strength: 1 follows the source all the way, 0 the texts alone.
    """

    name: str
    prompt: str
    lyrics: str
    language: str = "unknown"
    bpm: int | None = None
    keyscale: str | None = None
    timesignature: str | None = None
    duration: float | None = None
    seed: int = 0
    num_inference_steps: int | None = None
    shift: float | None = None
    guidance_scale: float | None = None
    reference_audio: Path | None = None
    task: str = "text2music"
    source_audio: Path | None = None
    repaint_start: float | None = None
    repaint_end: float | None = None
    cover_strength: float | None = None

    def texts(self, seconds: float | None = None) -> Prompt:
        """What is encoded; `seconds` is the source's length where there is one."""
        seconds = seconds or self.duration or DEFAULT_SECONDS
        tags = (self.bpm, self.keyscale or "", self.timesignature or "")
        return Prompt(self.prompt, self.lyrics, self.language, seconds, *tags)

    def check(self, label: Callable[[str], str]) -> None:
        """Raise UserError for values that make no sense or do not go together.

        Args:
            label: what a field is called to the user, such as `--seed`.
        """
        ranges = (
            ("duration", lambda x: 0 < x <= MOST_SECONDS, f"more than 0 and at most {MOST_SECONDS:g} seconds"),
            ("seed", lambda x: 0 <= x < 2**63, "at least 0 and less than 2^63"),
            ("num_inference_steps", lambda x: x >= 1, "at least 1"),
            ("shift", lambda x: 0 < x < math.inf, "more than 0"),
            ("guidance_scale", lambda x: 1 <= x < math.inf, "at least 1, which is no guidance"),
            ("task", lambda x: x in TASKS, f"one of {', '.join(TASKS)}"),
            ("repaint_start", lambda x: 0 <= x < math.inf, "seconds, 0 or more"),
            ("repaint_end", lambda x: 0 < x < math.inf, "seconds, more than 0"),
            ("cover_strength", lambda x: 0 <= x <= 1, "a number from 0 to 1"),
        )
        for name, fits, expected in ranges:
            value = getattr(self, name)
            if value is not None and not fits(value):
                raise UserError(f"{label(name)} is {value}; expected {expected}.")
        if not self.prompt:
            raise UserError(f"{label('prompt')} is empty; say what the music is like.")
        needs_task = {"repaint_start": "repaint", "repaint_end": "repaint", "cover_strength": "cover"}
        for name, task in needs_task.items():
            if getattr(self, name) is not None and self.task != task:
                raise UserError(f"{label(name)} belongs to the task {task}, and the task is {self.task}.")
        if self.task == "text2music":
            if self.source_audio is not None:
                raise UserError(f"{label('source_audio')} needs a task that uses it: {' or '.join(TASKS[1:])}.")
        elif self.source_audio is None:
            raise UserError(f"{label('task')} is {self.task}, which needs a source: {label('source_audio')}.")
        elif self.duration is not None:
            raise UserError(f"{label('duration')}: the task {self.task} keeps the length of its source; leave it out.")
        if self.repaint_end is not None and self.repaint_end - (self.repaint_start or 0) < LEAST_REPAINT:
            raise UserError(
                f"{label('repaint_end')} is {self.repaint_end:g}; expected more than {label('repaint_start')} "
                f"({self.repaint_start or 0:g}) by at least {LEAST_REPAINT:g} s."
            )

    def sampling(self, is_turbo: bool, label: Callable[[str], str]) -> Sampling:
        """How it is played by a model of this kind.

        Raises:
            UserError: when guidance is asked of a turbo model.
        """
        default = default_sampling(is_turbo)
        if is_turbo and self.guidance_scale not in (None, 1.0):
            raise UserError(
                f"{label('guidance_scale')} is {self.guidance_scale:g}: this is a turbo model, which has none."
            )
        return Sampling(
            steps=self.num_inference_steps or default.steps,
            shift=default.shift if self.shift is None else self.shift,
            guidance=default.guidance if self.guidance_scale is None else self.guidance_scale,
        )

    def facts(self, sampling: Sampling) -> list[tuple[str, str]]:
        """What a page says about it besides its texts, as pairs of name and value."""
        texts = self.texts()
        shown = [
            ("task", "" if self.task == "text2music" else self.task),
            ("source", self.source_audio.name if self.source_audio else ""),
            ("reference", self.reference_audio.name if self.reference_audio else ""),
            ("language", "" if self.language == "unknown" else self.language),
            ("bpm", str(self.bpm or "")),
            ("key", texts.keyscale),
            ("beats a bar", texts.timesignature),
            ("seconds", "" if self.source_audio else f"{texts.duration:g}"),
            ("seed", str(self.seed)),
            ("steps", str(sampling.steps)),
            ("shift", f"{sampling.shift:g}"),
            ("guidance", f"{sampling.guidance:g}"),
        ]
        return [(name, value) for name, value in shown if value]

    def settings(self) -> dict[str, Any]:
        """Everything that decides how it sounds but the model, as JSON has it."""
        values = {key: value for key, value in vars(self).items() if value is not None and key != "name"}
        return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
