r"""Which pages and which of their paragraphs are worth training on.

A filter is a step that takes a document and returns it, perhaps with fewer paragraphs, or the reason for
dropping it. Reasons are counted by the pipeline, so nothing disappears in silence.

    filters = [English(), LinkList(), Boilerplate(), LongParagraphs(), Length()]
    verdict = judge(Document.of_text("Menu\nIt was the best of times, ...", language="eng"), filters)
    if isinstance(verdict, str): print("dropped:", verdict)       # "other_language", "link_list", ...

The paper (section 3.1) keeps "English language documents that contained long paragraphs". What it leaves
open, and what was chosen, is in docs/corpus_filters.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable

import gin
import pycld2

from tf_codistill.corpus.document import Document

_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff\U0001fffe-\U0001ffff]")
# Bytes of UTF-8 without which none of these can be there.
_PERHAPS_NOT_TEXT = bytes({*range(0x20), 0x7F, 0xC2, 0xEF, *range(0xF0, 0xF5)} - set(b"\t\n\r"))
_SENTENCE_ENDS = tuple(".!?:;,…")
_CLOSERS = "\"'”’»)]"

NOTICES = (
    "all rights reserved",
    "terms of use",
    "terms of service",
    "privacy policy",
    "cookie policy",
    "use cookies",
    "uses cookies",
    "use of cookies",
    "enable javascript",
    "lorem ipsum",
)
"""What pages say about themselves, wherever in a short line, in lower case.

Most of it is from Raffel et al. 2020, section 2.2.
"""

OWNER_OR_CALL = r"""
    (?: © | \(c\)(?=[\ \d]) | copyright\b ).* | [^\w"'“‘\n]*+(?:
        (?:read|learn|see|view|show|load)\ (?:more|all) | continue\ reading | click\ (?:here|to)
        | back\ to\ top | skip\ to | share\ (?:this|on|via) | (?:follow|like)\ us | sign\ (?:in|up)
        | log\ ?(?:in|out) | subscribe | (?:leave|post|add|write)\ a\ (?:comment|reply|review)
        | (?:posted|published|filed|tagged|powered)\ (?:by|in|on|under|with)
        | (?:related|recent|popular|previous|next|older|newer)\ (?:posts?|articles?|stories|entries|pages?)
        | add\ to\ (?:cart|wishlist) | page\ \d+\ of\ \d+ | advertisement
    )\b.{0,40}
"""
"""Pattern of lines in lower case that say whose a page is, what it asks of its reader or what its parts are.

Where much follows, it is a sentence.
"""

_OWNER_OR_CALL = re.compile(rf"\n({OWNER_OR_CALL})(?=\n)", re.VERBOSE)
_SEPARATOR = re.compile(r"\s*[|»›•·>]+\s*")
_SEPARATORS = tuple("|»›•·>")
_MIN_ENTRIES = 3
_MAX_ENTRY_CHARACTERS = 30


Filter = Callable[[Document], Document | str]
"""Takes a document; returns what is left of it, or the reason for dropping it."""


def judge(document: Document, filters: Iterable[Filter]) -> Document | str:
    """What filters, in order, leave of a document, or the reason of the first one that drops it."""
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
        max_bytes: How much of the text the detector sees, from its start, in bytes of UTF-8.
        is_html: Whether the detector takes the text for HTML and passes over what seems to be a tag, which
            may be all that follows a bare ``<``. It did so for the corpora of gin/corpus/as_published.gin.

    Raises:
        ValueError: `min_percent` is outside 0 to 100, or `max_bytes` is below 1.
    """

    min_percent: int = 80
    max_bytes: int = 2048
    is_html: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.min_percent <= 100:
            raise ValueError(f"English.min_percent is {self.min_percent}; expected 0 to 100")
        if self.max_bytes < 1:
            raise ValueError(f"English.max_bytes is {self.max_bytes}; expected at least 1")

    def __call__(self, document: Document) -> Document | str:
        """Returns the document, or ``other_language``."""
        if document.language is not None:
            is_english = document.language.split(",")[0].strip() == "eng"
        else:
            is_english = self._detect(_start("\n".join(document.paragraphs), self.max_bytes))
        return document if is_english else "other_language"

    def _detect(self, text: str) -> bool:
        # The detector refuses a whole text for one control character or half a surrogate pair.
        clean = text.encode("utf-8", errors="replace")
        if len(clean.translate(None, _PERHAPS_NOT_TEXT)) != len(clean):  # five times as fast as the pattern
            clean = _NOT_TEXT.sub(" ", text).encode("utf-8", errors="replace")
        is_reliable, _, found = pycld2.detect(clean, isPlainText=not self.is_html)
        _, code, percent, _ = found[0]
        return bool(is_reliable) and code == "en" and percent >= self.min_percent


def _start(text: str, max_bytes: int) -> str:
    """As many characters of a text as fit into so many bytes."""
    return text[:max_bytes].encode("utf-8", "replace")[:max_bytes].decode("utf-8", "ignore")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LinkList:
    """Drops documents that are mostly menus and lists of links: reason ``link_list``.

    A link or a menu entry is a short line that does not end as a sentence or a clause does.

    Attributes:
        max_line_characters: Longest line that can be a link, in characters.
        max_share: Largest share of the document's characters that may stand in such lines, 0 to 1.

    Raises:
        ValueError: `max_share` is outside 0 to 1, or `max_line_characters` is negative.
    """

    max_line_characters: int = 40
    max_share: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_share <= 1.0:
            raise ValueError(f"LinkList.max_share is {self.max_share}; expected 0 to 1")
        if self.max_line_characters < 0:
            raise ValueError(
                f"LinkList.max_line_characters is {self.max_line_characters}; expected 0 or more"
            )

    def __call__(self, document: Document) -> Document | str:
        """Returns the document, or ``link_list``."""
        num_characters = sum(map(len, document.paragraphs))
        short = [line for line in document.paragraphs if len(line) <= self.max_line_characters]
        in_links = sum(len(line) for line in short if not line.rstrip(_CLOSERS).endswith(_SENTENCE_ENDS))
        return "link_list" if in_links > self.max_share * num_characters else document


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Boilerplate:
    """Takes away lines in which pages speak of themselves; nothing else left is the reason ``boilerplate``.

    Such a line is short, and one of these: a notice of copyright, cookies, privacy, terms or scripts; a call
    such as "Read more" or "Posted by", with little behind it; a menu, three or more short entries between
    separators such as "Home | About us | Contact".

    Attributes:
        max_line_characters: Longer lines stay, whatever they say.

    Raises:
        ValueError: `max_line_characters` is negative.
    """

    max_line_characters: int = 200

    def __post_init__(self) -> None:
        if self.max_line_characters < 0:
            raise ValueError(
                f"Boilerplate.max_line_characters is {self.max_line_characters}; expected 0 or more"
            )

    def __call__(self, document: Document) -> Document | str:
        """Returns the document without such lines, or ``boilerplate``."""
        short = [line for line in document.paragraphs if len(line) <= self.max_line_characters]
        # A page is searched several times as fast as its lines are, one by one.
        page = "\n".join(["", *short, ""]).lower()
        found = set(_OWNER_OR_CALL.findall(page))
        notices, separators = _found(NOTICES, page), _found(_SEPARATORS, page)
        if not (found or notices or separators):
            return document
        lines = page.split("\n")[1:-1]
        for notice in notices:
            found.update([line for line in lines if notice in line])
        for separator in separators:
            found.update([line for line in lines if separator in line and _is_menu(line)])
        gone = {line for line, lowered in zip(short, lines, strict=True) if lowered in found}
        left = document.only([line not in gone for line in document.paragraphs])
        return left if left.paragraphs else "boilerplate"


def _found(strings: Iterable[str], text: str) -> list[str]:
    return [string for string in strings if string in text]


def _is_menu(line: str) -> bool:
    entries = [entry for entry in _SEPARATOR.split(line) if entry]
    return len(entries) >= _MIN_ENTRIES and max(map(len, entries)) <= _MAX_ENTRY_CHARACTERS


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LongParagraphs:
    """Drops documents without enough long paragraphs: reason ``no_long_paragraphs``.

    From the others it takes away the shortest lines, among them what is left of menus, and keeps the rest, so
    that the answers of a dialogue stay between its speeches.

    Attributes:
        min_characters: A long paragraph has at least this many characters ...
        min_words: ... and at least this many words, between white space: a long address is none.
        min_paragraphs: A document needs at least this many long paragraphs.
        min_line_characters: Lines with fewer characters are taken away.

    Raises:
        ValueError: A number is negative, or lines would have to be longer than long paragraphs.
    """

    min_characters: int = 100
    min_words: int = 10
    min_paragraphs: int = 1
    min_line_characters: int = 30

    def __post_init__(self) -> None:
        if (
            min(self.min_paragraphs, self.min_words) < 1
            or not 0 <= self.min_line_characters <= self.min_characters
        ):
            raise ValueError(
                f"{self} makes no sense; expected min_paragraphs and min_words of at least 1 and "
                "min_line_characters from 0 to min_characters"
            )

    @property
    def reasons(self) -> dict[str, str]:
        """What its reason means."""
        return {
            "no_long_paragraphs": f"only lines under {self.min_characters} characters; is the text wrapped?"
        }

    def __call__(self, document: Document) -> Document | str:
        """Returns the document without its shortest lines, or ``no_long_paragraphs``."""
        long = (paragraph for paragraph in document.paragraphs if self._is_long(paragraph))
        if sum(1 for _ in itertools.islice(long, self.min_paragraphs)) < self.min_paragraphs:
            return "no_long_paragraphs"
        return document.only([len(line) >= self.min_line_characters for line in document.paragraphs])

    def _is_long(self, paragraph: str) -> bool:
        return len(paragraph) >= self.min_characters and _has_words([paragraph], self.min_words)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Length:
    """Drops documents that are too short or too long: reasons ``too_short`` and ``too_long``.

    Attributes:
        min_characters: Fewest characters of all paragraphs together.
        min_words: Fewest words, between white space.
        max_characters: Most characters; None for any number.
        max_words: Most words; None for any number.

    Raises:
        ValueError: A bound is negative, or the upper one is below the lower one.
    """

    min_characters: int = 200
    min_words: int = 30
    max_characters: int | None = 1_000_000
    max_words: int | None = 200_000

    def __post_init__(self) -> None:
        for least, most in ((self.min_characters, self.max_characters), (self.min_words, self.max_words)):
            if least < 0 or (most is not None and most < least):
                raise ValueError(f"{self} makes no sense; expected 0 <= least <= most, or None for most")

    def __call__(self, document: Document) -> Document | str:
        """Returns the document, ``too_short`` or ``too_long``."""
        lines = document.paragraphs
        num_characters = sum(map(len, lines))
        if num_characters < self.min_characters or not _has_words(lines, self.min_words):
            return "too_short"
        if self.max_characters is not None and num_characters > self.max_characters:
            return "too_long"
        # There are no more words than characters: most documents need not be counted.
        if (
            self.max_words is not None
            and num_characters > self.max_words
            and _has_words(lines, self.max_words + 1)
        ):
            return "too_long"
        return document


def _has_words(lines: Iterable[str], least: int) -> bool:
    """Whether there are so many words, counted no further."""
    for line in lines:
        if least <= 0:
            break
        least -= min(least, len(line.split(None, least)))
    return least <= 0
