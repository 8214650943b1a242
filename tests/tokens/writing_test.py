"""Token shards as they are written: only documents get in, and only whole shards are seen."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tf_codistill import files, tokens
from tf_codistill.tokens import writing


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ([], "expected a row of integers"),
        ([[7, 5]], "expected a row of integers"),
        ([7.0, 5.0], "expected a row of integers"),
        ([7, 8], "expected END_OF_DOCUMENT"),
        ([7, 5, 8, 5], "nowhere else"),
        ([7, 1000, 5], "expected 0 to 999"),
        ([-1, 5], "expected 0 to 999"),
    ],
)
def test_the_writer_refuses_what_is_no_document(
    tmp_path: pathlib.Path, document: list[int], complaint: str
) -> None:
    def write() -> None:
        with tokens.ShardWriter(str(tmp_path), "train", 0, 1, 1000) as writer:
            writer.add([7, 5])
            writer.add(document)

    with pytest.raises(ValueError, match=f"document 1 of token shard 'train-00000-of-00001'.*{complaint}"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_shard_shows_only_when_closed(tmp_path: pathlib.Path) -> None:
    writer = tokens.ShardWriter(str(tmp_path), "train", 0, 1, 1000)
    writer.add(np.array([7, 5], np.int32))
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".tokens", ".starts")]
    metadata = writer.close()
    assert metadata == {"name": "train-00000-of-00001", "num_documents": 1, "num_tokens": 2}
    assert writer.close() == metadata
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".starts", ".tokens"]


def test_a_closed_shard_takes_no_more(tmp_path: pathlib.Path) -> None:
    writer = tokens.ShardWriter(str(tmp_path), "train", 0, 1, 1000)
    writer.add([7, 5])
    metadata = writer.close()
    with pytest.raises(
        ValueError, match="document 1 of token shard 'train-00000-of-00001' comes after close"
    ):
        writer.add([8, 5])
    assert writer.close() == metadata
    assert np.fromfile(tmp_path / "train-00000-of-00001.tokens", "<u2").tolist() == [7, 5]


def test_a_shard_that_cannot_be_closed_leaves_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str, content: bytes) -> None:
        raise OSError("no space left")

    def write() -> None:
        with tokens.ShardWriter(str(tmp_path), "train", 0, 1, 1000) as writer:
            writer.add([7, 5])
            monkeypatch.setattr(files, "write", full)

    with pytest.raises(OSError, match="no space left"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_shard_that_could_not_be_closed_has_no_facts(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename(path: str, target: str, overwrite: bool = False) -> None:
        if target.endswith(".tokens"):
            raise tf.errors.ResourceExhaustedError(None, None, "no space left")
        os.replace(path, target)

    writer = tokens.ShardWriter(str(tmp_path), "train", 0, 1, 1000)
    writer.add([7, 5])
    monkeypatch.setattr(tf.io.gfile, "rename", rename)
    with pytest.raises(OSError, match="no space left"):
        writer.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(
        ValueError, match="'train-00000-of-00001' was discarded after an error; write it anew"
    ):
        writer.close()
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_passes_as_it_is_and_discards_the_shard(tmp_path: pathlib.Path) -> None:
    writer = tokens.ShardWriter(str(tmp_path), "train", 0, 1, 1000)

    def write() -> None:
        with writer:
            writer.add([7, 5])
            raise tf.errors.NotFoundError(None, None, "something else is missing")

    with pytest.raises(tf.errors.NotFoundError, match="something else"):
        write()
    with pytest.raises(ValueError, match="was discarded after an error"):
        writer.add([7, 5])
    with pytest.raises(ValueError, match="was discarded after an error"):
        writer.close()
    assert list(tmp_path.iterdir()) == []


def test_a_shard_that_took_only_a_part_of_a_document_is_discarded(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(tf.io.gfile.GFile):
        def write(self, content: bytes) -> None:
            super().write(content[:2])
            raise tf.errors.ResourceExhaustedError(None, None, "no space left")

    monkeypatch.setattr(writing, "_CHUNK_BYTES", 1)
    monkeypatch.setattr(tf.io.gfile, "GFile", Full)
    writer = tokens.ShardWriter(str(tmp_path), "train", 0, 1, 1000)
    with pytest.raises(OSError, match="no space left"):
        writer.add([7, 5])
    with pytest.raises(ValueError, match="was discarded after an error"):
        writer.close()
    assert list(tmp_path.iterdir()) == []


def test_an_error_after_close_leaves_the_shard(tmp_path: pathlib.Path) -> None:
    writer = tokens.ShardWriter(str(tmp_path), "train", 0, 1, 1000)

    def write() -> None:
        with writer:
            writer.add([7, 5])
            writer.close()
            raise KeyError("something else")

    with pytest.raises(KeyError, match="something else"):
        write()
    assert writer.close()["num_tokens"] == 2
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".starts", ".tokens"]


def test_a_long_shard_is_written_in_parts(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_CHUNK_BYTES", 16)
    documents = [[2, 0, 7, 8 + number, 1, 3, 5] for number in range(5)]
    with tokens.ShardWriter(str(tmp_path), "train", 0, 1, 1000) as writer:
        for document in documents:
            writer.add(document)
    written = np.fromfile(tmp_path / "train-00000-of-00001.tokens", "<u2")
    assert written.tolist() == [index for document in documents for index in document]


@pytest.mark.parametrize(("index", "vocabulary_size"), [(2, 1000), (-1, 1000), (0, 6)])
def test_the_writer_refuses_numbers_out_of_range(index: int, vocabulary_size: int) -> None:
    with pytest.raises(ValueError, match=f"is {index}|is {vocabulary_size}"):
        tokens.ShardWriter("nowhere", "train", index, 2, vocabulary_size)
