"""The layout: sentences end where the rule says, and every text becomes words and signs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tf_codistill.corpus import layout
from tf_codistill.corpus.layout import lay_out, split_sentences

TITLES = ("Capt", "Dr", "Messrs", "Mme", "Mr", "Mrs", "Ms", "Prof", "Rev", "St")
ABBREVIATIONS = (*TITLES, "Eq", "Fig", "No", "cf", "eg", "etc", "ie", "vs")
WORDS = (*ABBREVIATIONS, *"IAaÉ9_Я\u0301日-\u2581\x00\ud800", "word")
ENDS = (*".!?…\"'”’)]“‘([", "...", "?!", ". ", ".\xa0")
RICH = (*WORDS, *ENDS, *" \t\r\x0b\x1c\x85\xa0\u2003\u2028\u3000", "  ")
"""What the rule looks at, in parts from which its cases arise often."""


def by_the_rule(paragraph: str) -> list[str]:
    """What `split_sentences` returns, character by character."""
    sentences, start, position = [], 0, 0
    while position < len(paragraph):
        first = position
        position = past(paragraph, position, ".!?…".__contains__)
        if position == first:
            position += 1
            continue
        closed = past(paragraph, position, "\"'”’)]".__contains__)
        spaces = past(paragraph, closed, str.isspace)
        opened = past(paragraph, spaces, "\"'“‘([".__contains__)
        follower = paragraph[opened : opened + 1]
        may_follow = spaces > closed and follower.isascii() and (follower.isupper() or follower.isdigit())
        if may_follow and not (
            position == closed and paragraph[position - 1] == "." and is_exception(paragraph[:first])
        ):
            sentences.append(paragraph[start:closed])
            start = closed
        position = closed
    return [*sentences, paragraph[start:]] if paragraph else []


def past(paragraph: str, position: int, belongs: Callable[[str], bool]) -> int:
    while position < len(paragraph) and belongs(paragraph[position]):
        position += 1
    return position


def is_exception(before: str) -> bool:
    """Whether a text ends with a word after which a full stop ends no sentence."""
    word = ""
    while before and is_letter(before[-1]):
        before, word = before[:-1], before[-1] + word
    return len(word) == 1 or word in ABBREVIATIONS


def is_letter(character: str) -> bool:
    is_european = 0xC0 <= ord(character) <= 0x52F or 0x1E00 <= ord(character) <= 0x1FFF
    return is_european or character == "_" or (character.isascii() and character.isalnum())


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
    assert sorted(layout.ABBREVIATIONS) == sorted(ABBREVIATIONS)
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


def test_the_example_is_laid_out_as_shown() -> None:
    words = [r"\n(", "Mr.", "X", "came.", r"\n/", "He", "sat.", r"\n)", r"\n(", r"Oh\n#0;", r"\n)"]
    assert lay_out("Mr. X came. He sat.\nOh\x00") == " ".join(words).replace(r"\n", "\n")


@pytest.mark.parametrize(
    ("text", "laid_out"),
    [
        ("", "\n|"),
        ("\n", "\n| \n|"),
        (" ", "\n(   \n)"),
        ("a\n\n b ", "\n( a \n) \n| \n(  b  \n)"),
        ("came.\xa0He", "\n( came. \n/\xa0He \n)"),
        ("came.  He", "\n( came. \n/  He \n)"),
        ("came.\nHe", "\n( came. \n) \n( He \n)"),
        ("\u2581a \ud800\udfff", "\n( \n#2581;a \n#d800;\n#dfff; \n)"),
        ("#0; (|/.)", "\n( #0; (|/.) \n)"),
    ],
)
def test_texts_are_laid_out(text: str, laid_out: str) -> None:
    assert lay_out(text) == laid_out


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from((*RICH, "\n", "\n")), max_size=12).map("".join))
def test_words_and_signs_are_those_of_each_sentence(text: str) -> None:
    lines = [by_the_rule(line) for line in text.split("\n")]
    marked = " ".join("\n( " + " \n/".join(sentences) + " \n)" if sentences else "\n|" for sentences in lines)
    foreign = "\x00\u2581\ud800"
    assert lay_out(text) == "".join(f"\n#{ord(c):x};" if c in foreign else c for c in marked)


@settings(max_examples=500, deadline=None)
@given(st.text(st.characters() | st.sampled_from("\x00\n\u2581\ud800\udbff\udc00\udfff"), max_size=30))
@example("\ud83d\ude00")
def test_every_text_can_be_written_and_read_back(text: str) -> None:
    laid_out = lay_out(text)
    assert laid_out.encode("utf-8")
    assert "\x00" not in laid_out
    assert layout.SPACE_SIGN not in laid_out
    lines = [found[1] or "" for found in re.finditer(r"\n\( (.*?) \n\)|\n\|", laid_out, re.DOTALL)]
    sentences = [line.split(" \n/") for line in lines]
    assert [len(found) for found in sentences] == [len(split_sentences(x)) or 1 for x in text.split("\n")]
    foreign = re.compile(r"\n#([0-9a-f]+);")
    joined = [foreign.sub(lambda found: chr(int(found[1], 16)), "".join(parts)) for parts in sentences]
    assert "\n".join(joined) == text


@given(st.text(st.characters() | st.sampled_from("\x00\u2581\ud800\udfff"), max_size=30))
def test_a_plain_text_lacks_what_sentencepiece_does_not_take(text: str) -> None:
    assert layout.plain(text) == "".join(
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
