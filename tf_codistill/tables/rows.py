"""Rows between file and table: the values of good ones, and what is wrong with the others.

    rejected = Rejected(number=5)
    rejected.add(np.array([1, 3]), "empty_line", lambda index: "the line is empty")
    rejected.counts                    {"empty_line": 2}
    rejected.first(line)               [BadRow(1, "empty_line", ...), BadRow(3, ...)]

Everything is counted; of what is kept for people to look at there is a limit.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

MAX_KEPT_BYTES = 1 << 16
"""Of a rejected row no more is kept."""

_MAX_REASONS = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class RowValues:
    """Values of good rows.

    Attributes:
        labels: 0 or 1, float32 [R].
        numbers: NaN where missing, float64 [R, N].
        categories: For each column its values as bytes, null where missing, [R].
    """

    labels: npt.NDArray[np.float32]
    numbers: npt.NDArray[np.float64]
    categories: list[pa.Array]

    def __len__(self) -> int:
        return len(self.labels)

    def slice(self, start: int, stop: int) -> RowValues:
        """Some of the rows.

        Args:
            start: The first one.
            stop: The first one after them.

        Returns:
            Rows ``start`` to ``stop - 1``.
        """
        categories = [column.slice(start, max(stop - start, 0)) for column in self.categories]
        return RowValues(self.labels[start:stop], self.numbers[start:stop], categories)


@dataclasses.dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        line: Its line, or row in Parquet, from 0 in what was parsed.
        kind: What is wrong, in a word.
        reason: The same in a sentence.
        content: The row, its first bytes.
    """

    line: int
    kind: str
    reason: str
    content: bytes


class Rejected:
    """What is wrong with rows, the first reason for each.

    Args:
        number: How many rows there are.

    Attributes:
        is_bad: Which ones are rejected, bool [R].
    """

    def __init__(self, number: int) -> None:
        self.is_bad = np.zeros(number, np.bool_)
        self._kinds: dict[int, tuple[str, str]] = {}
        self._counts: collections.Counter[str] = collections.Counter()

    def add(self, rows: npt.NDArray[np.int64], kind: str, reasons: Callable[[int], str]) -> None:
        """Rejects rows, unless they are already.

        Args:
            rows: Their indices.
            kind: What is wrong with them.
            reasons: A function from the index among `rows` to a sentence.
        """
        new = np.flatnonzero(~self.is_bad[rows])
        self.is_bad[rows] = True
        self._counts[kind] += len(new)
        for index in new[:_MAX_REASONS].tolist():
            self._kinds[int(rows[index])] = (kind, reasons(index))

    @property
    def counts(self) -> dict[str, int]:
        """How many rows are rejected, by kind."""
        return {kind: number for kind, number in sorted(self._counts.items()) if number}

    def first(self, contents: Callable[[int], bytes]) -> list[BadRow]:
        """The first rejected rows.

        Args:
            contents: A function from the index of a row to its bytes.

        Returns:
            At least the first thousand of each kind, in order.
        """
        return [
            BadRow(row, kind, reason, contents(row)[:MAX_KEPT_BYTES])
            for row, (kind, reason) in sorted(self._kinds.items())
        ]


@dataclasses.dataclass(frozen=True, slots=True)
class Parsed:
    """What became of some lines.

    Attributes:
        rows: The good ones.
        num_lines: How many there were.
        num_short: How many of the good ones lack fields at their end.
        counts: How many are rejected, by kind.
        bad: The first rejected ones.
    """

    rows: RowValues
    num_lines: int
    num_short: int
    counts: Mapping[str, int]
    bad: list[BadRow]
