"""What decoders do at their worst: run in worker processes, which import this by name."""

import ctypes
import os
import time


def crash(number: int) -> int:
    """End the process as a broken decoder does, for some numbers."""
    if number % 3 == 1:
        ctypes.string_at(0)
    return number


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def chatter(number: int) -> int:
    """Print as decoders do, on both streams, past Python and through it."""
    print("noise")
    os.write(1, b"noise")
    os.write(2, b"noise")
    return number
