"""The protocol: what is expected of a tokenizer is what word pieces offer."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import tensorflow as tf

from tf_codistill import tokens
from tf_codistill.tokenizer.base import GraphTokenizer, Tokenizer
from tf_codistill.tokenizer.in_graph import GraphWordPieces
from tf_codistill.tokenizer.word_pieces import WordPieces

TEXT = Path(__file__).read_text(encoding="utf-8")
DOCUMENTS = ["The ids of a text. And what they say.", "A tokenizer\n\nhas a protocol.", "日"]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> WordPieces:
    path = str(tmp_path_factory.mktemp("pieces") / "word_pieces.model")
    return WordPieces.train([TEXT.encode("ascii", "ignore").decode("ascii")], 130, path)


def members(protocol: type) -> dict[str, object]:
    return {name: member for name, member in vars(protocol).items() if not name.startswith("_")}


@pytest.mark.parametrize(
    ("protocol", "implementation"), [(Tokenizer, WordPieces), (GraphTokenizer, GraphWordPieces)]
)
def test_word_pieces_take_what_the_protocol_passes(protocol: type, implementation: type) -> None:
    for name, member in members(protocol).items():
        if not isinstance(member, property):
            expected = inspect.signature(member).parameters  # type: ignore[arg-type]
            found = inspect.signature(getattr(implementation, name)).parameters
            assert list(found) == list(expected), name
            assert [p.annotation for p in found.values()] == [p.annotation for p in expected.values()], name


def test_word_pieces_give_what_the_protocol_promises(pieces: WordPieces) -> None:
    assert set(members(Tokenizer)) <= set(dir(pieces))
    tokenizer: Tokenizer = pieces
    assert tokenizer.vocabulary_size == 130 + tokens.NUM_SPECIAL
    assert re.fullmatch("[0-9a-f]{64}", tokenizer.fingerprint)
    rows = tokenizer.encode_documents(iter(DOCUMENTS))
    for row in rows:
        assert 0 <= row.min() <= row.max() < tokenizer.vocabulary_size
        assert row[-1] == tokens.END_OF_DOCUMENT
    assert [tokenizer.decode(row) for row in rows] == [*DOCUMENTS[:2], "\ufffd"]
    with pytest.raises(ValueError, match="is not of this vocabulary"):
        tokenizer.decode([-1])
    in_graph = tokenizer.in_graph().encode_document(tf.constant(DOCUMENTS))
    assert in_graph.to_list() == [row.tolist() for row in rows]
