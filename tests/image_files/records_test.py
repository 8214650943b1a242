"""Images in record files are found by headers alone, at the places where TensorFlow finds them."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tests.toy_images import example, jpeg, write_records
from tf_codistill import files
from tf_codistill.image_files import records


def test_a_scan_finds_what_tensorflow_parses(tmp_path: pathlib.Path) -> None:
    contents = [jpeg(number, height=16 + 40 * number, width=300) for number in range(6)]
    path = write_records(
        tmp_path / "a.tfrecord",
        [
            example(
                image__encoded=content,
                image__class__label=number - 2,
                image__class__synset=f"n{number}",
                image__class__text="a thing",
                image__filename="x" * 5000,
                image__height=number,
            )
            for number, content in enumerate(contents)
        ],
    )
    found = records.scan(path)
    features = {
        records.IMAGE: tf.io.FixedLenFeature((), tf.string),
        records.LABEL: tf.io.FixedLenFeature((), tf.int64),
    }
    parsed = [tf.io.parse_single_example(one, features) for one in tf.data.TFRecordDataset(path)]
    assert [files.read(path, offset, number) for offset, number, _ in found.rows] == contents
    assert [one[records.IMAGE].numpy() for one in parsed] == contents
    assert found.rows[:, 2].tolist() == [one[records.LABEL].numpy() for one in parsed] == [-2, -1, 0, 1, 2, 3]
    assert found.damaged == []
    assert found.texts == {number - 2: f"n{number}" for number in range(6)}


def test_records_without_image_or_label_are_named(tmp_path: pathlib.Path) -> None:
    path = write_records(
        tmp_path / "a.tfrecord",
        [
            example(image__encoded=b"1", image__class__label=0),
            example(image__class__label=0),
            example(image__encoded=b"1", label=0),
            example(image__encoded=b"1", image__class__label="seven"),
            example(image__encoded=b"", image__class__label=0),
            b"\xff\xff\xff no example",
            b"",
            example(image__encoded=b"2", image__class__label=1),
        ],
    )
    found = records.scan(path)
    assert found.rows[:, 1:].tolist() == [[1, 0], [1, 1]]
    assert found.damaged == [
        (1, "missing_image"),
        (2, "missing_label"),
        (3, "missing_label"),
        (4, "missing_image"),
        (5, "bad_example"),
        (6, "missing_image"),
    ]


def test_a_file_that_is_no_record_file_or_cut_off_is_named(tmp_path: pathlib.Path) -> None:
    path = pathlib.Path(
        write_records(tmp_path / "a", [example(image__encoded=jpeg(1), image__class__label=0)])
    )
    content = path.read_bytes()
    for size in (5, 13, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=rf"a' .* byte {size}|no TFRecord file"):
            records.scan(str(path))
    path.write_bytes(b"\x1f\x8b" + content)
    with pytest.raises(ValueError, match=r"a' is no TFRecord file, or damaged, at byte 0.*unpacked"):
        records.scan(str(path))
    path.write_bytes(b"")
    assert records.scan(str(path)).rows.shape == (0, 3)


def test_fuzzed_records_never_crash_the_scan(tmp_path: pathlib.Path) -> None:
    one = example(image__encoded=b"12345", image__class__label=3, image__filename="a")
    rng = np.random.default_rng(1)
    damaged = []
    for _ in range(300):
        changed = bytearray(one)
        for place in rng.integers(0, len(changed), 3):
            changed[place] = rng.integers(0, 256)
        damaged.append(bytes(changed))
    found = records.scan(write_records(tmp_path / "a", damaged))
    assert len(found.rows) + len(found.damaged) == 300
    assert 0 < len(found.damaged) < 300


def test_an_index_is_read_as_written(tmp_path: pathlib.Path) -> None:
    rows = np.array([[16, 5, 1], [1 << 40, 7, 0]], np.int64)
    path = str(tmp_path / "a.index")
    records.write_index(path, rows)
    np.testing.assert_array_equal(records.read_index(path), rows)
    (tmp_path / "a.index").write_bytes(bytes(25))
    with pytest.raises(files.CorruptError, match="25 bytes"):
        records.read_index(path)
