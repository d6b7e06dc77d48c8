"""Many pieces of music, one after the other: takes of each request, files, a record of them, a page of players."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from acestep.adapters.locating import locate_adapter
from acestep.errors import UserError
from acestep.models.checkpoint import Checkpoint
from acestep.models.generation import Generator
from acestep.models.generation_files import check_audio_name, write_audio
from acestep.models.generation_requests import Request, Sampling
from acestep.models.generation_tasks import check_repaint, play
from acestep.players import Clip, Row, write_players

RECORD, PAGE = "generated.json", "index.html"


@dataclass(frozen=True)
class Take:
    """One way of playing a request.

    Attributes:
        scales: of the LoRAs; None is the model alone.
        label, suffix: of its column on the page, and of its files' names.
        offset: added to the request's seed.
    """

    scales: tuple[float, ...] | None
    label: str
    suffix: str = ""
    offset: int = 0


def plan_takes(scales: Sequence[float], sweep: Sequence[float], compare: bool, outputs: int) -> list[Take]:
    """The takes of each request: the model alone if it is to be compared, then each strength, each with every seed.

    Args:
        scales: one a LoRA.
        sweep: factors of all of them; none plays them as they are.
        outputs: how many seeds.
    """
    kinds = [Take(None, "base", ".base")] if compare else []
    if sweep:
        kinds += [Take(tuple(f * s for s in scales), f"scale {f:g}", f".scale-{f:g}") for f in sweep]
    else:
        kinds.append(Take(tuple(scales), "with LoRA" if scales else "music"))
    if outputs == 1:
        return kinds
    return [
        dataclasses.replace(kind, label=f"{kind.label}, seed + {n}", suffix=f"{kind.suffix}.seed-{{seed}}", offset=n)
        for n in range(outputs)
        for kind in kinds
    ]


@dataclass(frozen=True)
class Place:
    """Where files go: a folder that keeps a record, or one name from which the names of several takes are made.

    Attributes:
        folder: None with an output.
        output: name of the file of a single request.
        format: ending of the files in a folder.
    """

    folder: Path | None
    output: Path
    format: str

    def file(self, request: Request, suffix: str) -> Path:
        if self.folder is None:
            return self.output.with_name(f"{self.output.stem}{suffix}{self.output.suffix}")
        return self.folder / f"{request.name}{suffix}.{self.format}"

    def page(self, takes: Sequence[Take]) -> Path | None:
        """The page of players; there is none for a single file and the one that it is compared with."""
        if self.folder is not None:
            return self.folder / PAGE
        alone = len(takes) == 1 or {take.suffix for take in takes} == {"", ".base"}
        return None if alone else self.output.with_suffix(".html")

    def check(self) -> None:
        """Raise UserError for what cannot be written; called before the long work."""
        if self.folder is None:
            check_audio_name(self.output, "--output")
        else:
            check_audio_name(self.folder / f"music.{self.format}", "--output_dir")


@dataclass(frozen=True)
class Job:
    """A file to be made, with everything that decides how it sounds."""

    request: Request
    sampling: Sampling
    take: Take
    file: Path
    settings: dict[str, Any]

    @property
    def seed(self) -> int:
        return self.request.seed + self.take.offset


class GenerationRun:
    """Everything that is to be made, and what of it is there already.

    Args:
        checkpoint: what plays.
        requests, takes: each request is played in each take.
        place: where files go.
        model: what tells this model's precision from others.
        loras: the adapters.
        label: what a field of a request is called to the user.

    Raises:
        UserError: for recordings and adapters that are not there, for guidance of a turbo model, for two files of one
            name.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        requests: Sequence[Request],
        takes: Sequence[Take],
        place: Place,
        model: dict[str, Any],
        loras: Sequence[str],
        label: Callable[[str], str],
    ):
        self.place, self.page, self.loras, self.label = place, place.page(takes), loras, label
        model = {"model": checkpoint.fingerprint("transformer"), **model}
        samplings = [request.sampling(checkpoint.is_turbo, label) for request in requests]
        recordings = {path for request in requests for path in (request.source_audio, request.reference_audio) if path}
        for path in sorted(recordings):
            if not path.is_file():
                raise UserError(f"{path}: there is no such recording.")
        digests = {str(path): _digest(path) for path in recordings}
        adapters = [_adapter_digest(lora) for lora in loras]
        self.jobs: list[Job] = []
        for request, sampling in zip(requests, samplings, strict=True):
            asked = {key: digests.get(str(value), value) for key, value in request.settings().items()}
            for take in takes:
                seed = request.seed + take.offset
                played = [] if take.scales is None else [list(pair) for pair in zip(adapters, take.scales, strict=True)]
                settings = {**model, **asked, **vars(sampling), "seed": seed, "adapters": played}
                file = place.file(request, take.suffix.format(seed=seed))
                self.jobs.append(Job(request, sampling, take, file, settings))
        self._check_names()
        self.clips = self._recorded()
        self.left = self.jobs

    def keep(self, skip_existing: bool, overwrite: bool) -> None:
        """Leave out what is in the folder already.

        Raises:
            UserError: for files that would be lost.
        """
        if skip_existing:
            self.left = [job for job in self.jobs if job.file.name not in self.clips]
        lost = [job.file.name for job in self.left if job.file.exists()]
        if lost and not overwrite:
            why = "made with other settings" if skip_existing else "there already"
            hint = "" if skip_existing else "keep what was made with the same settings with --skip_existing, or "
            what = f"{lost[0]} is" if len(lost) == 1 else f"{lost[0]} and {len(lost) - 1} more are"
            raise UserError(
                f"--output_dir {self.place.folder}: {what} {why}. Take another folder, {hint}replace with --overwrite."
            )

    def play(self, generator: Generator, read_audio: Callable[[Path, str], torch.Tensor]) -> None:
        """Make the files that are left, say what was made, and keep the page up to date.

        Args:
            read_audio: decodes a recording; the second argument is what it is called to the user.
        """
        for take in {job.take for job in self.left if job.take.scales is not None}:
            generator.check_scales(list(take.scales))
        request, recordings = None, {}
        for job in self.left:
            if job.request is not request:
                request = job.request
                recordings = self._recordings(request, read_audio, generator.pipeline.sample_rate)
                for warning in generator.cut_warnings(request.texts()):
                    print(f"warning: {request.name}: {warning}")
            scales = job.take.scales
            if scales is not None and list(scales) != generator.scales:
                generator.set_scales(list(scales))
            audio = play(generator, request, job.sampling, seed=job.seed, use_adapters=scales is not None, **recordings)
            clip = self._keep_file(job, audio, generator.pipeline.sample_rate)
            adapters = ", ".join(self.loras) if scales else "no LoRA"
            measures = f"peak {clip.peak:.3f}, RMS {clip.rms:.3f}, seed {job.seed}"
            print(f"{job.file}: {clip.seconds:.1f} s, {measures}, {adapters}", flush=True)
            self.write_page()

    def write_page(self) -> None:
        """Write the page of players, where there is one: a row a request, a column a take."""
        if self.page is None:
            return
        rows: dict[str, Row] = {}
        for job in self.jobs:
            texts = (job.request.prompt, job.request.lyrics, job.request.facts(job.sampling))
            row = rows.setdefault(job.request.name, Row(job.request.name, *texts, {}))
            if job.file.name in self.clips:
                row.clips[job.take.label] = self.clips[job.file.name]
        columns = list(dict.fromkeys(job.take.label for job in self.jobs))
        write_players(self.page, "Generated music", columns, list(rows.values()))

    def _recordings(
        self, request: Request, read_audio: Callable[[Path, str], torch.Tensor], rate: int
    ) -> dict[str, torch.Tensor | None]:
        source = read_audio(request.source_audio, self.label("source_audio")) if request.source_audio else None
        reference = (
            read_audio(request.reference_audio, self.label("reference_audio")) if request.reference_audio else None
        )
        if source is not None:
            check_repaint(request, source.shape[1] / rate, self.label)
        return {"source": source, "reference": reference}

    def _keep_file(self, job: Job, audio: torch.Tensor, rate: int) -> Clip:
        rms, peak = audio.square().mean().sqrt().item(), audio.abs().max().item()
        clip = Clip(job.file.name, audio.shape[1] / rate, peak, rms)
        folder = self.place.folder
        if folder is not None:
            # The old file goes first: never one that the record says was made otherwise than it was.
            job.file.unlink(missing_ok=True)
            measures = {"settings": job.settings, "seconds": clip.seconds, "peak": peak, "rms": rms}
            _write_record(folder, {**_read_record(folder), job.file.name: measures})
        write_audio(job.file, audio, rate)
        self.clips[job.file.name] = clip
        return clip

    def _recorded(self) -> dict[str, Clip]:
        """What is in the folder and was made as it would be made now, by the files' names."""
        clips: dict[str, Clip] = {}
        record = _read_record(self.place.folder) if self.place.folder else {}
        for job in self.jobs:
            made = dict(record.get(job.file.name, {}))
            if job.file.is_file() and made.pop("settings", None) == job.settings:
                clips[job.file.name] = Clip(job.file.name, **made)
        return clips

    def _check_names(self) -> None:
        taken: dict[str, str] = {}
        for job in self.jobs:
            name = job.file.name.casefold()  # some disks do not tell letter cases apart
            if name in taken:
                raise UserError(
                    f"{job.file.name}: both {taken[name]!r} and {job.request.name!r} would be written to it; give one "
                    'of them another "name".'
                )
            taken[name] = job.request.name


def _adapter_digest(lora: str) -> str:
    try:
        located = locate_adapter(lora)
    except UserError as error:
        raise UserError(f"--lora {error}") from error
    return "+".join(_digest(path) for path in (located.file, located.config) if path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _read_record(folder: Path) -> dict[str, Any]:
    """The record of a folder; empty where there is none that can be read."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _write_record(folder: Path, record: dict[str, Any]) -> None:
    beside = folder / f".{RECORD}"
    beside.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, folder / RECORD)
