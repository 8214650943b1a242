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
    <doubtful>/<task>.dropped       hashes of what cannot be kept, see `duplicates.ParagraphHashes`
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from tf_codistill import files
from tf_codistill.corpus.document import Document
from tf_codistill.corpus.stages import duplicates, partitioned
from tf_codistill.corpus.stages.duplicates import DuplicatesStage, ParagraphHashes, Repeats
from tf_codistill.corpus.stages.reading import DOCUMENTS
from tf_codistill.jobs import stages
from tf_codistill.jobs.stages import Advance, Stage

_DROPPED = ".dropped"
_CHUNK_BYTES = 1 << 22


def find(
    repeated: DuplicatesStage, num_documents: int, engine: stages.Engine
) -> tuple[DuplicatesStage, dict[str, dict[str, Any]]]:
    """Finds what to take away.

    Args:
        repeated: Stage 2, with no document dropped as yet.
        num_documents: Number of documents that stage 1 has left.
        engine: What runs the tasks.

    Returns:
        Stage 2 with those documents dropped that are to be, done; and the facts of its tasks.
    """
    facts = stages.run(repeated, engine)
    if not any(task["repeats"] for task in facts.values()):
        return repeated, facts
    doubtful = UndecidedStage(files.join(repeated.directory, "doubtful"), repeated, num_documents)
    number = _number_of(stages.run(doubtful, engine))
    if not number:
        return repeated, facts
    without_doubtful = dataclasses.replace(
        repeated, directory=files.join(repeated.directory, "without-doubtful"), dropped=doubtful.dropped
    )
    facts = stages.run(without_doubtful, engine)
    left_open = UndecidedStage(files.join(repeated.directory, "open"), without_doubtful, number, doubtful)
    if not _number_of(stages.run(left_open, engine)):
        return without_doubtful, facts
    dropped = (*left_open.dropped, _decide(left_open))
    decided = dataclasses.replace(
        repeated, directory=files.join(repeated.directory, "decided"), dropped=dropped
    )
    return decided, stages.run(decided, engine)


@dataclasses.dataclass(frozen=True)
class UndecidedStage(Stage):
    """Finds documents of which nobody can say yet whether they are kept; a task is a token shard.

    Attributes:
        directory: The folder of its results.
        repeated: What would be taken away.
        num_documents: Number of documents that are not decided so far.
        doubtful: The stage that has left them; None if none was before, and all documents of stage 1 are.
    """

    title = "looking for copies"
    unit = "documents"
    units_per_process = 10_000
    preload = ("tf_codistill.corpus.stages.writing",)

    directory: str
    repeated: DuplicatesStage
    num_documents: int
    doubtful: UndecidedStage | None = None

    def sizes(self) -> Mapping[str, int]:
        """The tasks with the number of documents expected in each."""
        num_parts = self.repeated.settings.num_parts
        return {partitioned.task_of(part): self.num_documents // num_parts for part in range(num_parts)}

    def do(self, task: str, advance: Advance) -> Mapping[str, Any]:
        """Judges what would be left of documents of a token shard."""
        part, settings, number = partitioned.part_of(task), self.repeated.settings, 0
        repeats = self.repeated.repeats(part)
        with files.scratch(self.directory) as file, files.writing(self.path(task, DOCUMENTS)) as undecided:
            dropped = ParagraphHashes(file, settings)
            undecided.write(b"")  # a file without documents is a file, too
            for position, document in self._documents(part, repeats):
                repeated = duplicates.is_repeated(document.numbers, position, repeats)
                left = duplicates.without(document, repeated, settings)
                is_dropped = isinstance(left, str)
                if is_dropped:
                    dropped.add(position, document)
                # In doubt is who is dropped if the most is taken away, or kept if the least is.
                if is_dropped == (self.doubtful is None):
                    kept = document if isinstance(left, str) else left
                    undecided.write(
                        partitioned.pack(position.to_bytes(partitioned.KEY_DIGITS // 2, "big"), kept)
                    )
                    number += 1
            dropped.write(self.path(task, _DROPPED))
        advance(self.sizes()[task])
        return {"undecided": number}

    @property
    def dropped(self) -> tuple[str, ...]:
        """Files with the paragraphs of the documents that are dropped if so much is taken away."""
        return tuple(self.path(task, _DROPPED) for task in self.sizes())

    def undecided(self, part: int) -> Iterator[tuple[int, Document]]:
        """The documents of a token shard of which nobody can say yet whether they are kept.

        Args:
            part: Number of the shard, see `CorpusSettings.part`.

        Yields:
            Position of the WET file, and the document.
        """
        for content in partitioned.split(_chunks(self.path(partitioned.task_of(part), DOCUMENTS))):
            position = int(content[: partitioned.KEY_DIGITS], 16)
            yield position, partitioned.unpack(content, self.repeated.wet_files[position])

    def _documents(self, part: int, repeats: Repeats) -> Iterator[tuple[int, Document]]:
        if self.doubtful is not None:
            yield from self.doubtful.undecided(part)
            return
        for position, wet_file in enumerate(self.repeated.wet_files if repeats.size else ()):
            path = files.join(self.repeated.read_dir, wet_file + DOCUMENTS)
            for content in partitioned.split(partitioned.chunks(path, part)):
                if duplicates.is_repeated(partitioned.numbers(content), position, repeats).any():
                    yield position, partitioned.unpack(content, wet_file)


def _decide(left_open: UndecidedStage) -> str:
    """Goes through the open documents, in order; returns the file with the paragraphs of those dropped."""
    settings = left_open.repeated.settings
    documents = [entry for part in range(settings.num_parts) for entry in left_open.undecided(part)]
    documents.sort(key=lambda entry: (entry[0], entry[1].numbers))
    held: set[bytes] = set()
    path = left_open.path("decided", _DROPPED)
    with files.scratch(left_open.directory) as file:
        dropped = ParagraphHashes(file, settings)
        for position, document in documents:
            digests = dropped.digests(document)
            taken = {number for number, digest in digests if digest in held}
            left = duplicates.without(document, [number in taken for number in document.numbers], settings)
            if isinstance(left, str):
                dropped.add(position, document)
            else:
                held.update(digest for _, digest in digests)
        dropped.write(path)
    return path


def _number_of(facts: Mapping[str, Mapping[str, Any]]) -> int:
    return sum(task["undecided"] for task in facts.values())


def _chunks(path: str) -> Iterator[bytes]:
    start = 0
    while chunk := files.read(path, start, _CHUNK_BYTES):
        yield chunk
        start += len(chunk)
