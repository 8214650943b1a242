r"""Sentence segmentation: where sentences end, and a text as words and signs for special tokens.

    text       Mr. X came. He sat.\nOh\x00
    words      \n(   Mr.   X   came.   He   sat.   \n)   \n(   Oh\n#0;   \n)
    classes          B     B   E       B    E                B
    stand for  <p> <s>          </s> <s>           </s> </p> <p> <s>     </s> </p>

Words are what single spaces separate. No line end is left in them, so one with a sign behind it is a special
token. Where a word that may end a sentence (E) stands before one that may begin one (B), a sentence ends:
that is found out once for each different word.

A sentence ends after one or more of ``.!?…``, with the quotes and brackets that close there, if white space
and then a capital letter or a digit follow, perhaps in quotes or brackets; unless that end has a full stop
last, and before it is a single letter or a common abbreviation such as ``Mr``. White space belongs to the
sentence that it precedes. A word is made here of ASCII letters, digits and ``_`` and of Latin, Greek and
Cyrillic letters (U+00C0 to U+052F, U+1E00 to U+1FFF): the rule names its characters one by one, because
`in_graph` applies it by another engine, whose ``\w`` and ``\s`` know no Unicode.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import pyarrow
from pyarrow import compute

from tf_codistill import tokens

SPACE_SIGN = "\u2581"
"""How SentencePiece writes a space inside a piece."""

# Patterns and character classes, these without brackets, that Python and RE2 read alike.
ENDS = ".!?…"
CLOSERS = r"""\"'”’)\]"""
OPENERS = r"""\"'“‘(\["""
SPACES = "\t\x0b-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
LETTERS = "0-9A-Za-z_\u00c0-\u052f\u1e00-\u1fff"
_TITLES = ("Capt", "Dr", "Messrs", "Mme", "Mr", "Mrs", "Ms", "Prof", "Rev", "St")
ABBREVIATIONS = (*_TITLES, "Eq", "Fig", "No", "cf", "eg", "etc", "ie", "vs")
"""Words after which a full stop ends no sentence; nor does it after a single letter."""

ENDING = rf"[{ENDS}][{CLOSERS}]*"
"""What stands last in a word that may end a sentence ..."""

NO_ENDING = rf"(?:^|[^{LETTERS}])(?:[{LETTERS}]|{'|'.join(ABBREVIATIONS)})[{ENDS}]*\."
"""... unless this does."""

BEGINNING = rf"[{OPENERS}]*[A-Z0-9]"
"""What stands first in a word that may begin a sentence."""

_PERHAPS_END = re.compile(f"{ENDING}(?=[{SPACES}]+{BEGINNING})")
_NO_END = re.compile(rf"{NO_ENDING}\Z")

MAY_END, MAY_BEGIN, IS_BLANK = 1, 2, 4
"""Classes of words, to be added up."""

# SentencePiece reads its own sign for a space as a space, and takes neither NUL nor half surrogate pairs.
_FOREIGN = re.compile(f"[\x00{SPACE_SIGN}\ud800-\udfff]")

_SENTENCE_SIGN = "\n/"

END = " \n."
"""What to add to the words of a text to end the document."""

SPECIAL_TOKENS = {
    "(": [tokens.PARAGRAPH_START, tokens.SENTENCE_START],
    ")": [tokens.SENTENCE_END, tokens.PARAGRAPH_END],
    "|": [tokens.PARAGRAPH_START, tokens.PARAGRAPH_END],
    "/": [tokens.SENTENCE_END, tokens.SENTENCE_START],
    ".": [tokens.END_OF_DOCUMENT],
}
"""The ids that each sign stands for, by the character behind the line end."""

SIGN = re.compile(r"(?:^ )?\n([()|/.])|\n#([0-9a-f]+);")
"""Finds signs in a word, and the space before that of a special token: the first group is the sign of a
special token, the second a foreign character in hexadecimal digits."""


def split_sentences(paragraph: str) -> list[str]:
    """The sentences of a line by the rule at the top; joined they give the line again."""
    sentences, start, before = [], 0, 0
    for found in _PERHAPS_END.finditer(paragraph):
        word = max(before, paragraph.rfind(" ", before, found.start()))
        before = found.end()
        if not _NO_END.search(paragraph, word, before):
            sentences.append(paragraph[start:before])
            start = before
    return [*sentences, paragraph[start:]] if paragraph else []


def plain(text: str) -> str:
    """A text without the characters that SentencePiece does not take."""
    return _FOREIGN.sub("", text)


def to_words(text: str) -> str:
    """Words and signs of any string, with single spaces between them; can be written as UTF-8."""
    words = " ".join([f"\n( {line} \n)" if line else "\n|" for line in text.split("\n")])
    if "\x00" in text or SPACE_SIGN in text or not (text.isascii() or _is_utf8(text)):
        words = _FOREIGN.sub(lambda match: f"\n#{ord(match[0]):x};", words)
    return words


def classes(words: pyarrow.Array) -> npt.NDArray[np.uint8]:
    """For each word that `to_words` made, with the space before it, the sum of its classes."""
    may_end = _has(words, rf"{ENDING}[{SPACES}]*$") & ~_has(words, rf"{NO_ENDING}[{SPACES}]*$")
    may_begin = _has(words, rf"^[{SPACES}]*{BEGINNING}")
    is_blank = _has(words, rf"^[{SPACES}]*$")
    return may_end * np.uint8(MAY_END) + may_begin * np.uint8(MAY_BEGIN) + is_blank * np.uint8(IS_BLANK)


def sentence_ends(classes: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Behind which words of texts a sentence ends, by their classes; the last word is not blank.

    White space belongs to the sentence that it precedes.
    """
    may_begin = (classes & MAY_BEGIN) > 0
    blank = np.flatnonzero(classes & IS_BLANK)
    if blank.size:
        last = blank[np.append(np.diff(blank) > 1, True)]  # of those that stand together
        may_begin[blank] = may_begin[1 + last[np.searchsorted(last, blank)]]
    ends = (classes & MAY_END) > 0
    ends[:-1] &= may_begin[1:]
    ends[-1:] = False
    return ends


def is_plain(words: pyarrow.Array) -> npt.NDArray[np.bool_]:
    """Whether the ids of each word are those of its text: it has neither signs nor ends within."""
    return ~_has(words, rf"\n|{ENDING}[{SPACES}]")


def amid_sentence(word: str) -> str:
    """A word amid a sentence, with signs for the sentences that end inside it, before other white space."""
    return _SENTENCE_SIGN.join(split_sentences(word))


def before_sentence(word: str) -> str:
    """A word that ends a sentence, with a sign for that, too; white space at its end is behind that."""
    ended = word.rstrip()
    return amid_sentence(ended) + _SENTENCE_SIGN + word[len(ended) :]


def _has(words: pyarrow.Array, pattern: str) -> npt.NDArray[np.bool_]:
    return compute.match_substring_regex(words, pattern).to_numpy(zero_copy_only=False)


def _is_utf8(text: str) -> bool:
    try:
        return bool(text.encode("utf-8"))
    except UnicodeEncodeError:
        return False
