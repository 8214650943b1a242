"""Documents on their way from one stage to the next: each a line of facts, its paragraphs and their numbers.

    2c26b4...e5 00001a2c ["https://example.org/novel","eng",2]     key, bytes that follow, facts
    It was the best of times, it was the worst of times, ...
    There were a king with a large jaw and a queen with a plain face, ...
    12 14                                                          each as little-endian int64

Keys have one length, and so have numbers of bytes: many are merged without a look at the rest. Hexadecimal
keys sort as the bytes do that they stand for.
"""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Iterable, Iterator
from typing import IO

import numpy as np
import numpy.typing as npt

from tf_codistill.corpus import stretches
from tf_codistill.corpus.document import Document

KEY_DIGITS = 128
"""A packed document begins with its key, in so many digits."""

_CHUNK_BYTES = 1 << 20
_DIGITS = 8
_FACTS = KEY_DIGITS + _DIGITS + 2
_NUMBER = np.dtype("<i8")
_JSON = json.JSONEncoder(separators=(",", ":"))


def pack(key: bytes, document: Document) -> bytes:
    """A document as bytes.

    Args:
        key: Its key, see `reading.document_key`.
        document: The document; the WET file is not written.

    Returns:
        What `unpack` reads.
    """
    facts = _JSON.encode((document.url, document.language, len(document.numbers)))
    text = "\n".join((*document.paragraphs, "")).encode("utf-8", "surrogatepass")
    numbers = np.array(document.numbers, _NUMBER).tobytes()
    return f"{key.hex()} {len(text) + len(numbers):0{_DIGITS}x} {facts}\n".encode("ascii") + text + numbers


def unpack(content: bytes, wet_file: str) -> Document:
    """The document in bytes that `pack` returned.

    Args:
        content: The bytes.
        wet_file: Name of the WET file.

    Returns:
        The document.
    """
    start = content.index(b"\n") + 1
    url, language, num_paragraphs = json.loads(content[_FACTS:start])
    end = len(content) - num_paragraphs * _NUMBER.itemsize
    paragraphs = content[start:end].decode("utf-8", "surrogatepass").split("\n")[:-1]
    numbers = np.frombuffer(content, _NUMBER, offset=end).tolist()
    return Document(url, language, tuple(paragraphs), tuple(numbers), wet_file)


def numbers(content: bytes) -> npt.NDArray[np.int64]:
    """The numbers of the paragraphs alone, of what `pack` returned."""
    _, _, num_paragraphs = json.loads(content[_FACTS : content.index(b"\n")])
    return np.frombuffer(content, _NUMBER, offset=len(content) - num_paragraphs * _NUMBER.itemsize)


def split(pieces: Iterable[bytes], before: int = 0) -> Iterator[bytes]:
    """Goes through packed documents, one behind the other, that come in pieces cut anywhere.

    Args:
        pieces: The pieces, in order.
        before: Number of bytes of something else that precede each document.

    Yields:
        Each document, with what precedes it.
    """
    head = before + _FACTS
    buffer = b""
    for piece in pieces:
        buffer = buffer + piece if buffer else piece
        start = 0
        while (facts_end := buffer.find(b"\n", start + head)) >= 0:
            end = facts_end + 1 + int(buffer[start + head - 1 - _DIGITS : start + head - 1], 16)
            if end > len(buffer):
                break
            yield buffer[start:end]
            start = end
        buffer = buffer[start:]


class Sorter:
    """Documents of a WET file in a scratch file, to be written in the order of shard and key.

    Attributes:
        num_documents: How many were added, by shard.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """With no documents yet.

        Args:
            file: A new file, open to be written and read; whoever opened it closes it.
        """
        self._file = file
        self._position = 0
        # Each entry is the number of a shard, a key, and where it is, as bytes: they sort as those do,
        # and millions of them fit into memory.
        self._entries: list[bytes] = []
        self.num_documents: collections.Counter[int] = collections.Counter()

    def add(self, key: bytes, part: int, document: Document) -> None:
        """Adds a document.

        Args:
            key: Its key, see `reading.document_key`.
            part: Number of its shard.
            document: The document.
        """
        size = self._file.write(pack(key, document))
        place = self._position.to_bytes(8, "big") + size.to_bytes(8, "big")
        self._entries.append(part.to_bytes(4, "big") + key + place)
        self._position += size
        self.num_documents[part] += 1

    def write(self, path: str, num_parts: int) -> None:
        """Writes a stretch for each shard, sorted by key.

        Args:
            path: The file, see `stretches`.
            num_parts: Number of shards.
        """
        self._entries.sort()
        sizes = [0] * num_parts
        for entry in self._entries:
            sizes[int.from_bytes(entry[:4], "big")] += int.from_bytes(entry[-8:], "big")
        stretches.write(path, sizes, self._chunks())

    def _chunks(self) -> Iterator[bytes]:
        self._file.flush()
        waiting: list[bytes] = []
        num_bytes = 0
        for entry in self._entries:
            start, size = int.from_bytes(entry[-16:-8], "big"), int.from_bytes(entry[-8:], "big")
            waiting.append(os.pread(self._file.fileno(), size, start))
            num_bytes += len(waiting[-1])
            if num_bytes > _CHUNK_BYTES:
                yield b"".join(waiting)
                waiting, num_bytes = [], 0
        yield b"".join(waiting)
