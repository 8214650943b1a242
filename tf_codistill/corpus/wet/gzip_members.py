r"""What the gzip members of a file hold, with the damaged ones told apart.

    packed    | member | member | mem#er | member | memb        # a flipped bit; the file ends too early
    unpack      Content  Content  Damage   Content  Damage

A member is believed once its own checksum has been seen. So nothing of a damaged one is passed on, and
reading goes on at the next place where a member begins and unpacks. A member of more than 16 MiB, which
Common Crawl does not write, cannot wait for that and is passed on while it is read.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import BinaryIO

from isal import igzip_lib, isal_zlib

from tf_codistill.jobs.quarantine import Damage, OpenDamage

_GZIP = 31  # zlib's number for "with gzip header and checksum"
_READ_BYTES = 1 << 18
_FEED_BYTES = 1 << 14  # no more than 1032 times as much comes out of it: 16 MiB
_MAX_HELD_BYTES = 1 << 24
_HEADER_BYTES = 10
_MAGIC = b"\x1f\x8b\x08"
# The header of a member: method, flags, time, extra flags and operating system that programs write.
_MEMBER = re.compile(rb"\x1f\x8b\x08[\x00-\x1f].{4}[\x00\x02\x04][\x00-\x0d\xff]", re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """Some bytes of what a file holds.

    Attributes:
        offset: Where in the file the gzip member begins that they are from, or they themselves if not packed.
        content: The bytes, unpacked.
        is_packed: Whether the file is packed.
        is_start: Whether they begin a gzip member.
        is_closed: Whether they end a gzip member whose checksum is right.
    """

    offset: int
    content: bytes
    is_packed: bool = False
    is_start: bool = False
    is_closed: bool = False


def unpack(file: BinaryIO, advance: Callable[[int], None]) -> Iterator[Content | Damage]:
    """Reads a file once, from its start to its end, in bounded memory.

    Args:
        file: A file of gzip members, or one that is not packed, whose bytes are then passed on as they are.
        advance: Called with the number of bytes read since the last call.

    Yields:
        Content and damage, in the order of the file. Kinds of damage: ``cut_off`` (the file ends inside a
        gzip member), ``wrong_checksum``, ``bad_data`` (cannot be unpacked) and ``stray_bytes`` (between
        members).
    """
    window = _Window(file, advance)
    first = window.take(0, _READ_BYTES)
    if not first.startswith(_MAGIC) and (first.startswith(b"WARC/") or not _MEMBER.search(first)):
        offset = 0
        while chunk := window.take(offset, _READ_BYTES):
            yield Content(offset, chunk)
            offset += len(chunk)
            window.drop(offset)
        return
    yield from _members(window)


def _members(window: _Window) -> Iterator[Content | Damage]:
    offset = 0
    lost: OpenDamage | None = None
    while window.take(offset, 1):
        member = _Member(window, offset)
        content = member.read(_MAX_HELD_BYTES)
        if member.fault:
            lost = lost or OpenDamage(member.fault, offset)
            # Not from the place where unpacking fails: a cut is noticed only inside the next member.
            offset = _next_member(window, offset, offset + 1, lost)
            continue
        if lost:
            yield lost.close()
            lost = None
        yield Content(offset, content, True, True, member.is_whole)
        while member.goes_on:
            window.drop(member.end)
            content = member.read(1)
            yield Content(offset, content, True, False, member.is_whole)
        offset = member.end
        if not member.is_whole:
            lost = OpenDamage(member.fault, offset)
            offset = _next_member(window, offset, offset, lost)
        window.drop(offset)
    if lost:
        yield lost.close()


class _Member:
    """One member while it is unpacked."""

    def __init__(self, window: _Window, offset: int) -> None:
        self._window = window
        self._inflater = isal_zlib.decompressobj(_GZIP)
        self.end = offset
        """Where in the file the next byte to be unpacked is."""
        is_member = _MAGIC.startswith(window.take(offset, len(_MAGIC)))
        self.fault = "" if is_member else "stray_bytes"
        """What is wrong with it, empty as long as nothing is."""

    @property
    def is_whole(self) -> bool:
        return bool(self._inflater.eof)

    @property
    def goes_on(self) -> bool:
        return not self.is_whole and not self.fault

    def read(self, num_bytes: int) -> bytes:
        """Unpacks the rest of the member, but not much more than `num_bytes` of it, packed or unpacked."""
        content, size, start = [], 0, self.end
        while self.goes_on and size < num_bytes and self.end - start < num_bytes:
            packed = self._window.take(self.end, _FEED_BYTES)
            if not packed:
                self.fault = "cut_off"
                break
            try:
                content.append(self._inflater.decompress(packed))
            except igzip_lib.IsalError as error:  # type: ignore[misc]  # its stub takes it for an instance
                self.fault = "wrong_checksum" if "checksum" in str(error) else "bad_data"
                break
            self.end += len(packed) - len(self._inflater.unused_data)
            size += len(content[-1])
        return b"".join(content)


def _next_member(window: _Window, offset: int, after: int, lost: OpenDamage) -> int:
    """Where the first member seems to begin from `after` on; what is from `offset` to there is lost."""
    while True:
        found = window.next_member(after)
        is_last = found is None and not window.take(window.end, 1)
        to = found if found is not None else window.end if is_last else max(after, window.end - _HEADER_BYTES)
        lost.add(window.take(offset, to - offset))
        window.drop(to)
        if found is not None or is_last:
            return to
        offset = after = to


class _Window:
    """The part of a file that may still be needed."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]) -> None:
        self._file = file
        self._advance = advance
        self._content = b""
        self._start = 0  # offset in the file of the first byte of what is held
        self._needed = 0  # offset of the first byte that is still needed

    @property
    def end(self) -> int:
        """Offset of the first byte that was not read yet."""
        return self._start + len(self._content)

    def take(self, offset: int, size: int) -> bytes:
        """The bytes from an offset on, fewer than `size` only where the file ends."""
        while self.end < offset + size:
            chunk = self._file.read(_READ_BYTES)
            if not chunk:
                break
            self._advance(len(chunk))
            self._content = self._content[self._needed - self._start :] + chunk
            self._start = self._needed
        return self._content[offset - self._start : offset - self._start + size]

    def drop(self, offset: int) -> None:
        """Says that nothing before an offset is needed any more."""
        self._needed = offset

    def next_member(self, offset: int) -> int | None:
        """Where the next member seems to begin, at `offset` or after it, in what is held."""
        found = _MEMBER.search(self._content, offset - self._start)
        return self._start + found.start() if found else None
