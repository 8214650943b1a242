"""Stage 2, continued: which documents are dropped for want of paragraphs of their own.

    suppose all documents are kept            -> repeats    the most that can be taken away
        enough is left even so                                  kept for certain
        else                                                    doubtful
    suppose that no doubtful one is kept      -> repeats    the least that is taken away
        too little is left even so                              dropped for certain
        else                                                    open
    go through the open ones, in order                          kept or dropped
    now it is known which are dropped         -> repeats    what is taken away

Whether a document is kept depends on those before it, and so on, all over the corpus. But few are open: those
that are neither copies nor have enough of their own. So tasks do the rest, each for a token shard, and where
nothing is doubtful or open the later steps are left out. The result is that of going through all documents in
order, as `duplicates` says.

    <doubtful>/<task>.documents     those that the next step decides about, see partitioned.py
    <doubtful>/<task>.*.hashed      hashes of what cannot be kept, see `duplicates.ParagraphHashes`
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from tf_codistill import files
from tf_codistill.corpus.document import Document
from tf_codistill.corpus.stages import duplicates, partitioned, shingles
from tf_codistill.corpus.stages.duplicates import DuplicatesStage, ParagraphHashes, Repeats
from tf_codistill.corpus.stages.reading import DOCUMENTS
from tf_codistill.jobs import stages
from tf_codistill.jobs.stages import Advance, Stage


def find(
    repeated: DuplicatesStage, num_documents: int, engine: stages.Engine
) -> tuple[DuplicatesStage, dict[str, dict[str, Any]]]:
    """Finds what to take away, from stage 2 as if no document were dropped.

    Returns stage 2 with those documents dropped that are to be, done, and the facts of its tasks.
    """

    def place(name: str) -> str:
        return files.join(repeated.directory, name)

    def undecided(stage: UndecidedStage) -> int:
        return sum(task["undecided"] for task in stages.run(stage, engine).values())

    facts = stages.run(repeated, engine)
    if not any(task["repeats"] for task in facts.values()):
        return repeated, facts
    doubtful = UndecidedStage(place("doubtful"), repeated, num_documents)
    if not (number := undecided(doubtful)):
        return repeated, facts
    taken = shingles.spilled_by(doubtful)
    least = dataclasses.replace(repeated, directory=place("without-doubtful"), dropped=taken)
    facts = stages.run(least, engine)
    left_open = UndecidedStage(place("open"), least, number, doubtful)
    if not undecided(left_open):
        return least, facts
    dropped = (*shingles.spilled_by(left_open), _decide(left_open))
    decided = dataclasses.replace(repeated, directory=place("decided"), dropped=dropped)
    return decided, stages.run(decided, engine)


@dataclasses.dataclass(frozen=True)
class UndecidedStage(Stage):
    """Finds documents of which nobody can say yet whether they are kept; a task is a token shard.

    Attributes:
        repeated: What would be taken away.
        num_documents: Number of documents that are not decided so far.
        doubtful: The stage that has left them; None if none was before, and all documents of stage 1 are.
    """

    title = "looking for copies"
    unit = "documents"
    units_per_process = 10_000
    preload = ("tf_codistill.corpus.stages.writing",)

    repeated: DuplicatesStage
    num_documents: int
    doubtful: UndecidedStage | None = None

    def sizes(self) -> Mapping[str, int]:
        """The tasks with the number of documents expected in each."""
        return partitioned.tasks(self.repeated.settings.num_parts, self.num_documents)

    def do(self, task: str, advance: Advance) -> Mapping[str, Any]:
        """Judges what would be left of documents of a token shard."""
        settings, number = self.repeated.settings, 0
        repeats = self.repeated.repeats(partitioned.part_of(task))
        dropped = ParagraphHashes(self.path(task, ""), settings)
        with files.writing(self.path(task, DOCUMENTS)) as undecided:
            undecided.write(b"")  # a file without documents is a file, too
            for position, document in self._documents(task, repeats):
                repeated = duplicates.is_repeated(document.numbers, position, repeats)
                left = duplicates.without(document, repeated, settings)
                is_dropped = isinstance(left, str)
                if is_dropped:
                    dropped.add(position, document)
                # In doubt is who is dropped if the most is taken away, or kept if the least is.
                if is_dropped == (self.doubtful is None):
                    kept = document if isinstance(left, str) else left
                    key = position.to_bytes(partitioned.KEY_DIGITS // 2, "big")
                    undecided.write(partitioned.pack(key, kept))
                    number += 1
        advance(self.sizes()[task])
        return {"undecided": number, "runs": dropped.close()["runs"]}

    def undecided(self, task: str) -> Iterator[tuple[int, Document]]:
        """The documents that a task has found, each with the position of its WET file."""
        for content in partitioned.split(partitioned.pieces(self.path(task, DOCUMENTS))):
            position = int(content[: partitioned.KEY_DIGITS], 16)
            yield position, partitioned.unpack(content, self.repeated.wet_files[position])

    def _documents(self, task: str, repeats: Repeats) -> Iterator[tuple[int, Document]]:
        if self.doubtful is not None:
            yield from self.doubtful.undecided(task)
            return
        part = partitioned.part_of(task)
        for position, wet_file in enumerate(self.repeated.wet_files if repeats.size else ()):
            path = files.join(self.repeated.read_dir, wet_file + DOCUMENTS)
            for content in partitioned.split(partitioned.chunks(path, part)):
                if duplicates.is_repeated(partitioned.numbers(content), position, repeats).any():
                    yield position, partitioned.unpack(content, wet_file)


def _decide(left_open: UndecidedStage) -> tuple[str, int]:
    """Goes through the open documents, in order; returns prefix and runs of those that are dropped."""
    settings = left_open.repeated.settings
    documents = [entry for task in left_open.sizes() for entry in left_open.undecided(task)]
    documents.sort(key=lambda entry: (entry[0], entry[1].numbers))
    held: set[bytes] = set()
    prefix = left_open.path("decided", "")
    dropped = ParagraphHashes(prefix, settings)
    for position, document in documents:
        digests = dropped.digests(document)
        taken = {number for number, digest in digests if digest in held}
        left = duplicates.without(document, [number in taken for number in document.numbers], settings)
        if isinstance(left, str):
            dropped.add(position, document)
        else:
            held.update(digest for _, digest in digests)
    return prefix, dropped.close()["runs"]
