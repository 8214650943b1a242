"""A web page on its way to training.

    Document(
        url="https://example.org/novel",
        language="eng",                                      what its record says, None where it does not
        paragraphs=("It was the best of times, ...", ...),   lines of its WET record that are left
        numbers=(12, 14),                                    where each was in the WET file
        wet_file="CC-MAIN-00000.warc.wet.gz",
    )

Paragraphs are counted as in the lists that the authors of the paper published: the lines of all pages of a
WET file, blank ones included, from 0 in the order of the file. So the count goes on from page to page.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One whole page, as its source has it.

    Attributes:
        url: Address of the page.
        text: Its text, one paragraph per line; bytes that are not UTF-8 are U+FFFD.
        language: ISO 639-3 codes, most common first, separated by commas; None where nobody told.
        record_id: Identifier of the record, in a WET file.
        dirt: What is odd about it, although it could be read: ``bad_utf8``, ``control_characters``,
            ``empty``, ``header_in_text`` (a line of the text looks like a record's first) or ``wrong_length``
            (its checksum told where it ends).
    """

    url: str
    text: str
    language: str | None = None
    record_id: str = ""
    dirt: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """A web page on its way to training.

    Attributes:
        url: Its address.
        language: ISO 639-3 codes, most common first, separated by commas; None where nobody told.
        paragraphs: The lines of its WET record that are left, without surrounding white space.
        numbers: For each paragraph its number in the WET file.
        wet_file: Name of the WET file, without directory.

    Raises:
        ValueError: There are more or fewer numbers than paragraphs.
    """

    url: str
    language: str | None
    paragraphs: tuple[str, ...]
    numbers: tuple[int, ...]
    wet_file: str

    def __post_init__(self) -> None:
        if len(self.paragraphs) != len(self.numbers):
            raise ValueError(
                f"document {self.url!r} has {len(self.paragraphs)} paragraphs and {len(self.numbers)} "
                "numbers; expected one number for each paragraph"
            )

    def only(self, is_kept: Iterable[bool]) -> Document:
        """The document with some of its paragraphs.

        Args:
            is_kept: For each paragraph whether it stays.

        Returns:
            A document that holds those paragraphs and their numbers.
        """
        kept = tuple(is_kept)
        if all(kept):
            return self
        paragraphs = tuple(itertools.compress(self.paragraphs, kept))
        numbers = tuple(itertools.compress(self.numbers, kept))
        return Document(self.url, self.language, paragraphs, numbers, self.wet_file)

    @classmethod
    def of_text(
        cls, text: str, *, url: str = "", language: str | None = None, first: int = 0, wet_file: str = ""
    ) -> Document:
        """The document of a page's text: its lines without surrounding white space, blank ones left out.

        Args:
            text: The text, one paragraph per line.
            url: Its address.
            language: What its record says.
            first: Number of its first line in the WET file.
            wet_file: Name of the WET file, without directory.

        Returns:
            The document.
        """
        lines = [line.strip() for line in text.split("\n")]
        numbers = itertools.compress(itertools.count(first), lines)
        return cls(url, language, tuple(filter(None, lines)), tuple(numbers), wet_file)
