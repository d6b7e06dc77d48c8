"""Recipes: those that are shipped, and one for somebody's songs and GPU."""

import json
import math
import shlex
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from acestep.errors import UserError
from acestep.options import options_as_dict, parse_options
from acestep.train.options import TrainOptions

FOLDER = Path(__file__).parents[2] / "recipes"
# What belongs to one run on one machine, not to the recipe.
OF_THE_RUN = (
    *("dataset", "pretrained_model_name_or_path", "output_dir", "dataset_revision", "revision", "variant"),
    *("overwrite_output_dir", "resume_from_checkpoint", "allow_resume_mismatch", "init_lora", "validation_dataset"),
    *("preview_prompts", "rank_pattern_file", "report_to"),
)
SECTIONS = {
    "adapter": (
        *("adapter", "rank", "lora_alpha", "use_rslora", "lora_dropout", "target_modules", "layers"),
        "init_lora_weights",
    ),
    "steps": (
        *("num_train_epochs", "max_train_steps", "train_batch_size", "gradient_accumulation_steps"),
        *("group_by_length", "crop_seconds"),
    ),
    "optimizer": (
        *("optimizer", "learning_rate", "lr_scheduler", "lr_warmup_steps", "lr_num_cycles", "lr_power"),
        *("lr_step_rules", "loraplus_lr_ratio", "adam_beta1", "adam_beta2", "adam_weight_decay", "adam_epsilon"),
        *("max_grad_norm", "ema_decay"),
    ),
    "objective": ("timestep_law", "condition_dropout", "loss_weighting", "snr_gamma", "sample_latents"),
    "memory": ("quantization", "mixed_precision", "gradient_checkpointing", "attention", "compile"),
}


def shipped() -> dict[str, Path]:
    """Recipes by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def find(name: str) -> Path:
    """A shipped recipe's file.

    Raises:
        UserError: for another name, with those that there are.
    """
    found = shipped()
    if name.removesuffix(".yaml") not in found:
        raise UserError(f"{name}: no such recipe; expected one of {', '.join(found)}.")
    return found[name.removesuffix(".yaml")]


def purpose(recipe: Path) -> str:
    """A recipe's first line."""
    return recipe.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def write_new(path: Path, text: str) -> Path:
    """Write a recipe where there is none yet.

    Raises:
        UserError: when the file is there, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path}: is there already and is not replaced. Choose another --output.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}).") from None
    return path


def recipe_text(options: TrainOptions, head: Iterable[str], comments: dict[str, str] | None = None) -> str:
    """A recipe with what differs from the defaults, by section.

    Args:
        head: lines that stand first, as comments.
        comments: why an option has its value, behind it.
    """
    comments = comments or {}
    values = {key: value for key, value in options_as_dict(options).items() if key not in OF_THE_RUN}
    defaults = {
        one.name: one.default_factory() if one.default_factory is not MISSING else one.default
        for one in fields(TrainOptions)
    }
    wanted = {key: value for key, value in values.items() if value != defaults[key] or key in comments}
    lines = [f"# {line}".rstrip() for line in head]
    left = [key for key in wanted if not any(key in names for names in SECTIONS.values())]
    for section, names in [*SECTIONS.items(), ("the run", left)]:
        chosen = [key for key in names if key in wanted]
        if chosen:
            lines += ["", f"# {section}"]
        for key in chosen:
            written = yaml.safe_dump(wanted[key], default_flow_style=True, width=1000).removesuffix("...\n").strip()
            lines.append(f"{key}: {written}" + (f" # {comments[key]}" if key in comments else ""))
    return "\n".join(lines) + "\n"


def from_run(folder: Path) -> TrainOptions:
    """The options that a run was made with, from its summary.

    Raises:
        UserError: for a folder that holds no complete run.
    """
    file = folder / "training_summary.json"
    try:
        options = json.loads(file.read_text(encoding="utf-8"))["options"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: holds no training_summary.json with the options of a complete run.") from error
    known = {one.name for one in fields(TrainOptions)}
    placed = {"dataset": "data", "pretrained_model_name_or_path": "model", "output_dir": "out"}
    return TrainOptions(**{key: value for key, value in {**options, **placed}.items() if key in known})


@dataclass(frozen=True)
class Situation:
    """Somebody's songs and GPU.

    Attributes:
        songs: number of songs (not segments).
        rows: number of rows.
        seconds: of each row.
        gpu_bytes: memory of the GPU; None without one.
        has_bf16: whether the GPU computes in bfloat16.
        processes: number of GPUs.
        has_validation: whether the dataset has held-out songs of its own.
    """

    songs: int
    rows: int
    seconds: list[float] = field(repr=False)
    gpu_bytes: int | None = None
    has_bf16: bool = True
    processes: int = 1
    has_validation: bool = False

    def describe(self) -> str:
        """What was found, in two lines."""
        longest, whole = max(self.seconds), sum(self.seconds)
        gpu = "no GPU" if self.gpu_bytes is None else f"{self.processes} GPU of {self.gpu_bytes / 2**30:.1f} GiB"
        return (
            f"{self.songs} songs in {self.rows} rows, {whole / 60:.1f} minutes, the longest {longest:.0f} s"
            f"{', some held out' if self.has_validation else ''}\n{gpu}{'' if self.has_bf16 else ', without bfloat16'}"
        )

    def on(self, gpu_bytes: int | None) -> "Situation":
        """The same songs on a GPU of so much memory."""
        return replace(self, gpu_bytes=gpu_bytes)


def look(dataset: str, gpus: int | None = None) -> Situation:
    """The songs of a dataset and the GPUs of this machine.

    Raises:
        UserError: for a dataset that cannot be opened.
    """
    import torch

    from acestep.dataset.opening import has_split, open_dataset
    from acestep.dataset.schema import FRAMES_PER_SECOND

    rows, _ = open_dataset(dataset)
    has_gpu = torch.cuda.is_available()
    return Situation(
        songs=len(set(rows.column("song_id"))),
        rows=len(rows),
        seconds=[frames / FRAMES_PER_SECOND for frames in rows.column("frames")],
        gpu_bytes=torch.cuda.get_device_properties(0).total_memory if has_gpu else None,
        has_bf16=not has_gpu or torch.cuda.is_bf16_supported(including_emulation=False),
        processes=gpus or max(1, torch.cuda.device_count()),
        has_validation=has_split(dataset, "validation"),
    )


def new_recipe(situation: Situation, rank: int, epochs: int, model: str, dataset: str, file: Path) -> tuple[str, str]:
    """A commented recipe for a situation, and the command that starts it.

    Raises:
        UserError: when nothing fits into the GPU.
    """
    estimates: list[str] = []

    def fit(options: TrainOptions, card: int) -> TrainOptions:
        options, text = _fitting(options, card, situation, model, dataset)
        estimates.append(text)
        return options

    options, reasons = advise(situation, rank, fit)
    options.num_train_epochs = epochs
    launch = launch_line(options, situation.processes, model, dataset, file)
    head = [
        f"{situation.songs} songs of {sum(situation.seconds) / 60:.1f} minutes in all"
        + ("" if situation.gpu_bytes is None else f" on a GPU of {situation.gpu_bytes / 2**30:.1f} GiB")
        + ".",
        *(f"  {line}" for line in launch.splitlines()),
        *estimates,
    ]
    return recipe_text(options, head, reasons), launch


def _fitting(
    options: TrainOptions, card: int, situation: Situation, model: str, dataset: str
) -> tuple[TrainOptions, str]:
    """The first options that fit into a card, and what they are estimated to need."""
    from acestep.dataset.opening import open_dataset
    from acestep.train.memory import GIB
    from acestep.train.memory_fit import fit
    from acestep.train.memory_inputs import PRESETS, condition_lengths, read_transformer_config

    rows, _ = open_dataset(dataset)
    folder = Path(model).expanduser()
    # the released sizes are known; nothing need be downloaded for a recipe
    config = read_transformer_config(model) if folder.exists() else PRESETS["xl" if "xl" in model.lower() else "2b"][1]
    frames = rows.column("frames")
    found = fit(options, card, frames, condition_lengths(rows), config, processes=situation.processes)
    what, fitting, estimated = found.tried[-1]
    if not found.fits:
        raise UserError(
            f"--gpu_memory: nothing fits into {card / GIB:.1f} GiB; with all that helps ({what}) a step still needs "
            f"{estimated.total / GIB:.1f} GiB. Use a larger GPU."
        )
    return fitting, f"Estimated memory: {estimated.total / GIB:.1f} GiB at a step's peak (scripts/estimate_memory.py)."


def launch_line(options: TrainOptions, processes: int, model: str, dataset: str, file: Path) -> str:
    """The command that trains with a recipe."""
    start = "python scripts/train_lora.py"
    if not options.cpu:
        config = "multi_gpu" if processes > 1 else "single_gpu"
        number = f" --num_processes {processes}" if processes > 1 else ""
        start = f"accelerate launch --config_file accelerate_configs/{config}.yaml{number} scripts/train_lora.py"
    words = [shlex.quote(word) for word in (str(file), dataset, model)]
    return (
        f"{start} \\\n    --config {words[0]} --dataset {words[1]} \\\n"
        f"    --pretrained_model_name_or_path {words[2]} --output_dir my-lora"
    )


def advised_epochs(songs: int) -> int:
    """Passes over so many songs, after the model's own tutorial: 800 for 10 to 20 songs, 500 for about 100.

    Between 20 and 100 it falls with the logarithm; above, the number of songs seen stays that of 100 songs.
    """
    if songs <= 20:
        return 800
    if songs >= 100:
        return max(1, round(500 * 100 / songs))
    return round((800 - 300 * math.log(songs / 20) / math.log(5)) / 10) * 10


def advise(
    situation: Situation, rank: int, fit: Callable[[TrainOptions, int], TrainOptions] | None = None
) -> tuple[TrainOptions, dict[str, str]]:
    """Options for a situation, and why they are so.

    Args:
        rank: of the adapter.
        fit: changes options until they fit into so many bytes; None: the GPU's memory is not looked at.
    """
    options = parse_options(
        TrainOptions,
        "",
        ["--dataset", "data", "--pretrained_model_name_or_path", "model", "--output_dir", "out"],
    )
    reasons: dict[str, str] = {}

    def choose(key: str, value: Any, why: str) -> None:
        setattr(options, key, value)
        reasons[key] = why

    epochs = advised_epochs(situation.songs)
    choose("rank", rank, "64 holds a style; 16 to 32 are enough for a few songs, and smaller files")
    choose("num_train_epochs", epochs, f"for {situation.songs} songs; listen to checkpoints, fewer are often enough")
    choose("learning_rate", 1e-4, "lower it to 5e-5 if the music falls apart")
    options.dataloader_num_workers = 2
    choose("checkpoint_every_minutes", 20.0, "what a power cut costs at most")
    options.checkpoints_total_limit = 3
    if situation.songs >= 10 and not situation.has_validation:
        choose("validation_split", 0.1, "held-out songs tell when to stop; the best adapter is kept in best/")
        choose("early_stopping_patience", 5, "of twenty validations in a run")
    if situation.gpu_bytes is None:
        choose("cpu", True, "no GPU was found: for trying things out only")
        return options, reasons
    choose("mixed_precision", "bf16" if situation.has_bf16 else "fp16", "what this card computes in")
    choose("gradient_checkpointing", True, "computes activations twice to keep few of them")
    if situation.processes > 1 and len(set(situation.seconds)) > 1:
        choose("group_by_length", True, "no GPU waits for another's longer song")
    if fit is not None:
        fitting = fit(options, situation.gpu_bytes)
        for one in fields(TrainOptions):
            if getattr(fitting, one.name) != getattr(options, one.name):
                choose(one.name, getattr(fitting, one.name), "so that it fits into this card")
    return options, reasons
