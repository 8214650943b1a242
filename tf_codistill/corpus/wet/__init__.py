"""WET files: Common Crawl's plain-text form of web pages, read and written.

    CC-MAIN-....warc.wet.gz               one gzip member per record
        WARC-Type: warcinfo               what the file is
        WARC-Type: conversion             one page: headers, then its text, one paragraph per line
            WARC-Target-URI: https://...
            WARC-Identified-Content-Language: eng
            WARC-Block-Digest: sha1:...
        WARC-Type: conversion
        ...

    for item in read_wet("gs://bucket/CC-MAIN-00000.warc.wet.gz"):      a path, an address or a binary file
        if isinstance(item, Damage):
            print("unreadable:", item.kind, "at byte", item.offset)
        else:
            print(item.url, item.language, item.text[:80])              a Record, whole

    with WetWriter("docs-00000.warc.wet.gz", description="documentation") as writer:
        writer.write("https://docs.local/json", "JSON is a lightweight data format.", language="eng")

Files are read once, from start to end, in bounded memory. Real crawls hold files that end too early, gzip
members that do not unpack, records that lie about their length and texts that quote records. What is no
whole page comes as one `Damage` for each stretch, so the number of items is pages + damages, and reading goes
on behind it. See `warc_records` for
what is believed, and `jobs.quarantine` for a place to keep the rest.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import os
import uuid
from collections.abc import Callable, Iterator
from typing import BinaryIO, Self

from tf_codistill import files
from tf_codistill.corpus.crawl.opening import open_source
from tf_codistill.corpus.document import Record
from tf_codistill.corpus.wet.gzip_members import unpack
from tf_codistill.corpus.wet.records import Splitter
from tf_codistill.jobs.quarantine import Damage

__all__ = ["Damage", "Record", "WetWriter", "read_wet"]

_NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # RFC 4122's namespace for URLs


def read_wet(
    source: str | BinaryIO, advance: Callable[[int], None] | None = None
) -> Iterator[Record | Damage]:
    """Reads the pages of a WET file, packed or not, in order.

    Args:
        source: Path, URL or ``https://`` address, or a binary file, which is read from where it stands to
            its end and left open.
        advance: Called with the number of bytes of the file that were read since the last call.

    Yields:
        A `Record` for each whole page and a `Damage` for each stretch that is none. Kinds of damage are
        those of `gzip_members.unpack` and, where a record is at fault, ``wrong_digest`` (its text is not
        what its checksum promises), ``wrong_length``, ``giant_record`` (more than 16 MiB), ``cut_off`` (the
        file ends inside it), ``stray_bytes`` (no record begins where one should), ``bad_header`` (of an
        unknown type, or without an address) and
        ``unproven_record`` (found by searching, and without a checksum: it may be a quotation in a text).

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be read.
        ValueError: No page was found in all of it; raised at the end, once its damages were yielded.
    """
    num_bytes = num_pages = 0
    first: Damage | None = None

    def count(more: int) -> None:
        nonlocal num_bytes
        num_bytes += more
        if advance:
            advance(more)

    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open_source(source)) if isinstance(source, str) else source
        for item in Splitter().split(unpack(file, count)):
            # A page was found, although its text is perhaps not what was promised.
            if isinstance(item, Record) or (item.url and item.kind != "cut_off"):
                num_pages += 1
            else:
                first = first or item
            yield item
    if not num_pages:
        what = "holds no page (no WARC record of type conversion)" if num_bytes else "is empty"
        if first:
            what = f"is truncated or damaged: {first.kind} at byte {first.offset} ({first.content[:20]!r})"
        name = source if isinstance(source, str) else getattr(source, "name", "without a name")
        raise ValueError(f"WET file {name!r} {what}; fetch it again or leave it out")


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
        """Appends a page: its text has a paragraph per line, its language is an ISO 639-3 code.

        White space in address or language, which would break the header's line, is a `ValueError`.
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
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:  # after an exception the file is forgotten
            self.close()

    def _append(self, headers: dict[str, str], block: bytes) -> None:
        lines = ["WARC/1.0", *(f"{name}: {value}" for name, value in headers.items())]
        head = "\r\n".join([*lines, f"Content-Length: {len(block)}", "", ""])
        # mtime=0: otherwise the same pages would give other bytes every second.
        self._packed.write(gzip.compress(head.encode("utf-8") + block + b"\r\n\r\n", mtime=0))


def _digest(block: bytes) -> str:
    return "sha1:" + base64.b32encode(hashlib.sha1(block).digest()).decode("ascii")


def _urn(name: str, block: bytes) -> str:
    return f"<urn:uuid:{uuid.uuid5(_NAMESPACE, name + ' ' + hashlib.sha1(block).hexdigest())}>"
