"""A small MP3 and a waveform of a song for a page that opens anywhere. Runs in a worker process."""

import base64
import io
from pathlib import Path

import numpy as np
import soundfile

from acestep.songs.audio_files import open_audio

PREVIEW_RATE = 24000
BINS = 400


def preview(path: Path, start: float, duration: float, seconds: float) -> tuple[str, list[float]]:
    """Return (data URI of a mono MP3 of the first `seconds`, or "" for 0; `BINS` peaks from 0 to 1 of all of it).

    Args:
        start, duration: the part of the file that the row holds, in seconds.
    """
    with open_audio(path) as audio:
        rate = audio.samplerate
        if start:
            audio.read(round(start * rate), dtype="float32", always_2d=True)
        samples = audio.read(round(duration * rate), dtype="float32", always_2d=True)  # [frames, channels]
    peaks = np.abs(samples).max(axis=1, initial=0)
    waveform = [float(min(1, part.max(initial=0))) for part in np.array_split(peaks, BINS)]
    if not seconds:
        return "", [round(peak, 3) for peak in waveform]
    import torch
    import torchaudio.functional

    torch.set_num_threads(1)
    mono = torch.from_numpy(samples[: round(seconds * rate)].mean(axis=1))
    small = torchaudio.functional.resample(mono, rate, PREVIEW_RATE).clamp(-1, 1).numpy()
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", PREVIEW_RATE, 1, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.7
    ) as writer:
        for begin in range(0, len(small), PREVIEW_RATE):
            writer.write(small[begin : begin + PREVIEW_RATE])
    uri = "data:audio/mpeg;base64," + base64.b64encode(file.getvalue()).decode()
    return uri, [round(peak, 3) for peak in waveform]
