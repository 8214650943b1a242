r"""The lines of a text file, in large blocks of whole ones: plain or gzip, from any byte on.

    for block in Lines("clicks.txt", start=1 << 26, end=1 << 27).blocks():
        block.content        b"0\t1\t...\n1\t...\n"     every line ends in a newline
        block.offset         where it begins in the file, unpacked

A part of a plain file has the lines that begin in it. A compressed file has one part: the whole of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator

from isal import isal_zlib

from tf_codistill import files

BLOCK_BYTES = 1 << 23
MAX_LINE_BYTES = 1 << 20
"""Longer lines are cut: what is kept of them is this long, and no row."""

_PACKED_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"
_AUTO_GZIP = 31

Read = Callable[[int], None]
"""Is told how many bytes more of the file have been read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """Whole lines.

    Attributes:
        content: The lines, each with a newline at its end.
        offset: Where the first one begins in the file, unpacked, in bytes.
    """

    content: bytes
    offset: int


class DamagedFileError(ValueError):
    """A compressed file that cannot be unpacked to its end."""


def is_gzip(path: str) -> bool:
    """Whether a file is compressed, by its first bytes."""
    return files.read(path, 0, 2) == _GZIP


class Lines:
    """The lines of a file, or of a part of it.

    Args:
        path: The file.
        start: First byte of the part.
        end: First byte after it; None for the end of the file.
        skip_first: Whether the line that begins at `start` is left out, as a header is.
    """

    def __init__(self, path: str, start: int = 0, end: int | None = None, skip_first: bool = False) -> None:
        self._path, self._start, self._end, self._skip_first = path, start, end, skip_first
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Checksum of what `blocks` has yielded by now."""
        return self._digest.hexdigest()

    def blocks(self, read: Read = lambda number: None) -> Iterator[Block]:
        """Reads the lines.

        Args:
            read: Told of the bytes that have been read.

        Yields:
            Blocks of lines; one that is too long is cut after `MAX_LINE_BYTES` and a further byte.

        Raises:
            DamagedFileError: A compressed file is damaged or ends too early; what was read before has been
                yielded.
            OSError: The file cannot be read.
        """
        chunks = _unpacked(self._path, read) if is_gzip(self._path) else self._plain(read)
        skips = self._skip_first or self._start > 0
        for block in _whole_lines(chunks, max(self._start - 1, 0)):
            content, offset = block.content, block.offset
            if skips:  # the header, or the line that the part before has
                length = content.index(b"\n") + 1
                content, offset, skips = content[length:], offset + length, False
            if self._end is not None and offset + len(content) > self._end:
                if offset >= self._end:
                    return
                # The last line of the part is the one that holds its last byte.
                content = content[: content.index(b"\n", min(self._end - offset, len(content)) - 1) + 1]
            if content:
                self._digest.update(content)
                yield Block(content, offset)

    def _plain(self, read: Read) -> Iterator[bytes]:
        position = max(self._start - 1, 0)  # whether a line begins at the start shows in the byte before
        while chunk := files.read(self._path, position, self._chunk_bytes(position)):
            end = position + len(chunk)
            read(max(min(end, self._end or end) - max(position, self._start), 0))
            position = end
            yield chunk
            if self._end is not None and position > self._end + MAX_LINE_BYTES:
                return

    def _chunk_bytes(self, position: int) -> int:
        if self._end is None:
            return BLOCK_BYTES
        return min(BLOCK_BYTES, max(self._end - position, _PACKED_BYTES))


def first_line(path: str) -> bytes:
    """The first line of a file without its newline; empty if there is none."""
    for block in Lines(path).blocks():
        return block.content[: block.content.index(b"\n")].rstrip(b"\r")
    return b""


def _whole_lines(chunks: Iterator[bytes], offset: int) -> Iterator[Block]:
    """Chunks cut at the ends of lines; a very long line is cut, and has a block of its own."""
    rest, lost = b"", 0
    for chunk in chunks:
        content = rest + chunk
        if lost and (first := content.find(b"\n") + 1):
            yield Block(content[:first], offset)
            offset, content, rest, lost = offset + first + lost, content[first:], b"", 0
        end = content.rfind(b"\n") + 1
        if end:
            yield Block(content[:end], offset)
            offset += end
        rest = content[end:]
        if len(rest) > MAX_LINE_BYTES + 1:
            lost += len(rest) - MAX_LINE_BYTES - 1
            rest = rest[: MAX_LINE_BYTES + 1]
    if rest:
        yield Block(rest + b"\n", offset)


def _unpacked(path: str, read: Read) -> Iterator[bytes]:
    position, unpacking, is_inside = 0, isal_zlib.decompressobj(_AUTO_GZIP), False
    try:
        while packed := files.read(path, position, _PACKED_BYTES):
            position += len(packed)
            left = packed
            while left := left if is_inside else left.lstrip(b"\0"):  # there may be padding behind a member
                is_inside = True
                content = unpacking.decompress(left, BLOCK_BYTES)
                left = unpacking.unconsumed_tail
                if unpacking.eof:
                    left, is_inside = unpacking.unused_data, False
                    unpacking = isal_zlib.decompressobj(_AUTO_GZIP)
                if content:
                    yield content
            read(len(packed))
    except isal_zlib.error as error:  # type: ignore[misc]  # its stub says it is no exception
        raise DamagedFileError(
            f"file {path!r} is damaged near byte {position} ({error}); get it again"
        ) from error
    if is_inside:
        raise DamagedFileError(f"file {path!r} ends in the middle of its compressed data; get it again")
