"""Stage 2: paragraphs that occur more than once.

    <read>/<task>.hashes         entries of a WET file, in 1024 stretches by the first bits of the hash
        hash of a long paragraph | token shard of its document | number of the paragraph
    <task>.repeats               what to take away, in stretches by token shard
        WET file | number of the paragraph

A task is a range of hashes: it gathers the entries of all WET files and keeps the first occurrence of each
paragraph, in the order of the files' names and of their lines. Everything after it is taken away when the
token shards are written. Short paragraphs are let alone, since "Yes, sir." is no copy of another "Yes, sir.".
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tf_codistill import files
from tf_codistill.corpus import stretches
from tf_codistill.corpus.document import Document
from tf_codistill.corpus.filters import Length, LongParagraphs, judge
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.jobs.stages import Advance, Stage

REASON = "duplicate"
"""Why a document is dropped that has too little left."""

_ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("part", "<u4"), ("number", "<u4")])
_HASH_BYTES = 16
_TAIL = struct.Struct("<II")
_BUCKET_BITS = 10
_NUM_BUCKETS = 1 << _BUCKET_BITS
_ENTRIES_PER_TASK = 2_000_000  # about 200 MB while they are sorted
_ENTRIES_PER_CHUNK = 1 << 16
_REPEAT = np.dtype("<u8")

Repeats = npt.NDArray[np.uint64]
"""Paragraphs to take away, sorted; each is the position of its WET file times 2 ** 32 plus its number."""


class ParagraphHashes:
    """Gathers the hashes of the long paragraphs of a WET file.

    Args:
        file: Local file to gather them in.
        settings: Say where paragraphs may not be repeated, and which are long.
        wet_file: Name of the WET file.
    """

    ENDING = ".hashes"

    def __init__(self, file: IO[bytes], settings: CorpusSettings, wet_file: str) -> None:
        self._file = file
        self._is_used = settings.duplicates != "none"
        self._min_characters = settings.min_duplicate_characters
        # Salted by its file, a paragraph equals none of another file.
        salt = wet_file.encode("utf-8", "surrogateescape") if settings.duplicates == "file" else b""
        self._hash = hashlib.blake2b(salt, digest_size=_HASH_BYTES)

    def add(self, part: int, document: Document) -> None:
        """Adds the paragraphs of a document.

        Args:
            part: Number of its token shard, see `CorpusSettings.part`.
            document: The document as the filters left it.
        """
        if not self._is_used:
            return
        entries: list[bytes] = []
        for number, paragraph in zip(document.numbers, document.paragraphs, strict=True):
            if len(paragraph) >= self._min_characters:
                value = self._hash.copy()
                value.update(paragraph.encode("utf-8", "surrogatepass"))
                entries += (value.digest(), _TAIL.pack(part, number))
        self._file.write(b"".join(entries))

    def write(self, path: str) -> int:
        """Writes the entries in stretches by hash; returns their number."""
        if not self._is_used:
            return 0
        num_bytes = self._file.tell()
        self._file.flush()
        entries = np.memmap(self._file, _ENTRY, "r") if num_bytes else np.empty(0, _ENTRY)
        buckets = (entries["high"] >> np.uint64(64 - _BUCKET_BITS)).astype(np.uint16)
        order = np.argsort(buckets, kind="stable")
        sizes = np.bincount(buckets, minlength=_NUM_BUCKETS) * _ENTRY.itemsize
        spans = (order[i : i + _ENTRIES_PER_CHUNK] for i in range(0, len(order), _ENTRIES_PER_CHUNK))
        stretches.write(path, sizes, (entries[span].tobytes() for span in spans))
        return len(entries)


@dataclasses.dataclass(frozen=True)
class DuplicatesStage(Stage):
    """Finds repeated paragraphs; a task is a range of hashes.

    Attributes:
        directory: The folder of its results.
        settings: Say where paragraphs may not be repeated.
        read_dir: The folder of the results of stage 1.
        wet_files: Names of its tasks, in order.
        num_paragraphs: Number of entries of all of them.
    """

    title = "finding duplicates"
    unit = "paragraphs"
    units_per_process = 1_000_000
    preload = ("tf_codistill.corpus.writing",)

    directory: str
    settings: CorpusSettings
    read_dir: str
    wet_files: Sequence[str]
    num_paragraphs: int

    def sizes(self) -> Mapping[str, int]:
        """The tasks with the number of paragraphs expected in each."""
        spans = list(self._spans())
        return {task: self.num_paragraphs * (last - first) // _NUM_BUCKETS for task, first, last in spans}

    def do(self, task: str, advance: Advance) -> Mapping[str, Any]:
        """Sorts the entries of a range and writes what to take away."""
        first, last = next((first, last) for name, first, last in self._spans() if name == task)
        blocks = []
        for wet_file in self.wet_files:
            path = files.join(self.read_dir, wet_file + ParagraphHashes.ENDING)
            blocks.append(np.frombuffer(stretches.read(path, first, last), _ENTRY))
        entries = np.concatenate(blocks)
        holders = np.repeat(np.arange(len(blocks), dtype=np.uint64), [len(block) for block in blocks])
        places = holders << np.uint64(32) | entries["number"]
        order = np.lexsort((places, entries["low"], entries["high"]))
        high, low = entries["high"][order], entries["low"][order]
        is_repeat = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
        repeats = order[1:][is_repeat]
        parts = entries["part"][repeats]
        repeats = repeats[np.lexsort((places[repeats], parts))]
        sizes = np.bincount(parts, minlength=self.settings.num_parts) * _REPEAT.itemsize
        stretches.write(self.path(task, ".repeats"), sizes, [places[repeats].astype(_REPEAT).tobytes()])
        advance(self.sizes()[task])
        return {"paragraphs": len(entries), "repeats": len(repeats)}

    def repeats(self, part: int) -> Repeats:
        """The paragraphs to take away from the documents of a token shard.

        Args:
            part: Number of the shard, see `CorpusSettings.part`.

        Returns:
            Their places, sorted.
        """
        blocks = [stretches.read(self.path(task, ".repeats"), part) for task, _, _ in self._spans()]
        return np.sort(np.frombuffer(b"".join(blocks), _REPEAT))

    def _spans(self) -> Iterator[tuple[str, int, int]]:
        """Yields each task with its first bucket and the one before which it stops."""
        if self.settings.duplicates == "none":
            return
        num_tasks = min(_NUM_BUCKETS, 1 + self.num_paragraphs // _ENTRIES_PER_TASK)
        for index in range(num_tasks):
            first, last = (_NUM_BUCKETS * i // num_tasks for i in (index, index + 1))
            yield f"hashes-{index:04d}-of-{num_tasks:04d}", first, last


def without_repeats(
    document: Document, wet_file: int, repeats: Repeats, settings: CorpusSettings
) -> Document | str:
    """Takes repeated paragraphs away from a document.

    Args:
        document: The document.
        wet_file: Position of its WET file among all.
        repeats: The paragraphs to take away from documents of its token shard.
        settings: Have the filters for long paragraphs and length, which what is left must pass again.

    Returns:
        What is left, or ``duplicate``.
    """
    if not repeats.size:
        return document
    places = np.array(document.numbers, np.uint64) + np.uint64(wet_file << 32)
    found = np.searchsorted(repeats, places)
    is_repeat = repeats[np.minimum(found, repeats.size - 1)] == places
    if not is_repeat.any():
        return document
    left = document.only(~is_repeat)
    if all(len(paragraph) < settings.min_duplicate_characters for paragraph in left.paragraphs):
        return REASON
    verdict = judge(left, [step for step in settings.filters if isinstance(step, LongParagraphs | Length)])
    return REASON if isinstance(verdict, str) else verdict
