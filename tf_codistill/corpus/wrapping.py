"""Hard-wrapped text: lines that end where the next word had no room are one paragraph.

    12  It is a truth universally acknowledged, that a single man in possession    -+  number 12
    13  of a good fortune, must be in want of a wife.                              -+
    14
    15  However little known the feelings or views of such a man may be on his     ---  number 15, and so on

    document = unwrapped(document)     its paragraphs by the numbers of their first lines, if it is wrapped

A paragraph ends at a blank line, which shows in the numbers, or at a line behind which the next word would have had room.
A document is taken for wrapped if nearly all breaks that are certainly within a sentence, since the next line begins in
lower case, are where the next word had no room. Verse, code, tables and menus break where they please.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from tf_codistill.corpus.document import Document

_WIDTHS = range(40, 161)
_LONGER_SHARE = 0.05  # of the lines, such as addresses and headings
_MIN_BREAKS = 8  # within sentences and without room: fewer prove nothing
_MIN_SHARE = 0.9  # of the breaks within sentences
_SLACK = 0.1
_BEFORE_WORDS = "\"'“‘«([*_"
_JOINTS = ("-", "—", "–")

Line = tuple[int, str]


def unwrapped(document: Document) -> Document:
    """Joins the lines of a hard-wrapped document to paragraphs.

    Args:
        document: A page with all its lines that are not blank.

    Returns:
        A document of its paragraphs, each numbered by its first line; the same document if it is not wrapped.
    """
    width = _width(document)
    if width is None:
        return document
    numbers: list[int] = []
    paragraphs: list[list[str]] = []
    before: Line | None = None
    for line in zip(document.numbers, document.paragraphs, strict=True):
        if before is not None and _follows(before, line) and _is_full(before[1], line[1], width):
            paragraphs[-1].append(line[1])
        else:
            numbers.append(line[0])
            paragraphs.append([line[1]])
        before = line
    joined = tuple(map(_joined, paragraphs))
    return Document(document.url, document.language, joined, tuple(numbers), document.wet_file)


def _width(document: Document) -> int | None:
    """The width to which a document is wrapped; None if it is not."""
    lengths = sorted(map(len, document.paragraphs))
    if len(lengths) <= _MIN_BREAKS:
        return None
    width = lengths[int((1 - _LONGER_SHARE) * (len(lengths) - 1))]
    if width not in _WIDTHS:
        return None
    num_breaks = num_full = 0
    for line, following in itertools.pairwise(zip(document.numbers, document.paragraphs, strict=True)):
        if _follows(line, following) and following[1].lstrip(_BEFORE_WORDS)[:1].islower():
            num_breaks += 1
            num_full += _is_full(line[1], following[1], width)
    return width if num_full >= max(_MIN_BREAKS, _MIN_SHARE * num_breaks) else None


def _follows(line: Line, following: Line) -> bool:
    """Whether there is no blank line between two."""
    return following[0] == line[0] + 1


def _is_full(line: str, following: str, width: int) -> bool:
    """Whether the first word of the next line would not have fitted behind a line."""
    word = following.partition(" ")[0]
    slack = _SLACK * width
    return width - slack < len(line) + 1 + len(word) and len(line) <= width + slack


def _joined(lines: list[str]) -> str:
    text = lines[0]
    return text
