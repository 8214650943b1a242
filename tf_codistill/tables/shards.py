"""Encoded rows on disk, of which any can be read at once.

<directory>/
    train-00000.rows         int32 [R, 1 + N + C], little-endian: label and numbers as bits of float32, ids
    validation-00000.rows
    preprocessing.json       what they were encoded with
    vocabulary-00.txt ...
    rejected.jsonl           rows that could not be used: file, line, kind, reason, the row
    preparation.json         files and settings
    manifest.json            parts, counts, checksums; written last

table = open_table("clicks")
table.part("train").take(np.array([7, 1_000_000]))      int32 [2, 1 + N + C]
split_columns(rows, num_numeric)                        labels, numbers, ids
"""

from __future__ import annotations

import dataclasses
import mmap
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tf_codistill import files
from tf_codistill.tables.preprocessing import Preprocessing

PARTS = ("train", "validation", "test")
FORMAT_VERSION = 1
ENDING = ".rows"
REJECTED = "rejected.jsonl"
PREPARATION = "preparation.json"
ROW_DTYPE = np.dtype("<i4")

_CHECKED_ROWS = 1 << 16
_REMEDY = "prepare the table again"

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


def split_columns(rows: Int32Array, num_numeric: int) -> tuple[Any, Any, Int32Array]:
    """What the columns of encoded rows are.

    Args:
        rows: int32 [R, 1 + N + C], contiguous.
        num_numeric: N.

    Returns:
        Labels, float32 [R]; numbers, float32 [R, N]; ids, int32 [R, C].
    """
    floats = rows.view(np.float32)
    return floats[:, 0], floats[:, 1 : 1 + num_numeric], rows[:, 1 + num_numeric :]


@dataclasses.dataclass(frozen=True, eq=False)
class TablePart:
    """The rows of a part, in the order of time.

    Attributes:
        name: ``train``, ``validation`` or ``test``.
        shards: The rows of each shard, mapped from its file, int32 [R, W] each.
        offsets: Index of the first row of each shard, then the number of all rows, int64 [S + 1].
        num_positive: RowValues whose label is 1.
    """

    name: str
    shards: tuple[Int32Array, ...]
    offsets: Int64Array
    num_positive: int

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def take(self, indices: Int64Array) -> Int32Array:
        """Any rows.

        Args:
            indices: int64 [R], each at least 0 and below the number of rows.

        Returns:
            int32 [R, W], a copy.

        Raises:
            ValueError: An index is out of range.
        """
        if indices.size and not (indices.min() >= 0 and indices.max() < len(self)):
            raise ValueError(
                f"rows {indices.min()} to {indices.max()} are wanted; part {self.name!r} has rows 0 to "
                f"{len(self) - 1}"
            )
        if len(self.shards) == 1:
            return self.shards[0].take(indices, axis=0)
        owners = np.searchsorted(self.offsets, indices, side="right") - 1
        order = np.argsort(owners, kind="stable")
        starts = np.searchsorted(owners[order], np.arange(len(self.shards) + 1))
        rows = np.empty((len(indices), self.shards[0].shape[1]), np.int32)
        for shard in np.flatnonzero(np.diff(starts)):
            where = order[starts[shard] : starts[shard + 1]]
            rows[where] = self.shards[shard].take(indices[where] - self.offsets[shard], axis=0)
        return rows


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedTable:
    """A prepared table, open for reading.

    Attributes:
        directory: Where it is.
        manifest: What its manifest says.
        preprocessing: What its rows were encoded with.
        parts: Those that have rows, by name.
    """

    directory: str
    manifest: Mapping[str, Any]
    preprocessing: Preprocessing
    parts: Mapping[str, TablePart]

    def part(self, name: str) -> TablePart:
        """A part.

        Args:
            name: ``train``, ``validation`` or ``test``.

        Returns:
            Its rows.

        Raises:
            ValueError: The table has none of that name.
        """
        if name not in self.parts:
            raise ValueError(
                f"part {name!r} is not in table {self.directory!r}; it has {', '.join(self.parts)}: "
                "prepare one with "
                f"{name} rows"
            )
        return self.parts[name]


def open_table(directory: str, verify_contents: bool = False) -> EncodedTable:
    """Opens a prepared table after checking that it is what its manifest says.

    Args:
        directory: Where it is; rows are read at random, so it has to be on this machine.
        verify_contents: Whether to read every file for its checksum and to compare every id with its column;
            otherwise sizes, preprocessing and vocabularies are checked.

    Returns:
        The table; its rows are mapped, not read.

    Raises:
        ValueError: There is none, or one of another version, or it is not on this machine.
        files.CorruptError: A file is not what the manifest says.
    """
    if files.is_remote(directory):
        raise ValueError(
            f"table {directory!r} is not on this machine, but its rows are read at random; copy it here"
        )
    manifest = files.read_manifest(directory)
    if manifest is None:
        state = "is not finished: it has no manifest.json" if files.exists(directory) else "does not exist"
        raise ValueError(f"table {directory!r} {state}; run prepare_clicks first")
    if manifest.get("format_version") != FORMAT_VERSION or manifest.get("kind") != "table":
        raise ValueError(
            f"{directory!r} has format_version {manifest.get('format_version')!r} and kind "
            f"{manifest.get('kind')!r}; "
            f"this program reads tables of version {FORMAT_VERSION}: {_REMEDY}"
        )
    files.verify(directory, manifest, contents=verify_contents)
    preprocessing = Preprocessing.load(directory)
    if preprocessing.fingerprint != manifest["preprocessing"]:
        raise files.CorruptError(
            f"the preprocessing in {directory!r} is {preprocessing.fingerprint}, its rows were encoded with "
            f"{manifest['preprocessing']}; {_REMEDY}"
        )
    is_large = sum(one["bytes"] for one in manifest["files"].values()) > _memory_bytes() // 2
    parts = {
        name: _open_part(directory, name, manifest["parts"][name], preprocessing.width, is_large)
        for name in PARTS
        if name in manifest["parts"]
    }
    if verify_contents:
        for part in parts.values():
            _check_ids(part, preprocessing)
    return EncodedTable(directory, manifest, preprocessing, parts)


def _open_part(directory: str, name: str, said: Mapping[str, Any], width: int, is_large: bool) -> TablePart:
    shards = []
    for shard in said["shards"]:
        path = files.join(directory, shard["name"])
        rows = _mapped(path, is_large)
        if rows.size != shard["num_rows"] * width:
            raise files.CorruptError(
                f"file {path!r} is damaged: it has {rows.size} values, not {shard['num_rows']} rows of "
                f"{width}; {_REMEDY}"
            )
        shards.append(rows.reshape(-1, width))
    offsets = np.cumsum([0, *map(len, shards)], dtype=np.int64)
    return TablePart(name, tuple(shards), offsets, said["num_positive"])


def _mapped(path: str, is_large: bool) -> Int32Array:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        memory = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    if is_large and hasattr(mmap, "MADV_RANDOM"):
        memory.madvise(mmap.MADV_RANDOM)  # neighbours of a row would be gone again before they are wanted
    return np.frombuffer(memory, ROW_DTYPE)


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 62


def _check_ids(part: TablePart, preprocessing: Preprocessing) -> None:
    limits = np.array(preprocessing.cardinalities)
    for start in range(0, len(part), _CHECKED_ROWS):
        rows = part.take(np.arange(start, min(start + _CHECKED_ROWS, len(part))))
        labels, numbers, ids = split_columns(rows, len(preprocessing.numeric))
        if (
            ((ids < 0) | (ids >= limits)).any()
            or not np.isin(labels, (0, 1)).all()
            or not np.isfinite(numbers).all()
        ):
            raise files.CorruptError(
                f"part {part.name!r} has a row from {start} on whose label is not 0 or 1, or whose values "
                "do not "
                f"fit the preprocessing; {_REMEDY}"
            )
