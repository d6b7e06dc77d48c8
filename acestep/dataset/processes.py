"""The processes that `accelerate launch` started, and how songs are shared out over them."""

import heapq
import os
from datetime import timedelta
from itertools import groupby
from typing import Any

from acestep.errors import UserError
from acestep.songs import Song

# One process may wait for another's share, or for the scan, as long as these take.
_PATIENCE = timedelta(days=30)


class Processes:
    """This process among those of the launch; alone without `accelerate launch`.

    Attributes:
        index, count: from 0, and how many there are.
    """

    def __init__(self) -> None:
        self.index, self.count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self._state: Any = None

    @classmethod
    def alone(cls) -> "Processes":
        """This process by itself, for work that the others have no part in."""
        processes = cls()
        processes.index, processes.count = 0, 1
        return processes

    @property
    def is_main(self) -> bool:
        """Whether this process scans, reports and assembles."""
        return self.index == 0

    def connect(self, device: str | None) -> str:
        """Meet the other processes.

        Args:
            device: as the user asked for it, such as "cuda" or "cpu"; each of several processes gets its own.

        Returns:
            This process's device.
        """
        import torch
        from accelerate import PartialState

        # accelerate joins processes without a GPU only when it is told so
        cpu = (device or "").startswith("cpu") or not torch.accelerator.is_available()
        cpu = cpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
        self._state = PartialState(cpu=cpu, **({"timeout": _PATIENCE} if self.count > 1 else {}))
        if self._state.num_processes != self.count:
            raise UserError(f"accelerate joined {self._state.num_processes} of {self.count} processes; expected all.")
        return str(self._state.device) if self.count > 1 or device is None else device

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.count > 1:
            self._state.wait_for_everyone()

    def from_main(self, value: Any) -> Any:
        """What the main process passed, in every process."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def gather(self, values: list) -> list:
        """The lists of all processes, one behind the other."""
        if self.count == 1:
            return values
        from accelerate.utils import gather_object

        return gather_object(values)

    def share(self, items: list) -> list:
        """This process's part of a list that is the same in every process."""
        return items[self.index :: self.count]


def share_by_length(songs: list[Song], processes: int) -> list[list[Song]]:
    """Share songs out so that every process has about as much audio; segments of a file stay together.

    The longest file goes first, each to the process that has the least so far (Graham, 1969): none is left with more
    than a third over the best possible share.

    Returns:
        A list a process, each in the order of `songs`.
    """
    files = [list(group) for _, group in groupby(songs, key=lambda song: song.path)]
    seconds = [sum(song.duration for song in file) for file in files]
    least = [(0.0, process) for process in range(processes)]
    chosen: list[list[int]] = [[] for _ in range(processes)]
    for number in sorted(range(len(files)), key=lambda number: -seconds[number]):
        load, process = heapq.heappop(least)
        chosen[process].append(number)
        heapq.heappush(least, (load + seconds[number], process))
    return [[song for number in sorted(numbers) for song in files[number]] for numbers in chosen]
