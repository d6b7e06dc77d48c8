"""Estimate the GPU memory that a run will need; neither a GPU nor the model's weights are needed.

    python scripts/estimate_memory.py --model 2b --seconds 240 --mixed_precision bf16 --gradient_checkpointing
    python scripts/estimate_memory.py --config recipes/low_vram_8gb.yaml --dataset data \\
        --pretrained_model_name_or_path ACE-Step/acestep-v15-base
    python scripts/estimate_memory.py --model xl --seconds 240 --mixed_precision bf16 --fit 12GB
    python scripts/estimate_memory.py --model 2b --seconds 60 --json

Options are those of train_lora.py. The real step runs on tensors without data, with the longest songs of the dataset or
with --seconds. --fit tries in turn, each on top of the others: bf16 (for a run in float32), gradient checkpointing,
songs one by one (for batches), the 8-bit optimizer, the nf4 base, and crops from 180 down to 30 seconds; it prints the
command of the first that fits and ends with status 1 when none does. See docs/memory.md.
"""

import dataclasses
import json
import os
import sys
from dataclasses import dataclass

from acestep.errors import UserError, run_script
from acestep.options import option, parse_options
from acestep.train.options import TrainOptions

PRESETS = ("2b", "xl")


@dataclass
class EstimateOptions(TrainOptions):
    dataset: str | None = option(None, "folder or Hub id of the dataset whose longest songs count")
    pretrained_model_name_or_path: str | None = option(
        None, "folder, Hub id or config.json of the model; only configurations are read"
    )
    output_dir: str = option("my-lora", "for the command that --fit prints")
    model: str | None = option(None, "a released size in place of --pretrained_model_name_or_path", PRESETS)
    seconds: float | None = option(None, "length of the longest song, in place of --dataset")
    condition_tokens: int = option(700, "tokens of the longest condition (lyrics and prompt), beside --seconds")
    processes: int = option(1, "processes of the run; each has a GPU of its own")
    fit: str | None = option(None, "a card's memory, such as 8GB: change options until the run fits")
    json: bool = option(False, "print JSON instead of the table")


def main() -> int:
    options = parse_options(EstimateOptions, __doc__)

    from acestep.quiet import quiet_libraries

    quiet_libraries()
    from acestep.train import memory_fit
    from acestep.train.memory import GIB, estimate

    options.check()
    card = memory_fit.parse_size(options.fit) if options.fit else None
    model, config = _model(options)
    songs = _songs(options)
    own = {field.name: getattr(options, field.name) for field in dataclasses.fields(TrainOptions)}
    train = TrainOptions(**{**own, "dataset": options.dataset or "data", "pretrained_model_name_or_path": model})
    precision = options.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    talk = sys.stderr if options.json else sys.stdout  # with --json, standard output is for the JSON alone
    if card is None:
        found = estimate(train, *songs, config, precision=precision, processes=options.processes)
        print(json.dumps(found.as_dict(), indent=2) if options.json else found.text())
        return 0
    fitted = memory_fit.fit(
        train,
        card,
        *songs,
        config,
        precision=precision,
        processes=options.processes,
        tell=lambda line: print(line, file=talk, flush=True),
    )
    command = memory_fit.launch_line(fitted.options) if fitted.fits else None
    if options.json:
        tried = [{"change": what, **found.as_dict()} for what, _, found in fitted.tried]
        print(json.dumps({"fits": fitted.fits, "card": card, "command": command, "tried": tried}, indent=2))
        return 0 if fitted.fits else 1
    print(f"\n{fitted.estimate.text()}\n")
    needs = f"a card with {memory_fit.needed(fitted.estimate) / GIB:.2f} GiB (a tenth and 0.5 GiB more than the total)"
    if not fitted.fits:
        print(f"nothing fits into {options.fit}: the last try needs {needs}.")
        return 1
    print(f"fits into {options.fit}: needs {needs}.\n\n{command}")
    return 0


def _model(options: EstimateOptions) -> tuple[str, dict]:
    """A name for the command, and the transformer's configuration."""
    from acestep.train.memory_inputs import PRESETS, read_transformer_config

    name = options.pretrained_model_name_or_path
    if (name is None) == (options.model is None):
        raise UserError("--model and --pretrained_model_name_or_path: expected one of them.")
    if options.model:
        return PRESETS[options.model]
    return name, read_transformer_config(name, options.variant, options.revision)


def _songs(options: EstimateOptions) -> tuple[list[int], list[int]]:
    """Frames and condition tokens of each song."""
    from acestep.dataset.schema import FRAMES_PER_SECOND
    from acestep.train.memory_inputs import MOST_TOKENS, condition_lengths
    from acestep.train.validation import open_splits

    if (options.dataset is None) == (options.seconds is None):
        raise UserError("--dataset and --seconds: expected one of them.")
    if options.seconds is not None:
        if not (1 <= options.seconds <= 3600 and 1 <= options.condition_tokens <= MOST_TOKENS):
            raise UserError(
                f"--seconds {options.seconds:g} --condition_tokens {options.condition_tokens}: expected 1 to 3600 "
                f"seconds and 1 to {MOST_TOKENS} tokens."
            )
        count = options.train_batch_size * options.gradient_accumulation_steps * options.processes
        return [round(options.seconds * FRAMES_PER_SECOND)] * count, [options.condition_tokens] * count
    rows, _, _ = open_splits(options)
    frames = rows.column("frames")
    return frames, condition_lengths(rows) or [MOST_TOKENS] * len(frames)


if __name__ == "__main__":
    run_script(main)
