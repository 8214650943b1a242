"""What turns rows into the input of a model: fitted on the training rows, saved, and served with the model.

number    x -> (sign(x) log(1 + |x|) - mean) / deviation, float32; 0 where it is missing
          x -> a category: 0 missing, 2 + its quantile bucket             unless num_buckets is 0
category  v -> 0 missing, 1 out of vocabulary, 2 + its place in the vocabulary or hash bucket

<directory>/
    preprocessing.json      columns, means, boundaries, checksums, fingerprint
    vocabulary-00.txt       categories of the first column, one a line, the most common first

preprocessing = Preprocessing.load(directory)
preprocessing.encode(rows)                  int32 [R, 1 + N + C]: label and numbers are bits of float32
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tf_codistill import files
from tf_codistill.jobs.stages import fingerprint
from tf_codistill.tables.rows import RowValues
from tf_codistill.tables.schema import TableSchema

NAME = "preprocessing.json"
MISSING, UNKNOWN, FIRST = 0, 1, 2
"""Ids of a missing category, of one out of vocabulary, and the first of all others."""

_VERSION = 1

Int32Array = npt.NDArray[np.int32]
Float64Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class NumericColumn:
    """How a number becomes input.

    Attributes:
        name: The column.
        mean: Of the logarithms in training.
        deviation: Their standard deviation, 1 where all are equal.
        boundaries: Between quantile buckets, increasing: a number is in the bucket whose index is how many of
            them it reaches.
    """

    name: str
    mean: float
    deviation: float
    boundaries: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class CategoryColumn:
    """How a category becomes an id.

    Attributes:
        name: The column.
        size: Words of the vocabulary, or hash buckets.
        vocabulary: Name of the file of the vocabulary; empty if categories are hashed.
        sha256: Its checksum.
    """

    name: str
    size: int
    vocabulary: str = ""
    sha256: str = ""


def logarithms(numbers: Float64Array) -> Float64Array:
    """sign(x) log(1 + |x|), NaN where the number is missing.

    Args:
        numbers: Of any shape.

    Returns:
        Their logarithms, float64 of the same shape.
    """
    return np.sign(numbers) * np.log1p(np.abs(numbers))


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """A fitted preprocessing.

    Attributes:
        directory: Where its vocabularies are.
        schema: The columns.
        numeric: What is known of the numbers.
        categorical: What is known of the categories.
        has_buckets: Whether numbers are categories, too.
    """

    directory: str
    schema: TableSchema
    numeric: Sequence[NumericColumn]
    categorical: Sequence[CategoryColumn]
    has_buckets: bool

    @property
    def cardinalities(self) -> list[int]:
        """How many ids each column of categories has: those of the table, then those of numbers."""
        buckets = [FIRST + len(column.boundaries) + 1 for column in self.numeric]
        return [FIRST + column.size for column in self.categorical] + (buckets if self.has_buckets else [])

    @property
    def width(self) -> int:
        """Values of an encoded row: label, numbers, categories."""
        return 1 + len(self.numeric) + len(self.cardinalities)

    def describe(self) -> dict[str, Any]:
        """The preprocessing as JSON takes it, without its fingerprint.

        Returns:
            Values by name.
        """
        return {
            "version": _VERSION,
            "schema": self.schema.describe(),
            "numeric": [
                {**dataclasses.asdict(one), "boundaries": list(one.boundaries)} for one in self.numeric
            ],
            "categorical": [dataclasses.asdict(one) for one in self.categorical],
            "has_buckets": self.has_buckets,
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        """Names all that the input depends on, vocabularies included."""
        return fingerprint(self.describe())

    def files(self) -> list[str]:
        """Names of its files."""
        return [NAME, *(column.vocabulary for column in self.categorical if column.vocabulary)]

    def save(self) -> None:
        """Writes what is not in the vocabularies, which are there."""
        files.write_json(
            files.join(self.directory, NAME), {**self.describe(), "fingerprint": self.fingerprint}
        )

    def copy_to(self, directory: str) -> None:
        """Copies its files to a directory, which is there; the JSON file last."""
        for name in reversed(self.files()):
            files.write(files.join(directory, name), files.read(files.join(self.directory, name)))

    @classmethod
    def load(cls, directory: str) -> Preprocessing:
        """Reads a preprocessing, and checks its vocabularies.

        Args:
            directory: Where it is.

        Returns:
            The preprocessing.

        Raises:
            ValueError: There is none, or one of another version.
            files.CorruptError: A file is damaged.
        """
        path = files.join(directory, NAME)
        if not files.exists(path):
            raise ValueError(
                f"there is no {NAME} in {directory!r}; name a directory that prepare_clicks has made"
            )
        found = files.read_json(path)
        if found.get("version") != _VERSION:
            raise ValueError(
                f"preprocessing {path!r} has version {found.get('version')!r}; this program reads "
                f"{_VERSION}: "
                "prepare the table again"
            )
        try:
            loaded = cls(
                directory,
                TableSchema(**found["schema"]),
                tuple(
                    NumericColumn(**{**one, "boundaries": tuple(one["boundaries"])})
                    for one in found["numeric"]
                ),
                tuple(CategoryColumn(**one) for one in found["categorical"]),
                found["has_buckets"],
            )
        except (KeyError, TypeError) as error:
            raise files.CorruptError(
                f"file {path!r} is damaged ({error!r}); prepare the table again"
            ) from error
        if loaded.fingerprint != found.get("fingerprint"):
            raise files.CorruptError(
                f"file {path!r} is damaged: its fingerprint is {loaded.fingerprint}, it says "
                f"{found.get('fingerprint')}"
            )
        for column in loaded.categorical:
            where = files.join(directory, column.vocabulary)
            if column.vocabulary and files.checksum(where) != column.sha256:
                raise files.CorruptError(f"vocabulary {where!r} is damaged; prepare the table again")
        return loaded

    def check_columns(self, schema: TableSchema) -> None:
        """Checks that it was fitted on the columns of a table.

        Args:
            schema: The columns of the table.

        Raises:
            ValueError: It was fitted on others.
        """
        for name in ("numeric", "categorical"):
            fitted, given = getattr(self.schema, name), getattr(schema, name)
            if fitted != given:
                raise ValueError(
                    f"the preprocessing in {self.directory!r} was fitted on {name} columns {list(fitted)}, "
                    "not "
                    f"{list(given)}; use the columns that it was fitted on, or fit another one"
                )

    def encode(self, rows: RowValues) -> Int32Array:
        """The input that rows become.

        Args:
            rows: Good rows of the columns that it was fitted on.

        Returns:
            int32 [R, `width`]: the label and the numbers as the bits of float32, then the ids.
        """
        encoded = np.empty((len(rows), self.width), np.int32)
        count = len(self.numeric)
        encoded[:, 0] = rows.labels.astype(np.float32).view(np.int32)
        for index, column in enumerate(self.numeric):
            scaled = (logarithms(rows.numbers[:, index]) - column.mean) / column.deviation
            encoded[:, 1 + index] = np.nan_to_num(scaled).astype(np.float32).view(np.int32)
        for index in range(len(self.categorical)):
            encoded[:, 1 + count + index] = self._ids(index, rows.categories[index])
        for index, column in enumerate(self.numeric if self.has_buckets else ()):
            numbers = rows.numbers[:, index]
            buckets = FIRST + np.searchsorted(column.boundaries, numbers, side="right")
            encoded[:, 1 + count + len(self.categorical) + index] = np.where(
                np.isnan(numbers), MISSING, buckets
            )
        return encoded

    def _ids(self, index: int, values: pa.Array) -> npt.NDArray[np.int64]:
        """Ids of the values of a categorical column."""
        encoded = values.dictionary_encode()
        column, distinct = self.categorical[index], encoded.dictionary
        if not len(distinct):
            return np.full(len(values), MISSING)
        if column.vocabulary:
            found = pc.index_in(distinct, self._vocabularies[index])
            ids = found.fill_null(UNKNOWN - FIRST).to_numpy(zero_copy_only=False) + FIRST
        else:
            ids = hash_buckets(distinct, column.size) + FIRST
        where = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
        return np.where(values.is_null().to_numpy(zero_copy_only=False), MISSING, ids[where])

    @functools.cached_property
    def _vocabularies(self) -> list[pa.Array]:
        return [
            pa.array(
                words(files.join(self.directory, column.vocabulary)) if column.vocabulary else [], pa.binary()
            )
            for column in self.categorical
        ]


def words(path: str) -> list[bytes]:
    """The words of a vocabulary file."""
    return files.read(path).split(b"\n")[:-1]


def hash_buckets(values: pa.Array, number: int) -> npt.NDArray[np.int64]:
    """The buckets that TensorFlow gives byte strings in the graph of a served model, too.

    Args:
        values: Byte strings without nulls, [V].
        number: How many buckets there are.

    Returns:
        0 to ``number - 1``, int64 [V].
    """
    tensorflow = importlib.import_module("tensorflow")  # takes seconds, and only hashing needs it
    strings = np.array(values.to_pylist(), np.object_)
    with tensorflow.device("CPU:0"):
        return tensorflow.strings.to_hash_bucket_fast(strings, number).numpy()
