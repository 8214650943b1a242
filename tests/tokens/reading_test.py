"""Corpora as they are read: what was written comes back, and what is damaged is named in one sentence."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import toy_corpora
from tf_codistill import files, tokens

DOCUMENTS = toy_corpora.numbered_documents([4, 1, 7, 2, 3])
TOKENS = "train-00000-of-00002.tokens"
STARTS = "train-00000-of-00002.starts"


@pytest.fixture
def corpus_dir(tmp_path: pathlib.Path) -> str:
    return toy_corpora.write_corpus(str(tmp_path / "corpus"), DOCUMENTS, num_shards=2)


def read_documents(split: tokens.Split) -> list[list[int]]:
    bounds = zip(split.starts[:-1], split.starts[1:], strict=True)
    return [split.gather(np.arange(start, end)).tolist() for start, end in bounds]


@settings(max_examples=25, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(6, 999), max_size=9), max_size=12),
    num_shards=st.integers(1, 4),
)
def test_documents_are_read_as_they_were_written(documents: list[list[int]], num_shards: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        toy_corpora.write_corpus(directory, documents, num_shards)
        split = tokens.open_corpus(directory, verify_contents=True).split("train")
        assert read_documents(split) == [[*document, tokens.END_OF_DOCUMENT] for document in documents]
        assert split.num_documents == len(documents)
        assert split.num_tokens == sum(map(len, documents)) + len(documents)


def test_gather_takes_positions_of_any_shape_over_all_shards(corpus_dir: str) -> None:
    split = tokens.open_corpus(corpus_dir).split("train")
    row = np.array([token for document in read_documents(split) for token in document])
    positions = np.array([[0, 21, 3], [6, 7, 5]])
    ids = split.gather(positions)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, row[positions])


@pytest.mark.parametrize("position", [-1, 22])
def test_gather_refuses_positions_outside(corpus_dir: str, position: int) -> None:
    with pytest.raises(ValueError, match="positions 0 to 21"):
        tokens.open_corpus(corpus_dir).split("train").gather(np.array([0, position]))


@pytest.mark.parametrize(("vocabulary_size", "bytes_per_token"), [(65536, 2), (65537, 4)])
def test_ids_take_two_bytes_while_they_fit(
    tmp_path: pathlib.Path, vocabulary_size: int, bytes_per_token: int
) -> None:
    directory = toy_corpora.write_corpus(
        str(tmp_path), [[vocabulary_size - 1]], vocabulary_size=vocabulary_size
    )
    assert (tmp_path / "train-00000-of-00001.tokens").stat().st_size == 2 * bytes_per_token
    split = tokens.open_corpus(directory).split("train")
    assert read_documents(split) == [[vocabulary_size - 1, tokens.END_OF_DOCUMENT]]


def test_a_corpus_off_the_local_disk_is_read_too() -> None:
    directory = toy_corpora.write_corpus("ram://tokens_test/corpus", DOCUMENTS, num_shards=2)
    split = tokens.open_corpus(directory, verify_contents=True).split("train")
    assert [document[:-1] for document in read_documents(split)] == DOCUMENTS


def test_the_mark_says_what_is_inside(corpus_dir: str) -> None:
    corpus = tokens.open_corpus(corpus_dir)
    assert corpus.vocabulary_size == 1000
    assert corpus.fingerprint == files.checksum(corpus.tokenizer_path)
    assert corpus.manifest["counts"] == {"read": 5, "kept": 5, "dropped": {}}
    shards = [f"train-0000{index}-of-00002" for index in range(2)]
    assert corpus.manifest["splits"] == {"train": {"num_documents": 5, "num_tokens": 22, "shards": shards}}


def rewrite(directory: str, name: str, change: Callable[[bytes], bytes], recommit: bool) -> None:
    path = os.path.join(directory, name)
    files.write(path, change(files.read(path)))
    if recommit:
        manifest = files.read_manifest(directory)
        assert manifest is not None
        files.commit(directory, manifest)


def put(entry: int, value: int, dtype: str) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        array = np.frombuffer(content, dtype).copy()
        array[entry] = value
        return array.tobytes()

    return change


DAMAGES = {
    "shard cut short": (TOKENS, lambda content: content[:-2], False, "bytes is 12, its manifest says 14"),
    "shard of odd size": (TOKENS, lambda content: content[:-1], True, "no multiple of the 2"),
    "starts of odd size": (STARTS, lambda content: content[:-1], True, "no multiple of the 8"),
    "one token more": (TOKENS, lambda content: content + content[-2:], True, "num_tokens 23, .* says 22"),
    "too few documents": (STARTS, lambda content: content[:8], True, "num_documents 4, its manifest says 5"),
    "starts past the first token": (STARTS, put(0, 1, "<i8"), True, "must start at 0"),
    "starts decrease": (STARTS.replace("-00000", "-00001"), put(1, 12, "<i8"), True, "increasing"),
    "starts beyond the end": (STARTS, put(1, 7, "<i8"), True, "below 7 tokens"),
    "no end of document": (TOKENS, put(-1, 9, "<u2"), True, "its last id is 9"),
    "another tokenizer": (tokens.TOKENIZER, bytes.upper, False, "not the one that the token shards"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_in_one_sentence(corpus_dir: str, damage: str) -> None:
    name, change, recommit, complaint = DAMAGES[damage]
    rewrite(corpus_dir, name, change, recommit)
    with pytest.raises(files.CorruptError, match=complaint) as caught:
        tokens.open_corpus(corpus_dir)
    assert corpus_dir in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("prepare the corpus again")


@pytest.mark.parametrize(
    ("change", "recommit", "complaint"),
    [
        (put(1, 999, "<u2"), False, "sha256"),
        (put(1, 1000, "<u2"), True, "has id 1000, but the vocabulary has ids 0 to 999"),
        (put(4, 7, "<u2"), True, "does not end with END_OF_DOCUMENT"),
    ],
)
def test_contents_are_checked_when_asked(
    corpus_dir: str, change: Callable[[bytes], bytes], recommit: bool, complaint: str
) -> None:
    rewrite(corpus_dir, TOKENS, change, recommit)
    tokens.open_corpus(corpus_dir)
    with pytest.raises(files.CorruptError, match=complaint):
        tokens.open_corpus(corpus_dir, verify_contents=True)


def test_what_is_no_corpus_is_told(tmp_path: pathlib.Path, corpus_dir: str) -> None:
    with pytest.raises(ValueError, match=r"nowhere' does not exist; run prepare_corpus"):
        tokens.open_corpus(str(tmp_path / "nowhere"))
    manifest = files.read_json(os.path.join(corpus_dir, files.MANIFEST))
    for key, value, complaint in (
        ("format_version", 2, "format_version 2; this program reads 1"),
        ("splits", {"train": {}}, "manifest of corpus .* is damaged"),
        ("splits", {"test": {"shards": ["test-0"], "num_tokens": 0, "num_documents": 0}}, "is missing"),
        ("vocabulary_size", None, "manifest of corpus .* is damaged"),
    ):
        files.write_json(os.path.join(corpus_dir, files.MANIFEST), {**manifest, key: value})
        with pytest.raises(ValueError, match=complaint):
            tokens.open_corpus(corpus_dir)
    files.remove(os.path.join(corpus_dir, files.MANIFEST))
    with pytest.raises(ValueError, match="is not finished: it has no manifest"):
        tokens.open_corpus(corpus_dir)


def test_an_unknown_split_is_told(corpus_dir: str) -> None:
    with pytest.raises(ValueError, match="split 'test' is not in corpus .* it has train"):
        tokens.open_corpus(corpus_dir).split("test")
