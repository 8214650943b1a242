"""The ops that are served give the ids and numbers that the table has, for whatever a row may hold."""

from __future__ import annotations

import pathlib
import random
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.toy_tables import criteo_lines, criteo_settings, write_table
from tf_codistill.tables import pipeline, shards
from tf_codistill.tables.in_graph import InGraph
from tf_codistill.tables.parsing import TextParser
from tf_codistill.tables.preprocessing import Preprocessing
from tf_codistill.tables.schema import TableSchema, TableSettings

NUMBERS = [
    *("", "0", "-0", "1", "-2", "+7", " 12 ", "\t5".strip("\t"), "3.75", "1.", ".5", "1e5", "-1E-3", "4e+2"),
    *("4096", "999999999999999999999", "1e300", "-1.7e308", "1e-320", "00012", "  ", "9007199254740993"),
]
CATEGORIES = ["", " ", "68fd1e64", "é", "\xff", "a\0b", "x" * 256, "0", "'", '"', "a b", "never seen", "NA"]
PREPARED = [{"num_buckets": 8}, {"hash_buckets": 50, "num_buckets": 0}, {"min_count": 10_000}]


def odd_lines(number: int, seed: int) -> list[bytes]:
    """Rows that are good, however odd."""
    source = random.Random(seed)
    lines = []
    for line in criteo_lines(number, seed):
        fields = (line.split(b"\t") + [b""] * 40)[:40]
        for index in range(1, 40):
            if source.random() < 0.5:
                odd = source.choice(NUMBERS if index < 14 else CATEGORIES)
                fields[index] = odd.encode("latin-1" if odd == "\xff" else "utf-8")
        found = b"\t".join(fields)
        lines.append(found.rstrip(b"\t") if source.random() < 0.5 else found)
    return [line for line in lines if line.count(b"\t") >= 14]


def compare(preprocessing: Preprocessing, content: bytes, names: tuple[str, ...], rows: list[bytes]) -> None:
    parsed = TextParser(preprocessing.schema, names).parse(content)
    assert parsed.counts == {}
    labels, numbers, ids = shards.split_columns(preprocessing.encode(parsed.rows), len(preprocessing.numeric))
    assert len(labels) == len(rows)
    ops = InGraph(preprocessing)
    signature = [tf.TensorSpec([None], tf.string)]
    found = tf.function(lambda x: ops(x), input_signature=signature, autograph=False)(tf.constant(rows))
    np.testing.assert_array_equal(found["categories"], ids)
    np.testing.assert_array_max_ulp(found["numeric"].numpy(), numbers, maxulp=1)


@pytest.mark.parametrize("settings", PREPARED, ids=["buckets", "hashed", "empty"])
def test_ops_and_table_agree_on_odd_rows(tmp_path: pathlib.Path, settings: dict[str, int]) -> None:
    lines = odd_lines(700, seed=1)
    (tmp_path / "rows.txt").write_bytes(b"\n".join(lines))
    chosen = criteo_settings(**{"min_count": 2, **settings})
    pipeline.prepare([str(tmp_path / "rows.txt")], str(tmp_path / "table"), chosen)
    preprocessing = shards.open_table(str(tmp_path / "table"), verify_contents=True).preprocessing
    fresh = odd_lines(700, seed=2)
    rows = [
        line.partition(b"\t")[2] + ending
        for line, ending in zip(fresh, [b"", b"\n", b"\r\n"] * 300, strict=False)
    ]
    compare(preprocessing, b"\n".join(fresh) + b"\n", preprocessing.schema.in_order, rows)


def test_quotes_other_columns_and_words_for_missing(tmp_path: pathlib.Path) -> None:
    header = b"other,c,label,a\n"
    values = [b'"x,""y"', b"NA", b"", b"z", b'""', b'"NA"', b"\xe9", b'" q"']
    numbers = [b"1", b"NA", b'"2"', b"", b" NA ", b"-3.5"]
    lines = [b"-,%s,%d,%s" % (values[i % 8], i % 2, numbers[i % 6]) for i in range(60)]
    (tmp_path / "rows.csv").write_bytes(header + b"\n".join(lines))
    schema = TableSchema(label="label", numeric=["a"], categorical=["c"], missing=["", "NA"])
    settings = TableSettings(schema=schema, min_count=2, num_buckets=3)
    pipeline.prepare([str(tmp_path / "rows.csv")], str(tmp_path / "table"), settings)
    preprocessing = Preprocessing.load(str(tmp_path / "table"))
    rows = [b"%s,%s" % (numbers[i % 6], values[i % 8]) for i in range(60)]
    compare(preprocessing, b"\n".join(lines) + b"\n", tuple(header.decode().strip().split(",")), rows)


def test_a_column_alone(tmp_path: pathlib.Path) -> None:
    schema = TableSchema(label="y", numeric=[], categorical=["c"], separator="\t", quoted=False)
    (tmp_path / "rows.tsv").write_bytes(b"y\tc\n" + b"1\ta\n0\t\n1\tb\n" * 10)
    pipeline.prepare(
        [str(tmp_path / "rows.tsv")], str(tmp_path / "table"), TableSettings(schema=schema, min_count=1)
    )
    found = InGraph(Preprocessing.load(str(tmp_path / "table")))(tf.constant(["a", "", "b", "c"]))
    assert found["categories"].numpy().tolist() == [[2], [0], [3], [1]]
    assert found["numeric"].shape == (4, 0)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Any:
    table = shards.open_table(write_table(tmp_path_factory.mktemp("table"), 200))
    ops = InGraph(table.preprocessing)
    signature = [tf.TensorSpec([None], tf.string)]
    return tf.function(lambda rows: ops(rows), input_signature=signature, autograph=False)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("x" + "\t" * 38, "column .*I1.* has a value that is no number:.*x"),
        ("1e999" + "\t" * 38, "column .*I1.* has an infinite number"),
        ("1\t2", "wrong number of columns; expected 14 to 39, the label left out"),
        ("\t" * 39, "wrong number of columns"),
        ("", "wrong number of columns"),
    ],
    ids=["text", "infinite", "short", "long", "empty"],
)
def test_a_row_without_meaning_is_an_error(served: Any, row: str, sentence: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
        served(tf.constant(["\t" * 38, row]))
