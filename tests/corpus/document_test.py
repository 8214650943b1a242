"""Documents: each paragraph keeps its number."""

from __future__ import annotations

import pytest

from tf_codistill.corpus.document import Document


def test_blank_lines_count_but_are_not_paragraphs() -> None:
    document = Document.of_text("One\n\n  Two \r\n \nThree", first=10)
    assert document.paragraphs == ("One", "Two", "Three")
    assert document.numbers == (10, 12, 14)


def test_what_is_left_keeps_its_numbers() -> None:
    document = Document("https://example.org/", "eng", ("a", "b", "c"), (3, 5, 9), "crawl.warc.wet")
    left = document.only([True, False, True])
    assert left == Document("https://example.org/", "eng", ("a", "c"), (3, 9), "crawl.warc.wet")


def test_paragraph_without_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="2 paragraphs and 1 numbers"):
        Document("https://example.org/", None, ("a", "b"), (0,), "crawl.warc.wet")
