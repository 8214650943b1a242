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
import io
import itertools
import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

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
_ENTRY = struct.Struct(">I64sQQ")  # shard, key, where a document is, its length: bytes that sort as these do
_CHUNK_BYTES = 1 << 22


def tasks(num_parts: int, num_documents: int) -> dict[str, int]:
    """A task for each token shard, with the number of documents expected in it."""
    return {f"part-{part:05d}": num_documents // num_parts for part in range(num_parts)}


def part_of(task: str) -> int:
    """The number of the token shard that a task is for, see `tasks`."""
    return int(task.removeprefix("part-"))


def ranges(num_partitions: int, num_entries: int, most: int) -> dict[str, range]:
    """Tasks that share partitions out, of about `most` entries each, with those of each."""
    number = min(num_partitions, 1 + num_entries // most)
    bounds = [num_partitions * index // number for index in range(number + 1)]
    spans = map(range, bounds, bounds[1:])
    return {f"range-{index:05d}-of-{number:05d}": span for index, span in enumerate(spans)}


def shares(spans: Mapping[str, range], num_partitions: int, num_entries: int) -> dict[str, int]:
    """How many of all entries are expected in each of some `ranges`."""
    return {
        task: num_entries * span.stop // num_partitions - num_entries * span.start // num_partitions
        for task, span in spans.items()
    }


def mapped(file: IO[bytes], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """What was written into a local file, which has to stay open."""
    is_empty = not file.tell()  # which cannot be mapped
    file.flush()
    return np.empty(0, dtype) if is_empty else np.asarray(np.memmap(file, dtype, "r"))


def write(path: str, sizes: npt.ArrayLike, chunks: Iterable[bytes]) -> None:
    """Writes a file in partitions of some sizes in bytes, atomically; chunks have any length, in order."""
    where = np.concatenate([[0], np.cumsum(np.asarray(sizes, _WHERE))])
    with files.writing(path) as file:
        file.write((where + where.size * _WHERE.itemsize).astype(_WHERE).tobytes())
        for chunk in chunks:
            file.write(chunk)


def write_sorted(path: str, owners: npt.NDArray[Any], values: npt.NDArray[Any], num_partitions: int) -> None:
    """Writes values, sorted, each to the partition of its owner."""
    sizes = np.bincount(owners.astype(np.int64), minlength=num_partitions) * values.itemsize
    write(path, sizes, [values[np.lexsort((values, owners))].tobytes()])


def read(path: str, first: int, last: int | None = None) -> bytes:
    """Some neighbouring partitions: the first alone, or those from it to the one before the last."""
    return b"".join(chunks(path, first, last))


def read_each(path: str, first: int, last: int) -> list[bytes]:
    """The same, each for itself."""
    where = _where(path, first, last)
    content = files.read(path, where[0], where[-1] - where[0])
    return [content[start - where[0] : end - where[0]] for start, end in itertools.pairwise(where)]


def read_sorted(paths: Iterable[str], part: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The values in a partition of several files, sorted."""
    return np.sort(np.frombuffer(b"".join(read(path, part) for path in paths), dtype))


def chunks(
    path: str, first: int, last: int | None = None, piece_bytes: int = _CHUNK_BYTES
) -> Iterator[bytes]:
    """What `read` returns, in pieces, all but the last of one length."""
    where = _where(path, first, first + 1 if last is None else last)
    return pieces(path, piece_bytes, where[0], where[-1])


def pieces(
    path: str, piece_bytes: int = _CHUNK_BYTES, start: int = 0, end: int | None = None
) -> Iterator[bytes]:
    """The bytes of any file, or some of them, in pieces, all but the last of one length."""
    end = files.size_bytes(path) if end is None else end
    for position in range(start, end, piece_bytes):
        yield files.read(path, position, min(piece_bytes, end - position))


def _where(path: str, first: int, last: int) -> list[int]:
    """Where partitions begin, and at last where the one before `last` ends."""
    size = _WHERE.itemsize
    return np.frombuffer(files.read(path, size * first, size * (last - first + 1)), _WHERE).tolist()


def pack(key: bytes, document: Document) -> bytes:
    """A document as bytes, behind its key, see `reading.document_key`; its WET file is not among them."""
    metadata = _JSON.encode((document.url, document.language, len(document.numbers)))
    text = "\n".join((*document.paragraphs, "")).encode("utf-8", "surrogatepass")
    numbers = np.array(document.numbers, _NUMBER).tobytes()
    return f"{key.hex()} {len(text) + len(numbers):0{_DIGITS}x} {metadata}\n".encode("ascii") + text + numbers


def unpack(content: bytes, wet_file: str) -> Document:
    """The document in bytes that `pack` returned."""
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
    """Serialized documents, one behind the other, that come in pieces cut anywhere.

    `before` is the number of bytes of something else that precede each, and come with it.
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

    Args:
        file: A new file, open to be written and read; whoever opened it closes it.

    Attributes:
        num_documents: How many were added, by shard.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._entries: list[bytes] = []  # millions of them fit into memory
        self._sizes: collections.Counter[int] = collections.Counter()
        self.num_documents: collections.Counter[int] = collections.Counter()

    def add(self, key: bytes, part: int, document: Document) -> None:
        """Adds a document with its key and the number of its shard."""
        start = self._file.tell()
        size = self._file.write(pack(key, document))
        self._entries.append(_ENTRY.pack(part, key, start, size))
        self._sizes[part] += size
        self.num_documents[part] += 1

    def write(self, path: str, num_parts: int) -> None:
        """Writes a partition for each shard, sorted by key."""
        self._entries.sort()
        write(path, [self._sizes[part] for part in range(num_parts)], self._chunks())

    def _chunks(self) -> Iterator[bytes]:
        self._file.flush()
        waiting = io.BytesIO()
        for _, _, start, size in map(_ENTRY.unpack, self._entries):
            waiting.write(os.pread(self._file.fileno(), size, start))
            if waiting.tell() > _BATCH_BYTES:
                yield waiting.getvalue()
                waiting = io.BytesIO()
        yield waiting.getvalue()
