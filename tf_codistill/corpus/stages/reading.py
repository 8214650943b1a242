"""Stage 1: the pages of each part of a source, such as a WET file, through the filters.

    CC-MAIN-00000.warc.wet.gz --> records --> documents --> unwrapped --> filters --> kept documents
                                     |                      where they       |
                                     +-> unreadable,        are wrapped      +-> dropped,
                                         by kind                                 by reason

    <task>.documents      kept documents in partitions, one for each token shard, sorted by key
    <task>.*.hashed       hashes of their long paragraphs, see duplicates.py
    <task>.json           counts
    <task>.failed         in place of all these: why nothing can be read of the part, or no list be applied
    out_of_reach          why a part could not be had: no damage, but the end of this run

    for document, verdict in read_documents(WetFiles(["CC-MAIN-00000.warc.wet.gz"]), CorpusSettings()):
        print(document.url, verdict if isinstance(verdict, str) else len(verdict.paragraphs))

The key of a document is a hash of its address, then one of the page's text: it says in which token shard the
document is, and where, whatever the order in which files are read, and does not change with the filters.

A part that is damaged is one of the source's, and counted. One that a server or a storage does not give just
now is not: the corpus without it would be another one. So the first of these ends the stage.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tf_codistill import files
from tf_codistill.corpus.document import Document, Record
from tf_codistill.corpus.filters import judge
from tf_codistill.corpus.filters.wrapping import unwrapped
from tf_codistill.corpus.paragraph_ids.selection import Selected
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.corpus.sources.base import OutOfReachError, Reading, Source, UnreadableError
from tf_codistill.corpus.stages import partitioned
from tf_codistill.corpus.stages.dropped import DroppedDocuments
from tf_codistill.corpus.stages.duplicates import ParagraphHashes, own_repeats, without
from tf_codistill.jobs.quarantine import Damage, Quarantine
from tf_codistill.jobs.stages import Advance, Engine, Stage
from tf_codistill.jobs.stages import run as run_stage

DOCUMENTS = ".documents"
"""Ending of the file with the documents that a task kept."""

_FAILED = ".failed"
_OUT_OF_REACH = "out_of_reach"


class Page(NamedTuple):
    """A page and what became of it.

    Attributes:
        document: The page as it stands in its part, each line a paragraph.
        seen: What the filters saw of it: the same document, or a wrapped one joined to paragraphs.
        verdict: What the filters leave of that, or the reason for which it is dropped.
    """

    document: Document
    seen: Document
    verdict: Document | str


def read_documents(source: Source, settings: CorpusSettings) -> Iterator[tuple[Document, Document | str]]:
    """Yields each page of a source, and what the filters leave of it or the reason for which it is dropped.

    An OSError says that a part is out of reach, a ValueError that no page can be read of one.
    """
    source = source.resolved()
    for part in source.parts():
        with Reading() as reading:
            for page in judge_pages(reading.of(source, part), settings, part):
                yield page.document, page.verdict


def judge_pages(
    items: Iterator[Record | Damage],
    settings: CorpusSettings,
    part: str,
    selected: Selected | None = None,
) -> Iterator[Page]:
    """Judges the pages among what was read of a part, by the filters or by what is selected in their place.

    If paragraphs are selected and the part is damaged, UnreadableError is raised once all of it was read.
    """
    filters = settings.filters if selected is None else [selected]
    first = 0
    for item in items:
        if isinstance(item, Record):
            document = Document.of_text(
                item.text, url=item.url, language=item.language, first=first, wet_file=part
            )
            first += num_lines(item.text)
            seen = unwrapped(document) if settings.unwrap else document
            yield Page(document, seen, judge(seen, filters))
        elif selected is not None:
            # Nobody knows how many lines are lost, and so which paragraphs the list means behind them.
            collections.deque(items, maxlen=0)  # to the end, since all damage is counted and kept
            raise UnreadableError(
                f"{part!r} is damaged ({item.kind} at byte {item.offset}), so that numbers of a "
                "list of paragraphs would name others than were meant; fetch it again or leave it out"
            )
    if selected is not None:
        selected.check_end(first)


def num_lines(text: str) -> int:
    """Number of lines of a page, blank ones included; a newline at the very end begins no other."""
    return text.count("\n") + bool(text and not text.endswith("\n"))


def document_key(document: Document) -> bytes:
    """The key of a document before any filter, 64 bytes: SHA-256 of its address, then of its text."""
    text = "\n".join(document.paragraphs)
    address = hashlib.sha256(document.url.encode("utf-8", "replace"))
    return address.digest() + hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


@dataclasses.dataclass(frozen=True)
class ReadStage(Stage):
    """Reads a source; a task is a part of it, named as that is.

    Attributes:
        settings: Filters, and what says which token shard a document goes to.
        source: Has the documents; what it has to fetch is fetched.
        num_bytes: Size of each part, 0 where it is not known.
        quarantine_dir: Where to keep what cannot be read; None keeps nothing.
        listed_dir: Where a list that takes the place of the filters was unpacked, see `selection`.
        dropped_dir: Where to keep what is dropped, see `dropped`; None keeps nothing.
    """

    title = "reading pages"
    unit = "bytes"
    units_per_process = 1 << 22
    preload = ("tf_codistill.corpus.stages.writing",)

    settings: CorpusSettings
    source: Source
    num_bytes: Mapping[str, int]
    quarantine_dir: str | None = None
    listed_dir: str | None = None
    dropped_dir: str | None = None

    def sizes(self) -> Mapping[str, int]:
        """The tasks with the sizes of their parts."""
        return self.num_bytes

    def run(self, engine: Engine) -> dict[str, dict[str, Any]]:
        """Reads parts that have not been read yet; returns the facts of all that can be read, by task.

        An OSError says that a part is out of reach. Tasks that had begun are done, the others have not begun.
        """
        note = files.join(self.directory, _OUT_OF_REACH)
        files.remove(note)
        facts = run_stage(self, engine)
        if files.exists(note):
            raise OSError(
                f"{files.read(note).decode('utf-8')}; without it this would be another corpus: what was read "
                f"of other {self.source.noun}s is kept, and the same command goes on from there; if it is "
                "gone for good, leave it out of the files, or of the list of files, that are named"
            )
        return facts

    def do(self, task: str, advance: Advance) -> Mapping[str, Any] | None:
        """Reads a part; returns its counts, or None if nothing of it can be used."""
        # Not an exception: each engine tells of those in its own way, and some try again before they do.
        note = files.join(self.directory, _OUT_OF_REACH)
        if files.exists(note):
            return None
        counts = _Counts()
        selected = Selected.load(self.listed_dir, task) if self.listed_dir else None
        with contextlib.ExitStack() as stack:
            kept = partitioned.Sorter(stack.enter_context(files.scratch(self.directory)))
            hashes = ParagraphHashes(self.path(task, ""), self.settings)
            dropped = stack.enter_context(DroppedDocuments(self.dropped_dir, task, self.directory))
            quarantine = None
            if self.quarantine_dir is not None:
                quarantine = stack.enter_context(Quarantine(self.quarantine_dir, task))
            reading = stack.enter_context(Reading(advance))
            items = counts.noting(reading.of(self.source, task), quarantine)
            try:
                for page in judge_pages(items, self.settings, task, selected):
                    left = page.verdict
                    if isinstance(left, Document):
                        repeated = own_repeats(left, self.settings)
                        counts.num_repeats += sum(repeated)
                        left = without(left, repeated, self.settings)
                    counts.num_unwrapped += page.seen is not page.document
                    if isinstance(left, Document):
                        key = document_key(page.document)
                        part = self.settings.part(key)
                        kept.add(key, part, left)
                        hashes.add(part, left)
                    else:
                        dropped.add(page.seen, left)
            except (UnreadableError, OutOfReachError) as error:
                if isinstance(error, OutOfReachError):
                    files.write(note, str(error).encode("utf-8"))
                else:
                    files.write_json(self.path(task, _FAILED), {"reason": str(error), **reading.facts()})
                return None
            dropped.write()
            kept.write(self.path(task, DOCUMENTS), self.settings.num_parts)
        files.remove(self.path(task, _FAILED))
        number = kept.num_documents
        return {
            **reading.facts(),
            "counts": counts.facts(number.total(), dropped.counts),
            "cut_off_at": counts.cut_off_at,
            **{split: sum(number[part] for part in parts) for split, parts in self.settings.splits.items()},
            **hashes.close(),
            "repeats": counts.num_repeats,
        }

    def failure(self, task: str) -> dict[str, Any]:
        """What is known of a part of which nothing can be read: ``reason``, ``bytes``, ``sha256``."""
        return files.read_json(self.path(task, _FAILED))

    def failures(self, facts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """What is wrong with parts that cannot be read, or not to their end, in sentences by task."""
        said = {}
        for task in self.num_bytes:
            if task not in facts:
                said[task] = self.failure(task)["reason"]
            elif facts[task]["cut_off_at"] is not None:
                where = f"is truncated: it ends inside what begins at byte {facts[task]['cut_off_at']}"
                said[task] = f"{self.source.told(task)} {where}; fetch it again or leave it out"
        return said


class _Counts:
    """What became of the pages of a part."""

    def __init__(self) -> None:
        self._unreadable: collections.Counter[str] = collections.Counter()
        self._dirt: collections.Counter[str] = collections.Counter()
        self.cut_off_at: int | None = None
        """Byte from which on it lacks the rest."""
        self.num_repeats = 0
        """Paragraphs that their document has before."""
        self.num_unwrapped = 0
        """Pages that were joined to paragraphs."""

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

    def facts(self, passed: int, dropped: collections.Counter[str]) -> dict[str, Any]:
        return {
            "read": passed + dropped.total() + self._unreadable.total(),
            "unwrapped": self.num_unwrapped,
            "passed": passed,
            "dropped": dict(dropped),
            "unreadable": dict(self._unreadable),
            "dirt": dict(self._dirt),
        }
