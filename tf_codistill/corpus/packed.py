"""Documents on their way from one stage to the next: each a line of facts, its paragraphs and their numbers.

    2c26b4...e5 00001a2c ["https://example.org/novel","eng",2]     key, bytes that follow, facts
    It was the best of times, it was the worst of times, ...
    There were a king with a large jaw and a queen with a plain face, ...
    12 14                                                          each as little-endian int64

Keys have one length, and so have numbers of bytes: a file of many is sorted without a look at the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import IO

import numpy as np
import numpy.typing as npt

from tf_codistill.corpus.document import Document

KEY_BYTES = 64
_DIGITS = 8
_FACTS = 2 * KEY_BYTES + _DIGITS + 2
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


def split(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Cuts packed documents apart.

    Args:
        chunks: What holds them, one behind the other, in pieces of any length.

    Yields:
        Key and bytes of a document, as `pack` returned them.
    """
    waiting = b""
    for chunk in chunks:
        waiting += chunk
        start = 0
        while (line_end := waiting.find(b"\n", start)) >= 0:
            end = line_end + 1 + _size(waiting[start:line_end])
            if end > len(waiting):
                break
            yield _key(waiting[start:line_end]), waiting[start:end]
            start = end
        waiting = waiting[start:]


def spans(file: IO[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """Goes through a file of packed documents, from where it stands to its end.

    Args:
        file: The file; can be moved about in.

    Yields:
        The key of a document, where it begins, and its number of bytes.
    """
    start = file.tell()
    while facts := file.readline():
        num_bytes = len(facts) + _size(facts)
        yield _key(facts), start, num_bytes
        start += num_bytes
        file.seek(start)


def _key(facts: bytes) -> bytes:
    return bytes.fromhex(facts[: 2 * KEY_BYTES].decode("ascii"))


def _size(facts: bytes) -> int:
    """Number of bytes behind the line of facts."""
    return int(facts[2 * KEY_BYTES + 1 : _FACTS], 16)
