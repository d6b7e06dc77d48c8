"""Does an adapter help on songs that it has not seen, and by how much? One line answers, the rest shows why.

    python scripts/evaluate_lora.py --dataset data --lora my-lora \\
        --pretrained_model_name_or_path ACE-Step/acestep-v15-base
    python scripts/evaluate_lora.py --dataset data --validation_split 0.1 --lora my-lora/checkpoint-500 my-lora \\
        --pretrained_model_name_or_path ACE-Step/acestep-v15-base --output_dir measured
    python scripts/evaluate_lora.py --dataset data --validation_dataset others --lora my-lora \\
        --pretrained_model_name_or_path ACE-Step/acestep-v15-base --output_dir measured --num_generations 8 \\
        --clap laion/larger_clap_music

Held-out songs are chosen by the options of the training, with its --seed: the dataset's own validation split,
--validation_split or --validation_dataset; without any of them the whole dataset counts as held out. With an
--output_dir there are pictures and evaluation.json; --num_generations adds music for the prompts of so many held-out
songs, what is measured of it, and a page to listen to it. docs/evaluation.md says what the figures mean.
"""

from dataclasses import dataclass
from pathlib import Path

from acestep.errors import UserError, run_script
from acestep.options import option, parse_options, required


@dataclass
class EvaluateOptions:
    dataset: str = required("folder that prepare_dataset.py wrote, or Hub id of a dataset that it uploaded")
    pretrained_model_name_or_path: str = required("folder or Hub id of the model, the one the dataset was made for")
    lora: list[str] = required("adapters: folders, files or Hub ids; each is compared with the model alone")
    lora_scale: list[float] = option([], "strength of each adapter; one value holds for all; default 1")
    output_dir: str | None = option(None, "folder for evaluation.json, pictures and music; default: none are written")
    overwrite: bool = option(False, "write into an --output_dir that holds an evaluation already")
    dataset_revision: str | None = option(None, "branch, tag or commit of a Hub dataset")
    streaming: bool = option(False, "read songs of a Hub dataset one by one, without downloading it")
    validation_dataset: str | None = option(None, "dataset of held-out songs; --dataset is then what was trained on")
    validation_split: float = option(0.0, "the share of the songs of --dataset that training held out")
    seed: int = option(0, "of the noise and of --validation_split; training's gives the figures of its validation")
    validation_draws: int = option(8, "noise levels a song is measured at, as in training")
    crop_seconds: float = option(0.0, "only so much from the beginning of each song, as in training (0: whole songs)")
    num_generations: int = option(0, "also play the prompts of so many held-out songs, each by every model")
    num_inference_steps: int | None = option(None, "Euler steps of what is generated; default 50, for turbo 8")
    guidance_scale: float | None = option(None, "guidance of what is generated; default 7, turbo has none")
    clap: str | None = option(None, "CLAP model, a folder or Hub id, for Fréchet distances of what is generated")
    variant: str | None = option(None, "which model of an original bundle, such as base, sft, turbo or xl-base")
    bundle: str | None = option(None, "folder or Hub id with VAE and text encoder, where the model is one variant only")
    revision: str | None = option(None, "branch, tag or commit of a Hub model")
    device: str | None = option(None, "such as cuda or cpu; default: a GPU if there is one")
    dtype: str | None = option(None, "default: bfloat16 on a GPU, float32 on a CPU", ["bfloat16", "float32"])
    quantization: str = option("none", "of the model by bitsandbytes, as in training", ["none", "int8", "nf4"])
    attention: str = option("auto", "of the transformer, as in training", ["auto", "blockwise", "flex", "native"])


def main() -> None:
    options = parse_options(EvaluateOptions, __doc__)

    from acestep.quiet import quiet_libraries

    quiet_libraries()
    import torch

    from acestep.evaluation.report import text, write
    from acestep.evaluation.run import evaluate_adapters

    try:
        evaluation = evaluate_adapters(options)
    except torch.OutOfMemoryError as error:
        raise UserError(
            "there is not enough memory on the device. Try --dtype bfloat16, --quantization nf4, or --crop_seconds 60."
        ) from error
    print(text(evaluation))
    if options.output_dir:
        written = write(evaluation, Path(options.output_dir))
        print(f"\nwrote {', '.join(map(str, written))}")


if __name__ == "__main__":
    run_script(main)
