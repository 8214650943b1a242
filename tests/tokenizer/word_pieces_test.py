"""The tokenizer: nothing is lost, and special tokens stand where paragraphs and sentences begin and end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tf_codistill import files, tokens
from tf_codistill.tokenizer import score_quantization
from tf_codistill.tokenizer.score_quantization import MAX_WORD
from tf_codistill.tokenizer.sentences import split_sentences
from tf_codistill.tokenizer.word_pieces import WordPieces

TEXT = Path(__file__).read_text(encoding="utf-8").encode("ascii", "ignore").decode("ascii")
NUM_PIECES = 220
S, END_S, P, END_P = (
    tokens.SENTENCE_START,
    tokens.SENTENCE_END,
    tokens.PARAGRAPH_START,
    tokens.PARAGRAPH_END,
)

WORDS = (*"IAZ0é|/(", "Mr", "word", "reason", "and", "it", "aa", "==", "--", "日本", "\U0001f600", "#0;")
PARTS = (*WORDS, *' \t\r\n\u2028"“)', "  ", "...", ". ", "! ", ".\xa0A", ". 9")
FOREIGN = ("\x00", "\u2581", "\ud800", "\udfff", "\ud83d\ude00")
LONG = (
    *("x" * (MAX_WORD + more) for more in (-2, -1, 0, 1)),
    "é" * (MAX_WORD // 2),
    "ab. " * (MAX_WORD // 2),
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


def test_vocabulary_has_the_pieces_requested_and_six_special_tokens(pieces: WordPieces) -> None:
    assert pieces.vocabulary_size == NUM_PIECES + tokens.NUM_SPECIAL


def test_special_tokens_surround_sentences_and_paragraphs(pieces: WordPieces) -> None:
    ids = pieces.encode("One here. Two there.\n\nThree.")
    special = [index for index in ids if index < tokens.NUM_SPECIAL]
    assert special == [P, S, END_S, S, END_S, END_P, P, END_P, P, S, END_S, END_P]
    assert ids[:2] == [P, S]
    assert ids[-2:] == [END_S, END_P]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=40).map(lambda parts: "".join(parts)[:200]))
@example("Mr. X came. He sat.\n\n\xa0 \n日本語.  Oh\tno!")
@example("He came.\xa0 Oh")
def test_ids_are_those_that_sentencepiece_finds_in_each_sentence(pieces: WordPieces, text: str) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=pieces.model)
    expected: list[int] = []
    for paragraph in text.split("\n"):
        expected.append(P)
        for number, sentence in enumerate(split_sentences(paragraph)):
            own = processor.EncodeAsIds(sentence if number else " " + sentence)
            assert 0 not in own
            # SentencePiece's 1 to 256 are the bytes.
            ids = [pieces.vocabulary_size + i - 1 if i <= 256 else tokens.NUM_SPECIAL + i - 257 for i in own]
            expected += [S, *ids, END_S]
        expected.append(END_P)
    assert pieces.encode(text) == expected
    is_byte = [index >= pieces.vocabulary_size for index in expected]
    document = [
        tokens.OUT_OF_VOCABULARY if found else index
        for index, found, before in zip(expected, is_byte, [False, *is_byte], strict=False)
        if not (found and before)
    ]
    assert pieces.encode_document(text).tolist() == [*document, tokens.END_OF_DOCUMENT]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from((*PARTS, *FOREIGN, *LONG)), max_size=12).map("".join), max_size=8))
@example(["", "\n", "x" * MAX_WORD, "\x00", "", "y" * (MAX_WORD - 1) + " \ud800"])
def test_documents_have_the_same_ids_in_any_company(pieces: WordPieces, texts: list[str]) -> None:
    alone = [pieces.encode_document(text).tolist() for text in texts]
    for size in (2, 3, 8):
        groups = [texts[start : start + size] for start in range(0, len(texts), size)]
        rows = [row for group in groups for row in pieces.encode_documents(group)]
        assert all(row.dtype == np.int32 for row in rows)
        assert [row.tolist() for row in rows] == alone
    assert [pieces.decode(pieces.encode(text)) for text in texts] == texts


def test_many_words_have_the_ids_of_few(pieces: WordPieces) -> None:
    texts = [*TEXT.split("\n\n"), *LONG, "日本 \x00 \ud800. Oh"]
    alone = [pieces.encode_document(text).tolist() for text in texts]
    repeated = texts * (1 + (1 << 18) // sum(len(text.split(" ")) for text in texts))
    for _ in range(2):
        rows = pieces.encode_documents(iter(repeated))
        assert [row.tolist() for row in rows[: len(texts)]] == alone
        assert [row.tolist() for row in rows[-len(texts) :]] == alone
        assert list(map(len, rows)) == list(map(len, alone)) * (len(repeated) // len(texts))


def test_document_has_no_bytes_and_one_token_per_run_of_them(pieces: WordPieces) -> None:
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


def test_long_words_are_cut_after_so_many_characters(pieces: WordPieces) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=pieces.model)
    longest = max((surface for surface in pieces.surfaces if b" " not in surface), key=len).decode("ascii")
    a, b = processor.EncodeAsIds([" a", " b"])
    num_cut_inside = 0
    for begin in range(len(longest)):
        word = longest[begin:] + longest * (2 * MAX_WORD // len(longest))
        cut = [word[start : start + MAX_WORD] for start in range(0, len(word), MAX_WORD)]
        own = [index for part in (" " + cut[0], *cut[1:]) for index in processor.EncodeAsIds(part)]
        num_cut_inside += own != processor.EncodeAsIds(" " + word)
        assert pieces.encode(word)[2:-2] == pieces.ids[own].tolist()
        assert pieces.encode(f"a {word} b")[2:-2] == pieces.ids[[*a, *own, *b]].tolist()
    assert num_cut_inside


def test_each_of_many_different_words_is_encoded_as_if_it_were_alone(pieces: WordPieces) -> None:
    words = [f"{'abcd'[number % 4]}{number}{'.=-'[number % 3] * (number % 11)}" for number in range(5000)]
    processor = sentencepiece.SentencePieceProcessor(model_proto=pieces.model)
    alone = [index for ids in processor.EncodeAsIds([" " + word for word in words]) for index in ids]
    assert pieces.encode(" ".join(words))[2:-2] == pieces.ids[alone].tolist()


def test_no_text_is_too_long_for_exact_sums(pieces: WordPieces, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    encode = sentencepiece.SentencePieceProcessor.EncodeAsIds

    def noting(processor: object, parts: str | list[str], **options: object) -> object:
        lengths.extend(map(len, [parts] if isinstance(parts, str) else parts))
        return encode(processor, parts, **options)

    monkeypatch.setattr(sentencepiece.SentencePieceProcessor, "EncodeAsIds", noting)
    words = [f"{number}{'x' * (7 * number % MAX_WORD)}" for number in range(3000)]
    for text in (
        " ".join(words),
        "\x00".join(words),
        "\xa0A. ".join(words),
        "\n".join([*words, *LONG]),
        *LONG,
    ):
        lengths.clear()
        pieces.encode(text)
        assert 0 < max(lengths) <= score_quantization.MAX_CHARACTERS
    lengths.clear()
    pieces.encode(" ".join(words))
    assert sum(lengths) / len(lengths) > MAX_WORD / 2  # and there are few of them


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


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"split_by_whitespace": False, "byte_fallback": True}, "has pieces of several words"),
        ({"byte_fallback": False}, "has no byte pieces"),
    ],
)
def test_models_of_another_kind_are_refused(tmp_path: Path, options: dict[str, bool], reason: str) -> None:
    path = tmp_path / "other.model"
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(["it is what it is", "it is not what it was"] * 20),
            model_writer=file,
            vocab_size=60 + 256 * options["byte_fallback"],
            hard_vocab_limit=False,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
            **options,
        )
    with pytest.raises(ValueError, match=reason) as caught:
        WordPieces(str(path))
    assert str(path) in str(caught.value)
    assert "name the tokenizer of a corpus, or prepare that corpus again" in str(caught.value)


def test_spaces_may_be_rare_in_what_is_learned_from(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("acgt"), 3000)) for _ in range(10)]
    pieces = WordPieces.train(texts, 150, str(tmp_path / "word_pieces.model"))
    for text in (texts[0], "acgt acgt  gattaca", " "):
        assert pieces.decode(pieces.encode(text)) == text
