"""Generate music with ACE-Step 1.5, with LoRAs on it or beside the model alone.

    python scripts/generate.py --pretrained_model_name_or_path ACE-Step/acestep-v15-base --lora my-lora \\
        --prompt "dream pop, female voice" --lyrics_file words.txt --language en --duration 120 --output song.flac
    python scripts/generate.py --pretrained_model_name_or_path acestep-turbo --lora a --lora_scale 0.8 --compare \\
        --prompt "lo-fi piano" --output song.wav
    python scripts/generate.py --pretrained_model_name_or_path acestep-turbo --lora a --prompts prompts.yaml \\
        --lora_scale_sweep 0 0.5 1 1.5 --output_dir heard
    python scripts/generate.py --pretrained_model_name_or_path acestep-base --prompt "the chorus, with strings" \\
        --task repaint --source_audio song.flac --repaint_start 30 --repaint_end 45 --output repainted.flac

Steps, shift and guidance default to what the variant was made for. --compare writes a second file, `song.base.wav`,
with the same seed and without the LoRAs. docs/generation.md says more.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from acestep.errors import UserError, run_script
from acestep.options import option, parse_options, required

OUTPUT, FORMATS = "music.wav", ("wav", "flac", "mp3")
# What a file of prompts may say for each prompt, and these options for all.
REQUESTED = (
    *("prompt", "lyrics", "lyrics_file", "language", "bpm", "keyscale", "timesignature", "duration", "seed"),
    *("num_inference_steps", "shift", "guidance_scale", "reference_audio", "task", "source_audio"),
    *("repaint_start", "repaint_end", "cover_strength"),
)


@dataclass
class GenerateOptions:
    pretrained_model_name_or_path: str = required("folder or Hub id of the model")
    prompt: str | None = option(None, "what the music is like")
    prompts: str | None = option(None, "YAML or JSONL file of prompts (docs/generation.md), for --output_dir")
    output: str | None = option(None, "file to write: .wav, .flac or .mp3; default music.wav")
    output_dir: str | None = option(None, "folder for the music of --prompts, with a page of players, index.html")
    format: str = option("flac", "of the files in --output_dir", FORMATS)
    skip_existing: bool = option(False, "go on with an --output_dir: keep what was made with the same settings")
    overwrite: bool = option(False, "replace files in --output_dir")
    lyrics: str | None = option(None, "words with structure tags such as [Verse 1]; default [Instrumental]")
    lyrics_file: str | None = option(None, "text file with the lyrics, in place of --lyrics")
    language: str | None = option(None, "language of the lyrics, such as en or ja; default unknown")
    bpm: str | None = option(None, "tempo in beats a minute")
    keyscale: str | None = option(None, "key, such as 'F# minor'")
    timesignature: str | None = option(None, "beats a bar: 2, 3, 4 or 6")
    duration: float | None = option(None, "seconds of music, at most 600; default 60")
    seed: int = option(0, "of the noise; the same seed gives the same music on one machine")
    num_outputs: int = option(1, "pieces of each prompt, with seeds that follow one another")
    num_inference_steps: int | None = option(None, "Euler steps; default 50, for turbo 8")
    shift: float | None = option(None, "of the timesteps; default 1, for turbo 3")
    guidance_scale: float | None = option(None, "guidance; default 7, turbo has none")
    reference_audio: str | None = option(None, "recording whose timbre is taken")
    task: str | None = option(None, "repaint or cover a --source_audio", ["text2music", "repaint", "cover"])
    source_audio: str | None = option(None, "recording that is repainted or covered")
    repaint_start: float | None = option(None, "second of the source from which it is made anew; default 0")
    repaint_end: float | None = option(None, "second of the source up to which it is made anew; default its end")
    cover_strength: float | None = option(None, "1 follows the source all the way, 0 the texts alone; default 1")
    lora: list[str] = option([], "LoRAs: folders, files or Hub ids")
    lora_scale: list[float] = option([], "strength of each LoRA; one value holds for all; default 1")
    lora_scale_sweep: list[float] = option([], "factors of --lora_scale, each played at the same seed, with a page")
    compare: bool = option(False, "also write the same seed without the LoRAs, as NAME.base.wav")
    variant: str | None = option(None, "which model of an original bundle, such as base, sft, turbo or xl-base")
    bundle: str | None = option(None, "folder or Hub id with VAE and text encoder, where the model is one variant only")
    revision: str | None = option(None, "branch, tag or commit of a Hub model")
    device: str | None = option(None, "such as cuda or cpu; default: a GPU if there is one")
    dtype: str | None = option(None, "default: bfloat16 on a GPU, float32 on a CPU", ["bfloat16", "float32"])
    quantization: str = option("none", "of the transformer by bitsandbytes", ["none", "int8", "nf4"])
    cpu_offload: bool = option(False, "keep each part of the model in main memory until it is its turn on the GPU")


def check(options: GenerateOptions) -> list[float]:
    """A scale for each LoRA; raises UserError for options that do not go together."""
    one, batch = ("prompt", "output"), ("prompts", "output_dir")
    if (options.prompt is None) == (options.prompts is None):
        raise UserError("expected one of --prompt, which goes to --output, and --prompts, which go to --output_dir.")
    (_, place), (other, foreign) = (one, batch) if options.prompts is None else (batch, one)
    if getattr(options, foreign):
        raise UserError(f"--{foreign} goes with --{other}; write to --{place}.")
    if options.prompts and not options.output_dir:
        raise UserError("--prompts needs an --output_dir.")
    for name in ("skip_existing", "overwrite"):
        if getattr(options, name) and not options.output_dir:
            raise UserError(f"--{name} is about files in --output_dir, and there is none.")
    for name in ("lora_scale", "lora_scale_sweep", "compare"):
        if getattr(options, name) and not options.lora:
            raise UserError(f"--{name} needs a --lora.")
    if options.num_outputs < 1:
        raise UserError(f"--num_outputs is {options.num_outputs}; expected at least 1.")
    scales = options.lora_scale or [1.0]
    scales = scales * len(options.lora) if len(scales) == 1 else scales
    if len(scales) != len(options.lora):
        raise UserError(f"--lora_scale has {len(scales)} values for {len(options.lora)} LoRAs; expected one each.")
    for name in ("lora_scale", "lora_scale_sweep"):
        if not all(math.isfinite(scale) for scale in getattr(options, name)):
            raise UserError(f"--{name} is {getattr(options, name)}; expected numbers.")
    if len(set(options.lora_scale_sweep)) < len(options.lora_scale_sweep):
        raise UserError(f"--lora_scale_sweep is {options.lora_scale_sweep}; expected different numbers.")
    return scales


def read_requests(options: GenerateOptions) -> list:
    """What is to be played, by the rules that songs are read by: training and generation feed the same strings."""
    from acestep.prompts import make_request, read_prompts

    values = {name: getattr(options, name) for name in REQUESTED}
    if options.prompts is not None:
        return read_prompts(Path(options.prompts), values)
    request = make_request(values, "--{}".format)
    return [dataclasses.replace(request, name=Path(options.output or OUTPUT).stem)]


def main() -> None:
    options = parse_options(GenerateOptions, __doc__)
    scales, requests = check(options), read_requests(options)

    from acestep.quiet import quiet_libraries

    quiet_libraries()
    from acestep.audio_inputs import read_audio
    from acestep.models.checkpoint import Checkpoint
    from acestep.models.generation import Generator, memory_advice, open_device
    from acestep.models.generation_run import GenerationRun, Place, plan_takes

    folder = Path(options.output_dir) if options.prompts else None
    place = Place(folder, Path(options.output or OUTPUT), options.format)
    place.check()
    device, dtype = open_device(options.device, options.dtype, options.cpu_offload)
    checkpoint = Checkpoint(options.pretrained_model_name_or_path, options.variant, options.bundle, options.revision)
    run = GenerationRun(
        checkpoint,
        requests,
        plan_takes(scales, options.lora_scale_sweep, options.compare, options.num_outputs),
        place,
        {"dtype": str(dtype), "quantization": options.quantization},
        options.lora,
        label="--{}".format if folder is None else f'{options.prompts}: "{{}}"'.format,
    )
    if folder is not None:
        run.keep(options.skip_existing, options.overwrite)
        print(f"{len(run.left)} of {len(run.jobs)} pieces are to be made")
    with memory_advice():
        if run.left:
            quantization, offload = options.quantization, options.cpu_offload
            run.play(Generator(checkpoint, device, dtype, options.lora, scales, quantization, offload), read_audio)
    run.write_page()
    if run.page:
        print(f"to listen, open {run.page}")


if __name__ == "__main__":
    run_script(main)
