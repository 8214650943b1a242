"""Filters: the right reason for each kind of page."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.plain_filters import judge_plainly
from tf_codistill import files
from tf_codistill.corpus import filters
from tf_codistill.corpus.document import Document
from tf_codistill.corpus.filters import Boilerplate, English, Length, LinkList, LongParagraphs, judge
from tf_codistill.corpus.wet import Record, read_wet

ENGLISH = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of "
    "foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of Light.",
    "There were a king with a large jaw and a queen with a plain face, on the throne of England.",
)
GERMAN = (
    "Es war die beste und die schlechteste Zeit, das Zeitalter der Weisheit und das der Torheit, eine Epoche "
    "des Glaubens und eine des Unglaubens, der Frühling der Hoffnung und der Winter der Verzweiflung.",
)
FRENCH = (
    "C'était le meilleur et le pire des temps, le siècle de la sagesse et celui de la folie, l'époque de la "
    "foi et celle du doute, la saison de la lumière et celle des ténèbres, le printemps de l'espoir et "
    "l'hiver du désespoir ; nous avions tout devant nous, nous n'avions rien devant nous.",
)
MENU = ("Home", "About us", "Contact 17", "Privacy policy", "Comments (0)", "Next") * 5
NOTICES = ("© 2017 The Company Ltd", "We use cookies to make this site work for you.")
FILTERS = (English(), LinkList(), Boilerplate(), LongParagraphs(), Length())


def document(paragraphs: tuple[str, ...], language: str | None = None) -> Document:
    return Document(
        "https://example.org/", language, paragraphs, tuple(range(len(paragraphs))), "crawl.warc.wet"
    )


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
        (NOTICES, "eng", "boilerplate"),
        (ENGLISH[1:], "eng", "no_long_paragraphs"),
        (("x" * 120,), "eng", "no_long_paragraphs"),
        ((ENGLISH[0][:150],), "eng", "too_short"),
        (ENGLISH * 4000, "eng", "too_long"),
        ((), "eng", "no_long_paragraphs"),
        ((), None, "other_language"),
    ],
)
def test_verdict(paragraphs: tuple[str, ...], language: str | None, expected: str) -> None:
    verdict = judge(document(paragraphs, language), FILTERS)
    assert (verdict if isinstance(verdict, str) else "kept") == expected


def test_menu_around_an_article_goes_and_the_article_stays() -> None:
    verdict = judge(document((*MENU[:4], *ENGLISH, *NOTICES, *MENU[:3]), "eng"), FILTERS)
    assert isinstance(verdict, Document)
    assert verdict.paragraphs == ENGLISH


def test_first_filter_that_drops_gives_the_reason() -> None:
    assert judge(document(MENU, "deu"), (English(), LinkList())) == "other_language"
    assert judge(document(MENU, "deu"), (LinkList(), English())) == "link_list"


@pytest.mark.parametrize(
    "line",
    [
        "© 1998-2017 Example Inc.",
        "Copyright 2017 by the author",
        "(c) 2017 Example",
        "(C)2017 Example",
        "All Rights Reserved.",
        "By using this site you agree to our Terms of Use and our Privacy Policy.",
        "This site uses cookies. By browsing on you agree.",
        "Please enable JavaScript to view the comments.",
        "Read more...",
        "» Continue reading about the cathedral",
        "Click here to see the other pictures",
        "Posted by admin on June 5, 2017",
        "Leave a Comment",
        "Related articles",
        "Home | About us | Contact",
        "News » Sport » Football » Results",
    ],
)
def test_lines_in_which_pages_speak_of_themselves_go(line: str) -> None:
    verdict = Boilerplate()(document((ENGLISH[0], line, ENGLISH[1])))
    assert isinstance(verdict, Document)
    assert (verdict.paragraphs, verdict.numbers) == (ENGLISH, (0, 2))
    assert Boilerplate()(document((line,))) == "boilerplate"
    assert Boilerplate(max_line_characters=len(line) - 1)(document((line,))) == document((line,))


@pytest.mark.parametrize(
    "line",
    [
        "'Posted in London,' she said, examining the envelope eagerly.",
        "Subscribe to this or that institution, he cried, and you will live to regret it.",
        "Read more books than your neighbour does, and you will never want for a thing to say.",
        "She had a copyright in her tears | or so the critics of those days said | at least.",
        "The cookies were on the table.",
        "He reserved all rights to himself.",
        "a > b",
        "| Home |",
        "» Next »",
        "• Milk",
        "(c)areless talk costs lives, as they said.",
        "We use cookies. " * 20,
    ],
)
def test_other_lines_stay(line: str) -> None:
    assert Boilerplate()(document((line,))) == document((line,))


def test_long_paragraphs_have_words() -> None:
    steps = LongParagraphs(min_characters=10, min_words=3, min_line_characters=0)
    assert steps(document(("one twotwotwo", "a b c"))) == "no_long_paragraphs"
    assert steps(document(("one two tree", "a b c"))) == document(("one two tree", "a b c"))


def test_bounds_of_length_are_exact() -> None:
    step = Length(min_characters=10, min_words=3, max_characters=20, max_words=5)
    verdicts = {
        ("1 3 56789",): "too_short",
        ("1 3 567890",): "kept",
        ("1 3 5", "67890"): "kept",
        ("1234", "678901"): "too_short",
        ("1 3 5 7 9012345678901",): "too_long",
        ("1 3 5 7 901234567890",): "kept",
        ("1 3 5 7 9 12",): "too_long",
        ("1 3", "5 7 9 12345"): "too_long",
    }
    found = {paragraphs: step(document(paragraphs)) for paragraphs in verdicts}
    assert {p: v if isinstance(v, str) else "kept" for p, v in found.items()} == verdicts
    without = Length(min_characters=0, min_words=0, max_characters=None, max_words=None)
    assert without(document(("word " * 100_000,))) == document(("word " * 100_000,))
    assert without(document(())) == document(())


def test_thresholds_are_exact() -> None:
    steps = LongParagraphs(min_characters=10, min_words=1, min_paragraphs=2, min_line_characters=5)
    assert steps(document(("x" * 10, "x" * 9))) == "no_long_paragraphs"
    verdict = steps(document(("x" * 10, "x" * 4, "x" * 5, "y" * 10)))
    assert isinstance(verdict, Document)
    assert verdict.paragraphs == ("x" * 10, "x" * 5, "y" * 10)


def test_language_detector_sees_the_start_alone() -> None:
    both = (*ENGLISH, *GERMAN * 20)
    assert English(max_bytes=len("\n".join(ENGLISH).encode()))(document(both)) == document(both)
    assert English(max_bytes=1 << 20)(document(both)) == "other_language"
    # A character that is cut in two is left out: the detector takes no half ones.
    for max_bytes in range(1, 20):
        assert English(max_bytes=max_bytes)(document(("é語\U0001f600" * 3,))) == "other_language"


@pytest.mark.parametrize("sign", ["I <3 it.", "if a <b then", "<<", "x<y", "<p", "<!-- so it is", "3 < 5"])
def test_a_bare_sign_hides_nothing_from_the_language_detector(sign: str) -> None:
    english = document((sign, *ENGLISH))
    assert English()(english) == english
    assert English()(document((*ENGLISH, sign, *FRENCH * 3))) == "other_language"


def test_the_language_detector_can_pass_over_tags_as_it_once_did() -> None:
    english, mixed = document(("I <3 it.", *ENGLISH)), document((" ".join((*ENGLISH, "<<", *FRENCH * 3)),))
    assert English(is_html=True)(english) == "other_language"
    assert English(is_html=True)(mixed) == mixed


@given(st.text(st.characters(), max_size=200))
def test_language_detector_takes_any_text(text: str) -> None:
    assert English()(document((text,))) in (document((text,)), "other_language")


CALLS = (
    "Read more",
    "©",
    "(c) ",
    "Copyright",
    "Log in",
    "page 2 of 7",
    "Skip to",
    "Share this",
    "advertisement",
)
LINE_PARTS = (
    *filters.NOTICES,
    *CALLS,
    *"|»›•·>.!?…,;:)]\"'”’“‘-_ éſKİ\t\r\x1c\u2028",
    "Use Cookies",
    " | ",
    "a",
    "word ",
    "x" * 30,
)


def page_lines() -> st.SearchStrategy[str]:
    parts = st.lists(st.sampled_from(LINE_PARTS) | st.text(max_size=5), max_size=8).map("".join)
    return parts | st.sampled_from((*ENGLISH, *MENU, *NOTICES, "word " * 60, "x" * 200))


@given(st.lists(page_lines(), max_size=12).map("\n".join))
def test_filters_judge_as_the_rules_put_plainly(text: str) -> None:
    verdict = judge(Document.of_text(text, language="eng"), FILTERS)
    left = verdict if isinstance(verdict, str) else list(verdict.paragraphs)
    assert left == judge_plainly(text, "eng")


@pytest.mark.real_data
@pytest.mark.skipif("TF_CODISTILL_REAL_DATA" not in os.environ, reason="TF_CODISTILL_REAL_DATA is not set")
def test_filters_judge_real_pages_as_the_rules_put_plainly() -> None:
    pages = [
        page
        for path in files.glob(os.path.join(os.environ["TF_CODISTILL_REAL_DATA"], "crawl", "*-00002.*"))
        for page in read_wet(path)
        if isinstance(page, Record)
    ]
    assert len(pages) > 1000
    for page in pages:
        verdict = judge(Document.of_text(page.text, language=page.language), FILTERS)
        left = verdict if isinstance(verdict, str) else list(verdict.paragraphs)
        assert left == judge_plainly(page.text, page.language)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: English(min_percent=101), "min_percent is 101"),
        (lambda: English(max_bytes=0), "max_bytes is 0"),
        (lambda: LinkList(max_share=-0.1), "max_share is -0.1"),
        (lambda: LinkList(max_line_characters=-1), "max_line_characters is -1"),
        (lambda: LongParagraphs(min_paragraphs=0), "min_paragraphs=0"),
        (lambda: LongParagraphs(min_words=0), "min_words=0"),
        (lambda: Boilerplate(max_line_characters=-1), "max_line_characters is -1"),
        (lambda: Length(min_characters=-1), "min_characters=-1"),
        (lambda: Length(min_words=7, max_words=6), "max_words=6"),
        (lambda: LongParagraphs(min_characters=20, min_line_characters=30), "min_line_characters=30"),
    ],
)
def test_thresholds_without_sense_are_refused(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]
