"""Generate music with ACE-Step 1.5, with LoRAs on it or beside the model alone.

    python scripts/generate.py --pretrained_model_name_or_path ACE-Step/acestep-v15-base --lora my-lora \\
        --prompt "dream pop, female voice" --lyrics_file words.txt --language en --duration 120 --output song.flac
    python scripts/generate.py --pretrained_model_name_or_path acestep-turbo --lora a --lora_scale 0.8 --compare \\
        --prompt "lo-fi piano" --output song.wav

Steps, shift and guidance default to what the variant was made for. --compare writes a second file, `song.base.wav`,
with the same seed and without the LoRAs.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from acestep.errors import UserError, run_script
from acestep.options import option, parse_options, required


@dataclass
class GenerateOptions:
    pretrained_model_name_or_path: str = required("folder or Hub id of the model")
    prompt: str = required("what the music is like")
    output: str = option("music.wav", "file to write, .wav or .flac")
    lyrics: str = option("[Instrumental]", "words with structure tags such as [Verse 1]")
    lyrics_file: str | None = option(None, "text file with the lyrics, in place of --lyrics")
    language: str = option("unknown", "language code of the lyrics, such as en or ja")
    bpm: str | None = option(None, "tempo in beats a minute")
    keyscale: str | None = option(None, "key, such as 'F# minor'")
    timesignature: str | None = option(None, "beats a bar: 2, 3, 4 or 6")
    duration: float = option(60.0, "seconds of music, at most 600")
    seed: int = option(0, "of the noise; the same seed gives the same music on one machine")
    num_inference_steps: int | None = option(None, "Euler steps; default 50, for turbo 8")
    shift: float | None = option(None, "of the timesteps; default 1, for turbo 3")
    guidance_scale: float | None = option(None, "guidance; default 7, turbo has none")
    lora: list[str] = option([], "LoRAs: folders, files or Hub ids")
    lora_scale: list[float] = option([], "strength of each LoRA; one value holds for all; default 1")
    compare: bool = option(False, "also write the same seed without the LoRAs, as NAME.base.wav")
    variant: str | None = option(None, "which model of an original bundle, such as base, sft, turbo or xl-base")
    bundle: str | None = option(None, "folder or Hub id with VAE and text encoder, where the model is one variant only")
    revision: str | None = option(None, "branch, tag or commit of a Hub model")
    device: str | None = option(None, "such as cuda or cpu; default: a GPU if there is one")
    dtype: str | None = option(None, "default: bfloat16 on a GPU, float32 on a CPU", ["bfloat16", "float32"])


def check(options: GenerateOptions) -> list[float]:
    """A scale for each LoRA; raises UserError for what cannot be generated."""
    if not 0 < options.duration <= 600:
        raise UserError(f"--duration is {options.duration}; expected more than 0 and at most 600 seconds.")
    if options.num_inference_steps is not None and options.num_inference_steps < 1:
        raise UserError(f"--num_inference_steps is {options.num_inference_steps}; expected at least 1.")
    if options.shift is not None and not 0 < options.shift < math.inf:
        raise UserError(f"--shift is {options.shift}; expected more than 0.")
    if options.guidance_scale is not None and not 1 <= options.guidance_scale < math.inf:
        raise UserError(f"--guidance_scale is {options.guidance_scale}; expected at least 1, which is no guidance.")
    if not 0 <= options.seed < 2**63:
        raise UserError(f"--seed is {options.seed}; expected at least 0 and less than 2^63.")
    if options.lora_scale and not options.lora:
        raise UserError("--lora_scale needs a --lora.")
    if options.compare and not options.lora:
        raise UserError("--compare needs a --lora to compare with.")
    scales = options.lora_scale or [1.0]
    scales = scales * len(options.lora) if len(scales) == 1 else scales
    if len(scales) != len(options.lora):
        raise UserError(f"--lora_scale has {len(scales)} values for {len(options.lora)} LoRAs; expected one each.")
    if not all(math.isfinite(scale) for scale in scales):
        raise UserError(f"--lora_scale is {options.lora_scale}; expected numbers.")
    return scales


def read_texts(options: GenerateOptions) -> dict:
    """What the prompt says, read by the rules that songs are read by: training and generation feed the same strings."""
    from acestep.songs.fields import parse_field
    from acestep.songs.lyrics import is_instrumental_mark, parse_lyrics
    from acestep.songs.song import INSTRUMENTAL
    from acestep.songs.text_files import read_text

    fields = {}
    for name in ("bpm", "keyscale", "timesignature", "language"):
        try:
            fields[name] = parse_field(name, getattr(options, name))
        except UserError as error:
            raise UserError(f"--{name} {error}") from None
    source = options.lyrics if options.lyrics_file is None else read_text(Path(options.lyrics_file))
    lyrics = parse_lyrics(source).text
    sung = bool(lyrics) and not is_instrumental_mark(lyrics)
    return {
        "prompt": options.prompt.strip(),
        "lyrics": lyrics if sung else INSTRUMENTAL,
        "vocal_language": fields.pop("language") or "unknown",
        **fields,
    }


def main() -> None:
    options = parse_options(GenerateOptions, __doc__)
    scales, texts = check(options), read_texts(options)

    from acestep.quiet import quiet_libraries

    quiet_libraries()
    import torch

    from acestep.models.checkpoint import Checkpoint
    from acestep.models.generation import Generator, Sampling, check_audio_name, default_sampling, write_audio

    output = Path(options.output)
    check_audio_name(output)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: cannot be used: {str(error).splitlines()[0]}") from None
    dtype = getattr(torch, options.dtype or ("bfloat16" if device.startswith("cuda") else "float32"))
    checkpoint = Checkpoint(options.pretrained_model_name_or_path, options.variant, options.bundle, options.revision)
    default = default_sampling(checkpoint.is_turbo)
    if checkpoint.is_turbo and options.guidance_scale not in (None, 1.0):
        raise UserError(
            f"--guidance_scale {options.guidance_scale:g}: {checkpoint.name} is a turbo model, which has none."
        )
    sampling = Sampling(
        steps=options.num_inference_steps or default.steps,
        shift=default.shift if options.shift is None else options.shift,
        guidance=default.guidance if options.guidance_scale is None else options.guidance_scale,
    )
    generator = Generator(checkpoint, device, dtype, options.lora, scales)
    for warning in generator.cut_warnings(audio_duration=options.duration, **texts):
        print(f"warning: {warning}")
    wanted = [(output, True)] + ([(output.with_suffix(f".base{output.suffix}"), False)] if options.compare else [])
    for path, use_adapters in wanted:
        audio = generator(
            seed=options.seed,
            sampling=sampling,
            use_adapters=use_adapters,
            audio_duration=options.duration,
            **texts,
        )
        write_audio(path, audio, generator.pipeline.sample_rate)
        adapters = ", ".join(options.lora) if use_adapters and options.lora else "no LoRA"
        seconds, rms = audio.shape[-1] / generator.pipeline.sample_rate, audio.square().mean().sqrt()
        print(f"{path}: {seconds:.1f} s, peak {audio.abs().max():.3f}, RMS {rms:.3f}, seed {options.seed}, {adapters}")


if __name__ == "__main__":
    run_script(main)
