"""The tokenizer travels with the model; a model without one says what to do."""

from __future__ import annotations

import json
import pathlib
import shutil

import numpy as np
import pytest

from tests import toy_texts
from tests.toy_texts import GroupDir
from tf_codistill import files, tokens, trained
from tf_codistill.tokenizer.word_pieces import WordPieces


@pytest.fixture
def group(tmp_path: pathlib.Path) -> GroupDir:
    return toy_texts.write_group(tmp_path)


def keep(group: GroupDir, corpus_dir: str | None = None, is_writer: bool = True) -> None:
    corpora = {"name": tokens.open_corpus(corpus_dir or group.corpus_dir)}
    trained.keep_tokenizer(str(group.path / "tokenizer"), corpora, is_writer)


def other_corpus(tmp_path: pathlib.Path) -> str:
    return toy_texts.write_text_corpus(str(tmp_path / "other"), num_pieces=100)


def test_the_tokenizer_and_the_manifest_travel_with_the_model(group: GroupDir) -> None:
    manifest = files.read_manifest(group.corpus_dir)
    keep(group)
    shutil.rmtree(group.corpus_dir)
    kept = json.loads((group.path / "tokenizer" / "manifest.json").read_text())
    assert kept["vocabulary_fingerprint"] == group.pieces.fingerprint
    assert kept["corpora"] == {"name": manifest}
    assert kept["files"][tokens.TOKENIZER]["sha256"] == group.pieces.fingerprint
    for opened in (
        trained.open_trained(str(group.workdir)),
        trained.open_trained(None, model=str(group.path / "student.keras")),
    ):
        assert opened.tokenizer.fingerprint == group.pieces.fingerprint


def test_it_is_written_once_by_one_worker_and_checked_by_all(group: GroupDir, tmp_path: pathlib.Path) -> None:
    keep(group, is_writer=False)
    assert not (group.path / "tokenizer").exists()
    keep(group)
    before = (group.path / "tokenizer" / "manifest.json").stat().st_mtime_ns
    keep(group)
    assert (group.path / "tokenizer" / "manifest.json").stat().st_mtime_ns == before
    other = other_corpus(tmp_path)
    found = tokens.open_corpus(other).fingerprint
    for is_writer in (True, False):
        with pytest.raises(ValueError, match=rf"{found}.*{group.pieces.fingerprint}"):
            keep(group, other, is_writer)


def test_what_a_kill_left_is_written_again(group: GroupDir) -> None:
    (group.path / "tokenizer").mkdir()
    (group.path / "tokenizer" / tokens.TOKENIZER).write_bytes(b"half a to")
    keep(group)
    assert trained.open_trained(str(group.workdir)).tokenizer.fingerprint == group.pieces.fingerprint


def test_a_tokenizer_that_changed_on_its_way_is_found(group: GroupDir) -> None:
    corpus = tokens.open_corpus(group.corpus_dir)
    files.write(corpus.tokenizer_path, b"something else")
    with pytest.raises(files.CorruptError, match="has changed since the corpus was opened"):
        trained.keep_tokenizer(str(group.path / "tokenizer"), {"": corpus})
    files.write(corpus.tokenizer_path, files.read(corpus.tokenizer_path))
    assert files.read_manifest(str(group.path / "tokenizer")) is None


def test_a_damaged_tokenizer_is_named(group: GroupDir) -> None:
    keep(group)
    path = group.path / "tokenizer" / tokens.TOKENIZER
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(files.CorruptError, match=r"tokenizer/word_pieces\.model' is damaged"):
        trained.open_trained(str(group.workdir))


def test_a_model_without_tokenizer_needs_one_named(group: GroupDir) -> None:
    with pytest.raises(
        ValueError, match="no tokenizer travels with model '.*student.keras'; name .* by --tok"
    ):
        trained.open_trained(str(group.workdir))
    path = f"{group.corpus_dir}/{tokens.TOKENIZER}"
    opened = trained.open_trained(str(group.workdir), tokenizer=path)
    assert opened.tokenizer.fingerprint == group.pieces.fingerprint


def test_what_is_missing_or_does_not_fit_is_named(group: GroupDir, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="give --workdir, the directory of a run, or --model"):
        trained.open_trained(None)
    with pytest.raises(ValueError, match=r"no model '.*group_3/student\.keras'; .* at the end of training"):
        trained.open_trained(str(group.workdir), group=3)
    other = f"{other_corpus(tmp_path)}/{tokens.TOKENIZER}"
    with pytest.raises(ValueError, match="model predicts 111 ids, but the tokenizer has 106"):
        trained.open_trained(str(group.workdir), tokenizer=other)


def test_a_tokenizer_of_another_corpus_is_refused(group: GroupDir, tmp_path: pathlib.Path) -> None:
    other = str(tmp_path / "other.model")
    given = WordPieces.train([text.upper() for text in toy_texts.DOCUMENTS], 105, other)
    assert given.vocabulary_size == group.pieces.vocabulary_size
    assert trained.open_trained(str(group.workdir), tokenizer=other), "there is no manifest"
    keep(group)
    expected = rf"has fingerprint {given.fingerprint}, that of .* has {group.pieces.fingerprint}; leave --tok"
    with pytest.raises(ValueError, match=expected):
        trained.open_trained(str(group.workdir), tokenizer=other)
    own = f"{group.corpus_dir}/{tokens.TOKENIZER}"
    assert trained.open_trained(str(group.workdir), tokenizer=own).tokenizer.fingerprint
    metadata = {"tokenizer": tokens.TOKENIZER}
    files.commit(str(group.path / "tokenizer"), metadata)
    assert trained.open_trained(str(group.workdir), tokenizer=other), "it has no fingerprint"


def test_the_state_can_be_put_back(group: GroupDir) -> None:
    model = group.trained()
    ids = np.arange(6, 20, dtype=np.int32)
    from_zero = model.next_logits(ids)
    state = model.state()
    further = model.next_logits(ids)
    assert np.abs(further - from_zero).max() > 1e-3
    model.reset()
    np.testing.assert_array_equal(model.next_logits(ids), from_zero)
    model.reset(state)
    np.testing.assert_array_equal(model.next_logits(ids), further)
    assert WordPieces(f"{group.corpus_dir}/{tokens.TOKENIZER}").vocabulary_size == further.size
