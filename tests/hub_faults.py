"""What is to go wrong at the test Hub: refusals, cut connections, and bodies that never end."""

import threading
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote


@dataclass
class Fault:
    """A failure of the next `times` requests whose address (decoded, with its query) holds `part`.

    Attributes:
        kind: "refuse" with `status`; "cut" in the middle of a body; "hold", which takes half a body (PUT) and then
            waits until the client is gone.
        after: requests that are let pass before.
        reached: set when a body was cut or held.
    """

    kind: str
    part: str
    method: str | None
    times: int
    status: int = 500
    after: int = 0
    reached: threading.Event = field(default_factory=threading.Event)


class Faults:
    """Failures to come."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, kind: str, part: str, method: str | None, times: int, *, status: int = 500, after: int = 0) -> Fault:
        fault = Fault(kind, part, method, times, status, after)
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Nothing fails any more."""
        self._faults.clear()

    def due(self, request: Any, kind: str) -> Fault | None:
        """The fault of a kind that is due for this request, counted as used."""
        with self._lock:
            for fault in self._faults:
                if fault.times < 1 or fault.kind != kind or fault.method not in (None, request.method):
                    continue
                if fault.part not in unquote(request.path):
                    continue
                if fault.after:
                    fault.after -= 1
                    continue
                fault.times -= 1
                return fault
        return None
