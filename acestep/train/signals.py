"""Ctrl-C and SIGTERM: the step is finished and saved before the run ends."""

import signal
from types import FrameType
from typing import Any


class StopSignal:
    """While entered, SIGTERM and the first Ctrl-C only set `received`; the second Ctrl-C interrupts at once.

    Attributes:
        received: the signal's number, 0 before there was one.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


def ignore_interrupts(_worker: int) -> None:
    """For the loader's workers: Ctrl-C reaches them too, but only the main process decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
