"""A file on a server, read once from its first byte to its last.

    server   |--- 200 ---x                 503          |--- 206, bytes 4711- ---|
    reader   |-----------|  waits a second, waits two   |------------------------|   notices nothing

A server that drops the connection or is overloaded is asked again, for what is still missing. A file that
changes meanwhile is never spliced from two versions: `ChangedError`.

    policy = RetryPolicy(num_tries=8)
    policy.wait_secs(3)                 2 to 4 seconds after the third failure in a row
    policy.wait_secs(3, "120")          the server's Retry-After is at least 120 s: 122 to 124
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import random
import re
import time
import urllib.parse
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import requests
import urllib3
from absl import logging

import tf_codistill

_CHUNK_BYTES = 1 << 16
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP = 31  # zlib's number for "with gzip header and checksum"
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)$")
_NO_RANGE = re.compile(r"bytes \*/(\d+)$")
# Common Crawl says 403 to those who ask too often.
_TEMPORARY = frozenset({403, 408, 425, 429, 500, 502, 503, 504})
_FORBIDDEN = (
    "Common Crawl answers so to too many connections, and for some files that do not exist: check the crawl "
    "and the path, use fewer connections, or try again later"
)


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """How often and how soon a server is asked again.

    Attributes:
        num_tries: Number of tries in a row that may bring nothing new before the file is given up.
        first_wait_secs: Wait after the first such try; it doubles with each further one.
        longest_wait_secs: The wait grows no longer than this.
        longest_retry_after_secs: A server that asks for a longer wait (Retry-After) is given up at once.
        timeout_secs: A connection on which nothing arrives for so long counts as dropped.
        sleep: Waits for a number of seconds.
        draw: A random number from 0 to 1; the wait is between half of what it should be and all of it.

    Raises:
        ValueError: There is no try, or no time for one.
    """

    num_tries: int = 8
    first_wait_secs: float = 1.0
    longest_wait_secs: float = 60.0
    longest_retry_after_secs: float = 600.0
    timeout_secs: float = 60.0
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        if self.num_tries < 1 or self.timeout_secs <= 0:
            raise ValueError(
                f"num_tries is {self.num_tries} and timeout_secs {self.timeout_secs}; expected at least one "
                "try and a time above 0"
            )

    def wait_secs(self, num_failures: int, retry_after: str | None = None) -> float:
        """Seconds to wait after so many failures in a row, never fewer than Retry-After asks for."""
        backoff = min(self.first_wait_secs * 2.0 ** (num_failures - 1), self.longest_wait_secs)
        return self.asked_secs(retry_after) + backoff * (0.5 + 0.5 * self.draw())

    def asked_secs(self, retry_after: str | None) -> float:
        """Seconds for which the header Retry-After asks; 0 without one, or with one nobody understands."""
        try:
            return urllib3.Retry().parse_retry_after(retry_after or "0")
        except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
            return 0.0


class ChangedError(OSError):
    """A file is not the one any more of which a part has been read."""


class _Interrupted(Exception):  # noqa: N818
    """What is worth another try; its second argument is the header Retry-After, if there was one."""


@dataclasses.dataclass(frozen=True)
class Version:
    """What tells one state of a file on a server from another.

    Attributes:
        etag: The server's header ETag, None if it sends none.
        last_modified: The header Last-Modified, None if it sends none.
        num_bytes: Size of the whole file, None if the server does not say it beforehand.
    """

    etag: str | None = None
    last_modified: str | None = None
    num_bytes: int | None = None

    def differs(self, other: Version) -> bool:
        """Whether the two cannot be the same file, by what is known of both."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return any(None not in pair and pair[0] != pair[1] for pair in pairs)


class HttpFile(io.RawIOBase):
    """A file on a server, read in order; goes on by itself where a connection ends too early.

    Args:
        url: Its address, ``https://`` or ``http://``.
        retry_policy: How often and how soon the server is asked again.
        start: Position of the first byte to read.
        version: The version to which the bytes before `start` belong, None if there are none.

    Attributes:
        version: The version that is being read, None before `connect` or the first byte.
        takes_ranges: Whether what is missing of the file can be asked for, as far as is known.
    """

    def __init__(
        self,
        url: str,
        retry_policy: RetryPolicy | None = None,
        start: int = 0,
        version: Version | None = None,
    ) -> None:
        super().__init__()
        self.version = version
        self.takes_ranges = True
        self._url = url
        self._retry_policy = retry_policy or RetryPolicy()
        self._session = requests.Session()
        self._response: requests.Response | None = None
        self._body: Iterator[bytes] = iter(())
        self._received = b""  # from the server, but not yet by the reader
        self._position = start  # of the next byte to come from the server
        self._num_failures = 0

    def connect(self) -> None:
        """Waits until the server has answered, so that `version` is known.

        Raises:
            FileNotFoundError: The server has no such file.
            ChangedError: It has another version of the file than `version`.
            OSError: The server refuses, or did not answer in as many tries as `RetryPolicy` allows.
            ValueError: The address is none.
        """
        self._fill(only_connect=True)

    def readable(self) -> bool:
        """Returns True."""
        return True

    def tell(self) -> int:
        """Position of the next byte to read."""
        return self._position - len(self._received)

    def readinto(self, buffer: Any) -> int:
        """Reads the next bytes into a buffer; returns how many, 0 at the end; raises what `connect` does."""
        self._fill()
        size = min(len(buffer), len(self._received))
        buffer[:size] = self._received[:size]
        self._received = self._received[size:]
        return size

    def close(self) -> None:
        """Ends the connection."""
        if not self.closed:
            self._hang_up()
            self._session.close()
        super().close()

    def _fill(self, only_connect: bool = False) -> None:
        """Receives until there is something for the reader, or the file ends."""
        while not self._received and not (self.version and self._position == self.version.num_bytes):
            try:
                if self._response is None:
                    self._request()
                elif only_connect:
                    return
                elif content := next(self._body, b""):
                    self._received, self._num_failures = content, 0
                    self._position += len(content)
                elif self.version and self.version.num_bytes is not None:
                    size = self.version.num_bytes
                    raise _Interrupted(f"the connection ended at byte {self._position} of {size}")
                else:
                    return
            except _Interrupted as interruption:
                self._hang_up()
                self._wait(*interruption.args)

    def _wait(self, reason: str, retry_after: str | None = None) -> None:
        self._num_failures += 1
        asked_secs = self._retry_policy.asked_secs(retry_after)
        if asked_secs > self._retry_policy.longest_retry_after_secs:
            raise OSError(
                f"{self._url} cannot be read now: {reason}, asking for a wait of {asked_secs:.0f} s; "
                "start again after that time, what is there already is kept"
            )
        if self._num_failures >= self._retry_policy.num_tries:
            raise OSError(
                f"{self._url} cannot be read: it failed {self._num_failures} times in a row, at last because "
                f"{reason}; {_FORBIDDEN if ' 403' in reason else 'check the network, or try again later'}"
            )
        secs = self._retry_policy.wait_secs(self._num_failures, retry_after)
        logging.info("%s: %s; next try in %.0f s", self._url, reason, secs)
        self._retry_policy.sleep(secs)

    def _hang_up(self) -> None:
        if self._response is not None:
            self._response.close()
        self._response, self._body = None, iter(())

    def _request(self) -> None:
        """Asks for what is still missing; sets `_response`, `_body` and `version`."""
        headers = {
            # Otherwise a server may pack what is packed already.
            "Accept-Encoding": "identity",
            "User-Agent": f"tf_codistill/{tf_codistill.__version__}",
        }
        if self._position and self.takes_ranges:
            headers["Range"] = f"bytes={self._position}-"
        try:
            response = self._session.get(
                self._url, headers=headers, stream=True, timeout=self._retry_policy.timeout_secs
            )
        except requests.RequestException as error:
            if isinstance(error, ValueError):  # requests tells so of addresses that are none
                raise ValueError(f"address {self._url!r} is not understood: {error}") from error
            raise _Interrupted(_innermost(error)) from error
        self._response = response
        start, num_bytes = self._answer(response)
        body = _chunks(response)
        if "gzip" in response.headers.get("Content-Encoding", ""):
            body, is_unpacked = _without_transport_packing(body, self._url)
            if is_unpacked:  # sizes and ranges are those of the packed form
                num_bytes, self.takes_ranges = None, False
        version = Version(response.headers.get("ETag"), response.headers.get("Last-Modified"), num_bytes)
        if self.version and self.version.differs(version):
            raise ChangedError(f"{self._url} has changed since it was read up to byte {self._position}")
        self.version = version
        self._body = _skip(body, self._position - start)

    def _answer(self, response: requests.Response) -> tuple[int, int | None]:
        """Where the body of a response begins, and the size of the whole file."""
        status, headers = response.status_code, response.headers
        told = f"the server answered {status} {response.reason or ''}".rstrip()
        if status == 200:
            length = headers.get("Content-Length", "")
            return 0, int(length) if length.isdecimal() else None
        if status == 206:
            found = _RANGE.match(headers.get("Content-Range", ""))
            if found is None or int(found[1]) != self._position:
                self.takes_ranges = False
                raise _Interrupted(f"{told} with {headers.get('Content-Range')!r}, which was not asked")
            return self._position, None if found[2] == "*" else int(found[2])
        if status == 416:
            whole = _NO_RANGE.match(headers.get("Content-Range", ""))
            if whole and int(whole[1]) == self._position:
                return self._position, self._position
            raise ChangedError(f"{self._url} has no byte {self._position} any more: {told}")
        if status in _TEMPORARY:
            raise _Interrupted(told, headers.get("Retry-After"))
        if status in (404, 410):
            raise FileNotFoundError(f"{self._url} does not exist: {told}; check the crawl and the path")
        raise OSError(f"{self._url} cannot be read: {told}; check the address")


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """The body as it was sent: a file that is stored packed stays packed."""
    try:
        while chunk := response.raw.read(_CHUNK_BYTES, decode_content=False):
            yield chunk
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _Interrupted(_innermost(error)) from error


def _without_transport_packing(body: Iterator[bytes], url: str) -> tuple[Iterator[bytes], bool]:
    """The file, of a body that is said to be packed, and whether it had to be unpacked for that.

    Some servers say so of a file that is stored packed, others pack it on the way although asked not to.
    """
    first = next(body, b"")
    body = itertools.chain([first], body)
    is_stored_so = urllib.parse.urlsplit(url).path.endswith(".gz")
    try:
        inner = zlib.decompressobj(wbits=_GZIP).decompress(first, len(_GZIP_MAGIC))
    except zlib.error:
        return body, False
    return (body, False) if is_stored_so and inner != _GZIP_MAGIC else (_unpack(body), True)


def _unpack(chunks: Iterator[bytes]) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(wbits=_GZIP)
    try:
        for chunk in chunks:
            if content := unpacker.decompress(chunk):
                yield content
    except zlib.error as error:
        raise _Interrupted(f"what the server packed is damaged ({error})") from error
    if not unpacker.eof:
        raise _Interrupted("the connection ended inside what the server packed")


def _skip(chunks: Iterator[bytes], num_bytes: int) -> Iterator[bytes]:
    for chunk in chunks:
        if content := chunk[num_bytes:]:
            yield content
        num_bytes = max(0, num_bytes - len(chunk))


def _innermost(error: BaseException) -> str:
    """What an error was at first: the libraries above wrap it in several of theirs."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error) or type(error).__name__
