r"""What the columns of a table are, and how they are prepared: what a gin file says.

    TableSchema(label="late", numeric=["distance"], categorical=["carrier", "dest"])     CSV with a header
    criteo_schema()                             label \t I1 ... I13 \t C1 ... C26, without one

A gin file says the same:

    TableSettings.schema = @TableSchema()
    TableSchema.label = "late"
    TableSchema.numeric = ["hour", "distance"]
    TableSchema.categorical = ["carrier", "dest"]

Parquet files have their own names of columns; of the rest only `missing` matters there. `TableSettings` says
how a table of such columns is prepared:

    TableSettings.min_count = 10
    TableSettings.hash_buckets = {"C3": 1_000_000}
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gin

from tf_codistill import settings

_LEAST = {"min_count": 1, "num_buckets": 0, "max_distinct": 1, "range_bytes": 1 << 10, "max_kept_rows": 1}
_LISTS = ("numeric", "categorical", "columns", "missing")


@gin.configurable(module="tf_codistill")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TableSchema:
    """The columns of a table.

    Attributes:
        label: Column that is predicted: 0 or 1.
        numeric: Columns that hold numbers.
        categorical: Columns that hold categories, each value a byte string.
        separator: What stands between two fields of a line, one character.
        header: Whether the first line of each file names its columns; further ones are passed over.
        columns: Names of all columns in their order where there is no header; label, numbers, categories if
            not given.
        min_columns: A line may lack fields at its end, which are missing then, but has at least so many; by
            default all must be there.
        quoted: Whether a field may stand in double quotes, so that it may hold the separator.
        missing: What stands in a field whose value is missing.

    Raises:
        ValueError: A name is given twice, or a value is out of range.
    """

    label: str
    numeric: Sequence[str]
    categorical: Sequence[str]
    separator: str = ","
    header: bool = True
    columns: Sequence[str] | None = None
    min_columns: int | None = None
    quoted: bool = True
    missing: Sequence[str] = ("",)

    def __post_init__(self) -> None:
        """Checks the values."""
        settings.check_types(self)
        for name in _LISTS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if not (self.numeric or self.categorical):
            raise ValueError("numeric and categorical are both empty; name at least one column")
        twice = [name for name, count in collections.Counter(self.used).items() if count > 1]
        if twice:
            raise ValueError(
                f"columns {twice} are named twice among label, numeric and categorical; name each once"
            )
        if len(self.separator) != 1 or self.separator in '"\r\n' or not self.separator.isascii():
            raise ValueError(
                f"separator is {self.separator!r}; expected one ASCII character such as ',' or '\\t', no "
                "quote"
            )
        if self.header and self.columns is not None:
            raise ValueError(
                "columns are given, but with header=True each file names them; leave one of them out"
            )
        if absent := sorted(set(self.used) - set(self.in_order)):
            raise ValueError(f"columns lacks {absent}, which are used as label, numeric or categorical")
        if self.min_columns is not None and not 1 <= self.min_columns <= len(self.in_order):
            raise ValueError(
                f"min_columns is {self.min_columns}; expected 1 to {len(self.in_order)}, the number of "
                "columns"
            )

    @property
    def used(self) -> tuple[str, ...]:
        """The label, the numbers and the categories."""
        return (self.label, *self.numeric, *self.categorical)

    @property
    def in_order(self) -> tuple[str, ...]:
        """The columns of a file without header; with one those that are used."""
        return tuple(self.columns or self.used)

    @property
    def served(self) -> tuple[str, ...]:
        """The columns of a row that a trained model is asked about: all but the label, as a file has them."""
        return tuple(name for name in self.in_order if name in self.used and name != self.label)

    @property
    def min_served(self) -> int:
        """How many fields such a row has at least."""
        if self.min_columns is None:
            return len(self.served)
        return sum(name in self.served for name in self.in_order[: self.min_columns])

    def describe(self) -> dict[str, Any]:
        """The schema as JSON takes it.

        Returns:
            Values by name.
        """
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@gin.configurable(module="tf_codistill")
def criteo_schema() -> TableSchema:
    """The layout of Criteo's click logs: label, 13 integers and 26 hashed categories between tabs.

    Returns:
        The schema. Trailing empty fields may have been stripped, but not the first category, which is always
        there.
    """
    return TableSchema(
        label="label",
        numeric=[f"I{number}" for number in range(1, 14)],
        categorical=[f"C{number}" for number in range(1, 27)],
        separator="\t",
        header=False,
        min_columns=15,
        quoted=False,
    )


@gin.configurable(module="tf_codistill")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TableSettings:
    """How a table is prepared.

    Attributes:
        schema: Its columns.
        validation_share: Share of the rows held out for validation: those after the training rows. Not used
            where files are named for validation or test.
        test_share: Share of the rows held out for the test: the last ones. Not used there either.
        min_count: A category that training has less often is out of vocabulary.
        hash_buckets: Buckets into which categories are hashed in place of a vocabulary: for columns by name,
            or one number for all; by default every column gets a vocabulary.
        num_buckets: Quantile buckets of each number as a further category; 1 only says whether the number is
            missing, 0 makes no such categories.
        max_distinct: A column with more different categories in training cannot get a vocabulary.
        max_bad_share: The preparation stops before it fits when a larger share of the lines is rejected.
        expected_rows: How many rows all files together have, the rejected ones included; not checked by
        default.
        range_bytes: A file that is not compressed is read in parts of so many bytes, which can be done by
            several processes.
        max_kept_rows: Of each part no more rejected rows are kept for people to look at; all are counted.

    Raises:
        ValueError: A value is out of range, or `hash_buckets` names no categorical column.
    """

    schema: TableSchema
    validation_share: float = 0.1
    test_share: float = 0.1
    min_count: int = 10
    hash_buckets: int | Mapping[str, int] | None = None
    num_buckets: int = 1
    max_distinct: int = 20_000_000
    max_bad_share: float = 0.01
    expected_rows: int | None = None
    range_bytes: int = 1 << 26
    max_kept_rows: int = 1000

    def __post_init__(self) -> None:
        """Checks the values."""
        settings.check_types(self)
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}")
        for name in ("validation_share", "test_share", "max_bad_share"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 to less than 1, as 0.1")
        if self.validation_share + self.test_share >= 1.0:
            raise ValueError(
                f"validation_share {self.validation_share} and test_share {self.test_share} leave nothing "
                "for "
                "training; expected less than 1 together"
            )
        hashed = self.hash_buckets if isinstance(self.hash_buckets, Mapping) else {}
        if unknown := sorted(set(hashed) - set(self.schema.categorical)):
            raise ValueError(
                f"hash_buckets names {unknown}; expected some of {list(self.schema.categorical)}"
            )
        for column in self.schema.categorical:
            buckets = self.buckets_of(column)
            if buckets is not None and not 1 <= buckets < (1 << 31) - 2:
                raise ValueError(f"hash_buckets of {column!r} is {buckets}; expected at least 1, as 100_000")

    def buckets_of(self, column: str) -> int | None:
        """Into how many buckets a column is hashed.

        Args:
            column: A categorical column.

        Returns:
            Their number, or None if it gets a vocabulary.
        """
        if isinstance(self.hash_buckets, Mapping):
            return self.hash_buckets.get(column)
        return self.hash_buckets

    def describe(self) -> dict[str, Any]:
        """Those settings that decide about the result, as JSON takes them.

        Returns:
            Values by name.
        """
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        hashed = dict(self.hash_buckets) if isinstance(self.hash_buckets, Mapping) else self.hash_buckets
        del values["expected_rows"]
        return {**values, "schema": self.schema.describe(), "hash_buckets": hashed}
