"""Audio that libsndfile does not read (M4A, AAC, WMA), by torchaudio with torchcodec, in soundfile's manner."""

import re
from pathlib import Path

import numpy as np

from acestep.errors import UserError


class CodecAudio:
    """A file decoded at once, since these decoders cannot say beforehand how much will come.

    Attributes: as those of `soundfile.SoundFile`; `frames` is what the container's header promises.

    Raises:
        UserError: it cannot be decoded.
    """

    # Below a tenth of a second, containers and codecs differ about priming and padding.
    _TOLERANCE_SECONDS = 0.1

    def __init__(self, path: Path):
        import torchaudio
        from torchcodec.decoders import AudioDecoder

        try:
            promised = AudioDecoder(str(path)).metadata.duration_seconds_from_header
            samples, self.samplerate = torchaudio.load(str(path))  # [channels, frames]
        except Exception as error:  # torchcodec passes on whatever FFmpeg raises
            # "..., /build/decoder.cpp:51, Could not open /home/me/x.m4a ...": what is behind the place in its source.
            reason = re.sub(r"^.*\.cpp:\d+, ", "", " ".join(str(error).split())).replace(str(path), path.name)
            raise UserError(f"cannot be decoded ({reason}). Get an undamaged copy.") from error
        self._samples = samples.numpy().T  # [frames, channels]
        self._position = 0
        self.channels = self._samples.shape[1]
        self.format, self.subtype = path.suffix.upper().lstrip("."), "MPEG_LAYER_III"
        self.frames = len(self._samples)
        lacking = (promised or 0) - self.frames / self.samplerate
        if lacking > self._TOLERANCE_SECONDS:
            raise UserError(f"is cut: {lacking:.1f} s less decode than its header promises. Get an undamaged copy.")

    def read(self, frames: int, dtype: str, always_2d: bool) -> np.ndarray:
        """Return the next `[frames, channels]`, fewer at the end; all of them for -1."""
        end = self.frames if frames < 0 else min(self.frames, self._position + frames)
        block = self._samples[self._position : end]
        self._position = end
        return block.astype(dtype, copy=False)

    def __enter__(self) -> "CodecAudio":
        return self

    def __exit__(self, *exception: object) -> None:
        self._samples = self._samples[:0]
