"""Damages audio files as disks, downloads and people do, the same way for the same seed."""

import numpy as np

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus")
KINDS = ("cut", "bit_flipped", "zero_tailed", "mislabelled")


def damage(content: bytes, kind: str, others: list[bytes], random: np.random.Generator) -> bytes:
    """Return the bytes of a damaged copy.

    Args:
        kind: one of `KINDS`.
        others: contents that are something else, for "mislabelled".
    """
    size = len(content)
    if kind == "cut":
        return content[: random.integers(1, size)]
    if kind == "bit_flipped":
        damaged = bytearray(content)
        for place in random.integers(0, size, size=random.integers(20, 200)):
            damaged[place] ^= 1 << random.integers(0, 8)
        return bytes(damaged)
    if kind == "zero_tailed":
        start = random.integers(size // 10, size - 1000)
        return content[:start] + bytes(size - int(start))
    return others[random.integers(0, len(others))]
