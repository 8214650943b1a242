"""Text files and folders of them: a file is a document, its lines are paragraphs.

    books/
        dickens/two_cities.txt          the document "dickens/two_cities.txt"
        dickens/great_expectations.txt.gz
        notes.txt

    TextFiles(["books"])                or patterns, or addresses, which are then those of the documents

Many small files make one part, by a hash of what they are called: with a million of them there are no more
parts than with a thousand, and a new file changes one. Where text is hard-wrapped, its lines are joined to
paragraphs later, see `filters.wrapping`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import gin

from tf_codistill.corpus.crawl.opening import file_name, is_http
from tf_codistill.corpus.document import Record
from tf_codistill.corpus.sources.base import MAX_DOCUMENT_BYTES, Reading, Source, decoded, record
from tf_codistill.corpus.sources.compressed import PACKED, unpacked
from tf_codistill.corpus.sources.file_source import Files
from tf_codistill.jobs.quarantine import Damage, OpenDamage


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TextFiles(Files):
    """Text files, packed by gzip or Zstandard or not; a folder of them.

    Attributes:
        num_parts: Into how many parts they are dealt, at most.
        folder: What the names of documents leave out of a path; by default the one that all `files` are in.

    Raises:
        ValueError: `num_parts` is below 1.
    """

    num_parts: int = 64
    folder: str | None = None

    noun: ClassVar[str] = "text file"
    endings = tuple(map("".join, itertools.product((".txt",), PACKED)))

    def __post_init__(self) -> None:
        if self.num_parts < 1:
            raise ValueError(f"TextFiles.num_parts is {self.num_parts}; expected at least 1")

    def resolved(self, fetch: bool = True) -> Source:
        """With the paths that its patterns match, and the folder that all are in."""
        folder = _common(self.files) if self.folder is None else self.folder
        return super(TextFiles, dataclasses.replace(self, folder=folder)).resolved(fetch)

    def describe(self) -> str | None:
        """As for any source of files; the folder is a place, too."""
        return super(TextFiles, dataclasses.replace(self, folder=None)).describe()

    def read_file(self, path: str, reading: Reading) -> Iterator[Record | Damage]:
        """Reads a file: a document, or damage."""
        url, held, lost = self._url(path), bytearray(), None
        for part in unpacked(reading.open(path), file_name(path), reading.advance):
            if isinstance(part, Damage) and lost is None:
                # Another name than that of a part which ends too early: this one need not be its last.
                lost = OpenDamage("truncated" if part.kind == "cut_off" else part.kind, part.offset, url)
            elif not isinstance(part, Damage) and lost is None:
                held += part.content
                if len(held) > MAX_DOCUMENT_BYTES:
                    lost = OpenDamage("giant_document", 0, url)
            if lost is not None:
                lost.add(bytes(held) + part.content)
                held.clear()
        if lost is not None:
            yield lost.close()
        else:
            text, odd = decoded(bytes(held))
            yield record(text.removeprefix("\ufeff"), url, dirt=odd)

    @functools.cached_property
    def _paths(self) -> Mapping[str, Sequence[str]]:
        dealt: dict[int, list[str]] = {}
        for path in sorted(self.files, key=self._url):
            number = int(_hash(self._url(path)), 16) % self.num_parts
            dealt.setdefault(number, []).append(path)
        # With what the files are called, since the documents are called so.
        return {
            f"text-{number:05d}-{_hash(*map(self._url, dealt[number]))[:8]}": dealt[number]
            for number in sorted(dealt)
        }

    def _url(self, path: str) -> str:
        return path if is_http(path) else path.removeprefix(self.folder or "").lstrip("/")


def _common(patterns: Sequence[str]) -> str:
    """The folder that all patterns lead into, with its slash."""
    fixed = []
    for pattern in patterns:
        name = next((at for at, character in enumerate(pattern) if character in "*?["), len(pattern))
        is_folder = name == len(pattern) and os.path.isdir(pattern)
        fixed.append(pattern.rstrip("/") + "/" if is_folder else pattern[: pattern.rfind("/", 0, name) + 1])
    common = os.path.commonprefix([pattern for pattern in fixed if not is_http(pattern)])
    return common[: common.rfind("/") + 1]


def _hash(*names: str) -> str:
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()
