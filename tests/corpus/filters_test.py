"""Filters: the right reason for each kind of page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf_codistill.corpus.filters import Document, English, LinkList, LongParagraphs, judge

ENGLISH = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of "
    "foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of Light.",
    "There were a king with a large jaw and a queen with a plain face, on the throne of England.",
)
GERMAN = (
    "Es war die beste und die schlechteste Zeit, das Zeitalter der Weisheit und das der Torheit, eine Epoche "
    "des Glaubens und eine des Unglaubens, der Frühling der Hoffnung und der Winter der Verzweiflung.",
)
MENU = ("Home", "About us", "Contact 17", "Privacy policy", "Comments (0)", "Next") * 5
FILTERS = (English(), LinkList(), LongParagraphs())


def document(paragraphs: tuple[str, ...], language: str | None = None) -> Document:
    return Document("https://example.org/", language, paragraphs)


@pytest.mark.parametrize(
    ("paragraphs", "language", "expected"),
    [
        (ENGLISH, None, "kept"),
        (ENGLISH, "eng", "kept"),
        (ENGLISH, "eng,deu", "kept"),
        (ENGLISH, "deu,eng", "other_language"),
        (GERMAN, None, "other_language"),
        (GERMAN * 3 + ENGLISH, None, "other_language"),
        (MENU, "eng", "link_list"),
        (MENU + ENGLISH[1:], "eng", "link_list"),
        (ENGLISH[1:], "eng", "no_long_paragraphs"),
        ((), "eng", "no_long_paragraphs"),
        ((), None, "other_language"),
    ],
)
def test_verdict(paragraphs: tuple[str, ...], language: str | None, expected: str) -> None:
    verdict = judge(document(paragraphs, language), FILTERS)
    assert (verdict if isinstance(verdict, str) else "kept") == expected


def test_menu_around_an_article_goes_and_the_article_stays() -> None:
    verdict = judge(document((*MENU[:4], *ENGLISH, *MENU[:3]), "eng"), FILTERS)
    assert isinstance(verdict, Document)
    assert verdict.paragraphs == ENGLISH


def test_first_filter_that_drops_gives_the_reason() -> None:
    assert judge(document(MENU, "deu"), (English(), LinkList())) == "other_language"
    assert judge(document(MENU, "deu"), (LinkList(), English())) == "link_list"


def test_thresholds_are_exact() -> None:
    steps = LongParagraphs(min_characters=10, min_paragraphs=2, min_line_characters=5)
    assert steps(document(("x" * 10, "x" * 9))) == "no_long_paragraphs"
    verdict = steps(document(("x" * 10, "x" * 4, "x" * 5, "y" * 10)))
    assert isinstance(verdict, Document)
    assert verdict.paragraphs == ("x" * 10, "x" * 5, "y" * 10)


@given(st.text(st.characters(), max_size=200))
def test_language_detector_takes_any_text(text: str) -> None:
    assert English()(document((text,))) in (document((text,)), "other_language")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: English(min_percent=101), "min_percent is 101"),
        (lambda: LinkList(max_share=-0.1), "max_share is -0.1"),
        (lambda: LongParagraphs(min_paragraphs=0), "min_paragraphs=0"),
        (lambda: LongParagraphs(min_characters=20, min_line_characters=30), "min_line_characters=30"),
    ],
)
def test_thresholds_without_sense_are_refused(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]
