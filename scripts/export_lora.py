"""Write an adapter for ACE-Step 1.5 so that diffusers, ComfyUI or the original tools load it at the right strength.

    python scripts/export_lora.py --lora my-lora --to comfyui --output_dir ComfyUI/models/loras
    python scripts/export_lora.py --lora my-lora --to peft --output_dir my-lora-peft \\
        --pretrained_model_name_or_path ACE-Step/acestep-v15-base
    python scripts/export_lora.py --lora my-lora --to lora --resize_rank 16 --dtype bf16 --output_dir my-lora-16
    python scripts/export_lora.py --lora a --merge b c --merge_weights 0.7 0.5 0.2 --to diffusers --output_dir abc
    python scripts/export_lora.py --lora my-lora --fuse diffusers --output_dir my-model \\
        --pretrained_model_name_or_path ACE-Step/acestep-v15-base
    python scripts/export_lora.py --inspect my-lora

Every layout is read that is written, LyCORIS' LoKr and LoHa too. What was written is read back and compared with what
was given, on the model too where one is given; if it is something else, nothing stays in --output_dir. See
docs/adapters.md.
"""

from acestep.adapters.options import ExportOptions
from acestep.errors import run_script
from acestep.options import parse_options


def main() -> None:
    options = parse_options(ExportOptions, __doc__)
    options.check()

    from acestep.quiet import quiet_libraries

    quiet_libraries()
    if options.inspect is not None:
        from acestep.adapters.inspecting import inspection
        from acestep.adapters.reading import read_adapter

        print(inspection(read_adapter(options.inspect, options.lora_revision, is_relative_allowed=True)))
        return
    from acestep.adapters.export import export

    for path in export(options):
        print(f"wrote {path}")


if __name__ == "__main__":
    run_script(main)
