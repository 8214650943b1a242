"""WET files: Common Crawl's plain-text form of web pages, read and written.

    CC-MAIN-....warc.wet.gz               one gzip member per record
        WARC-Type: warcinfo               what the file is
        WARC-Type: conversion             one page: headers, then its text, one paragraph per line
            WARC-Target-URI: https://...
            WARC-Identified-Content-Language: eng
            WARC-Block-Digest: sha1:...
        WARC-Type: conversion
        ...

    for record in read_wet("gs://bucket/CC-MAIN-00000.warc.wet.gz"):
        print(record.url, record.language, record.text[:80])

    with WetWriter("docs-00000.warc.wet.gz", description="documentation") as writer:
        writer.write("https://docs.local/json", "JSON is a lightweight data format.", language="eng")

Real crawls hold files that end too early and records that lie about their length: the first is an error, the
second a record that says so.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import io
import itertools
import os
import re
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self

from tf_codistill import files

_PACKED_CHUNK_BYTES = 1 << 16
_GZIP_MAGIC = b"\x1f\x8b"
_HEAD_BYTES = 16  # enough to see that another record begins
_LONGEST_BODY_BYTES = 1 << 24  # beyond, a length is not believed before looking for the next record
_GZIP = 31  # zlib's number for "with gzip header and checksum"
_HEAD = re.compile(rb"[\r\n]*WARC/1\.\d[ \t]*\r?\n((?:[^\r\n]+\r?\n)*)\r?\n")
_OTHER_HEAD = re.compile(rb"\r?\n(?=WARC/1\.\d[ \t]*\r?\n[A-Za-z-]+:)")
_NEXT = re.compile(rb"[\r\n]*(?:WARC/1\.|$)")
_REMEDY = "fetch it again or leave it out"
_NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # RFC 4122's namespace for URLs


@dataclasses.dataclass(frozen=True)
class Record:
    """One page of a WET file.

    Attributes:
        url: Address of the page.
        text: Its text, one paragraph per line; bytes that are not UTF-8 are U+FFFD.
        language: ISO 639-3 codes, most common first, separated by commas; None where the file does not tell.
        record_id: Identifier of the record.
        is_whole: False if the text is not what the record's checksum promises, for instance because a wrong
            Content-Length cut it.
    """

    url: str
    text: str
    language: str | None = None
    record_id: str = ""
    is_whole: bool = True


def read_wet(path: str, advance: Callable[[int], None] | None = None) -> Iterator[Record]:
    """Reads the pages of a WET file, packed or not, in order.

    A record with a wrong length does not hide those after it; it comes with `Record.is_whole` False.

    Args:
        path: Local path or URL of the file.
        advance: Called with the number of bytes of the file that were read since the last call.

    Yields:
        One record per page.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, truncated, damaged, or holds no page.
    """
    content = files.read(path)
    if not content:
        raise ValueError(f"WET file {path!r} is empty; {_REMEDY}")
    num_pages = 0
    try:
        for headers, body, has_told_length in _split(_unpack(content, advance or (lambda num_bytes: None))):
            if headers.get("warc-type") == "conversion":
                num_pages += 1
                yield _record(headers, body, has_told_length)
    except (EOFError, zlib.error) as error:
        raise ValueError(f"WET file {path!r} is truncated or damaged: {error}; {_REMEDY}") from error
    if not num_pages:
        raise ValueError(f"WET file {path!r} holds no page (no WARC record of type conversion); {_REMEDY}")


class WetWriter:
    """Writes a WET file as Common Crawl does; a context manager.

    The same pages give the same bytes. The file is there once the ``with`` block ends, not before.

    Args:
        path: Local path or URL of the file, by custom ending in ``.warc.wet.gz``.
        description: One line for the file's first record.
        date: ISO 8601 time in UTC that all records carry.
    """

    def __init__(self, path: str, description: str, date: str = "2018-01-01T00:00:00Z") -> None:
        self._path = path
        self._date = date
        self._packed = io.BytesIO()
        name = os.path.basename(path)
        block = f"Software-Info: tf_codistill\r\ndescription: {description}\r\n".encode()
        self._append(
            {
                "WARC-Type": "warcinfo",
                "WARC-Date": date,
                "WARC-Filename": name,
                "WARC-Record-ID": _urn(name, block),
                "WARC-Block-Digest": _digest(block),
                "Content-Type": "application/warc-fields",
            },
            block,
        )

    def write(self, url: str, text: str, language: str) -> None:
        """Appends a page.

        Args:
            url: Address of the page.
            text: Its text, one paragraph per line.
            language: ISO 639-3 code, such as ``eng``.

        Raises:
            ValueError: The address or the language would break the header's line.
        """
        if any(character.isspace() for character in url + language):
            raise ValueError(f"url {url!r} or language {language!r} has white space; a header takes none")
        block = text.encode("utf-8")
        self._append(
            {
                "WARC-Type": "conversion",
                "WARC-Target-URI": url,
                "WARC-Date": self._date,
                "WARC-Record-ID": _urn(url, block),
                "WARC-Refers-To": _urn(url, b""),
                "WARC-Block-Digest": _digest(block),
                "WARC-Identified-Content-Language": language,
                "Content-Type": "text/plain",
            },
            block,
        )

    def close(self) -> None:
        """Puts the file in place, whole."""
        files.write(self._path, self._packed.getvalue())

    def __enter__(self) -> Self:
        """Returns the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the file, or forgets it after an exception."""
        if kind is None:
            self.close()

    def _append(self, headers: dict[str, str], block: bytes) -> None:
        lines = ["WARC/1.0", *(f"{name}: {value}" for name, value in headers.items())]
        head = "\r\n".join([*lines, f"Content-Length: {len(block)}", "", ""])
        # mtime=0: otherwise the same pages would give other bytes every second.
        self._packed.write(gzip.compress(head.encode("utf-8") + block + b"\r\n\r\n", mtime=0))


def _unpack(content: bytes, advance: Callable[[int], None]) -> Iterator[bytes]:
    """Yields what the gzip members of a file hold, or the whole file if it is not packed."""
    if not content.startswith(_GZIP_MAGIC):
        advance(len(content))
        yield content
        return
    member, unpacked = zlib.decompressobj(wbits=_GZIP), []
    for start in range(0, len(content), _PACKED_CHUNK_BYTES):
        chunk = content[start : start + _PACKED_CHUNK_BYTES]
        advance(len(chunk))
        while chunk:
            unpacked.append(member.decompress(chunk))
            chunk = member.unused_data
            if member.eof:
                yield b"".join(unpacked)
                member, unpacked = zlib.decompressobj(wbits=_GZIP), []
    if unpacked:
        raise EOFError("it ends inside a gzip member")


def _split(blocks: Iterable[bytes]) -> Iterator[tuple[dict[str, str], bytes, bool]]:
    """Yields each record: headers, body, and whether the body has the length that the headers tell."""
    buffer = b""
    for block in itertools.chain(blocks, (None,)):
        is_last = block is None
        buffer += block or b""
        position = 0
        while (found := _next_record(buffer, position, is_last)) is not None:
            headers, body, position, has_told_length = found
            yield headers, body, has_told_length
        buffer = buffer[position:]


def _next_record(
    buffer: bytes, position: int, is_last: bool
) -> tuple[dict[str, str], bytes, int, bool] | None:
    """The record at a position, with the position after it; None if the buffer ends before it does."""
    head = _HEAD.match(buffer, position)
    if head is None:
        rest = buffer[position:].strip()
        if rest and (is_last or not rest.startswith(b"WARC/"[: len(rest)])):
            raise EOFError(f"it has {rest[:20]!r} where a record should begin")
        return None
    lines = head.group(1).decode("utf-8", errors="replace").splitlines()
    fields = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    start, length = head.end(), headers.get("content-length", "")
    end = start + int(length) if length.isdecimal() else -1
    if start <= end <= len(buffer) and _NEXT.match(buffer, end):
        return headers, buffer[start:end], end, True
    if not is_last and len(buffer) - _HEAD_BYTES < end < start + _LONGEST_BODY_BYTES:
        return None
    # The told length leads to no other record. What looks like one may be text, but there is no better sign.
    other = _OTHER_HEAD.search(buffer, start)
    if other is None and not is_last:
        return None
    if other is None and not start <= end <= len(buffer):
        raise EOFError(f"its last record lacks some of its {length or 'unknown number of'} bytes")
    end = other.start() if other else len(buffer)
    return headers, buffer[start:end].rstrip(b"\r\n"), end, False


def _record(headers: Mapping[str, str], body: bytes, has_told_length: bool) -> Record:
    digest = headers.get("warc-block-digest", "")
    return Record(
        url=headers.get("warc-target-uri", ""),
        text=body.decode("utf-8", errors="replace"),
        language=headers.get("warc-identified-content-language"),
        record_id=headers.get("warc-record-id", ""),
        is_whole=digest == _digest(body) if digest.startswith("sha1:") else has_told_length,
    )


def _digest(block: bytes) -> str:
    return "sha1:" + base64.b32encode(hashlib.sha1(block).digest()).decode("ascii")


def _urn(name: str, block: bytes) -> str:
    return f"<urn:uuid:{uuid.uuid5(_NAMESPACE, name + ' ' + hashlib.sha1(block).hexdigest())}>"
