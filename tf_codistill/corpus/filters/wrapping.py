"""Hard-wrapped text: lines that end where the next word had no room are one paragraph.

    12  It is a truth universally acknowledged, that a single man in possession    -+  number 12
    13  of a good fortune, must be in want of a wife.                              -+
    14
    15  However little known the feelings or views of such a man may be on his     ---  number 15, and so on

    document = unwrapped(document)     its paragraphs by the numbers of their first lines, if it is wrapped

A paragraph ends at a blank line, which shows in the numbers, at a line behind which the next word would have
had room, or before an entry of a menu. A document is taken for wrapped if nearly all breaks that are surely
within a sentence, since the next line begins in lower case, are where the next word had no room. Verse, code
and menus break where they please, and what has no words with single spaces between is no prose.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from tf_codistill.corpus.document import Document

_WIDTHS = range(40, 161)
_LONGER_SHARE = 0.05  # of the lines, such as addresses and headings
_MIN_BREAKS = 8  # within sentences and behind full lines: fewer prove nothing
_MIN_SHARE = 0.9  # of the breaks within sentences
_SLACK = 0.1  # of the width: some programs even out their lines
_NO_PROSE = re.compile(r" {3}|[\t|]|[^\w,'\"’”)—-]$")
_WORD_CHARACTERS = 10  # of a line for each space, at most
_BEFORE_WORDS = "\"'“‘«([*_"
_SENTENCE_ENDS = (".", "!", "?", ":", '"', "'", "”", "’", ")")
_JOINTS = ("-", "—", "–")

Line = tuple[int, str]


def unwrapped(document: Document) -> Document:
    """Joins the lines of a document, all that are not blank, to paragraphs numbered by their first lines.

    One that is not hard-wrapped is returned as it is.
    """
    width = _width(document)
    if width is None:
        return document
    numbers: list[int] = []
    paragraphs: list[list[str]] = []
    for before, (number, line) in zip([None, *_lines(document)], _lines(document), strict=False):
        if before and number == before[0] + 1 and _is_full(before[1], line, width):
            paragraphs[-1].append(line)
        else:
            numbers.append(number)
            paragraphs.append([line])
    joined = tuple(map(_joined, paragraphs))
    return Document(document.url, document.language, joined, tuple(numbers), document.wet_file)


def _lines(document: Document) -> Iterator[Line]:
    return zip(document.numbers, document.paragraphs, strict=True)


def _width(document: Document) -> int | None:
    """The width to which a document is wrapped; None if it is not."""
    lengths = sorted(map(len, document.paragraphs))
    if len(lengths) <= _MIN_BREAKS:
        return None
    width = lengths[int((1 - _LONGER_SHARE) * (len(lengths) - 1))]
    if width not in _WIDTHS:
        return None
    num_breaks = num_full = 0
    for (number, line), (next_number, following) in itertools.pairwise(_lines(document)):
        if next_number == number + 1 and _begins_in_lower_case(following):
            num_breaks += 1
            num_full += _is_full(line, following, width) and _is_prose(line)
    return width if num_full >= max(_MIN_BREAKS, _MIN_SHARE * num_breaks) else None


def _begins_in_lower_case(line: str) -> bool:
    return line.lstrip(_BEFORE_WORDS)[:1].islower()


def _is_prose(line: str) -> bool:
    """Whether a line that ends within a sentence looks like one of words, and not of cells, names or code."""
    return line.count(" ") * _WORD_CHARACTERS >= len(line) and not _NO_PROSE.search(line)


def _is_full(line: str, following: str, width: int) -> bool:
    """Whether a line goes on in the next one, whose first word would not have fitted behind it."""
    is_inside = _begins_in_lower_case(following)
    is_menu = not is_inside and len(following) < width / 2 and following[-1:].isalnum()
    is_near = width / 2 < len(line) <= (1 + _SLACK) * width  # behind a short line no address fits, either
    # A sentence that ends just before the width may well end a paragraph.
    slack = _SLACK * width if is_inside or not line.endswith(_SENTENCE_ENDS) else 0
    word = following.partition(" ")[0]
    return is_near and not is_menu and len(line) + 1 + len(word) > width - slack


def _joined(lines: list[str]) -> str:
    """The text of lines, with spaces between, but none behind the hyphen or dash of a word."""
    spaced = (line if line.endswith(_JOINTS) and line[-2:-1] != " " else line + " " for line in lines)
    return "".join(spaced).removesuffix(" ")
