"""A server on this machine that behaves as badly as it is told to.

with http_server.serve({"/a.gz": content}) as server:
    server.misbehave("/a.gz", Fault(cut=1000), Fault(status=503, headers={"Retry-After": "7"}))
    ...                             # the first two requests go wrong so, all others go well
    server.requests                 # what was asked, with the number of bytes of the body that were sent
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.server
import re
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is different about one answer.

    Attributes:
        status: Another status, with an empty body; None for the file.
        headers: Set in place of the usual ones; None takes one out.
        cut: The connection ends after so many bytes of the body.
        is_reset: It ends not by a farewell, but by a reset.
        stalls: Nothing more comes after `cut` bytes, but the connection stays.
        is_whole: The whole file comes, whatever range was asked for.
        becomes: From this answer on the file has another content.
        body: A body of its own.
    """

    status: int | None = None
    headers: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    cut: int | None = None
    is_reset: bool = False
    stalls: bool = False
    is_whole: bool = False
    becomes: bytes | None = None
    body: bytes | None = None


@dataclasses.dataclass
class Request:
    path: str
    headers: Mapping[str, str]
    status: int = 0
    num_bytes: int = 0

    @property
    def range(self) -> str | None:
        return self.headers.get("Range")


class Server:
    """Files by path; `always` has the faults of every answer, `misbehave` those of the next ones."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.requests: list[Request] = []
        self.always: dict[str, Fault] = {}
        self.url = ""
        self.released = threading.Event()
        self.lock = threading.Lock()
        self._next: dict[str, list[Fault]] = {}

    def misbehave(self, path: str, *faults: Fault) -> None:
        self._next.setdefault(path, []).extend(faults)

    def fault(self, path: str) -> Fault:
        with self.lock:
            waiting = self._next.get(path)
            return waiting.pop(0) if waiting else self.always.get(path, Fault())

    def num_bytes(self, path: str) -> int:
        return sum(request.num_bytes for request in self.requests if request.path == path)

    def ranges(self, path: str) -> list[str | None]:
        return [request.range for request in self.requests if request.path == path]


@contextlib.contextmanager
def serve(files: Mapping[str, bytes]) -> Iterator[Server]:
    """Serves files of this content, by path, at `Server.url`."""
    server = Server(files)

    class Handler(_Handler):
        files = server

    with _Listener(("127.0.0.1", 0), Handler) as listener:
        server.url = f"http://127.0.0.1:{listener.server_address[1]}"
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            listener.shutdown()


class _Listener(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Says nothing of connections that were reset, which is what tests do."""


class _Handler(http.server.BaseHTTPRequestHandler):
    files: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        with contextlib.suppress(ConnectionError):
            self._answer()

    def _answer(self) -> None:
        server, path = self.files, self.path.partition("?")[0]
        request = Request(path, dict(self.headers))
        server.requests.append(request)
        fault = server.fault(path)
        if fault.becomes is not None:
            server.files[path] = fault.becomes
        status, headers, body = self._file(path, None if fault.is_whole else request.range)
        if fault.body is not None or fault.status is not None:
            status, headers, body = fault.status or 200, {}, fault.body or b""
        headers = {"Content-Length": str(len(body)), **headers, **fault.headers}
        request.status = status
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self._send(body, fault, request, is_endless=headers["Content-Length"] is None)

    def _send(self, body: bytes, fault: Fault, request: Request, is_endless: bool) -> None:
        part = body if fault.cut is None else body[: fault.cut]
        request.num_bytes = len(part)  # first: once a client has all of it, a test may look here
        self.wfile.write(part)
        if fault.stalls:
            self.files.released.wait(30)
        if fault.is_reset:
            # The socket module's way to say "forget what is under way".
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = fault.cut is not None or is_endless

    def _file(self, path: str, asked: str | None) -> tuple[int, dict[str, str | None], bytes]:
        content = self.files.files.get(path)
        if content is None:
            return 404, {}, b"no such file"
        headers: dict[str, str | None] = {"ETag": f'"{hashlib.md5(content).hexdigest()}"'}
        found = re.fullmatch(r"bytes=(\d+)-", asked or "")
        if found is None:
            return 200, headers, content
        start = int(found[1])
        if start >= len(content):
            return 416, {"Content-Range": f"bytes */{len(content)}"}, b""
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return 206, headers, content[start:]
