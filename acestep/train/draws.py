"""Random draws of a training step, the same whatever the batch size, the worker or the process.

Each draw has a generator of its own, keyed by (seed, epoch, sample, purpose): nothing is drawn from a shared stream, so
nothing depends on what was drawn before.
"""

import hashlib

import numpy as np
import torch


class Draws:
    """The draws of one sample in one epoch.

    Args:
        seed: of the run.
        epoch: from 0.
        sample: the row's id.
    """

    def __init__(self, seed: int, epoch: int, sample: str):
        self.seed, self.epoch, self.sample = seed, epoch, sample

    def generator(self, purpose: str) -> np.random.Generator:
        """A Philox generator (a counter-based one: Salmon et al., 2011) keyed by a hash of what it is for."""
        text = f"{self.seed}/{self.epoch}/{self.sample}/{purpose}"
        key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
        return np.random.Generator(np.random.Philox(key=key))

    def normal(self, purpose: str, *shape: int) -> torch.Tensor:
        """Standard normal float32 values of `shape`."""
        return torch.from_numpy(self.generator(purpose).standard_normal(shape, dtype=np.float32))

    def uniform(self, purpose: str) -> float:
        """One value in [0, 1)."""
        return float(self.generator(purpose).random())

    def integer(self, purpose: str, upper: int) -> int:
        """One whole number in [0, upper)."""
        return int(self.generator(purpose).integers(upper))


def permutation(seed: int, epoch: int, count: int, of: str = "permutation") -> list[int]:
    """The order of `count` things in an epoch, by default rows."""
    return Draws(seed, epoch, "order").generator(of).permutation(count).tolist()
