"""Train a LoRA for ACE-Step 1.5 on a dataset that prepare_dataset.py wrote.

    accelerate launch scripts/train_lora.py --dataset data --pretrained_model_name_or_path ACE-Step/acestep-v15-base \\
        --output_dir my-lora --mixed_precision bf16 --gradient_checkpointing
    accelerate launch scripts/train_lora.py --config recipes/album_16gb.yaml --dataset data \\
        --pretrained_model_name_or_path ACE-Step/acestep-v15-base --output_dir my-lora --resume_from_checkpoint latest

Writes pytorch_lora_weights.safetensors, which `AceStepPipeline.load_lora_weights` loads, with metrics.jsonl, loss.png
and training_summary.json beside it.
"""

import os
from pathlib import Path

from acestep.errors import run_script
from acestep.options import parse_options
from acestep.train.options import TrainOptions


def main() -> int:
    options = parse_options(TrainOptions, __doc__)

    from acestep.quiet import quiet_libraries

    quiet_libraries()
    from acestep.train.run import train

    requests = None
    if options.preview_prompts:
        from acestep.prompts import read_preview_prompts

        requests = read_preview_prompts(Path(options.preview_prompts))
    publisher, on_saved = None, None
    if options.push_to_hub and is_main_process():
        from acestep.adapters.publishing import AdapterPublisher

        options.check()
        publisher = AdapterPublisher(options.hub_model_id, Path(options.output_dir), options.hub_public)
        on_saved = publisher.checkpoint_saved if options.push_checkpoints else None
    summary = train(options, requests, on_saved)
    if "stopped_by_signal" in summary:
        # as a shell counts a program that a signal ended, although this one saved first
        return 128 + summary["stopped_by_signal"]
    if is_main_process():
        from acestep.adapters.card import write_card

        write_card(Path(options.output_dir), summary)
    if publisher is not None:
        for failure in publisher.finish():
            print(f"warning: {failure}")
        print(f"uploaded to {options.hub_model_id}")
    return 0


def is_main_process() -> bool:
    """Whether this is the one of `accelerate launch`'s processes that writes."""
    return os.environ.get("RANK", "0") == "0"


if __name__ == "__main__":
    run_script(main)
