"""Files to tables: the same bytes whoever does the work and however often it is stopped; all rows counted."""

from __future__ import annotations

import gzip
import json
import pathlib
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from tests.toy_tables import criteo_lines, criteo_settings, write, write_table
from tf_codistill.jobs import engines
from tf_codistill.jobs.stages import Advance, Stage
from tf_codistill.tables import counts, pipeline, shards, sources
from tf_codistill.tables.schema import TableSchema, TableSettings

NUM_ROWS = 400
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def contents(directory: str | pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(pathlib.Path(directory).iterdir())}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("source") / "rows.txt", criteo_lines(NUM_ROWS))


@pytest.fixture(scope="module")
def expected(source: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    table = tmp_path_factory.mktemp("expected") / "table"
    pipeline.prepare([source], str(table), criteo_settings())
    return contents(table)


def test_rows_keep_their_order_and_what_is_fitted_is_fitted_on_the_first(
    expected: Mapping[str, bytes], tmp_path: pathlib.Path
) -> None:
    lines = criteo_lines(NUM_ROWS)
    table = shards.open_table(write_table(tmp_path, NUM_ROWS), verify_contents=True)
    assert {name: len(part) for name, part in table.parts.items()} == {
        "train": 320,
        "validation": 40,
        "test": 40,
    }
    assert len(table.part("train").shards) > 2
    labels = [shards.split_columns(part.take(np.arange(len(part))), 13)[0] for part in table.parts.values()]
    assert np.concatenate(labels).tolist() == [float(line[:1]) for line in lines]
    assert table.part("train").num_positive == labels[0].sum()
    first = table.part("train").take(np.arange(320))
    numbers = shards.split_columns(first, 13)[1]
    raw = np.array(
        [[float(x) if x else np.nan for x in (line.split(b"\t") + [b""] * 13)[1:14]] for line in lines]
    )
    logs = np.sign(raw) * np.log1p(np.abs(raw))
    scaled = np.nan_to_num((logs - np.nanmean(logs[:320], axis=0)) / np.nanstd(logs[:320], axis=0))
    np.testing.assert_allclose(numbers, scaled[:320], rtol=1e-5, atol=1e-6)
    rare = {line.split(b"\t")[14] for line in lines[320:]} - {line.split(b"\t")[14] for line in lines[:320]}
    vocabulary = set((tmp_path / "table" / "vocabulary-00.txt").read_bytes().split())
    assert not rare & vocabulary
    assert contents(tmp_path / "table") == expected
    assert not (tmp_path / "table.work").exists()


class Dying:
    """Runs some tasks, each of which leaves what a killed one would, and then no more."""

    def __init__(self, num_tasks: int) -> None:
        self.left = num_tasks

    def run(self, stage: Stage, tasks: Sequence[str], advance: Advance) -> None:
        for task in reversed(tasks):
            if not self.left:
                raise KeyboardInterrupt
            stage(task, advance)
            self.left -= 1


def test_a_preparation_that_is_stopped_anywhere_gives_the_same_bytes(
    source: str, expected: Mapping[str, bytes], tmp_path: pathlib.Path
) -> None:
    table, num_stops = str(tmp_path / "table"), 0
    while True:  # each time a few tasks more
        try:
            pipeline.prepare([source], table, criteo_settings(), Dying(3))
            break
        except KeyboardInterrupt:
            num_stops += 1
            assert not (tmp_path / "table" / "manifest.json").exists()
    assert num_stops > 5
    assert contents(table) == expected
    pipeline.prepare([source], table, criteo_settings(), Dying(0))  # nothing is left to do


class Joined:
    """Before the first tasks of a stage something happens; then they run."""

    def __init__(self, title: str, happens: Callable[[], object]) -> None:
        self.title, self.happens = title, happens

    def run(self, stage: Stage, tasks: Sequence[str], advance: Advance) -> None:
        if stage.title == self.title:
            self.happens()
        for task in tasks:
            stage(task, advance)


def test_what_others_have_put_there_stays(
    source: str, expected: Mapping[str, bytes], tmp_path: pathlib.Path
) -> None:
    table = tmp_path / "table"

    def put() -> None:
        (table / "diary.txt").write_text("dear")
        (table / "train-00000-00099.rows").mkdir()

    with pytest.raises(KeyboardInterrupt):
        pipeline.prepare([source], str(table), criteo_settings(range_bytes=1 << 12), Dying(60))
    assert len(list(table.iterdir())) > 5
    pipeline.prepare([source], str(table), criteo_settings(), Joined("encoding", put))
    assert (table / "diary.txt").read_text() == "dear"
    (table / "diary.txt").unlink()
    (table / "train-00000-00099.rows").rmdir()
    assert contents(table) == expected


@pytest.mark.parametrize("title", ["scanning", "encoding"])
def test_another_process_may_be_faster(
    source: str, expected: Mapping[str, bytes], tmp_path: pathlib.Path, title: str
) -> None:
    table = str(tmp_path / "table")
    faster = Joined(title, lambda: pipeline.prepare([source], table, criteo_settings()))
    pipeline.prepare([source], table, criteo_settings(), faster)
    assert contents(table) == expected


def test_a_preparation_that_is_killed_while_it_writes_gives_the_same_bytes(
    source: str, expected: Mapping[str, bytes], tmp_path: pathlib.Path
) -> None:
    script = f"""
import os, signal
from tf_codistill.tables import pipeline
from tf_codistill.tables.schema import TableSettings, criteo_schema
from tf_codistill.tables.preprocessing import Preprocessing
encode, left = Preprocessing.encode, [4]
def dies(self, rows):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(self, rows)
Preprocessing.encode = dies
settings = TableSettings(schema=criteo_schema(), min_count=3, range_bytes=1 << 14)
pipeline.prepare([{source!r}], {str(tmp_path / "table")!r}, settings)
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert [name for name in contents(tmp_path / "table") if name.endswith(".partial")]
    pipeline.prepare([source], str(tmp_path / "table"), criteo_settings())
    assert contents(tmp_path / "table") == expected


@pytest.mark.parametrize("engine", ["processes", "beam"])
def test_whoever_does_the_work_gives_the_same_bytes(
    source: str, expected: Mapping[str, bytes], tmp_path: pathlib.Path, engine: str, monkeypatch: Any
) -> None:
    if engine == "processes":
        from tf_codistill.tables import stages

        for stage in (stages.ScanStage, stages.VocabularyStage, stages.EncodeStage):
            monkeypatch.setattr(stage, "units_per_process", 1)
    chosen = engines.Beam() if engine == "beam" else engines.Local(num_processes=2)
    pipeline.prepare([source], str(tmp_path / "table"), criteo_settings(), chosen)
    assert contents(tmp_path / "table") == expected


def test_compressed_files_and_several_give_the_same_rows(
    expected: Mapping[str, bytes], tmp_path: pathlib.Path
) -> None:
    lines = criteo_lines(NUM_ROWS)
    for number, first in enumerate(range(0, NUM_ROWS, 40)):
        content = b"".join(line + b"\r\n" for line in lines[first : first + 40])
        (tmp_path / f"day_{number + 5}.gz").write_bytes(gzip.compress(content) if number % 2 else content)
    found = sources.matching([str(tmp_path / "day_*.gz")])
    assert [pathlib.Path(path).name for path in found] == [f"day_{number}.gz" for number in range(5, 15)]
    pipeline.prepare(found, str(tmp_path / "table"), criteo_settings())
    table = shards.open_table(str(tmp_path / "table"))
    rows = {
        name: b"".join(content for file, content in expected.items() if file.startswith(f"{name}-"))
        for name in shards.PARTS
    }
    for name, part in table.parts.items():
        assert part.take(np.arange(len(part))).tobytes() == rows[name]
    assert contents(tmp_path / "table")["vocabulary-03.txt"] == expected["vocabulary-03.txt"]


def test_parts_by_files_and_a_preprocessing_of_another_table(tmp_path: pathlib.Path) -> None:
    lines = criteo_lines(NUM_ROWS)
    first, second, third = (
        write(tmp_path / name, lines[start : start + number])
        for name, start, number in (("a", 0, 300), ("b", 300, 60), ("c", 360, 40))
    )
    settings = criteo_settings()
    manifest = pipeline.prepare(
        [first], str(tmp_path / "one"), settings, validation_paths=[second], test_paths=[third]
    )
    numbers = {name: part["num_rows"] for name, part in manifest["parts"].items()}
    assert numbers == {"train": 300, "validation": 60, "test": 40}
    again = pipeline.prepare(
        [], str(tmp_path / "two"), settings, test_paths=[third], preprocessing=str(tmp_path / "one")
    )
    assert list(again["parts"]) == ["test"]
    assert again["preprocessing"] == manifest["preprocessing"]
    one, two = (shards.open_table(str(tmp_path / name)).part("test") for name in ("one", "two"))
    assert one.take(np.arange(40)).tobytes() == two.take(np.arange(40)).tobytes()
    with pytest.raises(ValueError, match="part 'train' is not in table .* it has test"):
        shards.open_table(str(tmp_path / "two")).part("train")


COLUMNS = {
    "late": [0, 1] * 30,
    "carrier": ["AA", "UA", None] * 20,
    "hour": [*range(59), None],
    "left_out": ["x"] * 60,
    "number": [1000 + index % 7 for index in range(60)],
}
FLIGHTS = TableSchema(label="late", numeric=["hour"], categorical=["number", "carrier"])


def test_csv_with_a_header_and_parquet_give_the_same_rows(tmp_path: pathlib.Path) -> None:
    table = pa.table(COLUMNS)
    csv.write_csv(table, tmp_path / "rows.csv")
    other = table.set_column(2, "hour", table["hour"].cast(pa.float64()).fill_null(float("nan")))
    other = other.set_column(1, "carrier", table["carrier"].dictionary_encode())
    parquet.write_table(other, tmp_path / "rows.parquet", row_group_size=16)
    text = csv.read_csv(tmp_path / "rows.csv").select(["carrier", "late", "number", "hour"])
    csv.write_csv(text, tmp_path / "rows.tsv", csv.WriteOptions(delimiter="\t", quoting_style="none"))
    rows = []
    for name, separator in (("rows.csv", ","), ("rows.parquet", ","), ("rows.tsv", "\t")):
        schema = TableSchema(**{**FLIGHTS.describe(), "separator": separator})
        settings = TableSettings(schema=schema, min_count=2, range_bytes=1024, num_buckets=4)
        pipeline.prepare([str(tmp_path / name)], str(tmp_path / f"{name}.table"), settings)
        opened = shards.open_table(str(tmp_path / f"{name}.table"))
        rows.append({part: opened.part(part).take(np.arange(6)).tobytes() for part in opened.parts})
    assert rows[0] == rows[1] == rows[2]


def test_parquet_rows_without_meaning_are_told(tmp_path: pathlib.Path) -> None:
    changed = {**COLUMNS, "late": [2, None, *COLUMNS["late"][2:]], "hour": [0, 1, float("inf"), *[5.0] * 57]}
    changed["carrier"] = ["a\nb" if index == 3 else "AA" for index in range(60)]
    parquet.write_table(pa.table(changed), tmp_path / "rows.parquet", row_group_size=2)
    settings = TableSettings(schema=FLIGHTS, min_count=1, max_bad_share=0.1)
    manifest = pipeline.prepare([str(tmp_path / "rows.parquet")], str(tmp_path / "table"), settings)
    assert manifest["counts"]["rejected"] == {
        "control_character": 1,
        "label_not_0_or_1": 2,
        "not_a_number": 1,
    }
    told = [json.loads(line) for line in (tmp_path / "table" / "rejected.jsonl").read_text().splitlines()]
    assert [(one["line"], one["kind"]) for one in told] == [
        (1, "label_not_0_or_1"),
        (2, "label_not_0_or_1"),
        (3, "not_a_number"),
        (4, "control_character"),
    ]
    assert told[3]["content"] == "0,3.0,1003,a\nb" or "a\nb" in told[3]["content"]


def fuzzed(lines: list[bytes], seed: int) -> list[bytes]:
    """Every row with something changed at random."""
    source = random.Random(seed)
    found = []
    for line in lines:
        content = bytearray(line)
        for _ in range(source.randint(1, 4)):
            place = source.randrange(len(content) + 1)
            change = source.randrange(4)
            if change == 0:
                content[place:place] = source.choice([b"\t", b"\r", b"\0", b"\xff", b"-", b"e", b'"', b" "])
            elif change == 1:
                del content[place : place + source.randint(1, 20)]
            elif change == 2 and place < len(content):
                content[place] = source.randrange(256)
            else:
                content[place:place] = content[: source.randrange(60)]
        found.append(bytes(content).replace(b"\n", b"?"))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_fuzzed_rows_are_all_counted(tmp_path: pathlib.Path, seed: int) -> None:
    lines = fuzzed(criteo_lines(300, seed), seed)
    good = criteo_lines(300, seed + 10)
    mixed = [line for pair in zip(lines, good, strict=True) for line in pair]
    path = write(tmp_path / "rows.txt", mixed)
    manifest = pipeline.prepare([path], str(tmp_path / "table"), criteo_settings(max_bad_share=0.6))
    found = manifest["counts"]
    num_rejected = sum(found["rejected"].values())
    assert found["read"] == 600 == found["kept"] + num_rejected
    assert 100 < num_rejected < 300
    assert sum(part["num_rows"] for part in manifest["parts"].values()) == found["kept"]
    told = [json.loads(line) for line in (tmp_path / "table" / "rejected.jsonl").read_bytes().splitlines()]
    assert len(told) == num_rejected
    for row in told:
        line = mixed[row["line"] - 1].removesuffix(b"\r")
        assert row["content"] == line.decode("utf-8", "backslashreplace")
        assert row["file"] == path
    assert f"{found['kept']:,}" in counts.summary(manifest, "table")
    shards.open_table(str(tmp_path / "table"), verify_contents=True)


def test_too_many_bad_rows_are_told_with_file_and_line(tmp_path: pathlib.Path) -> None:
    lines = criteo_lines(600)
    lines[577] = b"2" + lines[577][1:]
    lines[590] = b"x"
    path = write(tmp_path / "rows.txt", lines)
    settings = criteo_settings(max_bad_share=0.001)
    sentence = (
        "2 of 600 rows are rejected .label_not_0_or_1 1, wrong_number_of_columns 1.*first is line 578 of '"
    )
    with pytest.raises(
        ValueError, match=sentence + re.escape(path) + "': label is '2'.* See '.*rejected.jsonl'"
    ):
        pipeline.prepare([path], str(tmp_path / "table"), settings)
    assert (tmp_path / "table.work" / "rejected.jsonl").exists()
    manifest = pipeline.prepare([path], str(tmp_path / "table"), criteo_settings(max_bad_share=0.01))
    assert manifest["counts"]["kept"] == 598


def test_a_rejected_row_may_hold_what_text_takes_for_line_breaks(tmp_path: pathlib.Path) -> None:
    lines = criteo_lines(600)
    lines[577] = "x \u2028 y \u0085 z".encode()
    path = write(tmp_path / "rows.txt", lines)
    manifest = pipeline.prepare([path], str(tmp_path / "table"), criteo_settings(max_bad_share=0.01))
    assert manifest["counts"]["kept"] == 599
    (row,) = (tmp_path / "table" / "rejected.jsonl").read_bytes().splitlines()
    assert (json.loads(row)["content"], json.loads(row)["line"]) == (lines[577].decode(), 578)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"expected_rows": 1000}, r"there are 400 rows, but expected_rows is 1,000; a file is missing"),
        ({"max_distinct": 20}, r"column 'C2\d' has more than max_distinct = 20 .*hash it"),
        ({"validation_share": 0.001}, "the validation part would be empty: there are 400 rows"),
    ],
    ids=["rows", "distinct", "share"],
)
def test_what_cannot_be_prepared_is_told(
    source: str, tmp_path: pathlib.Path, changes: Mapping[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        pipeline.prepare([source], str(tmp_path / "table"), criteo_settings(**changes))
    assert not (tmp_path / "table" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty; leave it out"),
        (b"PK\x03\x04 zip", "is a zip archive; unpack it first"),
        (b"\0" * 257 + b"ustar\0" + b"\0" * 1000, "is a tar archive; unpack it first"),
        (b"PAR1 cut off", "is no whole Parquet file"),
        (b"late;hour;carrier;number\n1;2;3;4\n", "has no column 'late'; its columns are late;hour"),
        (b"late,hour,carrier,number,hour\n1,2,3,4,5\n", "has 2 columns 'hour'"),
    ],
    ids=["empty", "zip", "tar", "parquet", "separator", "twice"],
)
def test_files_that_are_no_tables_are_named_before_the_work(
    tmp_path: pathlib.Path, content: bytes, sentence: str
) -> None:
    path = tmp_path / "rows"
    path.write_bytes(content)
    settings = TableSettings(schema=FLIGHTS)
    with pytest.raises(ValueError, match=re.escape(f"file {str(path)!r} ") + sentence):
        pipeline.prepare([str(path)], str(tmp_path / "table"), settings)
    assert not (tmp_path / "table.work").exists()


def test_wrong_places_and_files_are_told(source: str, tmp_path: pathlib.Path) -> None:
    table = write_table(tmp_path)
    with pytest.raises(ValueError, match="holds a table prepared with sources = .* now it is"):
        pipeline.prepare([source], table, criteo_settings())
    path = str(tmp_path / "rows.txt")
    with pytest.raises(ValueError, match="holds a table prepared with min_count = 3, now it is 4"):
        pipeline.prepare([path], table, criteo_settings(min_count=4))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "diary.txt").write_text("dear")
    with pytest.raises(ValueError, match=r"holds 'diary\.txt', which nobody is recorded to have written"):
        pipeline.prepare([source], str(tmp_path / "other"), criteo_settings())
    with pytest.raises(ValueError, match="is given twice"):
        pipeline.prepare([source, source], str(tmp_path / "new"), criteo_settings())
    with pytest.raises(ValueError, match="no file with rows is named"):
        pipeline.prepare([], str(tmp_path / "new"), criteo_settings())
    with pytest.raises(ValueError, match=r"fitted on numeric columns \['I1'"):
        pipeline.prepare([source], str(tmp_path / "new"), TableSettings(schema=FLIGHTS), preprocessing=table)


def test_a_damaged_file_is_told_when_the_others_are_read(tmp_path: pathlib.Path) -> None:
    good = write(tmp_path / "good.txt", criteo_lines(200))
    bad = tmp_path / "bad.gz"
    bad.write_bytes(gzip.compress(b"\n".join(criteo_lines(200)))[:-20])
    with pytest.raises(
        ValueError, match=re.escape(f"file {str(bad)!r} ends in the middle of its compressed")
    ):
        pipeline.prepare([str(bad), good], str(tmp_path / "table"), criteo_settings())
    assert len(list((tmp_path / "table.work").glob("scan-*/00001-*.json"))) > 1


def test_a_file_with_a_header_alone_is_named(tmp_path: pathlib.Path) -> None:
    csv.write_csv(pa.table(COLUMNS), tmp_path / "full.csv")
    (tmp_path / "bare.csv").write_text("late,hour,carrier,number\n")
    paths = [str(tmp_path / "full.csv"), str(tmp_path / "bare.csv")]
    with pytest.raises(ValueError, match=re.escape(f"file {paths[1]!r} has no rows; leave it out")):
        pipeline.prepare(paths, str(tmp_path / "table"), TableSettings(schema=FLIGHTS))


def test_a_file_that_changes_meanwhile_is_read_anew(tmp_path: pathlib.Path) -> None:
    lines = criteo_lines(NUM_ROWS)
    path = write(tmp_path / "rows.txt", lines)
    table = str(tmp_path / "table")
    with pytest.raises(KeyboardInterrupt):
        pipeline.prepare([path], table, criteo_settings(), Dying(35))
    lines[0] = bytes([lines[0][0] ^ 1]) + lines[0][1:]
    write(tmp_path / "rows.txt", lines)
    with pytest.raises(ValueError, match="has changed since it was scanned; run this again"):
        pipeline.prepare([path], table, criteo_settings())
    manifest = pipeline.prepare([path], table, criteo_settings())
    positive = sum(part["num_positive"] for part in manifest["parts"].values())
    assert positive == sum(line[:1] == b"1" for line in lines)


def test_hashing_in_place_of_a_vocabulary(tmp_path: pathlib.Path) -> None:
    table = shards.open_table(write_table(tmp_path, 200, hash_buckets={"C3": 7}, num_buckets=0))
    assert table.preprocessing.cardinalities[2] == 9
    assert len(table.preprocessing.cardinalities) == 26
    assert not (tmp_path / "table" / "vocabulary-02.txt").exists()
    ids = shards.split_columns(table.part("train").take(np.arange(160)), 13)[2][:, 2]
    assert (ids == 0).any()
    assert set(ids.tolist()) <= {0, *range(2, 9)}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda path: (path / "manifest.json").unlink(),
            "is not finished: it has no manifest.json; run prep",
        ),
        (lambda path: (path / "train-00000-00000.rows").write_bytes(b"x" * 8), "is damaged: bytes is 8"),
        (lambda path: (path / "preprocessing.json").write_text("{}"), "is damaged: bytes is 2"),
    ],
    ids=["manifest", "shard", "preprocessing"],
)
def test_a_table_that_is_not_whole_is_refused(tmp_path: pathlib.Path, change: Any, sentence: str) -> None:
    table = write_table(tmp_path, 200)
    change(pathlib.Path(table))
    with pytest.raises(ValueError, match=sentence):
        shards.open_table(table)


def test_rows_are_taken_from_all_shards(tmp_path: pathlib.Path) -> None:
    part = shards.open_table(write_table(tmp_path, 300)).part("train")
    whole = np.concatenate(part.shards)
    indices = np.random.default_rng(0).integers(0, len(part), 500)
    np.testing.assert_array_equal(part.take(indices), whole[indices])
    for wrong in (-1, len(part)):
        with pytest.raises(ValueError, match="part 'train' has rows 0 to 239"):
            part.take(np.array([0, wrong]))
