"""What a text file holds, packed by gzip or Zstandard or not, and its lines, with damage told apart.

    lines(unpacked(file, "pages.jsonl.zst", advance))
        Line(number=1, offset=0, content=b'{"text": ...')
        Damage("giant_line", ...)                   longer than 64 MiB: no memory is taken for it
        Damage("cut_off", ...)                      of the packing

Which packing it is, a file's name says: ``.gz`` or ``.zst``. Of a member of up to 16 MiB that gzip finds
damaged nothing is passed on, of a longer one, or of a frame of Zstandard, what comes before the damage is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple

from tf_codistill.corpus.sources.base import MAX_DOCUMENT_BYTES
from tf_codistill.corpus.wet.gzip_members import Content, unpack
from tf_codistill.jobs.quarantine import Damage, OpenDamage

PACKED = ("", ".gz", ".zst")
"""How a name may end behind its own ending."""

_READ_BYTES = 1 << 18
_FEED_BYTES = 1 << 12  # of Zstandard, which may give 32,768 times as much
_WINDOW_BYTES = 1 << 27  # what ``zstd --long`` needs


class Line(NamedTuple):
    """A line that is not empty.

    Attributes:
        number: How many lines have begun up to it, of those that could be read.
        offset: Where it begins in the file, or the gzip member or frame that it is in.
        content: Its bytes, without the newline.
    """

    number: int
    offset: int
    content: bytes


def unpacked(file: BinaryIO, name: str, advance: Callable[[int], None]) -> Iterator[Content | Damage]:
    """Content and damage of a file, in order and in bounded memory, unpacked as its name says.

    `advance` is called with the number of bytes read since the last call. That the package zstandard would be
    needed is a `ValueError`.
    """
    if name.endswith(".gz"):
        return unpack(file, advance)
    return _frames(file, advance) if name.endswith(".zst") else _plain(file, advance)


def lines(parts: Iterable[Content | Damage]) -> Iterator[Line | Damage]:
    """Cuts what `unpacked` returns into lines that are not empty; damage ends one and begins another."""
    line = _OpenLine()
    for part in parts:
        if isinstance(part, Damage):
            yield from line.close()
            yield part
            continue
        offset = part.offset
        *whole, rest = part.content.split(b"\n")
        for piece in whole:
            line.add(piece, offset)
            yield from line.close()
            offset += 0 if part.is_packed else len(piece) + 1
        line.add(rest, offset)
    yield from line.close()


class _OpenLine:
    """A line whose end has not been seen."""

    def __init__(self) -> None:
        self._number = 1
        self._offset = self._size = 0
        self._pieces: list[bytes] = []
        self._lost: OpenDamage | None = None

    def add(self, piece: bytes, offset: int) -> None:
        if not self._size:
            self._offset = offset
        self._size += len(piece)
        if self._lost is None and self._size > MAX_DOCUMENT_BYTES:
            self._lost = OpenDamage("giant_line", self._offset)
            for held in self._pieces:
                self._lost.add(held)
            self._pieces.clear()
        (self._lost.add if self._lost else self._pieces.append)(piece)

    def close(self) -> Iterator[Line | Damage]:
        if self._lost:
            yield self._lost.close()
        elif self._size:
            yield Line(self._number, self._offset, b"".join(self._pieces))
        self._pieces.clear()
        self._lost, self._size = None, 0
        self._number += 1


def _plain(file: BinaryIO, advance: Callable[[int], None]) -> Iterator[Content]:
    offset = 0
    while chunk := file.read(_READ_BYTES):
        advance(len(chunk))
        yield Content(offset, chunk)
        offset += len(chunk)


def _frames(file: BinaryIO, advance: Callable[[int], None]) -> Iterator[Content | Damage]:
    """The frames of Zstandard; nothing behind a damaged one can be found."""
    try:
        import zstandard
    except ImportError as error:
        raise ValueError(
            f"a file ending in .zst needs zstandard ({error}); run: pip install zstandard"
        ) from error
    chunks = (
        part.content[at : at + _FEED_BYTES]
        for part in _plain(file, advance)
        for at in range(0, len(part.content), _FEED_BYTES)
    )
    offset, rest = 0, next(chunks, b"")
    while rest:
        frame = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).decompressobj()
        start, lost = offset, OpenDamage("cut_off", offset)
        while rest and not frame.eof:
            lost.add(rest)
            try:
                content = frame.decompress(rest)
            except zstandard.ZstdError:
                lost.kind = "bad_data"
                for chunk in chunks:
                    lost.add(chunk)
                yield lost.close()
                return
            offset += len(rest) - len(frame.unused_data)
            rest = frame.unused_data or next(chunks, b"")
            yield Content(start, content, True)
        if not frame.eof:
            yield lost.close()
