"""Encode a folder of songs into a dataset for training.

    python scripts/prepare_dataset.py --data_dir songs --pretrained_model_name_or_path ACE-Step/acestep-v15-base \\
        --output_dir data
    python scripts/prepare_dataset.py --data_dir songs --pretrained_model_name_or_path checkpoints --variant turbo \\
        --output_dir data --custom_tag mybandsound --validation_split 0.1
    accelerate launch --num_processes 4 scripts/prepare_dataset.py --data_dir songs \\
        --pretrained_model_name_or_path ACE-Step/acestep-v15-base --output_dir data
    python scripts/prepare_dataset.py --data_dir songs --pretrained_model_name_or_path ACE-Step/acestep-v15-base \\
        --output_dir data --push_to_hub --hub_dataset_id user/name --private --license cc-by-4.0

Reads songs with the lyrics, captions, JSON and CSV beside them (docs/songs.md), shows what it found, and writes an
Arrow dataset with latents and conditions that `datasets.load_from_disk` opens. What has been encoded once is kept in
--cache_dir, so that a second run encodes only what changed. An upload that was interrupted goes on when the same
command is run again with --overwrite.
"""

from acestep.dataset.options import PrepareOptions
from acestep.errors import run_script
from acestep.options import parse_options


def main() -> int:
    options = parse_options(PrepareOptions, __doc__)

    from acestep.dataset.prepare import prepare

    return prepare(options)


if __name__ == "__main__":
    run_script(main)
