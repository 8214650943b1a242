"""What is counted of the training rows, segment by segment, and the preprocessing that follows from it.

    counted = Counted(settings)
    counted.add(rows)                           for each block of a segment
    counted.save(path)                          numbers; and categories in pieces beside it

    moments + histograms of all segments   -> NumericColumn: mean, deviation, quantile boundaries
    categories of all segments, one column -> vocabulary-07.txt

Everything is a sum over rows, so that it does not matter who counts which segment. A histogram has cells of
1 / 2048 of a number's size: whole numbers below 4096 are kept apart, and it can never be larger than that.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from tf_codistill import files
from tf_codistill.tables.preprocessing import NumericColumn, logarithms
from tf_codistill.tables.rows import RowValues
from tf_codistill.tables.schema import TableSettings

_CELL_BITS = 41  # of a float64; left are 11 of its fraction
_MAX_VALUES = 1 << 21  # distinct categories of all columns that are held before a piece is written
_COUNTED = pa.schema([("column", pa.int16()), ("value", pa.binary()), ("count", pa.int64())])

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


class Numbers:
    """Moments and histogram of one numeric column.

    Attributes:
        moments: Number of values, mean and sum of squared deviations of their logarithms.
        cells: Cells of the histogram, increasing, int64 [H].
        counts: How many values each holds, int64 [H].
    """

    def __init__(self) -> None:
        self.moments = np.zeros(3)
        self.cells, self.counts = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def add(self, numbers: Float64Array) -> None:
        """Counts numbers, of which none is missing."""
        if not len(numbers):
            return
        found = logarithms(numbers)
        mean = found.mean()
        cells, counts = np.unique(_cells(numbers), return_counts=True)
        self.merge(np.array([len(found), mean, ((found - mean) ** 2).sum()]), cells, counts)

    def merge(self, moments: Float64Array, cells: Int64Array, counts: Int64Array) -> None:
        """Adds what was counted of other rows."""
        (one, mean, squares), (other, other_mean, other_squares) = self.moments, moments
        total = one + other
        if not other:
            return
        change = other_mean - mean
        squares += other_squares + change**2 * one * other / total
        self.moments = np.array([total, mean + change * other / total, squares])
        cells, inverse = np.unique(np.concatenate([self.cells, cells]), return_inverse=True)
        sums = np.zeros(len(cells), np.int64)
        np.add.at(sums, inverse, np.concatenate([self.counts, counts]))
        self.cells, self.counts = cells, sums

    def column(self, name: str, num_buckets: int) -> NumericColumn:
        """What follows for the preprocessing.

        Args:
            name: The column.
            num_buckets: Most quantile buckets.

        Returns:
            Mean, deviation and boundaries.
        """
        number, mean, squares = self.moments.tolist()
        deviation = float(np.sqrt(squares / number)) if number else 0.0
        is_constant = deviation <= 1e-12 * max(1.0, abs(mean))
        return NumericColumn(name, mean, 1.0 if is_constant else deviation, self._boundaries(num_buckets))

    def _boundaries(self, num_buckets: int) -> tuple[float, ...]:
        if num_buckets < 2 or not len(self.cells):
            return ()
        sums = np.cumsum(self.counts)
        wanted = sums[-1] * np.arange(1, num_buckets) / num_buckets
        last = np.unique(np.searchsorted(sums, wanted))  # the last cell of each bucket
        last = last[last < len(self.cells) - 1]
        upper, lower = _edges(self.cells[last])[1], _edges(self.cells[last + 1])[0]
        return tuple(np.unique(upper / 2 + lower / 2).tolist())


class Counted:
    """What is counted of the rows of a segment.

    Args:
        settings: What is counted.
        stem: Path without ending of the files that hold the result.
    """

    def __init__(self, settings: TableSettings, stem: str) -> None:
        self._stem, self._num_pieces, self._num_values = stem, 0, 0
        self._numbers = [Numbers() for _ in settings.schema.numeric]
        names = enumerate(settings.schema.categorical)
        self._values: dict[int, list[pa.Table]] = {
            i: [] for i, name in names if settings.buckets_of(name) is None
        }

    def add(self, rows: RowValues) -> None:
        """Counts rows.

        Args:
            rows: Good rows of training.
        """
        for index, numbers in enumerate(self._numbers):
            column = rows.numbers[:, index]
            numbers.add(column[~np.isnan(column)])
        for index, tables in self._values.items():
            found = pc.value_counts(rows.categories[index].drop_null())
            self._num_values += len(found)
            tables.append(pa.table({"value": found.field("values"), "count": found.field("counts")}))
        if self._num_values > _MAX_VALUES:
            self._compact()
            if self._num_values > _MAX_VALUES // 2:
                self._write_piece()

    def save(self) -> int:
        """Writes what was counted.

        Returns:
            How many pieces there are of the categories.
        """
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {}
        for index, numbers in enumerate(self._numbers):
            found = (numbers.moments, numbers.cells, numbers.counts)
            arrays |= {f"{index}-{name}": one for name, one in zip(_NUMBER_ARRAYS, found, strict=True)}
        np.savez(buffer, **arrays)
        files.write(self._stem + ".npz", buffer.getvalue())
        self._compact()
        self._write_piece()
        return self._num_pieces

    def _compact(self) -> None:
        self._values = {index: [summed(tables)] for index, tables in self._values.items() if tables}
        self._num_values = sum(len(tables[0]) for tables in self._values.values())

    def _write_piece(self) -> None:
        buffer = io.BytesIO()
        with parquet.ParquetWriter(buffer, _COUNTED, use_dictionary=False) as writer:
            for index, tables in self._values.items():
                table = pa.concat_tables(tables)
                columns = [pa.array(np.full(len(table), index, np.int16)), *table.columns]
                writer.write_table(pa.table(columns, schema=_COUNTED))
        files.write(f"{self._stem}.counts-{self._num_pieces:05d}", buffer.getvalue())
        self._num_pieces, self._num_values = self._num_pieces + 1, 0
        self._values = {index: [] for index in self._values}


_NUMBER_ARRAYS = ("moments", "cells", "counts")


def numeric_columns(settings: TableSettings, stems: Iterable[str]) -> list[NumericColumn]:
    """What is known of the numbers once all segments are counted.

    Args:
        settings: Their names and buckets.
        stems: Of the segments, in order.

    Returns:
        One for each numeric column.
    """
    all_numbers = [Numbers() for _ in settings.schema.numeric]
    for stem in stems:
        with np.load(io.BytesIO(files.read(stem + ".npz"))) as arrays:
            for index, numbers in enumerate(all_numbers):
                numbers.merge(*(arrays[f"{index}-{name}"] for name in _NUMBER_ARRAYS))
    named = zip(settings.schema.numeric, all_numbers, strict=True)
    return [numbers.column(name, settings.num_buckets) for name, numbers in named]


def counts_of(column: int, pieces: Sequence[str], name: str, max_distinct: int) -> pa.Table:
    """How often each category of a column occurs in training.

    Args:
        column: Index among the categorical columns.
        pieces: Paths of what segments have counted.
        name: Name of the column.
        max_distinct: Most different categories.

    Returns:
        Columns ``value`` and ``count``.

    Raises:
        ValueError: There are more.
    """
    tables, num_waiting, num_distinct = [_COUNTED.empty_table().select(["value", "count"])], 0, 0
    for piece in pieces:
        with parquet.ParquetFile(io.BytesIO(files.read(piece)) if files.is_remote(piece) else piece) as file:
            for group in range(file.num_row_groups):
                if file.metadata.row_group(group).column(0).statistics.min == column:
                    tables.append(file.read_row_group(group, columns=["value", "count"]))
                    num_waiting += len(tables[-1])
        if num_waiting > max(_MAX_VALUES, num_distinct) or piece == pieces[-1]:
            tables, num_waiting = [summed(tables)], 0
            num_distinct = len(tables[0])
        if num_distinct > max_distinct:
            raise ValueError(
                f"column {name!r} has more than max_distinct = {max_distinct:,} different categories, too "
                "many for "
                f"a vocabulary; hash it, as by TableSettings.hash_buckets = {{{name!r}: 1_000_000}}, or "
                "set a larger "
                "TableSettings.max_distinct, which takes about 100 bytes of memory each"
            )
    return tables[0]


def vocabulary(counts: pa.Table, min_count: int) -> list[bytes]:
    """The words that occur often enough.

    Args:
        counts: What `counts_of` returns.
        min_count: How often.

    Returns:
        The most common first, equally common ones in the order of their bytes.
    """
    kept = counts.filter(pc.greater_equal(counts["count"], min_count))
    return kept.sort_by([("count", "descending"), ("value", "ascending")])["value"].to_pylist()


def summed(tables: Sequence[pa.Table]) -> pa.Table:
    """Counts of several tables added up."""
    table = pa.concat_tables(tables).group_by("value", use_threads=False).aggregate([("count", "sum")])
    return table.select(["value", "count_sum"]).rename_columns(["value", "count"])


def _cells(numbers: Float64Array) -> Int64Array:
    cells = np.abs(numbers).view(np.int64) >> _CELL_BITS
    return np.where(numbers < 0, -1 - cells, cells)


def _edges(cells: Int64Array) -> tuple[Float64Array, Float64Array]:
    """The lowest and highest number of cells."""
    sizes = np.where(cells < 0, -1 - cells, cells)
    inner = (sizes << _CELL_BITS).view(np.float64)
    outer = ((sizes + 1) << _CELL_BITS).view(np.float64)
    return np.where(cells < 0, -outer, inner), np.where(cells < 0, -inner, outer)
