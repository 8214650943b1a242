r"""Where sentences end, and a text laid out as words and signs for the marks between them.

    text       Mr. X came. He sat.\nOh\x00
    words      \n(   Mr.   X   came.   \n/   He   sat.   \n)   \n(   Oh\n#0;   \n)
    stand for  <p> <s>                 </s> <s>          </s> </p> <p> <s>     </s> </p>

Words are what single spaces separate. No line end is left in them, so one with a sign behind it is a mark. A
sentence that goes on with another white space has it in the word of its sign: ``\n/\xa0He``.

A sentence ends after one or more of ``.!?…``, with the quotes and brackets that close there, if white space
and then a capital letter or a digit follow, perhaps in quotes or brackets; unless that end has a full stop
last, and before it is a single letter or a common abbreviation such as ``Mr``. White space belongs to the
sentence that it precedes. A word is made here of ASCII letters, digits and ``_`` and of Latin, Greek and
Cyrillic letters (U+00C0 to U+052F, U+1E00 to U+1FFF): the rule names its characters one by one, because
`graph_word_pieces` applies it by another engine, whose ``\w`` and ``\s`` know no Unicode.
"""

from __future__ import annotations

import itertools
import re

from tf_codistill import tokens

SPACE_SIGN = "\u2581"
"""How SentencePiece writes a space inside a piece."""

# Character classes, without their brackets, that Python and RE2 read alike; a sentence lies within a line.
ENDS = ".!?…"
CLOSERS = r"""\"'”’)\]"""
OPENERS = r"""\"'“‘(\["""
SPACES = "\t\x0b-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
LETTERS = "0-9A-Za-z_\u00c0-\u052f\u1e00-\u1fff"
_TITLES = ("Capt", "Dr", "Messrs", "Mme", "Mr", "Mrs", "Ms", "Prof", "Rev", "St")
ABBREVIATIONS = (*_TITLES, "Eq", "Fig", "No", "cf", "eg", "etc", "ie", "vs")
"""Words after which a full stop ends no sentence; nor does it after a single letter."""

_BY_LENGTH = itertools.groupby(sorted(ABBREVIATIONS, key=len), key=len)
_NO_EXCEPTION = "".join(
    rf"(?<![^{LETTERS}]{word}[{ENDS}])"
    for word in (f"[{LETTERS}]", *(f"(?:{'|'.join(words)})" for _, words in _BY_LENGTH))
)
# First what follows, which is seldom right; then either it does not end with a full stop, or no exception
# stands before its first character.
_SENTENCE_END = re.compile(
    rf"([{ENDS}](?<![{ENDS}][{ENDS}])(?=[{ENDS}]*+[{CLOSERS}]*+[{SPACES}]++[{OPENERS}]*+[A-Z0-9])"
    rf"(?:[{ENDS}]*+[{CLOSERS}]*+(?<!\.)|{_NO_EXCEPTION}[{ENDS}]*+)(?=[{SPACES}]))"
)

# SentencePiece reads its own sign for a space as a space, and takes neither NUL nor half surrogate pairs.
_FOREIGN = re.compile(f"[\x00{SPACE_SIGN}\ud800-\udfff]")

END = " \n."
"""What to add to a text that is laid out to end the document."""

MARKS = {
    "(": [tokens.PARAGRAPH_START, tokens.SENTENCE_START],
    ")": [tokens.SENTENCE_END, tokens.PARAGRAPH_END],
    "|": [tokens.PARAGRAPH_START, tokens.PARAGRAPH_END],
    "/": [tokens.SENTENCE_END, tokens.SENTENCE_START],
    ".": [tokens.END_OF_DOCUMENT],
}
"""The ids that each sign stands for, by the character behind the line end."""

SIGN = re.compile(r"\n(?:([()|/.])|#([0-9a-f]+);)")
"""Finds signs: the first group is that of a mark, the second a foreign character in hexadecimal digits."""


def split_sentences(paragraph: str) -> list[str]:
    """Cuts a paragraph into sentences by the rule at the top of this module.

    Args:
        paragraph: A line of text.

    Returns:
        Its sentences, which joined give the paragraph again; none for an empty one.
    """
    # A line end before it stands for the beginning of the text, which is no letter.
    return [sentence for sentence in _with_ends("\n" + paragraph, "\n")[1:].split("\n") if sentence]


def plain(text: str) -> str:
    """A text without the characters that SentencePiece does not take."""
    return _FOREIGN.sub("", text)


def lay_out(text: str) -> str:
    """Lays a text out as shown at the top of this module.

    Args:
        text: Any string, one paragraph per line.

    Returns:
        Words and signs with single spaces between them; can be written as UTF-8.
    """
    paragraphs = [f"\n( {line} \n)" if line else "\n|" for line in text.split("\n")]
    laid_out = _with_ends(" ".join(paragraphs), " \n/")
    if "\x00" in text or SPACE_SIGN in text or not (text.isascii() or _is_utf8(text)):
        laid_out = _FOREIGN.sub(lambda match: f"\n#{ord(match[0]):x};", laid_out)
    return laid_out


def _with_ends(text: str, sign: str) -> str:
    """A text with a sign behind each sentence that another one follows."""
    parts = _SENTENCE_END.split(text)  # faster than to substitute
    parts[1::2] = [end + sign for end in parts[1::2]]
    return "".join(parts)


def _is_utf8(text: str) -> bool:
    try:
        return bool(text.encode("utf-8"))
    except UnicodeEncodeError:
        return False
