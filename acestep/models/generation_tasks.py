"""What a request asks for, played: music from texts, a cover of a recording, a recording with a part made anew."""

import math
from collections.abc import Callable

import torch

from acestep.errors import UserError
from acestep.models.generation import Generator, normalised
from acestep.models.generation_requests import Request, Sampling

FADE = 0.02  # seconds in which a repainted part takes over from the recording and gives way to it


def play(
    generator: Generator,
    request: Request,
    sampling: Sampling,
    *,
    seed: int,
    source: torch.Tensor | None = None,
    reference: torch.Tensor | None = None,
    use_adapters: bool = True,
) -> torch.Tensor:
    """One piece of music.

    Args:
        seed: in place of the request's.
        source, reference: `[2, samples]` at 48 kHz, decoded from the request's files.

    Returns:
        `[2, samples]` float32 on the CPU: as long as the source where there is one. Its peak is at -1 dBFS; a repainted
        recording keeps its own level, and outside the part its samples.
    """
    pipeline = generator.pipeline
    texts = request.texts(None if source is None else source.shape[1] / pipeline.sample_rate)
    options = {
        "prompt": texts.caption,
        "lyrics": texts.lyrics,
        "vocal_language": texts.language,
        "audio_duration": texts.duration,
        "bpm": texts.bpm,
        "keyscale": texts.keyscale,
        "timesignature": texts.timesignature,
        "reference_audio": reference,
        "seed": seed,
        "sampling": sampling,
        "use_adapters": use_adapters,
    }
    if source is None:
        return generator(**options)
    hop = round(pipeline.sample_rate / pipeline.latents_per_second)
    padded = torch.nn.functional.pad(source, (0, -source.shape[1] % hop))
    options |= {"task_type": request.task, "src_audio": padded}
    if request.task == "cover":
        strength = 1.0 if request.cover_strength is None else request.cover_strength
        latents = generator.latents(**options, audio_cover_strength=strength)
        return normalised(generator.decode(latents)[:, : source.shape[1]])
    first, last = repainted_frames(request, padded.shape[1] // hop, pipeline.latents_per_second)
    # the middles of frames: the pipeline rounds down, and seconds as floats may fall below their frame
    window = [(frame + 0.5) / pipeline.latents_per_second for frame in (first, last)]
    latents = generator.latents(**options, repainting_start=window[0], repainting_end=window[1])
    kept = generator.encode(padded).to(latents)
    kept[:, first:last] = latents[:, first:last]
    made = generator.decode(kept)
    return spliced(source, made[:, : source.shape[1]], first * hop, last * hop, round(FADE * pipeline.sample_rate))


def repainted_frames(request: Request, frames: int, rate: float) -> tuple[int, int]:
    """The latent frames, first and behind the last, that a request for repainting makes anew."""
    end = frames / rate if request.repaint_end is None else request.repaint_end
    first = math.floor((request.repaint_start or 0.0) * rate + 1e-6)
    return first, min(frames, math.ceil(end * rate - 1e-6))


def check_repaint(request: Request, seconds: float, label: Callable[[str], str]) -> None:
    """Raise UserError for a part that does not lie in its source."""
    for name in ("repaint_start", "repaint_end"):
        value = getattr(request, name)
        if value is not None and value > seconds + (0.04 if name == "repaint_end" else -0.04):
            raise UserError(f"{label(name)} is {value:g}; the source is {seconds:.2f} s long.")


def spliced(source: torch.Tensor, made: torch.Tensor, first: int, last: int, fade: int) -> torch.Tensor:
    """The source with the samples `first` to `last` replaced; the fades lie within them.

    Args:
        source, made: `[2, samples]`.
        fade: samples of each fade, at most half of the part; none at the ends of the source.
    """
    last = min(last, source.shape[1])
    weight = torch.ones(last - first)
    fade = min(fade, len(weight) // 2)
    ramp = (torch.arange(fade) + 1) / (fade + 1)
    if first > 0:
        weight[:fade] = ramp
    if last < source.shape[1]:
        weight[len(weight) - fade :] = ramp.flip(0)
    part = made[:, first:last]
    part = part / part.abs().max().clamp(min=1.0)  # what would be clipped
    result = source.clone()
    result[:, first:last] += weight * (part - source[:, first:last])
    return result
