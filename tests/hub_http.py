"""HTTP under the test Hub: requests as they arrived, answers, and connections that fail when a test asks for it."""

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.hub_faults import Faults
from tests.hub_storage import HubError


@dataclass
class Request:
    """One request as it arrived, nothing hidden, and the status of its answer."""

    method: str
    path: str  # with the query, still percent-encoded
    headers: dict[str, str]
    body: bytes = field(default=b"", repr=False)
    status: int | None = None  # None: cut before its end

    def text(self) -> str:
        """All of it as one string, to search for what must not be there."""
        return "\n".join([f"{self.method} {self.path}", json.dumps(self.headers), self.body.decode("latin-1")])


@dataclass
class Reply:
    """The answer to a request."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Any, status: int = 200, headers: dict[str, str] | None = None) -> "Reply":
        return cls(status, json.dumps(data).encode(), {"Content-Type": "application/json", **(headers or {})})


class Server(ThreadingHTTPServer):
    """Listens on loopback and answers each connection in a thread.

    Args:
        answer: finds the answer to a request; called by one thread at a time.
        faults: what is to go wrong.

    Attributes:
        requests: all that arrived, in order.
    """

    request_queue_size = 64

    def __init__(self, answer: Callable[[Request], Reply], faults: Faults):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.faults = answer, faults
        self.requests: list[Request] = []
        self.lock = threading.RLock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what went wrong in an answer, but not that a client went away."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Reads a request, has it answered, and writes the answer."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave together: apart, the second waits 40 ms for the first to be acknowledged
    timeout = 60
    server: Server

    def handle_request(self) -> None:
        faults = self.server.faults
        headers = {name.lower(): ", ".join(self.headers.get_all(name, [])) for name in self.headers}
        request = Request(self.command, self.path, headers)
        self.server.requests.append(request)
        length = int(self.headers.get("Content-Length") or 0)
        if self.command == "PUT" and (fault := faults.due(request, "hold") or faults.due(request, "cut")):
            request.body = self.rfile.read(length // 2)
            fault.reached.set()
            if fault.kind == "hold":  # until the client is gone
                self.rfile.read(length)
            self.close_connection = True
            return
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        request.body = b"".join(iter(self._chunk, b"")) if chunked else self.rfile.read(length)
        try:
            if fault := faults.due(request, "refuse"):
                raise HubError(fault.status, "A failure that the test asked for")
            with self.server.lock:
                reply = self.server.answer(request)
        except HubError as error:
            reply = Reply.of({"error": error.message}, error.status, error.headers)
        self._write(request, reply)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def _chunk(self) -> bytes:
        """The next piece of a chunked body, `b""` after the last one."""
        content = self.rfile.read(int(self.rfile.readline().split(b";")[0], 16))
        self.rfile.readline()
        return content

    def _write(self, request: Request, reply: Reply) -> None:
        whole = reply.status // 100 != 2 or request.method == "HEAD" or len(reply.body) < 2
        cut = not whole and self.server.faults.due(request, "cut") is not None
        request.status = None if cut else reply.status
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if request.method != "HEAD":
            self.wfile.write(reply.body[: len(reply.body) // 2] if cut else reply.body)
        self.close_connection = self.close_connection or cut

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `HubServer.requests` is the log."""
