"""Stage 1: the pages of each WET file through the filters.

    CC-MAIN-00000.warc.wet.gz --> records --> documents --> unwrapped --> filters --> kept documents
                                     |                      where they       |
                                     +-> unreadable,        are wrapped      +-> dropped,
                                         by kind                                 by reason

    <task>.documents      kept documents in stretches, one for each token shard: packed and sorted by key
    <task>.paragraphs     hashes of their long paragraphs, see duplicates.py
    <task>.json           counts
    <task>.failed         in place of all these: why the file cannot be read

    for document, verdict in read_documents("CC-MAIN-00000.warc.wet.gz", CorpusSettings()):
        print(document.url, verdict if isinstance(verdict, str) else len(verdict.paragraphs))

The key of a document is a hash of its address, then one of the page's text: it says in which token shard the
document is, and where, whatever the order in which files are read, and does not change with the filters.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, BinaryIO, NamedTuple, cast

from tf_codistill import files
from tf_codistill.corpus import packed, stretches
from tf_codistill.corpus.document import Document
from tf_codistill.corpus.duplicates import ParagraphHashes
from tf_codistill.corpus.filters import judge
from tf_codistill.corpus.selection import Selected
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.corpus.sources import open_source
from tf_codistill.corpus.warc_records import Record
from tf_codistill.corpus.wet import read_wet
from tf_codistill.corpus.wrapping import unwrapped
from tf_codistill.jobs.quarantine import Damage, Quarantine
from tf_codistill.jobs.stages import Advance, Stage

DOCUMENTS = ".documents"
"""Ending of the file with the documents that a task kept."""

_FAILED = ".failed"
_CHUNK_BYTES = 1 << 20


class Page(NamedTuple):
    """A page and what became of it.

    Attributes:
        document: The page as it stands in its WET file, each line a paragraph.
        seen: What the filters saw of it: the same document, or a wrapped one joined to paragraphs.
        verdict: What the filters leave of that, or the reason for which it is dropped.
    """

    document: Document
    seen: Document
    verdict: Document | str


def read_documents(source: str, settings: CorpusSettings) -> Iterator[tuple[Document, Document | str]]:
    """Reads the pages of a WET file and judges each.

    Args:
        source: Path or URL of the file.
        settings: Has the filters.

    Yields:
        A page, and what the filters leave of it or the reason for which it is dropped.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: No page can be read.
    """
    for page in judge_pages(read_wet(source), settings, os.path.basename(source)):
        yield page.document, page.verdict


def judge_pages(
    items: Iterable[Record | Damage],
    settings: CorpusSettings,
    wet_file: str,
    selected: Selected | None = None,
) -> Iterator[Page]:
    """Judges the pages among what was read of a WET file.

    Args:
        items: What `wet.read_wet` yields.
        settings: Has the filters, and says whether wrapped pages are joined to paragraphs before.
        wet_file: Name of the file, without directory.
        selected: Takes the place of the filters.

    Yields:
        The pages with what became of them.

    Raises:
        ValueError: The file has not got what is selected.
    """
    filters = settings.filters if selected is None else [selected]
    first = 0
    is_cut_off = False
    for item in items:
        is_cut_off = isinstance(item, Damage) and item.kind == "cut_off"
        if isinstance(item, Record):
            document = Document.of_text(
                item.text, url=item.url, language=item.language, first=first, wet_file=wet_file
            )
            first += num_lines(item.text)
            seen = unwrapped(document) if settings.unwrap else document
            yield Page(document, seen, judge(seen, filters))
    if selected is not None and not is_cut_off:
        selected.check_end(first)


def num_lines(text: str) -> int:
    """Number of lines of a page, blank ones included; a newline at the very end begins no other."""
    return text.count("\n") + bool(text and not text.endswith("\n"))


def document_key(document: Document) -> bytes:
    """The key of a document that no filter has touched.

    Args:
        document: The document with all its lines, as they stand in the WET file.

    Returns:
        64 bytes: SHA-256 of the address, SHA-256 of the text.
    """
    text = "\n".join(document.paragraphs)
    address = hashlib.sha256(document.url.encode("utf-8", "replace"))
    return address.digest() + hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


@dataclasses.dataclass(frozen=True)
class ReadStage(Stage):
    """Reads WET files; a task is one of them, named by its base name.

    Attributes:
        directory: The folder of its results.
        settings: Filters, and what says which token shard a document goes to.
        sources: Path or URL of each WET file by task.
        num_bytes: Size of each WET file by task, 0 where it is not known.
        quarantine_dir: Where to keep what cannot be read; None keeps nothing.
        listed_dir: Where a list that takes the place of the filters was unpacked, see `selection`.
    """

    title = "reading pages"
    unit = "bytes"
    units_per_process = 1 << 22
    preload = ("tf_codistill.corpus.writing",)

    directory: str
    settings: CorpusSettings
    sources: Mapping[str, str]
    num_bytes: Mapping[str, int]
    quarantine_dir: str | None = None
    listed_dir: str | None = None

    def sizes(self) -> Mapping[str, int]:
        """The tasks with the sizes of their WET files."""
        return self.num_bytes

    def do(self, task: str, advance: Advance) -> Mapping[str, Any] | None:
        """Reads a WET file; returns its counts, or None if it cannot be read."""
        counts = _Counts()
        selected = Selected.load(self.listed_dir, task) if self.listed_dir else None
        with contextlib.ExitStack() as stack:
            kept = _Kept(stack.enter_context(files.scratch(self.directory)))
            hashes = ParagraphHashes(stack.enter_context(files.scratch(self.directory)), self.settings, task)
            quarantine = None
            if self.quarantine_dir is not None:
                quarantine = stack.enter_context(Quarantine(self.quarantine_dir, task))
            source = stack.enter_context(contextlib.closing(_CheckedSource(self.sources[task])))
            items = counts.noting(_only_reading(source, advance), quarantine)
            try:
                for page in judge_pages(items, self.settings, task, selected):
                    counts.add(page)
                    if isinstance(verdict := page.verdict, Document):
                        key = document_key(page.document)
                        part = self.settings.part(key)
                        kept.add(key, part, verdict)
                        hashes.add(part, verdict)
            except _UnreadableError as error:
                files.write(self.path(task, _FAILED), str(error).encode("utf-8"))
                return None
            kept.write(self.path(task, DOCUMENTS), self.settings.num_parts)
            num_hashes = hashes.write(self.path(task, ParagraphHashes.ENDING))
        files.remove(self.path(task, _FAILED))
        number = kept.num_documents
        return {
            "bytes": source.num_bytes,
            "sha256": source.digest.hexdigest(),
            "counts": counts.facts(),
            "cut_off_at": counts.cut_off_at,
            **{split: sum(number[part] for part in parts) for split, parts in self.settings.splits.items()},
            "paragraphs": num_hashes,
        }

    def failures(self, facts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """What is wrong with WET files that cannot be read, or not to their end.

        Args:
            facts: The facts of the tasks that are done.

        Returns:
            Sentences by task.
        """
        said = {}
        for task, source in self.sources.items():
            if task not in facts:
                said[task] = files.read(self.path(task, _FAILED)).decode("utf-8")
            elif facts[task]["cut_off_at"] is not None:
                where = f"is truncated: it ends inside what begins at byte {facts[task]['cut_off_at']}"
                said[task] = f"WET file {source!r} {where}; fetch it again or leave it out"
        return said


class _UnreadableError(Exception):
    """A WET file cannot be read."""


def _only_reading(source: _CheckedSource, advance: Advance) -> Iterator[Record | Damage]:
    """Reads a WET file, and tells errors of that from those of others."""
    try:
        yield from read_wet(cast(BinaryIO, source), advance)
    except (ValueError, OSError) as error:
        raise _UnreadableError(str(error)) from error


class _CheckedSource:
    """A WET file that is summed up while it is read."""

    def __init__(self, source: str) -> None:
        self.name = source  # for messages
        self.num_bytes = 0
        self.digest = hashlib.sha256()
        self._file: BinaryIO | None = None

    def read(self, size: int = -1) -> bytes:
        if self._file is None:
            self._file = open_source(self.name)
        content = self._file.read(size)
        self.num_bytes += len(content)
        self.digest.update(content)
        return content

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _Counts:
    """What became of the pages of a WET file."""

    def __init__(self) -> None:
        self._passed = self._unwrapped = 0
        self._dropped: collections.Counter[str] = collections.Counter()
        self._unreadable: collections.Counter[str] = collections.Counter()
        self._dirt: collections.Counter[str] = collections.Counter()
        self.cut_off_at: int | None = None
        """Byte from which on the file lacks the rest."""

    def noting(
        self, items: Iterable[Record | Damage], quarantine: Quarantine | None
    ) -> Iterator[Record | Damage]:
        """Passes on what is read, counting what is wrong with it."""
        for item in items:
            self.cut_off_at = None
            if isinstance(item, Record):
                self._dirt.update(item.dirt)
            else:
                self._unreadable[item.kind] += 1
                if item.kind == "cut_off":
                    self.cut_off_at = item.offset
                if quarantine:
                    quarantine.keep(item)
            yield item

    def add(self, page: Page) -> None:
        self._unwrapped += page.seen is not page.document
        if isinstance(page.verdict, str):
            self._dropped[page.verdict] += 1
        else:
            self._passed += 1

    def facts(self) -> dict[str, Any]:
        return {
            "read": self._passed + self._dropped.total() + self._unreadable.total(),
            "unwrapped": self._unwrapped,
            "passed": self._passed,
            "dropped": dict(self._dropped),
            "unreadable": dict(self._unreadable),
            "dirt": dict(self._dirt),
        }


class _Kept:
    """Kept documents of a WET file in a scratch file, to be written in the order of shard and key."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._position = 0
        # Each entry is the number of a shard, a key, and where it is, as bytes: they sort as those do,
        # and millions of them fit into memory.
        self._entries: list[bytes] = []
        self.num_documents: collections.Counter[int] = collections.Counter()

    def add(self, key: bytes, part: int, document: Document) -> None:
        size = self._file.write(packed.pack(key, document))
        place = self._position.to_bytes(8, "big") + size.to_bytes(8, "big")
        self._entries.append(part.to_bytes(4, "big") + key + place)
        self._position += size
        self.num_documents[part] += 1

    def write(self, path: str, num_parts: int) -> None:
        self._entries.sort()
        sizes = [0] * num_parts
        for entry in self._entries:
            sizes[int.from_bytes(entry[:4], "big")] += int.from_bytes(entry[-8:], "big")
        stretches.write(path, sizes, self._chunks())

    def _chunks(self) -> Iterator[bytes]:
        self._file.flush()
        waiting: list[bytes] = []
        num_bytes = 0
        for entry in self._entries:
            start, size = int.from_bytes(entry[-16:-8], "big"), int.from_bytes(entry[-8:], "big")
            waiting.append(os.pread(self._file.fileno(), size, start))
            num_bytes += len(waiting[-1])
            if num_bytes > _CHUNK_BYTES:
                yield b"".join(waiting)
                waiting, num_bytes = [], 0
        yield b"".join(waiting)
