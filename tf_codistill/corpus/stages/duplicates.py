"""Stage 2: paragraphs that occur more than once.

    <read>/<task>.*.hashed       entries of a WET file, see shingles.py
        hash of a long paragraph | token shard of its document | number of the paragraph
    <task>.repeats               what to take away, in partitions by token shard
        WET file | number of the paragraph

What is kept is what remains if the documents are gone through one by one, in the order of the names of their
WET files and of their lines: of each, those long paragraphs are taken away that a document kept before has,
or that it has itself before. One that has too little left is dropped whole, and takes nothing from others.
So a paragraph is in the first document that has it, of those that are kept in the end, and in no other. Short
paragraphs are let alone, since "Yes, sir." is no copy of another "Yes, sir.".

Within a document that is done by stage 1, see `own_repeats`. Here a task is a range of hashes: it gathers the
entries of all WET files and finds the first of each paragraph. Which documents are dropped is not known
before, but taken as given; `first_holders` finds it out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tf_codistill import files
from tf_codistill.corpus.document import Document
from tf_codistill.corpus.filters import Length, LongParagraphs, judge
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.corpus.stages import partitioned, shingles
from tf_codistill.jobs.stages import Advance, Stage

REASON = "duplicate"
"""Why a document is dropped that has too little left."""

_ENTRY = np.dtype([("hash", "<u8"), ("low", "<u8"), ("owner", "<u4"), ("number", "<u4")])
_HASH_BYTES = 16
_TAIL = struct.Struct("<II")
_ENTRIES_PER_TASK = 2_000_000  # about 250 MB while they are sorted
_CHUNK_BYTES = 1 << 20
_REPEAT, _REPEATS = np.dtype("<u8"), ".repeats"

Repeats = npt.NDArray[np.uint64]
"""Paragraphs to take away, sorted; each is the position of its WET file times 2 ** 32 plus its number."""


class ParagraphHashes:
    """Gathers the hashes of the long paragraphs of documents.

    Args:
        prefix: Path that the names of the files begin with which get them.
        settings: Say where paragraphs may not be repeated, and which are long.
    """

    def __init__(self, prefix: str, settings: CorpusSettings) -> None:
        self._spill, self._waiting = shingles.Spill(prefix), bytearray()
        self._settings = settings
        self._wet_file: str | None = None
        self._hash = hashlib.blake2b(digest_size=_HASH_BYTES)

    def digests(self, document: Document) -> list[tuple[int, bytes]]:
        """Number and hash of each long paragraph of a document; none where repeated ones do not matter."""
        if self._settings.duplicates == "none":
            return []
        if self._settings.duplicates == "file" and document.wet_file != self._wet_file:
            # Salted by its file, a paragraph equals none of another file.
            self._wet_file = document.wet_file
            self._hash = hashlib.blake2b(
                document.wet_file.encode("utf-8", "surrogateescape"), digest_size=_HASH_BYTES
            )
        found = []
        for number, paragraph in zip(document.numbers, document.paragraphs, strict=True):
            if len(paragraph) >= self._settings.min_duplicate_characters:
                value = self._hash.copy()
                value.update(paragraph.encode("utf-8", "surrogatepass"))
                found.append((number, value.digest()))
        return found

    def add(self, owner: int, document: Document) -> None:
        """Adds a document's paragraphs; their owner is its token shard, or the position of its WET file."""
        entries = (digest + _TAIL.pack(owner, number) for number, digest in self.digests(document))
        self._waiting += b"".join(entries)
        if len(self._waiting) >= _CHUNK_BYTES:
            self._flush()

    def close(self) -> dict[str, int]:
        """Writes what is left; returns the numbers of ``paragraphs`` and ``runs``, see `shingles.Spill`."""
        self._flush()
        return {"runs": self._spill.close(), "paragraphs": self._spill.num_entries}

    def _flush(self) -> None:
        self._spill.add(np.frombuffer(bytes(self._waiting), _ENTRY))
        self._waiting.clear()


@dataclasses.dataclass(frozen=True)
class DuplicatesStage(Stage):
    """Finds repeated paragraphs; a task is a range of hashes.

    Attributes:
        settings: Say where paragraphs may not be repeated.
        read_dir: The folder of the results of stage 1.
        wet_files: Names of its tasks, in order.
        runs: For each of them the number of runs of `ParagraphHashes`.
        num_paragraphs: Number of entries of all of them.
        dropped: Prefix and number of runs of the entries of documents that are dropped, where the owner is
            the position of the WET file.
    """

    title = "finding duplicates"
    unit = "paragraphs"
    units_per_process = 1_000_000
    preload = ("tf_codistill.corpus.stages.writing",)

    settings: CorpusSettings
    read_dir: str
    wet_files: Sequence[str]
    runs: Sequence[int]
    num_paragraphs: int
    dropped: Sequence[tuple[str, int]] = ()

    def sizes(self) -> Mapping[str, int]:
        """The tasks with the number of paragraphs expected in each."""
        return partitioned.shares(self._ranges(), shingles.NUM_BUCKETS, self.num_paragraphs)

    def do(self, task: str, advance: Advance) -> Mapping[str, Any]:
        """Sorts the entries of a range and writes what to take away."""
        span = self._ranges()[task]
        prefixes = [files.join(self.read_dir, wet_file) for wet_file in self.wet_files]
        blocks = shingles.gather(zip(prefixes, self.runs, strict=True), _ENTRY, span)
        entries = np.concatenate(blocks)
        holders = np.repeat(np.arange(len(blocks), dtype=np.uint64), [len(block) for block in blocks])
        places = holders << np.uint64(32) | entries["number"]
        dropped = shingles.gather(self.dropped, _ENTRY, span)
        gone = [entry["owner"].astype(np.uint64) << np.uint64(32) | entry["number"] for entry in dropped]
        is_kept = ~np.isin(places, np.concatenate([*gone, np.empty(0, np.uint64)]))
        order = np.lexsort((places, entries["low"], entries["hash"]))
        high, low = entries["hash"][order], entries["low"][order]
        is_same = (high[1:] == high[:-1]) & (low[1:] == low[:-1])  # as the one before it
        repeats = order[1:][_is_after_the_first(is_same, is_kept[order])]
        path, found = self.path(task, _REPEATS), places[repeats].astype(_REPEAT)
        partitioned.write_sorted(path, entries["owner"][repeats], found, self.settings.num_parts)
        advance(self.sizes()[task])
        return {"paragraphs": len(entries), "repeats": len(repeats)}

    def repeats(self, part: int) -> Repeats:
        """The paragraphs to take away from the documents of a token shard, see `CorpusSettings.part`."""
        return partitioned.read_sorted([self.path(task, _REPEATS) for task in self._ranges()], part, _REPEAT)

    def _ranges(self) -> dict[str, range]:
        if self.settings.duplicates == "none":
            return {}
        return partitioned.ranges(shingles.NUM_BUCKETS, self.num_paragraphs, _ENTRIES_PER_TASK)


def own_repeats(document: Document, settings: CorpusSettings) -> Sequence[bool]:
    """Whether each paragraph of a document is a long one that it has before; empty if none is."""
    paragraphs = document.paragraphs
    if settings.duplicates == "none" or len(set(paragraphs)) == len(paragraphs):
        return ()
    seen: set[str] = set()
    found = []
    for paragraph in paragraphs:
        found.append(len(paragraph) >= settings.min_duplicate_characters and paragraph in seen)
        seen.add(paragraph)
    return found


def is_repeated(numbers: npt.ArrayLike, wet_file: int, repeats: Repeats) -> npt.NDArray[np.bool_]:
    """Whether paragraphs are among `repeats`, by the position of their WET file and ascending numbers."""
    places = np.asarray(numbers, np.uint64) + np.uint64(wet_file << 32)
    if places.size:
        repeats = repeats[slice(*np.searchsorted(repeats, places[[0, -1]] + np.array([0, 1], np.uint64)))]
    if not repeats.size:
        return np.zeros(places.shape, np.bool_)
    found = np.searchsorted(repeats, places)
    return np.equal(repeats[np.minimum(found, repeats.size - 1)], places)


def without(
    document: Document, repeated: Sequence[bool] | npt.NDArray[np.bool_], settings: CorpusSettings
) -> Document | str:
    """What is left of a document without its repeated paragraphs (empty for none), or ``duplicate``.

    It must pass the filters for long paragraphs and length again. They ask for enough, so that who passes
    with less passes with more.
    """
    if not np.any(repeated):
        return document
    left = document.only(not is_gone for is_gone in repeated)
    if all(len(paragraph) < settings.min_duplicate_characters for paragraph in left.paragraphs):
        return REASON
    verdict = judge(left, [step for step in settings.filters if isinstance(step, LongParagraphs | Length)])
    return REASON if isinstance(verdict, str) else verdict


def _is_after_the_first(
    is_same: npt.NDArray[np.bool_], is_kept: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """For each of some sorted entries but the first whether it comes after an equal one that is kept."""
    positions = np.arange(len(is_same))
    begins = np.maximum.accumulate(np.where(is_same, 0, positions + 1))  # of those that equal each
    last_kept = np.maximum.accumulate(np.where(is_kept[: len(positions)], positions, -1))
    return last_kept >= begins
