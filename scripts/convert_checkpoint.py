"""Write an ACE-Step 1.5 checkpoint in diffusers' layout, so that `AceStepPipeline.from_pretrained` opens it.

    python scripts/convert_checkpoint.py --checkpoint ACE-Step/acestep-v15-base --output_dir acestep-base --dtype bf16
    python scripts/convert_checkpoint.py --checkpoint checkpoints --variant turbo --output_dir acestep-turbo

Reads the original releases (a bundle with several models, or a folder or repository with one) and diffusers' own
layout, from disk or from the Hub. One tensor at a time is in memory.
"""

from dataclasses import dataclass
from pathlib import Path

from acestep.errors import run_script
from acestep.options import option, parse_options, required


@dataclass
class ConvertOptions:
    checkpoint: str = required("folder or Hub id of the checkpoint")
    output_dir: str = required("folder to write; must not exist or be empty")
    variant: str | None = option(None, "which model of a bundle, such as base, sft, turbo or xl-base")
    bundle: str | None = option(
        None, "folder or Hub id with VAE and text encoder, where --checkpoint holds one model only"
    )
    revision: str | None = option(None, "branch, tag or commit of a Hub checkpoint")
    dtype: str | None = option(None, "dtype to store; without it each weight keeps its own", ["bf16", "fp16", "fp32"])


def main() -> None:
    options = parse_options(ConvertOptions, __doc__)

    import torch

    from acestep.models.checkpoint import Checkpoint
    from acestep.models.convert import convert_checkpoint

    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, None: None}
    checkpoint = Checkpoint(options.checkpoint, options.variant, options.bundle, options.revision)
    output_dir = Path(options.output_dir)
    convert_checkpoint(checkpoint, output_dir, dtypes[options.dtype], report=lambda name: print(f"writing {name}"))
    size = sum(path.stat().st_size for path in output_dir.rglob("*") if path.is_file())
    print(f"{checkpoint.name} is in {output_dir} ({size / 1e9:.2f} GB); open it with:")
    print(f'  diffusers.AceStepPipeline.from_pretrained("{output_dir}")')
    if checkpoint.is_xl:
        print(
            "note: diffusers 0.42 leaves out XL's timbre token. scripts/generate.py puts it in; with plain diffusers "
            "call acestep.models.timbre.add_timbre_token(pipeline.condition_encoder)."
        )


if __name__ == "__main__":
    run_script(main)
