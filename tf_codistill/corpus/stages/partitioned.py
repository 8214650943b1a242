"""Files in numbered partitions, each of which can be read without the others, and documents in them.

    | where 0 | where 1 | ... | where n | partition 0 | partition 1 | ... | partition n - 1 |
      little-endian int64: the byte at which each partition begins, and at last the end of the file

So the tasks of one stage sort what they write by the task of the next stage that will want it. A document is
a line of metadata, its paragraphs and their numbers:

    2c26b4...e5 00001a2c ["https://example.org/novel","eng",2]     key, bytes that follow, metadata
    It was the best of times, it was the worst of times, ...
    There were a king with a large jaw and a queen with a plain face, ...
    12 14                                                          each as little-endian int64

Keys have one length, and so have numbers of bytes: many are merged without a look at the rest. Hexadecimal
keys sort as the bytes do that they stand for.
"""

from __future__ import annotations

import collections
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from typing import IO

import numpy as np
import numpy.typing as npt

from tf_codistill import files
from tf_codistill.corpus.document import Document

KEY_DIGITS = 128
"""A serialized document begins with its key, in so many digits."""

_BATCH_BYTES = 1 << 20
_DIGITS = 8
_METADATA = KEY_DIGITS + _DIGITS + 2
_NUMBER = np.dtype("<i8")
_JSON = json.JSONEncoder(separators=(",", ":"))
_WHERE = np.dtype("<i8")
_CHUNK_BYTES = 1 << 22


def task_of(part: int) -> str:
    """The name of the task for a token shard, in stages that have one for each."""
    return f"part-{part:05d}"


def part_of(task: str) -> int:
    """The number of the token shard that a task is for, see `task_of`."""
    return int(task.removeprefix("part-"))


def write(path: str, sizes: npt.ArrayLike, chunks: Iterable[bytes]) -> None:
    """Writes a file in partitions, atomically.

    Args:
        path: The file.
        sizes: Length of each partition in bytes.
        chunks: What they hold, in order, in pieces of any length.
    """
    where = np.concatenate([[0], np.cumsum(np.asarray(sizes, _WHERE))])
    with files.writing(path) as file:
        file.write((where + where.size * _WHERE.itemsize).astype(_WHERE).tobytes())
        for chunk in chunks:
            file.write(chunk)


def read(path: str, first: int, last: int | None = None) -> bytes:
    """Some neighbouring partitions.

    Args:
        path: A file that `write` wrote.
        first: Number of the first partition.
        last: Number of the partition before which to stop; None reads only the first.

    Returns:
        Their bytes.
    """
    return b"".join(chunks(path, first, last))


def read_each(path: str, first: int, last: int) -> list[bytes]:
    """Some neighbouring partitions, one by one.

    Args:
        path: A file that `write` wrote.
        first: Number of the first partition.
        last: Number of the partition before which to stop.

    Returns:
        The bytes of each.
    """
    size = _WHERE.itemsize
    where = np.frombuffer(files.read(path, size * first, size * (last - first + 1)), _WHERE).tolist()
    content = files.read(path, where[0], where[-1] - where[0])
    return [content[start - where[0] : end - where[0]] for start, end in itertools.pairwise(where)]


def chunks(
    path: str, first: int, last: int | None = None, piece_bytes: int = _CHUNK_BYTES
) -> Iterator[bytes]:
    """What `read` returns, in pieces.

    Args:
        path: A file that `write` wrote.
        first: Number of the first partition.
        last: Number of the partition before which to stop; None reads only the first.
        piece_bytes: Length of all pieces but the last.

    Yields:
        A piece at a time.
    """
    last = first + 1 if last is None else last
    size = _WHERE.itemsize
    where = np.frombuffer(files.read(path, size * first, size * (last - first + 1)), _WHERE)
    for position, after in itertools.pairwise(
        [*range(int(where[0]), int(where[-1]), piece_bytes), int(where[-1])]
    ):
        yield files.read(path, position, after - position)


def pack(key: bytes, document: Document) -> bytes:
    """A document as bytes.

    Args:
        key: Its key, see `reading.document_key`.
        document: The document; the WET file is not written.

    Returns:
        What `unpack` reads.
    """
    metadata = _JSON.encode((document.url, document.language, len(document.numbers)))
    text = "\n".join((*document.paragraphs, "")).encode("utf-8", "surrogatepass")
    numbers = np.array(document.numbers, _NUMBER).tobytes()
    return f"{key.hex()} {len(text) + len(numbers):0{_DIGITS}x} {metadata}\n".encode("ascii") + text + numbers


def unpack(content: bytes, wet_file: str) -> Document:
    """The document in bytes that `pack` returned.

    Args:
        content: The bytes.
        wet_file: Name of the WET file.

    Returns:
        The document.
    """
    start = content.index(b"\n") + 1
    url, language, num_paragraphs = json.loads(content[_METADATA:start])
    end = len(content) - num_paragraphs * _NUMBER.itemsize
    paragraphs = content[start:end].decode("utf-8", "surrogatepass").split("\n")[:-1]
    numbers = np.frombuffer(content, _NUMBER, offset=end).tolist()
    return Document(url, language, tuple(paragraphs), tuple(numbers), wet_file)


def text(content: bytes) -> bytes:
    """The paragraphs alone, in UTF-8, each with a newline behind it, of what `pack` returned."""
    return content[slice(*_where_text_is(content))]


def numbers(content: bytes) -> npt.NDArray[np.int64]:
    """The numbers of the paragraphs alone, of what `pack` returned."""
    return np.frombuffer(content, _NUMBER, offset=_where_text_is(content)[1])


def _where_text_is(content: bytes) -> tuple[int, int]:
    """Where the text of a document begins and ends, found without decoding what is before it."""
    start = content.index(b"\n") + 1
    num_paragraphs = int(content[content.rindex(b",", 0, start) + 1 : start - 2])
    return start, len(content) - num_paragraphs * _NUMBER.itemsize


def split(pieces: Iterable[bytes], before: int = 0) -> Iterator[bytes]:
    """Goes through serialized documents, one behind the other, that come in pieces cut anywhere.

    Args:
        pieces: The pieces, in order.
        before: Number of bytes of something else that precede each document.

    Yields:
        Each document, with what precedes it.
    """
    head = before + _METADATA
    buffer = b""
    for piece in pieces:
        buffer = buffer + piece if buffer else piece
        start = 0
        while (metadata_end := buffer.find(b"\n", start + head)) >= 0:
            end = metadata_end + 1 + int(buffer[start + head - 1 - _DIGITS : start + head - 1], 16)
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
        """Writes a partition for each shard, sorted by key.

        Args:
            path: The file, see `partitions`.
            num_parts: Number of shards.
        """
        self._entries.sort()
        sizes = [0] * num_parts
        for entry in self._entries:
            sizes[int.from_bytes(entry[:4], "big")] += int.from_bytes(entry[-8:], "big")
        write(path, sizes, self._chunks())

    def _chunks(self) -> Iterator[bytes]:
        self._file.flush()
        waiting: list[bytes] = []
        num_bytes = 0
        for entry in self._entries:
            start, size = int.from_bytes(entry[-16:-8], "big"), int.from_bytes(entry[-8:], "big")
            waiting.append(os.pread(self._file.fileno(), size, start))
            num_bytes += len(waiting[-1])
            if num_bytes > _BATCH_BYTES:
                yield b"".join(waiting)
                waiting, num_bytes = [], 0
        yield b"".join(waiting)
