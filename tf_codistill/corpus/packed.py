"""Documents on their way from one stage to the next: each a line of facts, its paragraphs and their numbers.

    2c26b4...e5 00001a2c ["https://example.org/novel","eng",2]     key, bytes that follow, facts
    It was the best of times, it was the worst of times, ...
    There were a king with a large jaw and a queen with a plain face, ...
    12 14                                                          each as little-endian int64

Keys have one length, and so have numbers of bytes: many are merged without a look at the rest. Hexadecimal
keys sort as the bytes do that they stand for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import numpy as np

from tf_codistill.corpus.document import Document

KEY_DIGITS = 128
"""A packed document begins with its key, in so many digits."""

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
