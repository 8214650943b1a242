"""Training documents that are nearly documents held out for validation or a test, or nearly contain one.

    HeldOutStage, a task for each split that is held out
        <task>.*.hashed         hashes of the 13-grams of its documents, see shingles.py
        <task>.sizes            how many different ones each document has
    ContaminationStage, a task for each token shard of training
        <task>.dropped          places of the documents to drop

A training document is dropped as ``contaminated`` if at least half of its different 13-grams occur in held-
out documents, or if it has at least half of those of a single held-out document. So it is where the Jaccard
similarity of the two sets is 1/3 or more, since the smaller one then shares half. Whoever quotes a
sentence, or has a menu in common with a held-out page, stays.

Looked at are documents of whose 13-grams, those that begin at every eighth word, one is held out: all that
have 20 words in a row in common with a held-out document. (Where one of these has fewer than 27 words, and
so fewer than 15 n-grams, half of that number takes the place of eight.)

13 words, in lower case and without punctuation, are what Brown et al. 2020 (appendix C) look for; fewer, as
the 8 of Chowdhery et al. 2022, are more often a phrase than a copy.

What is held out is in a file that is mapped, since it may be much, and a table of bits says of nearly all
other n-grams that they are not in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tf_codistill import files
from tf_codistill.corpus.stages import partitioned, shingles
from tf_codistill.corpus.stages.writing import Kept
from tf_codistill.jobs import stages
from tf_codistill.jobs.stages import Advance, Stage

_LENGTH = 13  # words of an n-gram
_STEP = 8  # words from one n-gram that is looked up to the next
_SHARE = 2  # one in so many n-grams
_ENTRIES_AT_A_TIME = 4_000_000  # while they are sorted
_MOST_BITS = 27  # of the index of the bitmap, which has a byte for each
_SLOT_BITS = 4  # slots per n-gram, as a power of two
_GRAM = np.dtype([("hash", "<u8"), ("document", "<u4")])
_SIZE, _DOCUMENT, _PLACE = np.dtype("<u4"), np.dtype("<u4"), np.dtype("<u8")
_SIZES, _DROPPED = ".sizes", ".dropped"


def without(kept: Kept, directory: str, num_documents: Mapping[str, int], engine: stages.Engine) -> Kept:
    """The documents without training documents that are nearly held-out ones, if that is asked for."""
    if not kept.settings.decontaminate:
        return kept
    held_out = HeldOutStage(files.join(directory, "held-out"), kept, num_documents)
    stages.run(held_out, engine)
    found = ContaminationStage(files.join(directory, "training"), held_out)
    stages.run(found, engine)
    return dataclasses.replace(kept, also_dropped=(*kept.also_dropped, found))


@dataclasses.dataclass(frozen=True)
class HeldOutStage(Stage):
    """Gathers the n-grams of held-out documents; a task is a split.

    Attributes:
        kept: The documents.
        num_documents: Number of documents of each split, or somewhat more.
    """

    title = "reading held-out documents"
    unit = "documents"
    units_per_process = 2000
    preload = ("tf_codistill.corpus.stages.writing",)

    kept: Kept
    num_documents: Mapping[str, int]

    def sizes(self) -> Mapping[str, int]:
        """The tasks with the number of documents expected in each."""
        return {split: self.num_documents[split] for split in self.kept.settings.splits if split != "train"}

    def do(self, task: str, advance: Advance) -> Mapping[str, Any]:
        """Writes the n-grams of the documents of a split."""
        spill, sizes = shingles.Spill(self.path(task, "")), list[int]()
        for part in self.kept.settings.splits[task]:
            for _, texts in shingles.batches(self.kept.texts(part, self.path(task, "")), advance):
                grams, bounds = shingles.hashes(texts, _LENGTH)
                for own in map(np.unique, np.split(grams, bounds[1:-1])):
                    entries = np.empty(len(own), _GRAM)
                    entries["hash"], entries["document"] = own, len(sizes)
                    spill.add(entries)
                    sizes.append(len(own))
        files.write(self.path(task, _SIZES), np.array(sizes, _SIZE).tobytes())
        return {"documents": len(sizes), "grams": sum(sizes), "runs": spill.close()}

    @contextlib.contextmanager
    def grams(self, directory: str) -> Iterator[HeldOut]:
        """Opens what the tasks have gathered, which takes up room in a directory meanwhile."""
        facts = {task: self.facts(task) for task in self.sizes()}
        spilled = shingles.spilled_by(self)
        firsts = np.cumsum([0, *(one["documents"] for one in facts.values())], dtype=_DOCUMENT)[:-1]
        num_grams = sum(one["grams"] for one in facts.values())
        with files.scratch(directory) as hashes, files.scratch(directory) as documents:
            spans = partitioned.ranges(shingles.NUM_BUCKETS, num_grams, _ENTRIES_AT_A_TIME)
            for blocks in (shingles.gather(spilled, _GRAM, span) for span in spans.values()):
                values = np.concatenate([block["hash"] for block in blocks])
                owner = np.concatenate([block["document"] for block in blocks])
                owner += np.repeat(firsts, list(map(len, blocks)))
                order = np.lexsort((owner, values))
                hashes.write(values[order].tobytes())
                documents.write(owner[order].tobytes())
            sizes = b"".join(files.read(self.path(task, _SIZES)) for task in facts)
            owners = partitioned.mapped(documents, _DOCUMENT)
            yield HeldOut(partitioned.mapped(hashes, "<u8"), owners, np.frombuffer(sizes, _SIZE))


class HeldOut:
    """The n-grams of held-out documents.

    Args:
        hashes: Their hashes, sorted, as often as there are documents that have them.
        documents: For each the number of a document that has it.
        sizes: For each document how many it has.
    """

    def __init__(
        self, hashes: shingles.Hashes, documents: npt.NDArray[np.uint32], sizes: npt.NDArray[np.uint32]
    ) -> None:
        self._hashes, self._documents, self._sizes = hashes, documents, sizes
        # Half of the n-grams of a document are at least as many, so that one of them is looked up.
        self._step = (int(np.min(sizes, where=sizes > 0, initial=2 * _STEP)) + 1) // 2
        bits = min(_MOST_BITS, len(hashes).bit_length() + _SLOT_BITS)
        self._shift = np.uint64(64 - bits)
        self._is_there = np.zeros(1 << bits, np.bool_)
        for start in range(0, len(hashes), _ENTRIES_AT_A_TIME):
            self._is_there[hashes[start : start + _ENTRIES_AT_A_TIME] >> self._shift] = True

    def near(self, texts: Sequence[bytes]) -> list[int]:
        """Positions of those texts that are nearly one that is held out, or nearly contain one."""
        grams, bounds = shingles.hashes(texts, _LENGTH, self._step)
        perhaps = np.flatnonzero(self._is_there[grams >> self._shift])
        if not len(self._hashes):
            return []
        found = np.minimum(np.searchsorted(self._hashes, grams[perhaps]), len(self._hashes) - 1)
        hits = perhaps[self._hashes[found] == grams[perhaps]]
        candidates = np.unique(np.searchsorted(bounds, hits, "right") - 1).tolist()
        return [candidate for candidate in candidates if self._is_near(texts[candidate])]

    def _is_near(self, text: bytes) -> bool:
        grams = np.unique(shingles.hashes([text], _LENGTH)[0])
        first, last = (np.searchsorted(self._hashes, grams, side) for side in ("left", "right"))
        numbers = last - first
        if _SHARE * np.count_nonzero(numbers) >= len(grams):
            return True
        before = np.cumsum(numbers) - numbers
        entries = np.arange(numbers.sum()) + np.repeat(first - before, numbers)
        documents, counts = np.unique(self._documents[entries], return_counts=True)
        return bool(np.any(_SHARE * counts >= self._sizes[documents]))


@dataclasses.dataclass(frozen=True)
class ContaminationStage(Stage):
    """Finds training documents that are nearly held-out ones; a task is a token shard.

    Attributes:
        held_out: The stage that has gathered what is held out, done.
        reason: Why such a document is dropped.
    """

    title = "comparing with what is held out"
    unit = "documents"
    units_per_process = 2000
    preload = ("tf_codistill.corpus.stages.writing",)

    held_out: HeldOutStage
    reason: str = "contaminated"

    def sizes(self) -> Mapping[str, int]:
        """The tasks with the number of documents expected in each."""
        num_shards = self.held_out.kept.settings.num_shards
        return partitioned.tasks(num_shards, self.held_out.num_documents["train"])

    def do(self, task: str, advance: Advance) -> Mapping[str, Any]:
        """Writes which documents of a token shard are to be dropped."""
        dropped = list[int]()
        with self.held_out.grams(self.directory) as held_out:
            texts = self.held_out.kept.texts(partitioned.part_of(task), self.path(task, ""))
            for places, batch in shingles.batches(texts, advance):
                dropped += [places[index] for index in held_out.near(batch)]
        files.write(self.path(task, _DROPPED), np.array(sorted(dropped), _PLACE).tobytes())
        return {"dropped": len(dropped)}

    def dropped(self, part: int) -> npt.NDArray[np.uint64]:
        """The places of the documents of a token shard that are dropped, see `writing.Dropping`."""
        paths = [self.path(task, _DROPPED) for task in self.sizes() if partitioned.part_of(task) == part]
        return np.frombuffer(b"".join(map(files.read, paths)), _PLACE)
