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
import os
import uuid
import zlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from tf_codistill import files

_PACKED_CHUNK_BYTES = 1 << 16
_GZIP_MAGIC = b"\x1f\x8b"
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
        stream = _Unpacked(content, advance or (lambda num_bytes: None))
        for record in ArchiveIterator(stream, record_types=WarcRecordType.any_type, quirks_mode=True):
            body = record.reader.read()
            if record.headers.get("Content-Length") is None or len(body) < record.content_length:
                raise EOFError(f"its last record has {len(body)} bytes of text, fewer than it announces")
            if record.record_type == WarcRecordType.conversion:
                num_pages += 1
                yield _record(record, body)
    except (EOFError, OSError, zlib.error) as error:
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


class _Unpacked(io.RawIOBase):
    """The content of a file as a stream, its gzip members unpacked, that insists on whole members.

    FastWARC unpacks by itself, but takes a file that ends inside a member for a shorter one.
    """

    def __init__(self, content: bytes, advance: Callable[[int], None]) -> None:
        super().__init__()
        self._pieces = _unpack(content, advance)
        self._left = memoryview(b"")
        self._position = 0

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        # FastWARC asks in this way where it is; it never really moves.
        target = offset + (self._position if whence == io.SEEK_CUR else 0)
        if whence == io.SEEK_END or target != self._position:
            raise io.UnsupportedOperation("an unpacked WET file is read from front to back")
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        self._position += size
        return size


def _unpack(content: bytes, advance: Callable[[int], None]) -> Iterator[bytes]:
    packed = content.startswith(_GZIP_MAGIC)
    member = zlib.decompressobj(wbits=31)
    for start in range(0, len(content), _PACKED_CHUNK_BYTES):
        chunk = content[start : start + _PACKED_CHUNK_BYTES]
        advance(len(chunk))
        while packed and chunk:
            if member.eof:
                member = zlib.decompressobj(wbits=31)
            yield member.decompress(chunk)
            chunk = member.unused_data
        if chunk:
            yield chunk
    if packed and not member.eof:
        raise EOFError("it ends inside a gzip member")


def _record(record: WarcRecord, body: bytes) -> Record:
    headers = record.headers
    digest = headers.get("WARC-Block-Digest")
    is_checkable = digest is not None and digest.startswith("sha1:")
    return Record(
        url=headers.get("WARC-Target-URI") or "",
        text=body.decode("utf-8", errors="replace"),
        language=headers.get("WARC-Identified-Content-Language"),
        record_id=headers.get("WARC-Record-ID") or "",
        is_whole=not is_checkable or digest == _digest(body),
    )


def _digest(block: bytes) -> str:
    return "sha1:" + base64.b32encode(hashlib.sha1(block).digest()).decode("ascii")


def _urn(name: str, block: bytes) -> str:
    return f"<urn:uuid:{uuid.uuid5(_NAMESPACE, name + ' ' + hashlib.sha1(block).hexdigest())}>"
