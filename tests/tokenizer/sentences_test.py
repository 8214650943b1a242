"""Sentence segmentation: sentences end where the rule says, and every text becomes words and signs."""

from __future__ import annotations

import re
import time

import numpy as np
import pyarrow
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tokenizer.sentence_rule import ABBREVIATIONS, RICH, by_the_rule, words_of
from tf_codistill.tokenizer import sentences
from tf_codistill.tokenizer.sentences import split_sentences, to_words


@pytest.mark.parametrize(
    "sentences",
    [
        [],
        [" "],
        ["It rains.", " We stay."],
        ['"Stop!"', " He did.", "  Did he?", " (Yes.)", " 9 times"],
        ["Mr. Smith met J. Doe, cf. Fig. 3."],
        ["Wait...", " Then go"],
        ["version 3.11 of e.g. python"],
        ["É. Zola! À. 9 A"],
        ["quye\u0302\u0300n.", " Moi"],  # a word of one letter, to Unicode's \\w
        ["Mr!", " Mr.)", " Mr.. Mr. A"],
        # The full stops after an exception are one end: none of them ends a sentence.
        ["don't think that I... I care"],
        ["Mr.... A?.. B!. C"],
        ["Mr.…", " A"],
        ["A?. B.!", " C"],
        ["It was I. It was Is.", " It was he."],
        # What closes belongs to the sentence, and makes an end of a full stop after an exception.
        ["a?).", " B"],
        ["end.))", " “Quoted”"],
        ["He said “I.”", " So."],
        ["No.'", " [“(9"],
        ["end.”.", " Next"],
        # Exceptions at the beginning.
        ["A. B"],
        ["No. 9"],
        ["etc. And"],
        [".", " A"],
        ["...", " A"],
        ["9. Then 99.", " Then"],
        # Words that only end as exceptions do.
        ["bigNo.", " Then"],
        ["_I.", " Then"],
        ["éMr.", " Then"],
        ["日I. Then"],
        ["e-Mr. Then"],
        # White space of any kind and length, which belongs to what follows.
        ["end.", "\tNext.", "\u2003Next.", "\xa09"],
        ["end.", "   Next.", " \xa0\t Next!", "\r\x85(Next)"],
        ["end.Next end.\u200bNext end. next. -Next. É. "],
    ],
    ids=repr,
)
def test_sentences(sentences: list[str]) -> None:
    assert split_sentences("".join(sentences)) == sentences


def test_every_abbreviation_has_its_case() -> None:
    assert sorted(sentences.ABBREVIATIONS) == sorted(ABBREVIATIONS)
    for word in ABBREVIATIONS:
        assert split_sentences(f"{word}. A") == [f"{word}. A"]
        assert split_sentences(f"by {word}... A") == [f"by {word}... A"]
        assert split_sentences(f"x{word}. A") == [f"x{word}.", " A"]


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.sampled_from(RICH), max_size=12).map("".join))
@example("I... I")
@example("Mr.")
def test_sentences_end_by_the_rule(paragraph: str) -> None:
    assert split_sentences(paragraph) == by_the_rule(paragraph)


def classes(words: list[str]) -> np.ndarray:
    """The classes of words, each without the space before it."""
    return sentences.classes(pyarrow.array([" " + word for word in words], pyarrow.large_string()))


def test_the_example_becomes_the_words_shown() -> None:
    words = [r"\n(", "Mr.", "X", "came.", "He", "sat.", r"\n)", r"\n(", r"Oh\n#0;", r"\n)"]
    words = [word.replace(r"\n", "\n") for word in words]
    assert to_words("Mr. X came. He sat.\nOh\x00") == " ".join(words)
    letters = ["".join(sign for bit, sign in ((1, "E"), (2, "B")) if found & bit) for found in classes(words)]
    assert letters == ["", "B", "B", "E", "B", "E", "", "", "B", ""]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "\n|"),
        ("\n", "\n| \n|"),
        (" ", "\n(   \n)"),
        ("a\n\n b ", "\n( a \n) \n| \n(  b  \n)"),
        ("came.\xa0He", "\n( came.\xa0He \n)"),
        ("came.  He", "\n( came.  He \n)"),
        ("came.\nHe", "\n( came. \n) \n( He \n)"),
        ("\u2581a \ud800\udfff", "\n( \n#2581;a \n#d800;\n#dfff; \n)"),
        ("#0; (|/.)", "\n( #0; (|/.) \n)"),
    ],
)
def test_texts_become_words(text: str, words: str) -> None:
    assert to_words(text) == words


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.sampled_from((*RICH, "\n", "\n")), max_size=12).map("".join))
@example("A. A\nI. A\n. A")
@example("a.  \xa0  A")
@example("a.\xa0 \t A")
@example("a. \n A\n A")
def test_sentences_end_with_the_words_with_which_they_should(text: str) -> None:
    expected = []
    for line in text.split("\n"):
        is_end = [is_end for _, is_end in words_of(line)]
        expected += [False, *is_end, False] if line else [False]
    words = to_words(text).split(" ")
    assert sentences.sentence_ends(classes(words)).tolist() == expected


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(RICH), max_size=12).map("".join))
@example("a.\xa0A.\t\x85")
def test_signs_stand_where_sentences_end_inside_a_word(word: str) -> None:
    word = word.replace(" ", "\t")
    amid = "\n/".join(by_the_rule(word))
    assert sentences.amid_sentence(word) == amid
    ended = word.rstrip()
    assert sentences.before_sentence(word) == "\n/".join(by_the_rule(ended)) + "\n/" + word[len(ended) :]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(st.sampled_from(RICH), max_size=4).map("".join), min_size=1, max_size=8))
def test_plain_words_have_no_signs_and_get_none(words: list[str]) -> None:
    spaced = [" " + word for word in to_words(" ".join(words)).split(" ")]
    plain = sentences.is_plain(pyarrow.array(spaced, pyarrow.large_string()))
    for word, is_plain in zip(spaced, plain.tolist(), strict=True):
        if is_plain:
            assert "\n" not in word
            assert sentences.amid_sentence(word) == word
            assert (
                sentences.before_sentence(word) == word + "\n/"
                or not classes([word[1:]])[0] & sentences.MAY_END
            )
        else:
            assert any(map(str.isspace, word[1:]))


@settings(max_examples=500, deadline=None)
@given(st.text(st.characters() | st.sampled_from("\x00\n\u2581\ud800\udbff\udc00\udfff"), max_size=30))
@example("\ud83d\ude00")
def test_every_text_can_be_written_and_read_back(text: str) -> None:
    words = to_words(text)
    assert words.encode("utf-8")
    assert "\x00" not in words
    assert sentences.SPACE_SIGN not in words
    lines = [found[1] or "" for found in re.finditer(r"\n\( (.*?) \n\)|\n\|", words, re.DOTALL)]
    foreign = re.compile(r"\n#([0-9a-f]+);")
    assert "\n".join(foreign.sub(lambda found: chr(int(found[1], 16)), line) for line in lines) == text


@given(st.text(st.characters() | st.sampled_from("\x00\u2581\ud800\udfff"), max_size=30))
def test_a_plain_text_lacks_what_sentencepiece_does_not_take(text: str) -> None:
    assert sentences.plain(text) == "".join(
        c for c in text if c not in "\x00\u2581" and not 0xD800 <= ord(c) < 0xE000
    )


@pytest.mark.parametrize(
    "text",
    [".)" * 60_000, "!)" * 60_000, "." * 120_000, "A" + "." * 120_000 + " B", "." + " " * 120_000 + "x"],
    ids=["closed full stops", "closed calls", "full stops", "ellipsis", "spaces"],
)
def test_no_text_takes_quadratic_time(text: str) -> None:
    start = time.process_time()
    split_sentences(text)
    assert time.process_time() - start < 1.0
