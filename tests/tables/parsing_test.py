"""Lines to values: what is a row, what is not, and why."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.toy_tables import criteo_lines
from tf_codistill.tables.parsing import TextParser
from tf_codistill.tables.rows import Parsed, Rejected
from tf_codistill.tables.schema import TableSchema, TableSettings, criteo_schema

CRITEO = criteo_schema()
COMMAS = TableSchema(label="y", numeric=["a"], categorical=["c"])


def parsed(text: bytes, schema: TableSchema = CRITEO) -> Parsed:
    return TextParser(schema, schema.in_order).parse(text)


def row(label: str = "1", number: str = "", last: str = "", columns: int = 40) -> bytes:
    return "\t".join([label, number, *[""] * 12, "68fd1e64", *[""] * 24, last][:columns]).encode()


def test_rows_are_read_as_python_reads_them() -> None:
    lines = criteo_lines(50)
    found = parsed(b"\n".join(lines) + b"\n")
    assert (found.counts, found.num_lines) == ({}, 50)
    assert found.num_short == sum(line.count(b"\t") < 39 for line in lines) > 0
    for index, line in enumerate(lines):
        fields = (line.split(b"\t") + [b""] * 40)[:40]
        assert found.rows.labels[index] == float(fields[0])
        expected = [float(field) if field else math.nan for field in fields[1:14]]
        np.testing.assert_array_equal(found.rows.numbers[index], expected)
        categories = [column[index].as_py() for column in found.rows.categories]
        assert categories == [field or None for field in fields[14:]]


@pytest.mark.parametrize(
    ("line", "kind", "reason"),
    [
        (b"", "empty_line", "the line is empty"),
        (b"1\t2\t3", "wrong_number_of_columns", "the line has 3 columns; expected 15 to 40"),
        (row() + b"\t", "wrong_number_of_columns", "the line has 41 columns; expected 15 to 40"),
        (row(label="2"), "label_not_0_or_1", "label is '2'; expected 0 or 1"),
        (row(label=""), "label_not_0_or_1", "label is ''; expected 0 or 1"),
        (row(label="0.5"), "label_not_0_or_1", "label is '0.5'; expected 0 or 1"),
        (row(label="yes"), "label_not_0_or_1", "label is 'yes'; expected 0 or 1"),
        (row(number="x"), "not_a_number", "I1 is 'x'; expected a number"),
        (row(number="1e400"), "not_a_number", "I1 is '1e400'; expected a number"),
        (row(number="nan"), "not_a_number", "I1 is 'nan'; expected a number"),
        (row(number="inf"), "not_a_number", "I1 is 'inf'; expected a number"),
        (row(number="0x10"), "not_a_number", "I1 is '0x10'; expected a number"),
        (row(number="1_000"), "not_a_number", "I1 is '1_000'; expected a number"),
        (b"\xff" + row(), "label_not_0_or_1", r"label is '\xff1'; expected 0 or 1"),
        (row(last="x" * 300), "long_category", "C26 is a category of more than 256 bytes"),
        (row(last="a\rb"), "control_character", "there is a carriage return inside the line"),
        (row(last="x" * (1 << 20)), "long_line", "the line is longer than 1048576 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) and "_" in value else "",
)
def test_what_is_no_row_is_told(line: bytes, kind: str, reason: str) -> None:
    found = parsed(row() + b"\n" + line + b"\n" + row(label="0") + b"\r\n")
    assert found.counts == {kind: 1}
    (bad,) = found.bad
    assert (bad.line, bad.kind, bad.reason) == (1, kind, reason)
    assert line.startswith(bad.content)
    assert len(bad.content) == min(len(line), 1 << 16)
    assert found.rows.labels.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), (" 5 ", 5), ("+7", 7), ("-0", 0), ("1.", 1), (".5", 0.5), ("1E3", 1000), ("-2e-3", -0.002)]
    + [("9007199254740993", 9007199254740992), ("0" * 400 + "1", 1), ("1e-320", 1e-320)],
)
def test_numbers(text: str, value: float) -> None:
    found = parsed(row(number=text) + b"\n" + row(number="3") + b"\n")
    assert found.rows.numbers[:, 0].tolist() == [value, 3]


def test_a_row_has_one_reason_and_lists_end_but_counts_do_not() -> None:
    found = parsed(b"2\t1\n" * 3000)
    assert found.counts == {"wrong_number_of_columns": 3000}
    assert 1000 <= len(found.bad) <= 3000
    rejected = Rejected(5)
    rejected.add(np.array([1, 3]), "one", lambda index: f"a{index}")
    rejected.add(np.array([3, 4]), "two", lambda index: f"b{index}")
    assert rejected.counts == {"one": 2, "two": 1}
    assert [bad.reason for bad in rejected.first(lambda index: b"")] == ["a0", "a1", "b1"]


@pytest.mark.parametrize(
    ("line", "category"),
    [
        (b'1,2,"a,b"', b"a,b"),
        (b'1,2,"say ""x"""', b'say "x"'),
        (b'1,2,""', None),
        (b'"1","2",x', b"x"),
        (b"1,2,\xff\xfe", b"\xff\xfe"),
    ],
)
def test_fields_in_quotes(line: bytes, category: bytes | None) -> None:
    found = parsed(line + b"\n", COMMAS)
    assert (found.counts, found.rows.numbers.tolist()) == ({}, [[2.0]])
    assert found.rows.categories[0].to_pylist() == [category]


@pytest.mark.parametrize("line", [b'1,2,"a', b'1,2,a"b', b'1,2,"a"b', b'1,2,"a""'])
def test_wrong_quotes_are_told(line: bytes) -> None:
    found = parsed(line + b'\n0,1,"fine"\n1,2\n', COMMAS)
    assert found.counts == {"wrong_number_of_columns": 1, "wrong_quotes": 1}
    assert found.rows.categories[0].to_pylist() == [b"fine"]


def test_a_schema_says_what_is_missing_and_where_columns_are() -> None:
    schema = TableSchema(label="y", numeric=["a"], categorical=["c"], missing=["NA", ""])
    found = TextParser(schema, ("c", "other", "a", "y")).parse(b"NA,?,NA,1\nx,?, NA ,0\n,?,3,1\n")
    assert found.rows.categories[0].to_pylist() == [None, b"x", None]
    np.testing.assert_array_equal(found.rows.numbers[:, 0], [math.nan, math.nan, 3])
    assert found.rows.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"numeric": [], "categorical": []}, "both empty"),
        ({"numeric": ["a", "y"]}, r"\['y'\] are named twice"),
        ({"separator": ";;"}, "separator is ';;'"),
        ({"separator": '"'}, "separator is"),
        ({"columns": ["y"]}, "with header=True"),
        ({"header": False, "columns": ["y", "a"]}, r"columns lacks \['c'\]"),
        ({"header": False, "min_columns": 4}, "min_columns is 4; expected 1 to 3"),
        ({"numeric": "a"}, "numeric is 'a'; expected a list of strings"),
    ],
)
def test_a_schema_that_cannot_be_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        TableSchema(**{"label": "y", "numeric": ["a"], "categorical": ["c"], **settings})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"min_count": 0}, "min_count is 0; expected at least 1"),
        ({"range_bytes": 100}, "range_bytes is 100; expected at least 1024"),
        ({"max_bad_share": 1.0}, "max_bad_share is 1.0; expected 0 to less than 1"),
        ({"validation_share": 0.5, "test_share": 0.5}, "leave nothing for training"),
        ({"hash_buckets": {"a": 5}}, r"hash_buckets names \['a'\]; expected some of \['c'\]"),
        ({"hash_buckets": 0}, "hash_buckets of 'c' is 0; expected at least 1"),
        ({"hash_buckets": "many"}, "hash_buckets is 'many'; expected an integer or a dictionary"),
        ({"schema": None}, "schema is None; expected a TableSchema"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        TableSettings(**{"schema": COMMAS, **settings})


@pytest.mark.parametrize("quote", ["", '"'])
def test_short_rows_are_counted_if_they_are_good(quote: str) -> None:
    schema = TableSchema(label="y", numeric=["a", "b"], categorical=[], header=False, min_columns=2)
    found = parsed(f"1,2\n9,2\n0,1,{quote}2{quote}\n".encode(), schema)
    assert (found.num_short, found.counts) == (1, {"label_not_0_or_1": 1})
    np.testing.assert_array_equal(found.rows.numbers, [[2, math.nan], [1, 2]])
