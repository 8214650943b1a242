"""JSON lines: the form in which C4, Dolma and OSCAR come, a document in each line.

    {"text": "It was the best of times, ...", "url": "https://example.org/novel", "timestamp": ...}
    {"text": "...", ...}

    JsonLines(["c4/*.json.gz"])
    JsonLines(["oscar/*.jsonl.zst"], text="content", url="warc_headers.warc-target-uri")

A line that is no JSON, or has no text, is damage: counted, kept in quarantine, and never the end of the file.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from typing import Any, ClassVar

import gin

from tf_codistill.corpus.crawl.opening import file_name
from tf_codistill.corpus.document import Record
from tf_codistill.corpus.sources.base import Reading, decoded, record
from tf_codistill.corpus.sources.compressed import PACKED, Line, lines, unpacked
from tf_codistill.corpus.sources.file_source import FilesOfRows
from tf_codistill.jobs.quarantine import Damage


@gin.configurable
@dataclasses.dataclass(frozen=True)
class JsonLines(FilesOfRows):
    """Files with a JSON object in each line, packed by gzip or Zstandard or not; a folder of them."""

    noun: ClassVar[str] = "JSON lines file"
    endings = tuple(map("".join, itertools.product((".jsonl", ".json", ".ndjson"), PACKED)))

    def read_file(self, path: str, reading: Reading) -> Iterator[Record | Damage]:
        """Reads a file, line by line."""
        name = file_name(path)
        for line in lines(unpacked(reading.open(path), name, reading.advance)):
            if isinstance(line, Damage):
                yield line
            elif not line.content.isspace():
                yield self._document(line, f"{name}:{line.number}")

    def _document(self, line: Line, url: str) -> Record | Damage:
        text, odd = decoded(line.content)
        try:
            row = json.loads(text.removeprefix("\ufeff"))
        except (ValueError, RecursionError):
            return Damage("bad_line", line.offset, len(line.content), line.content, url)
        found = value(row, self.text)
        if not isinstance(found, str):
            return Damage(f"no_{self.text}", line.offset, len(line.content), line.content, url)
        return record(found, address(value(row, self.url), url), value(row, self.language), odd)


def value(row: Any, field: str | None) -> Any:
    """What a row has in a field, or inside of others, with points between the names; None if nothing."""
    if not isinstance(row, dict) or field is None:
        return None
    if field in row:
        return row[field]
    first, _, rest = field.partition(".")
    return value(row.get(first), rest) if rest else None


def address(found: Any, otherwise: str) -> str:
    """The address of a document: what its field holds, unless that is empty or neither text nor a number."""
    is_id = isinstance(found, str | int) and not isinstance(found, bool)
    return (record(str(found), "").text if is_id else "") or otherwise
