"""The files of a table, cut into segments that are read one by one: text by bytes, Parquet by row groups.

    segments = plan(["day_0.gz", "day_1"], settings)
    {"00000-00000": Segment("day_0.gz", ...), "00001-00000": Segment("day_1", 0, 67108864), ...}

    for parsed in read(segments["00001-00000"], settings):
        ...                                                  in the order of the file

What is wrong with a whole file (empty, no such column, another format) is told before any row is read.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from tf_codistill import files
from tf_codistill.tables import lines
from tf_codistill.tables.parsing import TextParser, as_text, values
from tf_codistill.tables.rows import Parsed, Rejected
from tf_codistill.tables.schema import TableSchema, TableSettings

_PARQUET = b"PAR1"
_ZIP = b"PK\x03\x04"
_TAR, _TAR_AT = b"ustar", 257
_BOM = b"\xef\xbb\xbf"
_ROWS_AT_A_TIME = 1 << 15
_LINE_BREAK = "there is a line break inside a category"
_DIGITS = re.compile(r"(\d+)")

Advance = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Segment:
    """A part of a file that one task reads.

    Attributes:
        path: The file.
        names: Its columns in order.
        start: Where the segment begins: a byte, or a row group of Parquet.
        end: Where it ends, excluded; None for the end of a file that is compressed.
        num_bytes: How many bytes of the file it has.
        is_parquet: Whether the file is Parquet.
        first_line: Lines before the first segment of the file that are no rows: 1 for a header.
        part: ``train``, ``validation`` or ``test`` if the file belongs to it; empty if its position decides.
    """

    path: str
    names: tuple[str, ...]
    start: int
    end: int | None
    num_bytes: int
    is_parquet: bool = False
    first_line: int = 0
    part: str = ""


def matching(patterns: Iterable[str]) -> list[str]:
    """The files that are meant; those of a pattern in the order of the numbers in their names.

    Args:
        patterns: Paths or shell patterns.

    Returns:
        Paths, each once: ``day_2`` before ``day_10``.

    Raises:
        ValueError: A pattern matches no file.
    """
    found: list[str] = []
    for pattern in patterns:
        paths = [pattern] if files.exists(pattern) else files.glob(pattern)
        paths = [path for path in paths if files.is_remote(path) or os.path.isfile(path)]
        if not paths:
            raise ValueError(f"{pattern!r} matches no file; check the path, and quote the pattern")
        found += sorted(paths, key=lambda path: [int(p) if p.isdigit() else p for p in _DIGITS.split(path)])
    return list(dict.fromkeys(found))


def plan(parts: Mapping[str, Sequence[str]], settings: TableSettings) -> dict[str, Segment]:
    """Cuts files into segments.

    Args:
        parts: Files in the order of time, by the part that they belong to; those whose position decides under
            the empty name.
        settings: The columns, and how large segments are.

    Returns:
        Segments by a name whose order is that of the rows.

    Raises:
        ValueError: A file is given twice, is empty, an archive, or lacks a column.
        FileNotFoundError: There is no such file.
    """
    named = [(part, path) for part, paths in parts.items() for path in paths]
    counts = collections.Counter(path for _, path in named)
    if twice := [path for path, count in counts.items() if count > 1]:
        raise ValueError(f"file {twice[0]!r} is given twice; give each file once, in one part")
    segments: dict[str, Segment] = {}
    for number, (part, path) in enumerate(named):
        for index, segment in enumerate(_segments(path, settings)):
            segments[f"{number:05d}-{index:05d}"] = dataclasses.replace(segment, part=part)
    return segments


def _segments(path: str, settings: TableSettings) -> list[Segment]:
    size = files.size_bytes(path)
    if not size:
        raise ValueError(f"file {path!r} is empty; leave it out, or get it again")
    start = files.read(path, 0, 512)
    if start.startswith(_PARQUET):
        return _row_groups(path, settings)
    if start.startswith(_ZIP):
        raise ValueError(f"file {path!r} is a zip archive; unpack it first")
    schema = settings.schema
    first = lines.first_line(path)
    if first[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR or start[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        raise ValueError(f"file {path!r} is a tar archive; unpack it first: tar --extract --file {path}")
    names = _header(path, first, schema) if schema.header else schema.in_order
    whole = Segment(path, names, 0, None, size, first_line=int(schema.header))
    if lines.is_gzip(path):
        return [whole]
    starts = range(0, size, settings.range_bytes)
    ends = [*starts[1:], size]
    return [
        dataclasses.replace(whole, start=one, end=end, num_bytes=end - one)
        for one, end in zip(starts, ends, strict=True)
    ]


def _header(path: str, first: bytes, schema: TableSchema) -> tuple[str, ...]:
    text = first.removeprefix(_BOM).decode("utf-8", "backslashreplace")
    names = tuple(name.strip().strip('"') if schema.quoted else name for name in text.split(schema.separator))
    _check_names(path, names, schema)
    return names


def _check_names(path: str, names: Sequence[str], schema: TableSchema) -> None:
    counts = collections.Counter(names)
    shown = ", ".join(names[:20])[:500]
    for name in schema.used:
        if counts[name] != 1:
            often = "no column" if not counts[name] else f"{counts[name]} columns"
            raise ValueError(
                f"file {path!r} has {often} {name!r}; its columns are {shown}: correct TableSchema, its "
                "separator too"
            )


def _row_groups(path: str, settings: TableSettings) -> list[Segment]:
    if files.is_remote(path):
        raise ValueError(
            f"file {path!r} is Parquet in a place that cannot be mapped; copy it to this machine"
        )
    try:
        with parquet.ParquetFile(path) as file:
            names = tuple(file.schema_arrow.names)
            sizes = [file.metadata.row_group(index).total_byte_size for index in range(file.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"file {path!r} is no whole Parquet file ({str(error).splitlines()[0]})") from error
    _check_names(path, names, settings.schema)
    segments, start, total = [], 0, 0
    for index, size in enumerate(sizes):
        total += size
        if total >= settings.range_bytes or index == len(sizes) - 1:
            segments.append(Segment(path, names, start, index + 1, total, is_parquet=True))
            start, total = index + 1, 0
    if not segments:
        raise ValueError(f"file {path!r} has no rows; leave it out")
    return segments


class Reader:
    """Reads a segment.

    Args:
        segment: The segment.
        schema: The columns.
    """

    def __init__(self, segment: Segment, schema: TableSchema) -> None:
        self._segment, self._schema = segment, schema
        end = segment.end if segment.end is None or not segment.is_parquet else None
        self._lines = lines.Lines(segment.path, segment.start, end, segment.start == 0 and schema.header)

    @property
    def sha256(self) -> str:
        """Checksum of what has been read; of Parquet only of what the file says of itself at its end."""
        if not self._segment.is_parquet:
            return self._lines.sha256
        size = files.size_bytes(self._segment.path)
        length = int.from_bytes(files.read(self._segment.path, size - 8, 4), "little")
        return hashlib.sha256(files.read(self._segment.path, max(size - 8 - length, 0))).hexdigest()

    def parsed(self, advance: Advance) -> Iterator[Parsed]:
        """Reads the rows.

        Args:
            advance: Told of the bytes that have been read.

        Yields:
            What became of some rows, in the order of the file.

        Raises:
            lines.DamagedFileError: The file is damaged from here on.
        """
        if self._segment.is_parquet:
            yield from self._from_parquet(advance)
            return
        parser = TextParser(self._schema, self._segment.names)
        for block in self._lines.blocks(advance):
            yield parser.parse(block.content)

    def _from_parquet(self, advance: Advance) -> Iterator[Parsed]:
        groups, used = range(self._segment.start, self._segment.end or 0), list(self._schema.used)
        try:
            with parquet.ParquetFile(self._segment.path, memory_map=True) as file:
                for batch in file.iter_batches(_ROWS_AT_A_TIME, row_groups=list(groups), columns=used):
                    yield _parsed(batch, self._schema)
        except pa.ArrowException as error:
            reason = str(error).splitlines()[0]
            raise lines.DamagedFileError(
                f"file {self._segment.path!r} is damaged ({reason}); get it again"
            ) from error
        advance(self._segment.num_bytes)


def _parsed(batch: pa.RecordBatch, schema: TableSchema) -> Parsed:
    rejected = Rejected(batch.num_rows)
    numeric = (schema.label, *schema.numeric)
    fields = [_field(batch.column(name), name, name in numeric) for name in schema.used]
    for field in fields[1 + len(schema.numeric) :]:
        odd = pc.match_substring_regex(field, r"[\r\n]").fill_null(False).to_numpy(zero_copy_only=False)
        rejected.add(np.flatnonzero(odd), "control_character", lambda index: _LINE_BREAK)
    good = pa.array(~rejected.is_bad)
    rows = values(schema, [field.filter(good) for field in fields], rejected)
    shown = batch.select(list(schema.used))

    def row(index: int) -> bytes:
        return schema.separator.join(str(column[index].as_py()) for column in shown.columns).encode("utf-8")

    return Parsed(rows, batch.num_rows, 0, rejected.counts, rejected.first(row))


def _field(column: pa.Array, name: str, is_numeric: bool) -> pa.Array:
    """A column as text or as float64, null where it is missing; not a number is missing in Parquet."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    try:
        if is_text or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return as_text(column.cast(pa.binary()))
        return column.cast(pa.float64(), safe=False) if is_numeric else column.cast(pa.string())
    except pa.ArrowException as error:
        raise ValueError(f"column {name!r} has type {kind}, which is neither numbers nor text") from error
