"""The stages of a preparation: scan segments, make vocabularies, encode segments.

scan        segment  -> counts of good and bad rows; of training what `fitting` counts
fit         the one segment of which only a part belongs to training, anew
vocabulary  column   -> its vocabulary
encode      segment  -> shards, one for each part that has rows of it
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tf_codistill import files
from tf_codistill.jobs.stages import Advance, Stage
from tf_codistill.jobs.written import Written
from tf_codistill.tables import fitting, lines, shards
from tf_codistill.tables.preprocessing import Preprocessing
from tf_codistill.tables.rows import BadRow, Parsed, RowValues
from tf_codistill.tables.schema import TableSettings
from tf_codistill.tables.sources import Reader, Segment

BAD = ".bad.jsonl"
"""Ending of the file that has the rejected rows of a segment, their lines counted from its own first."""

_PRELOAD = ("tf_codistill.tables.stages",)


class ChangedFileError(ValueError):
    """A file is not what it was when it was scanned."""


@dataclasses.dataclass(frozen=True)
class ScanStage(Stage):
    """Reads segments, and counts.

    Attributes:
        directory: The folder of its results.
        settings: The columns, and what is counted.
        segments: What is read, by name.
        max_rows: Of how many good rows of a segment the values are counted; of one that it does not name,
        all.
    """

    title = "scanning"
    unit = "bytes"
    units_per_process = 1 << 22
    preload = _PRELOAD

    settings: TableSettings
    segments: Mapping[str, Segment]
    max_rows: Mapping[str, int]

    def sizes(self) -> Mapping[str, int]:
        """The segments with their bytes."""
        return {name: segment.num_bytes for name, segment in self.segments.items()}

    def do(self, task: str, advance: Advance) -> Mapping[str, Any] | None:
        """Scans a segment."""
        reader = Reader(self.segments[task], self.settings.schema)
        counted = fitting.Counted(self.settings, self.path(task, ""))
        left = self.max_rows.get(task)
        counts: collections.Counter[str] = collections.Counter()
        kinds: collections.Counter[str] = collections.Counter()
        kept: list[dict[str, Any]] = []
        damage = ""
        try:
            for parsed in reader.parsed(advance):
                kept += list(_numbered(parsed, counts["lines"]))[: self.settings.max_kept_rows - len(kept)]
                rows = parsed.rows
                counts.update(lines=parsed.num_lines, rows=len(rows), short=parsed.num_short)
                counts["positive"] += int(rows.labels.sum())
                kinds.update(parsed.counts)
                counted.add(rows if left is None else rows.slice(0, left))
                left = None if left is None else max(left - len(rows), 0)
        except lines.DamagedFileError as error:
            damage = str(error)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
        files.write(self.path(task, BAD), text.encode("utf-8", "replace"))
        facts = {name: counts[name] for name in ("lines", "rows", "short", "positive")}
        return {
            **facts,
            "bad": dict(kinds),
            "damage": damage,
            "pieces": counted.save(),
            "sha256": reader.sha256,
        }

    def pieces(self, task: str, facts: Mapping[str, Any]) -> list[str]:
        """Paths of what was counted of the categories of a segment."""
        return [self.path(task, f".counts-{number:05d}") for number in range(facts["pieces"])]


def _numbered(parsed: Parsed, first: int) -> Iterator[dict[str, Any]]:
    for row in parsed.bad:
        yield dataclasses.asdict(BadRow(row.line + first, row.kind, row.reason, b"")) | {
            "content": _text(row)
        }


def _text(row: BadRow) -> str:
    return row.content.decode("utf-8", "backslashreplace")


@dataclasses.dataclass(frozen=True)
class VocabularyStage(Stage):
    """Makes the vocabulary of each column that gets one.

    Attributes:
        directory: The folder of its results.
        settings: The columns, and how often a word has to occur.
        pieces: Paths of what was counted of all segments.
    """

    title = "counting categories"
    unit = "columns"
    units_per_process = 4
    preload = _PRELOAD

    settings: TableSettings
    pieces: Sequence[str]

    def sizes(self) -> Mapping[str, int]:
        """The columns."""
        columns = enumerate(self.settings.schema.categorical)
        return {f"{index:02d}": 1 for index, name in columns if self.settings.buckets_of(name) is None}

    def do(self, task: str, advance: Advance) -> Mapping[str, Any] | None:
        """Makes a vocabulary."""
        index = int(task)
        name = self.settings.schema.categorical[index]
        counts = fitting.counts_of(index, self.pieces, name, self.settings.max_distinct)
        found = fitting.vocabulary(counts, self.settings.min_count)
        path = self.path(f"vocabulary-{task}", ".txt")
        files.write(path, b"".join(word + b"\n" for word in found))
        advance(1)
        return {"size": len(found), "distinct": len(counts), "sha256": files.checksum(path)}


@dataclasses.dataclass(frozen=True)
class EncodeStage(Stage):
    """Encodes segments.

    Attributes:
        directory: The folder of its facts.
        settings: The columns.
        segments: What is read, by name.
        pieces: For each segment in order its rows by part: name of the part, first and last but one of its
            rows in the segment.
        checksums: What was read when the segments were scanned.
        preprocessing: Directory of what the rows are encoded with.
        output: Where the shards go.
    """

    title = "encoding"
    unit = "bytes"
    units_per_process = 1 << 22
    preload = _PRELOAD

    settings: TableSettings
    segments: Mapping[str, Segment]
    pieces: Mapping[str, Sequence[tuple[str, int, int]]]
    checksums: Mapping[str, str]
    preprocessing: str
    output: Written

    def sizes(self) -> Mapping[str, int]:
        """The segments with their bytes."""
        return {name: segment.num_bytes for name, segment in self.segments.items()}

    def do(self, task: str, advance: Advance) -> Mapping[str, Any] | None:
        """Encodes a segment."""
        segment = self.segments[task]
        reader = Reader(segment, self.settings.schema)
        encoder, pieces = Preprocessing.load(self.preprocessing), self.pieces[task]
        rows = Waiting(parsed.rows for parsed in reader.parsed(advance))
        facts: list[dict[str, Any]] = []
        for part, start, stop in pieces:
            num_positive, name = 0, f"{part}-{task}{shards.ENDING}"
            with files.writing(self.output.claim(name)) as file:
                file.write(b"")
                for found in rows.take(stop - start):
                    num_positive += int(found.labels.sum())
                    file.write(encoder.encode(found).astype(shards.ROW_DTYPE).tobytes())
            facts.append({"part": part, "name": name, "num_rows": stop - start, "num_positive": num_positive})
        if rows.num_missing or rows.num_left() or reader.sha256 != self.checksums[task]:
            raise ChangedFileError(f"file {segment.path!r} has changed since it was scanned; run this again")
        names = [one["name"] for one in facts]
        paths = [files.join(self.output.directory, name) for name in names]
        return {
            "shards": facts,
            "files": dict(zip(names, map(files.metadata_of, paths), strict=True)),
        }


class Waiting:
    """Rows that arrive in blocks and are taken by number.

    Args:
        blocks: The blocks.

    Attributes:
        num_missing: Rows that were wanted when there were none any more.
    """

    def __init__(self, blocks: Iterator[RowValues]) -> None:
        self.num_missing = 0
        self._blocks = blocks
        self._rows: RowValues | None = None

    def take(self, number: int) -> Iterator[RowValues]:
        """The next rows.

        Args:
            number: How many.

        Yields:
            So many rows in all.
        """
        while number:
            rows = self._rows if self._rows is not None else next(self._blocks, None)
            if rows is None:
                self.num_missing += number
                return
            found, left = rows.slice(0, number), rows.slice(number, len(rows))
            self._rows = left if len(left) else None
            number -= len(found)
            if len(found):
                yield found

    def num_left(self) -> int:
        """How many rows nobody has taken; they are gone then."""
        waiting = len(self._rows) if self._rows is not None else 0
        return waiting + sum(map(len, self._blocks))
