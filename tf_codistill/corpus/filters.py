"""Which pages and which of their paragraphs are worth training on.

A filter is a step that takes a document and returns it, perhaps with fewer paragraphs, or the reason for
dropping it. Reasons are counted by the pipeline, so nothing disappears in silence.

    filters = [English(), LinkList(), LongParagraphs()]
    verdict = judge(Document(url, "eng", ("Menu", "It was the best of times, ...")), filters)
    if isinstance(verdict, str): print("dropped:", verdict)       # "other_language", "link_list", ...

The paper (section 3.1) keeps "English language documents that contained long paragraphs".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable

import gin
import pycld2

_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff\U0001fffe-\U0001ffff]")
_SENTENCE_END = re.compile(r"""[.!?:;,…]["'”’»)\]]*$""")


@dataclasses.dataclass(frozen=True)
class Document:
    """A web page on its way to training.

    Attributes:
        url: Its address.
        language: ISO 639-3 codes, most common first, separated by commas; None where nobody told.
        paragraphs: The lines of its WET record that are left, without surrounding white space.
    """

    url: str
    language: str | None
    paragraphs: tuple[str, ...]


Filter = Callable[[Document], Document | str]
"""Takes a document; returns what is left of it, or the reason for dropping it."""


def judge(document: Document, filters: Iterable[Filter]) -> Document | str:
    """Sends a document through filters, in order, until one drops it.

    Args:
        document: The document.
        filters: The steps.

    Returns:
        What is left of the document, or the reason of the first filter that drops it.
    """
    for step in filters:
        verdict = step(document)
        if isinstance(verdict, str):
            return verdict
        document = verdict
    return document


@gin.configurable
@dataclasses.dataclass(frozen=True)
class English:
    """Drops documents that are not in English: reason ``other_language``.

    Where the record names its languages, the first of them decides, otherwise Compact Language Detector 2
    does, which is also what Common Crawl uses.

    Attributes:
        min_percent: Smallest part of the text that the detector must find to be English, 0 to 100.

    Raises:
        ValueError: `min_percent` is outside 0 to 100.
    """

    min_percent: int = 80

    def __post_init__(self) -> None:
        """Checks the threshold."""
        if not 0 <= self.min_percent <= 100:
            raise ValueError(f"English.min_percent is {self.min_percent}; expected 0 to 100")

    def __call__(self, document: Document) -> Document | str:
        """Returns the document, or ``other_language``."""
        if document.language is not None:
            is_english = document.language.split(",")[0].strip() == "eng"
        else:
            is_english = self._detect("\n".join(document.paragraphs))
        return document if is_english else "other_language"

    def _detect(self, text: str) -> bool:
        # The detector refuses a whole text for one control character or half a surrogate pair.
        clean = _NOT_TEXT.sub(" ", text).encode("utf-8", errors="replace")
        is_reliable, _, found = pycld2.detect(clean)
        _, code, percent, _ = found[0]
        return bool(is_reliable) and code == "en" and percent >= self.min_percent


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LinkList:
    """Drops documents that are mostly menus and lists of links: reason ``link_list``.

    A link or a menu entry is a short line that does not end as a sentence or a clause does.

    Attributes:
        max_line_characters: Longest line that can be a link, in characters.
        max_share: Largest share of the document's characters that may stand in such lines, 0 to 1.

    Raises:
        ValueError: `max_share` is outside 0 to 1.
    """

    max_line_characters: int = 40
    max_share: float = 0.5

    def __post_init__(self) -> None:
        """Checks the thresholds."""
        if not 0.0 <= self.max_share <= 1.0:
            raise ValueError(f"LinkList.max_share is {self.max_share}; expected 0 to 1")

    def __call__(self, document: Document) -> Document | str:
        """Returns the document, or ``link_list``."""
        num_characters = sum(map(len, document.paragraphs))
        in_links = sum(len(line) for line in document.paragraphs if self._is_link(line))
        return "link_list" if in_links > self.max_share * num_characters else document

    def _is_link(self, line: str) -> bool:
        return len(line) <= self.max_line_characters and not _SENTENCE_END.search(line)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LongParagraphs:
    """Drops documents without enough long paragraphs: reason ``no_long_paragraphs``.

    From the others it takes away the shortest lines, among them what is left of menus, and keeps the rest, so
    that the answers of a dialogue stay between its speeches.

    Attributes:
        min_characters: A paragraph of at least this many characters is long.
        min_paragraphs: A document needs at least this many long paragraphs.
        min_line_characters: Lines with fewer characters are taken away.

    Raises:
        ValueError: A number is negative, or lines would have to be longer than long paragraphs.
    """

    min_characters: int = 100
    min_paragraphs: int = 1
    min_line_characters: int = 30

    def __post_init__(self) -> None:
        """Checks the thresholds."""
        if self.min_paragraphs < 1 or not 0 <= self.min_line_characters <= self.min_characters:
            raise ValueError(
                f"{self} makes no sense; expected min_paragraphs of at least 1 and min_line_characters from "
                "0 to min_characters"
            )

    def __call__(self, document: Document) -> Document | str:
        """Returns the document without its shortest lines, or ``no_long_paragraphs``."""
        num_long = sum(len(paragraph) >= self.min_characters for paragraph in document.paragraphs)
        if num_long < self.min_paragraphs:
            return "no_long_paragraphs"
        kept = tuple(line for line in document.paragraphs if len(line) >= self.min_line_characters)
        return dataclasses.replace(document, paragraphs=kept)
