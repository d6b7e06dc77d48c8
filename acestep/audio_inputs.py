"""Recordings that generation begins from: decoded and checked as songs are."""

from pathlib import Path
from typing import TYPE_CHECKING

from acestep.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch

MOST_BYTES = 4e9
TIMEOUT = 300.0  # seconds


def read_audio(path: Path, label: str) -> "torch.Tensor":
    """Decode a file in a process of its own, which a damaged file may take along.

    Args:
        label: what the file is to the user, such as `--source_audio`.

    Returns:
        `[2, samples]` float32 at 48 kHz.

    Raises:
        UserError: for a file that is not there, damaged, or no audio.
    """
    import torch

    from acestep.songs.decode import skip_reason
    from acestep.songs.workers import run_in_workers

    if not path.is_file():
        raise UserError(f"{label} {path}: is not a file.")
    (result,) = run_in_workers(decode_checked, [(path,)], 1, TIMEOUT)
    if isinstance(result, Exception):
        raise UserError(f"{label} {path}: {skip_reason(result)}")
    return torch.from_numpy(result)


def decode_checked(path: Path) -> "np.ndarray":
    """`[2, samples]` at 48 kHz of a file whose structure is whole.

    Raises:
        UserError: the message continues the file's name.
    """
    from acestep.songs.audio_files import SAMPLE_RATE, check_size, damage, open_audio
    from acestep.songs.decode import decode_file

    damage(path)
    with open_audio(path) as audio:
        check_size(audio, MOST_BYTES)
    (samples,) = decode_file(path, [None])
    if samples.shape[1] < SAMPLE_RATE / 25:
        raise UserError("holds less than 0.04 s of audio, one frame of the model. Take a longer recording.")
    return samples
