"""The tokenizer: nothing is lost, and marks stand where paragraphs and sentences begin and end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tf_codistill import files, tokens
from tf_codistill.corpus.word_pieces import WordPieces

TEXT = Path(__file__).read_text(encoding="utf-8").encode("ascii", "ignore").decode("ascii")
NUM_PIECES = 220
S, END_S, P, END_P = (
    tokens.SENTENCE_START,
    tokens.SENTENCE_END,
    tokens.PARAGRAPH_START,
    tokens.PARAGRAPH_END,
)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> WordPieces:
    path = str(tmp_path_factory.mktemp("pieces") / "word_pieces.model")
    return WordPieces.train([TEXT], NUM_PIECES, path)


@settings(max_examples=500, deadline=None)
@given(st.text(st.characters(), max_size=60))
@example("")
@example("\n")
@example("\n\n x \n ")
@example("\x00")
@example("\ud800")
@example("\udc00\ud800")
@example("\u2581a \u2581\u2581")
@example("<s> </s> <unk> <0x41> <p>")
@example("  two  spaces.  Two   more. ")
@example("tab\tand\r\nreturn\u2028\x85\x1c")
@example("日本語 \U0001f600 e\u0301 \ufeff\ufffd\u2585 \u2047")
def test_decode_restores_every_string(pieces: WordPieces, text: str) -> None:
    assert pieces.decode(pieces.encode(text)) == text


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("aZ9 .!?…\"')]\n\u2581é"), max_size=60))
def test_decode_restores_every_sentence_end(pieces: WordPieces, text: str) -> None:
    assert pieces.decode(pieces.encode(text)) == text


def test_vocabulary_has_the_pieces_asked_for_and_six_marks(pieces: WordPieces) -> None:
    assert pieces.vocabulary_size == NUM_PIECES + tokens.NUM_SPECIAL


def test_marks_surround_sentences_and_paragraphs(pieces: WordPieces) -> None:
    ids = pieces.encode("One here. Two there.\n\nThree.")
    marks = [index for index in ids if index < tokens.NUM_SPECIAL]
    assert marks == [P, S, END_S, S, END_S, END_P, P, END_P, P, S, END_S, END_P]
    assert ids[:2] == [P, S]
    assert ids[-2:] == [END_S, END_P]


def test_document_has_no_bytes_and_one_mark_per_run_of_them(pieces: WordPieces) -> None:
    ids = pieces.encode_document("a 日本 b 語\x00語")
    assert ids.dtype == np.int32
    assert ids.max() < pieces.vocabulary_size
    assert ids[-1] == tokens.END_OF_DOCUMENT
    assert np.count_nonzero(ids == tokens.END_OF_DOCUMENT) == 1
    assert np.count_nonzero(ids == tokens.OUT_OF_VOCABULARY) == 2
    assert pieces.decode(ids) == "a \ufffd b \ufffd"


def test_plain_document_differs_from_encode_only_by_its_end(pieces: WordPieces) -> None:
    text = "The right reason for each kind of page.\nAnd more."
    assert pieces.encode_document(text).tolist() == [*pieces.encode(text), tokens.END_OF_DOCUMENT]


def test_training_covers_printable_ascii(pieces: WordPieces) -> None:
    every = "".join(map(chr, range(0x20, 0x7F)))
    assert tokens.OUT_OF_VOCABULARY not in pieces.encode_document(every)


def test_long_words_are_cut_and_nothing_is_lost(pieces: WordPieces) -> None:
    for text in ("x" * 5000, "é" * 3000 + " y", "many words " * 700, "\ud800" * 600, "x" * 256 + " z"):
        assert pieces.decode(pieces.encode(text)) == text
    # A cut before a space changes no piece.
    words = "many short words of text" + " and more of it" * 30
    alone = [pieces.encode(word)[2:-2] for word in words.split(" ")]
    assert pieces.encode(words)[2:-2] == [index for word in alone for index in word]


def test_ids_from_the_middle_of_a_text_can_be_decoded(pieces: WordPieces) -> None:
    ids = pieces.encode("Some words here. And there.\nMore words.")
    for start in range(len(ids)):
        whole = pieces.decode(ids)
        assert whole.endswith(pieces.decode(ids[start:]).lstrip("\n").lstrip(" "))
    assert pieces.decode([pieces.vocabulary_size + 0xFF]) == "\ufffd"


@pytest.mark.parametrize("index", [-1, NUM_PIECES + 6 + 256])
def test_foreign_id_is_refused(pieces: WordPieces, index: int) -> None:
    with pytest.raises(ValueError, match=f"id {index} "):
        pieces.decode([P, S, index])


def test_same_texts_give_same_file(pieces: WordPieces, tmp_path: Path) -> None:
    again = WordPieces.train(iter([TEXT]), NUM_PIECES, str(tmp_path / "other_name.model"))
    assert again.fingerprint == pieces.fingerprint
    assert again.fingerprint == files.checksum(str(tmp_path / "other_name.model"))


@pytest.mark.parametrize(("texts", "num_pieces"), [([TEXT], 100_000), ([TEXT], 20), ([], 100)])
def test_corpus_that_cannot_fill_the_vocabulary_is_told(
    tmp_path: Path, texts: list[str], num_pieces: int
) -> None:
    with pytest.raises(ValueError, match=f"num_pieces = {num_pieces}"):
        WordPieces.train(texts, num_pieces, str(tmp_path / "x.model"))
    assert not (tmp_path / "x.model").exists()


def test_file_that_is_no_model_is_told(tmp_path: Path) -> None:
    path = tmp_path / "word_pieces.model"
    path.write_bytes(b"no model")
    with pytest.raises(ValueError, match="word_pieces.model"):
        WordPieces(str(path))
