"""What is fitted, against closed forms; the same however rows are cut."""

from __future__ import annotations

import collections
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tf_codistill import files
from tf_codistill.tables import fitting
from tf_codistill.tables.preprocessing import CategoryColumn, NumericColumn, Preprocessing, words
from tf_codistill.tables.rows import RowValues
from tf_codistill.tables.schema import TableSchema, TableSettings

SCHEMA = TableSchema(label="y", numeric=["a", "b"], categorical=["c", "d"])


def settings(**changes: Any) -> TableSettings:
    return TableSettings(schema=SCHEMA, **{"min_count": 1, **changes})


def rows_of(numbers: list[list[float]], categories: list[list[bytes | None]]) -> RowValues:
    array = np.array(numbers, np.float64).reshape(-1, 2)
    columns = [pa.array(column, pa.binary()) for column in zip(*categories, strict=True)]
    return RowValues(np.zeros(len(array), np.float32), array, columns)


def random_rows(number: int, seed: int = 0) -> RowValues:
    source = np.random.default_rng(seed)
    numbers = np.stack([source.integers(-30, 3000, number), source.normal(0, 1e6, number)], axis=1)
    numbers[source.random((number, 2)) < 0.2] = np.nan
    categories = [[b"%d" % v if v else None for v in row] for row in source.integers(0, 40, (number, 2))]
    return rows_of(numbers.tolist(), categories)


def fitted(
    tmp_path: pathlib.Path, segments: list[list[RowValues]], chosen: TableSettings
) -> list[NumericColumn]:
    stems = []
    for index, blocks in enumerate(segments):
        stems.append(str(tmp_path / f"segment-{index}"))
        counted = fitting.Counted(chosen, stems[-1])
        for rows in blocks:
            counted.add(rows)
        counted.save()
    return fitting.numeric_columns(chosen, stems)


def test_mean_deviation_and_quantiles(tmp_path: pathlib.Path) -> None:
    rows = random_rows(4000)
    columns = fitted(tmp_path, [[rows]], settings(num_buckets=4))
    for index, column in enumerate(columns):
        numbers = rows.numbers[:, index][~np.isnan(rows.numbers[:, index])]
        logarithms = np.sign(numbers) * np.log1p(np.abs(numbers))
        np.testing.assert_allclose([column.mean, column.deviation], [logarithms.mean(), logarithms.std()])
        buckets = np.bincount(np.searchsorted(column.boundaries, numbers, side="right"), minlength=4)
        np.testing.assert_allclose(buckets / len(numbers), 0.25, atol=0.01)
        assert len(column.boundaries) == 3


def test_cuts_do_not_matter(tmp_path: pathlib.Path) -> None:
    rows = random_rows(1000)
    cut = [[rows.slice(0, 10), rows.slice(10, 500)], [rows.slice(500, 500)], [rows.slice(500, 1000)]]
    one, other = (fitted(tmp_path, segments, settings(num_buckets=10)) for segments in ([[rows]], cut))
    for column, same in zip(one, other, strict=True):
        assert column.boundaries == same.boundaries
        np.testing.assert_allclose([column.mean, column.deviation], [same.mean, same.deviation], rtol=1e-12)


def test_whole_numbers_are_kept_apart_and_equal_ones_are_not(tmp_path: pathlib.Path) -> None:
    numbers = [[number, 7.0] for number in [-2, -1, 0, 0, 1, 2, 3, 4095, 4096, 4096]]
    rows = rows_of(numbers, [[b"x", None]] * 10)
    whole, constant = fitted(tmp_path, [[rows]], settings(num_buckets=100))
    buckets = np.searchsorted(whole.boundaries, [-2, -1, 0, 1, 2, 3, 4095, 4096], side="right")
    assert buckets.tolist() == list(range(8))
    assert (constant.deviation, constant.boundaries) == (1.0, ())


def test_numbers_of_any_size(tmp_path: pathlib.Path) -> None:
    huge = [[number, np.nan] for number in [-1.7e308, -1e-320, -0.0, 0.0, 5e-324, 1.7e308]]
    column, missing = fitted(tmp_path, [[rows_of(huge, [[b"x", b"y"]] * 6)]], settings(num_buckets=6))
    assert np.isfinite([column.mean, column.deviation, *column.boundaries]).all()
    assert missing == NumericColumn("b", 0.0, 1.0, ())


@pytest.mark.parametrize("limit", [1 << 21, 10])
def test_vocabularies_are_what_a_counter_counts(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(fitting, "_MAX_VALUES", limit)  # so that pieces are written, and summed often
    pieces, total = [], collections.Counter[bytes]()
    for seed in range(3):
        rows, stem = random_rows(200, seed), str(tmp_path / f"segment-{seed}")
        counted = fitting.Counted(settings(hash_buckets={"c": 5}), stem)
        for start in range(0, 200, 50):
            counted.add(rows.slice(start, start + 50))
        pieces += [f"{stem}.counts-{number:05d}" for number in range(counted.save())]
        total.update(value for value in rows.categories[1].to_pylist() if value is not None)
    assert (len(pieces) > 3) == (limit == 10)
    counts = fitting.counts_of(1, pieces, "d", max_distinct=39)
    assert dict(zip(*(counts[name].to_pylist() for name in ("value", "count")), strict=True)) == total
    expected = sorted(
        (value for value in total if total[value] >= 15), key=lambda value: (-total[value], value)
    )
    assert fitting.vocabulary(counts, 15) == expected
    assert fitting.counts_of(0, pieces, "c", max_distinct=39).num_rows == 0
    with pytest.raises(
        ValueError, match=r"column 'd' has more than max_distinct = 38 .*hash_buckets = \{'d': 1"
    ):
        fitting.counts_of(1, pieces, "d", max_distinct=38)


def preprocessing(directory: pathlib.Path, has_buckets: bool = True) -> Preprocessing:
    files.write(str(directory / "vocabulary-00.txt"), b"often\n\xff\nrare\n")
    checksum = files.checksum(str(directory / "vocabulary-00.txt"))
    made = Preprocessing(
        str(directory),
        SCHEMA,
        (NumericColumn("a", 1.0, 2.0, (0.0, 10.0)), NumericColumn("b", 0.0, 1.0, ())),
        (CategoryColumn("c", 3, "vocabulary-00.txt", checksum), CategoryColumn("d", 5)),
        has_buckets,
    )
    made.save()
    return made


def test_rows_are_encoded(tmp_path: pathlib.Path) -> None:
    made = preprocessing(tmp_path)
    rows = rows_of(
        [[-1, 3], [np.nan, np.nan], [10, 0], [9.99, -1]],
        [[b"rare", b"x"], [None, None], [b"\xff", b"y"], [b"never", b"x"]],
    )
    encoded = made.encode(rows)
    assert made.cardinalities == [5, 7, 5, 3]
    assert encoded.shape == (4, made.width) == (4, 7)
    ids = encoded[:, 3:]
    assert ids[:, 0].tolist() == [4, 0, 3, 1]
    assert ids[1, 1] == 0
    assert ids[0, 1] == ids[3, 1]
    assert ((ids[[0, 2], 1] >= 2) & (ids[[0, 2], 1] < 7)).all()
    assert ids[:, 2:].tolist() == [[2, 2], [0, 0], [4, 2], [3, 2]]
    numbers = encoded[:, 1:3].copy().view(np.float32)
    expected = [[(-np.log(2) - 1) / 2, np.log(4)], [0, 0], [(np.log(11) - 1) / 2, 0]]
    np.testing.assert_allclose(numbers[:3], expected, rtol=1e-6)
    assert preprocessing(tmp_path, has_buckets=False).encode(rows).shape == (4, 5)


def test_a_preprocessing_is_loaded_as_it_was_saved(tmp_path: pathlib.Path) -> None:
    made = preprocessing(tmp_path)
    loaded = Preprocessing.load(str(tmp_path))
    assert (loaded.fingerprint, loaded) == (made.fingerprint, made)
    assert words(str(tmp_path / "vocabulary-00.txt")) == [b"often", b"\xff", b"rare"]
    (tmp_path / "copy").mkdir()
    loaded.copy_to(str(tmp_path / "copy"))
    assert Preprocessing.load(str(tmp_path / "copy")).fingerprint == made.fingerprint
    assert preprocessing(tmp_path, has_buckets=False).fingerprint != made.fingerprint


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda path: (path / "preprocessing.json").unlink(), "there is no preprocessing.json"),
        (lambda path: (path / "vocabulary-00.txt").write_bytes(b"other\n"), "vocabulary .* is damaged"),
        (lambda path: _replace(path, '"version": 1', '"version": 9'), "has version 9; this program reads 1"),
        (lambda path: _replace(path, '"mean": 1.0', '"mean": 1.5'), "is damaged: its fingerprint is"),
        (lambda path: _replace(path, '"has_buckets"', '"had_buckets"'), "is damaged"),
    ],
    ids=["absent", "vocabulary", "version", "value", "key"],
)
def test_a_preprocessing_that_is_none_is_refused(tmp_path: pathlib.Path, change: Any, sentence: str) -> None:
    preprocessing(tmp_path)
    change(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        Preprocessing.load(str(tmp_path))


def _replace(path: pathlib.Path, old: str, new: str) -> None:
    text = (path / "preprocessing.json").read_text()
    assert old in text
    (path / "preprocessing.json").write_text(text.replace(old, new, 1))


def test_other_columns_are_refused(tmp_path: pathlib.Path) -> None:
    made = preprocessing(tmp_path)
    made.check_columns(SCHEMA)
    with pytest.raises(ValueError, match=r"fitted on categorical columns \['c', 'd'\], not \['d', 'c'\]"):
        made.check_columns(TableSchema(label="y", numeric=["a", "b"], categorical=["d", "c"]))
