"""A server that carries predictions between groups that share no fast file system.

    server                                                 each group: `client.ServerChannel`
    {source: description}                             <--  put, begin
    {(source, step, part): content}                   -->  get (waits until it is there), newest, description

Contents are bytes in memory, which the server never looks into, at most `max_bytes` of them: what was left
first goes first, of whichever run, whoever reads or does not. When it is killed nothing is lost but a few
predictions: groups go on, and meet again once it is back. It takes nothing of a source that has not begun, so
that these begin anew.

Every call is one of gRPC with the content as its body and its address as metadata, so that nothing is parsed
but names and numbers: https://grpc.io/docs/guides/metadata. It has a thread while it is answered or waits.
"""

from __future__ import annotations

import collections
import dataclasses
import hmac
import re
import threading
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import NamedTuple

import grpc

SERVICE = "tf_codistill.Predictions"
METHODS = ("Begin", "Describe", "Put", "Get", "Newest")
_SOURCE = re.compile(r"[\w./:-]{1,200}")
_LONGEST_WAIT_SECS = 60.0
_MOST = 1 << 53
_LONGEST_DESCRIPTION, _MOST_SOURCES = 1 << 16, 1 << 12
_CONTENT_BYTES = 512  # what a content takes beside its own bytes: its address, and its place among the others

_Address = tuple[str, int, int]


@dataclasses.dataclass
class _Source:
    """What is known of a source beside its contents."""

    description: bytes = b""
    newest: int | None = None


class _Call(NamedTuple):
    """What somebody asks."""

    source: str
    said: Mapping[str, str]
    body: bytes
    context: grpc.ServicerContext


class PredictionServer:
    """What the server remembers, and its answers."""

    def __init__(self, max_bytes: float, token: str | None = None) -> None:
        """Begins empty.

        Args:
            max_bytes: Size of all contents together, at most, with half a KiB for each.
            token: What callers have to know; None if anybody may call.
        """
        self._max_bytes, self._expected = max_bytes, f"Bearer {token}".encode() if token else b""
        self._sources: dict[str, _Source] = {}
        self._contents: collections.OrderedDict[_Address, bytes] = collections.OrderedDict()
        self._waiting: dict[_Address, set[futures.Future[bytes]]] = collections.defaultdict(set)
        self._lock = threading.Lock()
        self.num_bytes = 0

    def handler(self) -> grpc.GenericRpcHandler:
        """What gRPC calls."""
        answers = (self._begin, self._describe, self._put, self._get, self._newest)
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(self._checked(answer))
            for name, answer in zip(METHODS, answers, strict=True)
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def _checked(self, answer: Callable[[_Call], bytes]) -> Callable[..., bytes]:
        def call(body: bytes, context: grpc.ServicerContext) -> bytes:
            said = {key: str(value) for key, value in context.invocation_metadata() or ()}
            given = said.get("authorization", "").encode()
            if self._expected and not hmac.compare_digest(given, self._expected):
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong token")
            try:
                return answer(_Call(_source(said), said, body, context))
            except ValueError as error:
                return context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            except KeyError:
                return context.abort(grpc.StatusCode.NOT_FOUND, "there is nothing")

        return call

    def _begin(self, call: _Call) -> bytes:
        """Forgets what is from a step on, and of another description."""
        source, step = call.source, _number(call.said, "step")
        if len(call.body) > _LONGEST_DESCRIPTION:
            raise ValueError(f"{len(call.body)} bytes describe it; expected at most {_LONGEST_DESCRIPTION}")
        with self._lock:
            is_known = self._sources.pop(source, _Source()).description == call.body
            left = list[int]()
            for address in [one for one in self._contents if one[0] == source]:
                if is_known and address[1] < step:
                    left.append(address[1])
                else:
                    self._forget(address)
            self._sources[source] = _Source(call.body, max(left, default=None))
            while len(self._sources) > _MOST_SOURCES:
                del self._sources[next(iter(self._sources))]  # begun the longest ago
        return b""

    def _describe(self, call: _Call) -> bytes:
        with self._lock:
            found = self._sources.get(call.source, _Source()).description
        if not found:
            raise KeyError(call.source)
        return found

    def _put(self, call: _Call) -> bytes:
        address, size = _address(call), len(call.body) + _CONTENT_BYTES
        if size > self._max_bytes:
            raise ValueError(f"{len(call.body)} bytes at once; the server takes {self._max_bytes:.0f} in all")
        with self._lock:
            kept = self._sources[call.source]  # a KeyError after a restart, so that it begins again
            if address in self._contents:
                self._forget(address)
            while self.num_bytes + size > self._max_bytes:
                self._forget(next(iter(self._contents)))
            self._contents[address] = call.body
            self.num_bytes += size
            kept.newest = max(kept.newest or 0, address[1])
            for waiting in self._waiting.pop(address, ()):
                if waiting.set_running_or_notify_cancel():
                    waiting.set_result(call.body)
        return b""

    def _get(self, call: _Call) -> bytes:
        address, wait_ms = _address(call), _number(call.said, "wait-ms")
        with self._lock:
            found = self._contents.get(address)
            if found is not None:
                return found
            if not wait_ms:
                raise KeyError(address)
            waiting = futures.Future[bytes]()
            self._waiting[address].add(waiting)
        call.context.add_callback(waiting.cancel)  # when nobody waits for the answer any more
        try:
            return waiting.result(min(wait_ms / 1000, _LONGEST_WAIT_SECS))
        except (TimeoutError, futures.CancelledError):
            raise KeyError(address) from None
        finally:
            with self._lock:
                others = self._waiting.get(address, set())
                others.discard(waiting)
                if not others:
                    self._waiting.pop(address, None)

    def _newest(self, call: _Call) -> bytes:
        with self._lock:
            newest = self._sources.get(call.source, _Source()).newest
        if newest is None:
            raise KeyError(call.source)
        return str(newest).encode()

    def _forget(self, address: _Address) -> None:
        self.num_bytes -= len(self._contents.pop(address)) + _CONTENT_BYTES


def serve(
    predictions: PredictionServer,
    address: str,
    max_message_bytes: int,
    tls: tuple[bytes, bytes] | None = None,
    max_calls: int = 4096,
) -> tuple[grpc.Server, int]:
    """Begins to answer.

    Args:
        predictions: What answers.
        address: Host and port; port 0 for any that is free.
        max_message_bytes: Size of a content, at most.
        tls: Private key and certificate chain, in PEM; None for connections that are not encrypted.
        max_calls: Calls at the same time, at most; others are refused.

    Returns:
        The running server, and its port.

    Raises:
        OSError: The address is taken or not of this machine, or key and certificate do not fit each other.
    """
    options = [("grpc.max_receive_message_length", max_message_bytes), ("grpc.so_reuseport", 0)]
    threads = futures.ThreadPoolExecutor(max_calls)
    server = grpc.server(threads, options=options, maximum_concurrent_rpcs=max_calls)
    server.add_generic_rpc_handlers([predictions.handler()])
    try:
        if tls is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, grpc.ssl_server_credentials([tls]))
    except RuntimeError as error:
        reasons = "it is taken or not of this machine" + (
            ", or key and certificate do not fit" if tls else ""
        )
        raise OSError(f"cannot listen at {address!r}: {reasons}") from error
    server.start()
    return server, port


def _source(said: Mapping[str, str]) -> str:
    source = said.get("source", "")
    if not _SOURCE.fullmatch(source):
        raise ValueError(f"source is {source[:50]!r}; expected a name")
    return source


def _address(call: _Call) -> _Address:
    return call.source, _number(call.said, "step"), _number(call.said, "part")


def _number(said: Mapping[str, str], name: str) -> int:
    value = said.get(name, "")
    if not value.isdecimal() or int(value[:17]) > _MOST:
        raise ValueError(f"{name} is {value[:50]!r}; expected a number")
    return int(value)
