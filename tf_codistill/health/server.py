"""The page of a run over HTTP, for looking at it from a browser; nothing can be changed through it.

    GET /               the page, which updates itself
    GET /body           what of it changes
    GET /status.json    the figures that ``status --json`` prints

It is meant for this machine, or for one's own through ``ssh -L``. There is no password: whoever reaches the
port may look. So a server bound to this machine answers only to requests that name it, which keeps out other
pages of the same browser, and however many look, the run is read once a second.
"""

from __future__ import annotations

import http.server
import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from tf_codistill import pictures
from tf_codistill.health import overview, page
from tf_codistill.health.overview import Overview

LOCALHOST = "127.0.0.1"
REFRESH_SECS = 2.0

_READ_SECS = 1.0
_TIMEOUT_SECS = 10.0
_LOCAL_NAMES = ("localhost", LOCALHOST, "::1")


class Server(http.server.ThreadingHTTPServer):
    """Serves a run until `shutdown` is called.

    Args:
        read: Reads the run.
        host: The address to bind to.
        port: The port; 0 for a free one.
        read_secs: For how long what has been read is shown again.

    Raises:
        ValueError: The address cannot be bound to.
    """

    daemon_threads = True

    def __init__(
        self, read: Callable[[], Overview], host: str, port: int, read_secs: float = _READ_SECS
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"host {host!r}, port {port} cannot be served ({error}); choose another --host or --serve"
            ) from error
        self._read, self._read_secs = read, read_secs
        self._lock = threading.Lock()
        self._found: Overview | None = None
        self._read_at = 0.0

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self.server_address[:2]
        return f"http://{f'[{host!s}]' if ':' in str(host) else host!s}:{port}/"

    def accepts(self, name: str | None) -> bool:
        """Whether a request names this server; any name will do unless it is bound to this machine."""
        if str(self.server_address[0]) not in _LOCAL_NAMES:
            return True
        try:
            return urlsplit(f"//{name}").hostname in _LOCAL_NAMES
        except ValueError:
            return False

    def overview(self) -> Overview:
        """The run as it was a second ago or later."""
        with self._lock:
            if self._found is None or time.monotonic() - self._read_at >= self._read_secs:
                self._found, self._read_at = self._read(), time.monotonic()
            return self._found

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing of a browser that went away before it had its answer."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "tf_codistill", ""
    timeout = _TIMEOUT_SECS

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def log_message(self, *args: object) -> None:
        """Says nothing of who looks."""

    def _answer(self, with_content: bool) -> None:
        status, kind, content = 200, "text/html", ""
        path = urlsplit(self.path).path
        if not self.server.accepts(self.headers.get("Host")):
            status, kind, content = 403, "text/plain", "this server answers to localhost alone; see --host\n"
        elif path not in _PAGES:
            status, kind, content = 404, "text/plain", "there is the page / and /status.json\n"
        else:
            try:
                kind, make = _PAGES[path]
                content = make(self.server.overview())
            except OSError as error:
                status, kind, content = 503, "text/plain", f"the run cannot be read now: {error}\n"
        body = content.encode("utf-8", "replace")
        self.send_response(status)
        for name, value in {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Content-Security-Policy": _POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if with_content:
            self.wfile.write(body)


def _json(run: Overview) -> str:
    return json.dumps(overview.figures(run), indent=1, allow_nan=False) + "\n"


_PAGES: dict[str, tuple[str, Callable[[Overview], str]]] = {
    "/": ("text/html", lambda run: page.page(run, REFRESH_SECS)),
    f"/{page.BODY_PATH}": ("text/html", page.body),
    "/status.json": ("application/json", _json),
}
_POLICY = f"{pictures.policy(page.script(REFRESH_SECS))}; frame-ancestors 'none'"
