"""A group's end of the server that carries predictions, see `server`."""

from __future__ import annotations

import contextlib
import functools
import json
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import grpc

from tf_codistill.exchange.predictions.server import METHODS, SERVICE
from tf_codistill.files import CorruptError

_CALL_SECS = 10.0
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
_HINTS = {
    grpc.StatusCode.UNAUTHENTICATED: "it wants another token",
    grpc.StatusCode.UNIMPLEMENTED: "it is no server of tf_codistill.serve_predictions",
    grpc.StatusCode.UNAVAILABLE: "it is out of reach, or speaks TLS where this end does not, or the reverse",
}


_TLS_HINTS = {  # by what gRPC says of a handshake that fails
    "CERTIFICATE_VERIFY_FAILED": "tls_certificate does not vouch for it",
    "Hostname Verification Check failed": "its certificate has another name than this address",
}


class ServerChannel:
    """Through a server that holds predictions in memory, see `channel.Channel`."""

    def __init__(
        self, address: str, run_id: str, token: str | None = None, tls_certificate: bytes | None = None
    ) -> None:
        """Takes note of where it is; connects with the first call.

        Args:
            address: Host and port.
            run_id: Names the run, so that several may share a server.
            token: What the server wants to know.
            tls_certificate: PEM of the authority that vouches for the server; None if it does not encrypt.

        Raises:
            ValueError: There is no certificate in it.
        """
        self._address, self._run_id = address, run_id
        self._token = [("authorization", f"Bearer {token}")] if token else []
        if tls_certificate is None:
            self._channel = grpc.insecure_channel(address, _OPTIONS)
        else:
            _check_certificate(tls_certificate)
            credentials = grpc.ssl_channel_credentials(tls_certificate)
            self._channel = grpc.secure_channel(address, credentials, _OPTIONS)
        self._begun: dict[str, bytes] = {}
        self._beginning = threading.Lock()
        self._methods = {name: self._channel.unary_unary(f"/{SERVICE}/{name}") for name in METHODS}

    def begin(self, source: str, description: dict[str, Any], step: int) -> None:
        """See `Channel`."""
        self._begun[source] = json.dumps(description, sort_keys=True).encode()
        self._call("Begin", source, self._begun[source], step=step)

    def description(self, source: str) -> dict[str, Any] | None:
        """See `Channel`."""
        found = self._call("Describe", source)
        said = None if found is None else json.loads(found)
        return said if isinstance(said, dict) else None

    def put(self, source: str, step: int, part: int, content: bytes) -> None:
        """See `Channel`; tells a server that has been started again what the source predicts."""
        put = functools.partial(self._call, "Put", source, content, step=step, part=part)
        if put() is not None:
            return
        with self._beginning:
            if put() is None:
                if source not in self._begun:
                    raise OSError(f"server {self._address!r} does not know what {source!r} predicts")
                self._call("Begin", source, self._begun[source], step=step)
                put()

    def get(self, source: str, step: int, part: int, wait_secs: float, max_bytes: int) -> bytes | None:
        """See `Channel`."""
        wait_ms, secs = round(1000 * wait_secs), wait_secs + _CALL_SECS
        found = self._call("Get", source, secs=secs, step=step, part=part, wait_ms=wait_ms)
        if found is not None and len(found) > max_bytes:
            raise CorruptError(
                f"step {step} of {source} has {len(found)} bytes; expected at most {max_bytes}"
            )
        return found

    def newest(self, source: str) -> int | None:
        """See `Channel`."""
        found = self._call("Newest", source)
        return None if found is None or not found.isdigit() else int(found)

    def close(self) -> None:
        """Hangs up."""
        self._channel.close()

    def _call(
        self, method: str, source: str, body: bytes = b"", secs: float = _CALL_SECS, **numbers: int
    ) -> bytes | None:
        """What the server answers; None for nothing."""
        said = [("source", f"{self._run_id}/{source}"), *self._token]
        said += [(name.replace("_", "-"), str(number)) for name, number in numbers.items()]
        with self._as_os_error():
            try:
                return self._methods[method](body, timeout=secs, metadata=said)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.NOT_FOUND:
                    return None
                raise

    @contextlib.contextmanager
    def _as_os_error(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            said = error.details() or ""
            hint = next(
                (_TLS_HINTS[one] for one in _TLS_HINTS if one in said), _HINTS.get(error.code(), said)
            )
            is_refused = error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED)
            raise (PermissionError if is_refused else OSError)(
                f"server {self._address!r} does not answer: {hint}"
            ) from error
        except ValueError as error:  # a channel that has been closed
            raise OSError(f"server {self._address!r} does not answer: {error}") from error


def _check_certificate(pem: bytes) -> None:
    try:
        ssl.create_default_context(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(
            f"tls_certificate holds no certificate ({error}); expected that of the server, in PEM, "
            "or of the authority that has signed it"
        ) from error
