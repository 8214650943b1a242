"""A server that carries predictions between groups that share no fast file system.

    server                                                 each group: `client.ServerChannel`
    {source: {description, {(step, part): content}}}  <--  put, begin
                                                      -->  get (waits until it is there), newest, description

Contents are bytes in memory, which the server never looks into, at most `max_bytes` of them: what is of the
oldest steps goes first, whoever reads or does not. When it is killed nothing is lost but a few predictions:
groups go on, and meet again once it is back.

Every call is one of gRPC with the content as its body and its address as metadata, so that nothing is parsed
but names and numbers: https://grpc.io/docs/guides/metadata.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping

import grpc

SERVICE = "tf_codistill.Predictions"
METHODS = ("Begin", "Describe", "Put", "Get", "Newest")
_SOURCE = re.compile(r"[\w./:-]{1,200}")
_LONGEST_WAIT_SECS = 60.0
_MOST = 1 << 53

_Address = tuple[int, int]


@dataclasses.dataclass
class _Source:
    """What one source has left, in the order in which it did."""

    description: bytes = b""
    contents: dict[_Address, bytes] = dataclasses.field(default_factory=dict)
    newest: int | None = None


class PredictionServer:
    """What the server remembers, and its answers."""

    def __init__(self, max_bytes: float, token: str | None = None) -> None:
        """Begins empty.

        Args:
            max_bytes: Size of all contents together, at most.
            token: What callers have to know; None if anybody may call.
        """
        self._max_bytes, self._expected = max_bytes, f"Bearer {token}".encode() if token else b""
        self._sources: dict[str, _Source] = collections.defaultdict(_Source)
        self._waiting: dict[tuple[str, _Address], set[asyncio.Future[bytes]]] = collections.defaultdict(set)
        self.num_bytes = 0

    def handler(self) -> grpc.GenericRpcHandler:
        """What gRPC calls."""
        answers = (self._begin, self._describe, self._put, self._get, self._newest)
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(self._checked(answer))
            for name, answer in zip(METHODS, answers, strict=True)
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def _checked(self, answer: Callable[..., Awaitable[bytes]]) -> Callable[..., Awaitable[bytes]]:
        async def call(body: bytes, context: grpc.aio.ServicerContext) -> bytes:
            said = {key: str(value) for key, value in context.invocation_metadata() or ()}
            given = said.get("authorization", "").encode()
            if self._expected and not hmac.compare_digest(given, self._expected):
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong token")
            try:
                return await answer(_source(said), said, body)
            except ValueError as error:
                return await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            except KeyError:
                return await context.abort(grpc.StatusCode.NOT_FOUND, "there is nothing")

        return call

    async def _begin(self, source: str, said: Mapping[str, str], body: bytes) -> bytes:
        """Forgets what is from a step on, and of another description."""
        kept, step = self._sources[source], _number(said, "step")
        for address in [one for one in kept.contents if one[0] >= step or kept.description != body]:
            self.num_bytes -= len(kept.contents.pop(address))
        kept.description, kept.newest = body, max((one for one, _ in kept.contents), default=None)
        return b""

    async def _describe(self, source: str, said: Mapping[str, str], body: bytes) -> bytes:
        found = self._sources[source].description if source in self._sources else b""
        if not found:
            raise KeyError(source)
        return found

    async def _put(self, source: str, said: Mapping[str, str], body: bytes) -> bytes:
        address = _address(said)
        if len(body) > self._max_bytes:
            raise ValueError(f"{len(body)} bytes at once; expected at most {self._max_bytes:.0f}")
        kept = self._sources[source]
        self.num_bytes += len(body) - len(kept.contents.get(address, b""))
        kept.contents[address] = body
        kept.newest = max(kept.newest or 0, address[0])
        for waiting in self._waiting.pop((source, address), ()):
            if not waiting.done():
                waiting.set_result(body)
        while self.num_bytes > self._max_bytes:
            self._evict()
        return b""

    async def _get(self, source: str, said: Mapping[str, str], body: bytes) -> bytes:
        address, wait_secs = _address(said), _number(said, "wait-ms") / 1000
        if source in self._sources and address in (kept := self._sources[source].contents):
            return kept[address]
        waiting: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        others = self._waiting[source, address]
        others.add(waiting)
        try:
            return await asyncio.wait_for(waiting, min(wait_secs, _LONGEST_WAIT_SECS))
        except TimeoutError:
            raise KeyError(address) from None
        finally:
            others.discard(waiting)
            if not others:
                self._waiting.pop((source, address), None)

    async def _newest(self, source: str, said: Mapping[str, str], body: bytes) -> bytes:
        newest = self._sources[source].newest if source in self._sources else None
        if newest is None:
            raise KeyError(source)
        return str(newest).encode()

    def _evict(self) -> None:
        """Forgets what is of the oldest step."""
        firsts = {name: min(one.contents) for name, one in self._sources.items() if one.contents}
        name = min(firsts, key=lambda one: firsts[one])
        self.num_bytes -= len(self._sources[name].contents.pop(firsts[name]))


async def serve(
    predictions: PredictionServer,
    address: str,
    max_message_bytes: int,
    tls: tuple[bytes, bytes] | None = None,
    max_calls: int = 4096,
) -> tuple[grpc.aio.Server, int]:
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
        OSError: The address is taken, or not of this machine.
    """
    options = [("grpc.max_receive_message_length", max_message_bytes), ("grpc.so_reuseport", 0)]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=max_calls)
    server.add_generic_rpc_handlers([predictions.handler()])
    try:
        if tls is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, grpc.ssl_server_credentials([tls]))
    except RuntimeError as error:
        raise OSError(f"cannot listen at {address!r}: {error}") from error
    await server.start()
    return server, port


def _source(said: Mapping[str, str]) -> str:
    source = said.get("source", "")
    if not _SOURCE.fullmatch(source):
        raise ValueError(f"source is {source[:50]!r}; expected a name")
    return source


def _address(said: Mapping[str, str]) -> _Address:
    return _number(said, "step"), _number(said, "part")


def _number(said: Mapping[str, str], name: str) -> int:
    value = said.get(name, "")
    if not value.isdecimal() or int(value[:17]) > _MOST:
        raise ValueError(f"{name} is {value[:50]!r}; expected a number")
    return int(value)
