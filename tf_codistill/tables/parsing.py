r"""Lines to values: labels, numbers and categories of the good ones, and what is wrong with the others.

    parser = TextParser(schema, names=("label", "I1", ...))
    parsed = parser.parse(b"1\t3\t...\n...")
    parsed.rows          RowValues: labels_R, numbers_RN with NaN where missing, a column of bytes for each
    category
    parsed.bad           {"wrong_number_of_columns": 3, ...} with lines and reasons of the first of them

What is a number is said by `NUMBER` for all: here, in Parquet's texts, and in the graph of a served model.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from tf_codistill.tables.lines import MAX_LINE_BYTES
from tf_codistill.tables.rows import Parsed, Rejected, RowValues
from tf_codistill.tables.schema import TableSchema

NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?"
"""What a number looks like; one that is infinite all the same is none."""
MAX_CATEGORY_BYTES = 256
MAX_SHOWN_BYTES = 200

_WRONG_QUOTES = "a double quote is not closed, or stands inside a field without being doubled"
_NUMBER = re.compile(NUMBER.encode("ascii"))
_NEWLINE, _RETURN = ord("\n"), ord("\r")


class TextParser:
    """Reads lines of a file.

    Args:
        schema: The columns.
        names: What the fields of a line are called, in their order.
    """

    def __init__(self, schema: TableSchema, names: Sequence[str]) -> None:
        self._schema, self._names = schema, tuple(names)
        self._columns = [self._names.index(name) for name in schema.used]
        self._separator = schema.separator.encode("ascii")
        self._least = len(names) if schema.min_columns is None or schema.header else schema.min_columns
        self._field = re.compile(
            rb'"((?:[^"]|"")*)"(?=SEP|$)|([^"SEP]*)(?=SEP|$)'.replace(b"SEP", re.escape(self._separator))
        )

    def parse(self, content: bytes) -> Parsed:
        """Reads lines.

        Args:
            content: Whole lines, each with a newline at its end.

        Returns:
            What they hold.
        """
        if b"\r" in content:
            content = content.replace(b"\r\n", b"\n")
        array = np.frombuffer(content, np.uint8)
        ends = np.flatnonzero(array == _NEWLINE)
        starts = np.concatenate([[0], ends[:-1] + 1])
        rejected = Rejected(len(ends))

        def line(index: int) -> bytes:
            return content[starts[index] : ends[index]]

        lengths = ends - starts
        rejected.add(np.flatnonzero(lengths == 0), "empty_line", lambda index: "the line is empty")
        rejected.add(
            np.flatnonzero(lengths > MAX_LINE_BYTES),
            "long_line",
            lambda index: f"the line is longer than {MAX_LINE_BYTES} bytes",
        )
        if b"\r" in content:
            self._reject_returns(array, ends, rejected)
        if self._schema.quoted and b'"' in content:
            fields, numbers = self._quoted(line, rejected)
        else:
            fields, numbers = self._plain(content, array, ends, rejected)
        rows = values(self._schema, fields, rejected)
        num_short = int((~rejected.is_bad & (numbers < len(self._names))).sum())
        return Parsed(rows, len(ends), num_short, rejected.counts, rejected.first(line))

    def _reject_returns(self, array: npt.NDArray[Any], ends: npt.NDArray[Any], rejected: Rejected) -> None:
        lines = np.unique(np.searchsorted(ends, np.flatnonzero(array == _RETURN)))
        rejected.add(lines, "control_character", lambda index: "there is a carriage return inside the line")

    def _plain(
        self, content: bytes, array: npt.NDArray[Any], ends: npt.NDArray[Any], rejected: Rejected
    ) -> tuple[list[pa.Array], npt.NDArray[Any]]:
        """The fields of lines without quotes, and how many each line has."""
        separators = np.flatnonzero(array == self._separator[0])
        numbers = np.diff(np.searchsorted(separators, ends), prepend=0) + 1
        self._reject_lengths(numbers, rejected)
        missing = len(self._names) - numbers
        if missing.any() or rejected.is_bad.any():
            lines = content.split(b"\n")
            content = b"".join(
                lines[index] + self._separator * missing[index] + b"\n"
                for index in np.flatnonzero(~rejected.is_bad).tolist()
            )
        return self._fields(content), numbers

    def _reject_lengths(self, numbers: npt.NDArray[Any], rejected: Rejected) -> None:
        wrong = np.flatnonzero((numbers > len(self._names)) | (numbers < self._least))
        expected = (
            f"{self._least} to {len(self._names)}" if self._least < len(self._names) else f"{self._least}"
        )
        rejected.add(
            wrong,
            "wrong_number_of_columns",
            lambda index: f"the line has {numbers[wrong[index]]} columns; expected {expected}",
        )

    def _fields(self, content: bytes) -> list[pa.Array]:
        """The used columns of lines that all have the same number of fields, as text."""
        names = [str(index) for index in range(len(self._names))]
        used = [names[column] for column in self._columns]
        if not content:
            return [pa.array([], pa.string()) for _ in used]
        table = csv.read_csv(
            io.BytesIO(content),
            csv.ReadOptions(use_threads=False, block_size=len(content) + 1, column_names=names),
            csv.ParseOptions(delimiter=self._schema.separator, quote_char=False, ignore_empty_lines=False),
            csv.ConvertOptions(
                check_utf8=False,
                column_types=dict.fromkeys(used, pa.string()),
                null_values=[],
                strings_can_be_null=False,
                include_columns=used,
            ),
        )
        return [one.chunk(0) if one.num_chunks == 1 else one.combine_chunks() for one in table.columns]

    def _quoted(self, line: Any, rejected: Rejected) -> tuple[list[pa.Array], npt.NDArray[Any]]:
        """The same of lines of which some have quotes, one line after the other."""
        fields: dict[int, list[bytes]] = {}
        for index in np.flatnonzero(~rejected.is_bad).tolist():
            found = self._split(line(index))
            if found is None:
                rejected.add(np.array([index]), "wrong_quotes", lambda _: _WRONG_QUOTES)
            else:
                fields[index] = found
        indices = np.array(list(fields), np.int64)
        numbers = np.full(len(rejected.is_bad), len(self._names))
        numbers[indices] = [len(found) for found in fields.values()]
        self._reject_lengths(numbers, rejected)
        good = [found for found in fields.values() if self._least <= len(found) <= len(self._names)]
        for found in good:
            found += [b""] * (len(self._names) - len(found))
        columns = [[found[column] for found in good] for column in self._columns]
        return [as_text(pa.array(column, pa.binary())) for column in columns], numbers

    def _split(self, line: bytes) -> list[bytes] | None:
        """The fields of a line; None if its quotes are wrong."""
        if b'"' not in line:
            return line.split(self._separator)
        fields, position = [], 0
        while True:
            found = self._field.match(line, position)
            if found is None:
                return None
            quoted, plain = found.groups()
            fields.append(plain if quoted is None else quoted.replace(b'""', b'"'))
            if found.end() == len(line):
                return fields
            position = found.end() + 1


def as_text(column: pa.Array) -> pa.Array:
    """Bytes as what Arrow takes for text, whether it is UTF-8 or not."""
    return column.view(pa.string())


def values(schema: TableSchema, fields: Sequence[pa.Array], rejected: Rejected) -> RowValues:
    """What the fields of rows mean.

    Args:
        schema: The columns.
        fields: For each used column its texts, of the rows that have not been rejected; null is missing.
            Numbers may be float64, too.
        rejected: Gets the rows whose fields do not mean anything.

    Returns:
        The rows that have not been rejected in the end.
    """
    rows = np.flatnonzero(~rejected.is_bad)
    count = len(schema.numeric)
    label = _labels(schema, fields[0], rows, rejected)
    numbers = np.empty((len(rows), count))
    for index, (name, field) in enumerate(zip(schema.numeric, fields[1 : 1 + count], strict=True)):
        numbers[:, index] = _numbers(schema, name, field, rows, rejected, is_label=False)
    categories = [
        _categories(schema, name, field, rows, rejected)
        for name, field in zip(schema.categorical, fields[1 + count :], strict=True)
    ]
    good = ~rejected.is_bad[rows]
    if good.all():
        return RowValues(label.astype(np.float32), numbers, categories)
    mask = pa.array(good)
    return RowValues(
        label[good].astype(np.float32), numbers[good], [column.filter(mask) for column in categories]
    )


def _labels(
    schema: TableSchema, field: pa.Array, rows: npt.NDArray[np.int64], rejected: Rejected
) -> npt.NDArray[np.float64]:
    found = _numbers(schema, schema.label, field, rows, rejected, is_label=True)
    wrong = np.flatnonzero((found != 0) & (found != 1))
    rejected.add(
        rows[wrong],
        "label_not_0_or_1",
        lambda index: f"{schema.label} is {_shown(field[int(wrong[index])])}; expected 0 or 1",
    )
    return found


def _numbers(
    schema: TableSchema,
    name: str,
    field: pa.Array,
    rows: npt.NDArray[np.int64],
    rejected: Rejected,
    is_label: bool,
) -> npt.NDArray[np.float64]:
    """Numbers, NaN where they are missing or wrong."""
    found, wrong = _floats(field) if pa.types.is_floating(field.type) else _parsed(schema, field)
    if not is_label:
        rejected.add(
            rows[wrong],
            "not_a_number",
            lambda index: f"{name} is {_shown(field[int(wrong[index])])}; expected a number",
        )
    return found


def _floats(field: pa.Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Numbers that are such already, and where they are infinite."""
    found = field.to_numpy(zero_copy_only=False)
    return found, np.flatnonzero(np.isinf(found))


def _parsed(schema: TableSchema, field: pa.Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """What texts say, and where they say nothing."""
    texts = pc.ascii_trim_whitespace(field)
    texts = pc.if_else(_is_missing(schema, texts), pa.scalar(None, pa.string()), texts)
    with contextlib.suppress(pa.ArrowInvalid):  # some text is no number, or one that Arrow writes otherwise
        found = pc.cast(texts, pa.float64()).to_numpy(zero_copy_only=False)
        if np.isfinite(found).sum() == len(found) - texts.null_count:
            return found, np.zeros(0, np.int64)
    encoded = texts.dictionary_encode()
    texts_found = encoded.dictionary.view(pa.binary()).to_pylist()
    meanings = np.array([_number(text) for text in texts_found] or [np.nan])
    indices = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
    is_there = texts.is_valid().to_numpy(zero_copy_only=False)
    found = np.where(is_there, meanings[indices], np.nan)
    return found, np.flatnonzero(is_there & np.isnan(found))


def _number(text: bytes) -> float:
    value = float(text) if _NUMBER.fullmatch(text) else np.nan
    return value if np.isfinite(value) else np.nan


def _categories(
    schema: TableSchema, name: str, field: pa.Array, rows: npt.NDArray[np.int64], rejected: Rejected
) -> pa.Array:
    """Categories as bytes, null where they are missing."""
    is_long = pc.greater(pc.binary_length(field), MAX_CATEGORY_BYTES).fill_null(False)
    if is_long.true_count:
        long = np.flatnonzero(is_long.to_numpy(zero_copy_only=False))
        reason = f"{name} is a category of more than {MAX_CATEGORY_BYTES} bytes"
        rejected.add(rows[long], "long_category", lambda index: reason)
    is_missing = _is_missing(schema, field)
    if is_missing.true_count:
        field = pc.if_else(is_missing, pa.scalar(None, pa.string()), field)
    return field.view(pa.binary())


def _is_missing(schema: TableSchema, texts: pa.Array) -> pa.Array:
    if tuple(schema.missing) == ("",):
        return pc.equal(pc.binary_length(texts), 0)
    return pc.is_in(texts, pa.array(schema.missing, pa.string()))


def _shown(value: Any) -> str:
    if pa.types.is_floating(value.type) or not value.is_valid:
        return repr(value.as_py() if value.is_valid else "")
    text = value.as_buffer().to_pybytes()[:MAX_SHOWN_BYTES]
    try:
        return repr(text.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(text)[1:]
