"""Stage 4: the list of the paragraphs of a corpus, from which it can be built again.

    <write>/<task>.listed      paragraphs of a token shard, in partitions by WET file
    <list>/<task>.rows         rows of some WET files, see lists.py
    <corpus>/paragraph_ids.csv all rows, and beside it their checksum

A task is a range of WET files: it gathers their paragraphs from all token shards.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tf_codistill import files
from tf_codistill.corpus.document import Document
from tf_codistill.corpus.paragraph_ids import lists
from tf_codistill.corpus.stages import partitioned
from tf_codistill.jobs.stages import Advance, Stage

LIST = "paragraph_ids.csv"
"""Name of the list of the paragraphs of a corpus."""

FILES = (LIST, LIST + lists.CHECKSUM)
"""Names of the list and of the file with its checksum."""

_NUMBER = np.dtype("<u4")
_ROWS = ".rows"
_NUMBERS_PER_TASK = 10_000_000  # 40 MB, and some times that as text


class Listed:
    """Gathers the paragraphs of a token shard; has the names of all WET files."""

    def __init__(self, wet_files: Sequence[str]) -> None:
        self._positions = {wet_file: position for position, wet_file in enumerate(wet_files)}
        self._holders, self._numbers = array("I"), array("I")

    def add(self, documents: Iterable[Document]) -> None:
        """Adds the paragraphs of documents."""
        for document in documents:
            self._numbers.extend(document.numbers)
            self._holders.extend([self._positions[document.wet_file]] * len(document.numbers))

    def write(self, path: str) -> int:
        """Writes them in partitions by WET file; returns how many there are."""
        holders, numbers = (np.array(values, _NUMBER) for values in (self._holders, self._numbers))
        partitioned.write_sorted(path, holders, numbers, len(self._positions))
        return len(numbers)


@dataclasses.dataclass(frozen=True)
class ListStage(Stage):
    """Lists the paragraphs of a corpus; a task is a range of WET files.

    Attributes:
        wet_files: Names of all WET files, in order.
        listed: Path of what `Listed.write` wrote of each token shard.
        num_paragraphs: Their number.
    """

    title = "listing paragraphs"
    unit = "paragraphs"
    units_per_process = 1_000_000

    wet_files: Sequence[str]
    listed: Sequence[str]
    num_paragraphs: int

    def sizes(self) -> Mapping[str, int]:
        """The tasks with the number of paragraphs expected in each."""
        return partitioned.shares(self._ranges(), len(self.wet_files), self.num_paragraphs)

    def do(self, task: str, advance: Advance) -> Mapping[str, Any]:
        """Writes the rows of a range of WET files."""
        span = self._ranges()[task]
        by_shard = [partitioned.read_each(path, span.start, span.stop) for path in self.listed]
        contents = map(b"".join, zip(*by_shard, strict=True))
        numbers = [np.sort(np.frombuffer(content, _NUMBER)) for content in contents]
        rows = list(zip(self.wet_files[span.start : span.stop], numbers, strict=True))
        files.write(self.path(task, _ROWS), lists.encode(rows))
        advance(self.sizes()[task])
        return {"paragraphs": sum(map(len, numbers))}

    def write(self, directory: str, is_unwrapped: bool = False) -> None:
        """Writes `FILES` into the directory of the corpus, once all tasks are done; see `lists.write`."""
        rows = (files.read(self.path(task, _ROWS)) for task in self.sizes())
        lists.write(files.join(directory, LIST), rows, is_unwrapped)

    def _ranges(self) -> dict[str, range]:
        return partitioned.ranges(len(self.wet_files), self.num_paragraphs, _NUMBERS_PER_TASK)
