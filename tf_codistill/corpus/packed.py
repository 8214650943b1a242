"""Documents on their way from one stage to the next: each a line of facts, then its paragraphs.

    2c26b4...e5 00001a2c ["https://example.org/novel","eng",[12,14]]     key, bytes that follow, the rest
    It was the best of times, it was the worst of times, ...
    There were a king with a large jaw and a queen with a plain face, ...

Keys have one length, and so have numbers of bytes: a file of many is sorted without a look at the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO

from tf_codistill.corpus.document import Document

KEY_BYTES = 64
_DIGITS = 8
_FACTS = 2 * KEY_BYTES + _DIGITS + 2


def pack(key: bytes, document: Document) -> bytes:
    """A document as bytes.

    Args:
        key: Its key, see `reading.document_key`.
        document: The document; the WET file is not written.

    Returns:
        What `unpack` reads.
    """
    facts = json.dumps((document.url, document.language, document.numbers), separators=(",", ":"))
    text = "\n".join((*document.paragraphs, "")).encode("utf-8", "surrogatepass")
    return f"{key.hex()} {len(text):0{_DIGITS}x} {facts}\n".encode("ascii") + text


def unpack(content: bytes, wet_file: str) -> Document:
    """The document in bytes that `pack` returned.

    Args:
        content: The bytes.
        wet_file: Name of the WET file.

    Returns:
        The document.
    """
    facts, _, text = content.partition(b"\n")
    url, language, numbers = json.loads(facts[_FACTS:])
    paragraphs = text.decode("utf-8", "surrogatepass").split("\n")[:-1]
    return Document(url, language, tuple(paragraphs), tuple(numbers), wet_file)


def spans(file: IO[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """Goes through a file of packed documents, from where it stands to its end.

    Args:
        file: The file; can be moved about in.

    Yields:
        The key of a document, where it begins, and its number of bytes.
    """
    start = file.tell()
    while facts := file.readline():
        num_bytes = len(facts) + int(facts[2 * KEY_BYTES + 1 : _FACTS], 16)
        yield bytes.fromhex(facts[: 2 * KEY_BYTES].decode("ascii")), start, num_bytes
        start += num_bytes
        file.seek(start)
