"""Files of predictions, and tables of what is known of the examples.

    lone.npy             [N], [N, C] or [N, T, C]: probabilities alone
    lone.csv             id,label,probability,origin            probability of class 1
                         id,label,probability_0,probability_1,probability_2
    lone.parquet         the same columns, or a column ``probability`` of lists; with ``visit``, and in
                         the schema's metadata the run that trained the model
    examples.csv         id,label,origin: for what prediction files do not say themselves

    predictions = read("lone.csv")
    write("lone.parquet", predictions)
    predictions = join(predictions, "lone", read_table("examples.parquet"))

A column ``id`` or ``key`` names the examples, ``label`` is the true class; every other column is kept,
to slice by. A table is joined by key where both have one, otherwise row by row.
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow
from pyarrow import csv, parquet

from tf_codistill import files
from tf_codistill.reproducibility.measures import Array
from tf_codistill.reproducibility.predictions import Predictions, matching

KINDS = (".npy", ".csv", ".parquet")
KEYS = ("id", "key")
LABEL = "label"
PROBABILITIES = ("probability", "prediction")
VISIT = "visit"

_OF_CLASS = re.compile(r"(?:probability|prediction)_(\d+)")
_RUN = b"tf_codistill.run"
_COUNTED = "counted"
_MOST_EXACT = 2.0**53  # from here on a floating point number stands for several whole ones


def is_file_of_predictions(path: str) -> bool:
    """Whether a path has one of the endings in `KINDS`."""
    return os.path.splitext(path)[1] in KINDS


def read(path: str) -> Predictions:
    """Reads predictions.

    Args:
        path: A file whose name ends in one of `KINDS`.

    Returns:
        The predictions, unchecked.

    Raises:
        ValueError: The file is not of that kind, or has no probabilities.
        OSError: It cannot be read.
    """
    if path.endswith(".npy"):
        return Predictions(_array(path))
    columns, metadata = _columns(path)
    run = metadata.get(_RUN)
    labels, keys = _take(columns, LABEL), _take(columns, *KEYS)
    visits, counted = _take(columns, VISIT), _take(columns, _COUNTED)
    if keys is not None and visits is not None:
        keys = np.stack([keys, visits], axis=1)
    probabilities = _probabilities(path, columns)
    return Predictions(
        probabilities=probabilities,
        labels=None if labels is None else _whole(path, LABEL, labels),
        keys=None if keys is None else _known(path, "keys", keys),
        columns=columns,
        counted=None if counted is None else counted.astype(bool),
        run=None if run is None else run.decode(),
    )


def write(path: str, predictions: Predictions) -> None:
    """Writes predictions, so that a later model can be compared without this one.

    Args:
        path: A ``.parquet`` file, or an ``.npy`` file, which has the probabilities alone; it is replaced.
        predictions: The predictions.

    Raises:
        ValueError: The name has another ending.
    """
    if path.endswith(".npy"):
        content = io.BytesIO()
        np.save(content, predictions.probabilities)
        files.write(path, content.getvalue())
        return
    if not path.endswith(".parquet"):
        raise ValueError(f"predictions cannot be written to {path!r}; expected a name in .parquet or .npy")
    arrays: dict[str, Array | None] = {}
    if predictions.keys is not None:
        keys = predictions.keys
        arrays |= {"id": keys[:, 0], VISIT: keys[:, 1]} if keys.ndim == 2 else {"id": keys}
    arrays |= {LABEL: predictions.labels, _COUNTED: predictions.counted}
    arrays |= {"probability": predictions.probabilities, **predictions.columns}
    table = pyarrow.table({name: _nested(array) for name, array in arrays.items() if array is not None})
    if predictions.run is not None:
        table = table.replace_schema_metadata({_RUN: predictions.run.encode()})
    buffer = pyarrow.BufferOutputStream()
    parquet.write_table(table, buffer)
    files.write(path, buffer.getvalue().to_pybytes())


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """What is known of examples beside predictions.

    Attributes:
        path: Where it is from.
        columns: Arrays by name, [M] or, as features of a model, [M, ...].
        keys: What names the rows, [M], or None.
        labels: True classes, [M, ...], or None.
    """

    path: str
    columns: Mapping[str, Array]
    keys: Array | None = None
    labels: Array | None = None

    def __len__(self) -> int:
        arrays = [array for array in (self.keys, self.labels, *self.columns.values()) if array is not None]
        return len(arrays[0]) if arrays else 0


def read_table(path: str) -> Table:
    """Reads a table of examples.

    Args:
        path: A ``.csv`` or ``.parquet`` file, or an ``.npz`` file of arrays whose rows are the examples.

    Returns:
        The table.

    Raises:
        ValueError: The file is of another kind, damaged, or has arrays of different lengths.
        OSError: It cannot be read.
    """
    if path.endswith(".npz"):
        columns = _arrays(path)
    else:
        columns, _ = _columns(path)
    lengths = {name: len(array) for name, array in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"arrays of {path!r} have the lengths {lengths}; expected a row for every example")
    labels, keys = _take(columns, LABEL), _take(columns, *KEYS)
    return Table(
        path,
        columns,
        None if keys is None else _known(path, "keys", keys),
        None if labels is None else _whole(path, LABEL, labels),
    )


def join(predictions: Predictions, name: str, table: Table) -> Predictions:
    """Adds what a table knows of the examples.

    Args:
        predictions: Predictions.
        name: How errors call them.
        table: The table: more rows and any order, if both have keys; otherwise the same rows.

    Returns:
        The predictions with the table's labels, if they had none, and its columns.

    Raises:
        ValueError: Keys or rows of the table are missing.
    """
    if predictions.keys is not None and table.keys is not None:
        rows = matching(predictions.keys, table.keys, name)
    elif len(table) == len(predictions):
        rows = np.arange(len(table))
    else:
        raise ValueError(
            f"{table.path!r} has {len(table):,} rows and {name!r} {len(predictions):,} examples; expected as "
            "many, or a column id in both"
        )
    columns = {column: array[rows] for column, array in table.columns.items() if array.ndim == 1}
    labels = predictions.labels
    if labels is None and table.labels is not None:
        labels = table.labels[rows]
    keys = predictions.keys
    if keys is None and table.keys is not None:
        keys = table.keys[rows]
    return dataclasses.replace(
        predictions, labels=labels, keys=keys, columns={**columns, **predictions.columns}
    )


def _array(path: str) -> Array:
    try:
        if files.is_remote(path):
            return np.lib.format.read_array(io.BytesIO(files.read(path)), allow_pickle=False)
        return np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path!r} is no .npy file of numbers: {error}") from error


def _arrays(path: str) -> dict[str, Array]:
    try:
        with np.load(io.BytesIO(files.read(path)), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path!r} is no .npz file of arrays of numbers or strings: {error}") from error


def _columns(path: str) -> tuple[dict[str, Array], Mapping[bytes, bytes]]:
    """The columns of a table by name, and the metadata of its schema."""
    if not path.endswith((".csv", ".parquet")):
        raise ValueError(f"{path!r} is of no kind that is known; expected a name in .csv or .parquet")
    source = pyarrow.BufferReader(files.read(path))
    try:
        table = csv.read_csv(source) if path.endswith(".csv") else parquet.read_table(source)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"table {path!r} cannot be read: {str(error).splitlines()[0]}") from error
    names = table.column_names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"table {path!r} has the column {twice[0]!r} more than once; rename one")
    arrays = {name: _of_column(path, name, table.column(name)) for name in names}
    return arrays, table.schema.metadata or {}


def _of_column(path: str, name: str, column: Any) -> Array:
    column = column.combine_chunks()
    widths = []
    while pyarrow.types.is_list(column.type) or pyarrow.types.is_fixed_size_list(column.type):
        lengths = column.value_lengths().to_numpy(zero_copy_only=False)
        if column.null_count or len(set(lengths)) > 1:
            raise ValueError(
                f"column {name!r} of {path!r} has lists of several lengths; expected as many values in "
                "each row"
            )
        widths.append(int(lengths[0]) if len(lengths) else 0)
        column = column.flatten()
    array = column.to_numpy(zero_copy_only=False)
    return array.reshape(-1, *widths) if widths else array


def _take(columns: dict[str, Array], *names: str) -> Array | None:
    """Takes the first of some columns out."""
    found = [name for name in names if name in columns]
    return columns.pop(found[0]) if found else None


def _probabilities(path: str, columns: dict[str, Array]) -> Array:
    by_class = {int(match[1]): name for name in columns if (match := _OF_CLASS.fullmatch(name))}
    names = [name for name in PROBABILITIES if name in columns]
    if len(names) + bool(by_class) != 1 or sorted(by_class) != list(range(len(by_class))):
        raise ValueError(
            f"{path!r} has the columns {', '.join(columns) or 'id and label alone'}; expected one column "
            "probability (of class 1, or lists), or probability_0, probability_1, ... with one for each class"
        )
    chosen = names or [by_class[index] for index in range(len(by_class))]
    arrays = [_numbers(path, name, columns.pop(name)) for name in chosen]
    return arrays[0] if names else np.stack(arrays, axis=-1)


def _numbers(path: str, name: str, array: Array) -> Array:
    if array.dtype.kind in "fiu":
        return array if array.dtype.kind == "f" else array.astype(np.float64)
    for row, value in enumerate(array.tolist()):
        try:
            float(value)
        except (TypeError, ValueError):
            raise ValueError(
                f"column {name!r} of {path!r} has {value!r} for example {row}; expected a number"
            ) from None
    return array.astype(np.float64)


def _whole(path: str, name: str, array: Array) -> Array:
    """Integers, if these are; a missing or broken one is an error, anything else is left to be checked."""
    if array.dtype.kind == "f" and not (array == np.floor(array)).all():
        row = int(np.argwhere(array != np.floor(array))[0][0])
        raise ValueError(
            f"{name} of example {row} of {path!r} is {array[row]}; expected an integer in every row"
        )
    return array.astype(np.int64) if array.dtype.kind in "fb" else array


def _known(path: str, name: str, keys: Array) -> Array:
    """Keys as numbers that are told apart, or strings; none is missing."""
    missing = [value is None or value != value for value in keys.reshape(-1).tolist()]
    if any(missing):
        raise ValueError(
            f"{name} of {path!r} are missing, for example {missing.index(True)} for one; give all"
        )
    if keys.dtype.kind == "f" and (large := np.abs(keys) >= _MOST_EXACT).any():
        raise ValueError(
            f"{name} of {path!r} are numbers too large to be told apart, such as {keys[large][0]:.0f}; keep "
            "them in a .parquet file, or put a letter before each"
        )
    return keys.astype(str) if keys.dtype.kind == "O" else keys


def _nested(array: Array) -> Any:
    """A column of numbers, or of lists of them."""
    array = np.asarray(array)
    column = pyarrow.array(array.reshape(-1))
    for width in reversed(array.shape[1:]):
        column = pyarrow.FixedSizeListArray.from_arrays(column, int(width))
    return column
