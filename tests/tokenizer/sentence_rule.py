"""The sentence rule once more, character by character, and text in which its cases arise often."""

from __future__ import annotations

from collections.abc import Callable

TITLES = ("Capt", "Dr", "Messrs", "Mme", "Mr", "Mrs", "Ms", "Prof", "Rev", "St")
ABBREVIATIONS = (*TITLES, "Eq", "Fig", "No", "cf", "eg", "etc", "ie", "vs")
WORDS = (*ABBREVIATIONS, *"IAaÉ9_Я\u0301日-\u2581\x00\ud800", "word")
ENDS = (*".!?…\"'”’)]“‘([", "...", "?!", ". ", ".\xa0")
RICH = (*WORDS, *ENDS, *" \t\r\x0b\x1c\x85\xa0\u2003\u2028\u3000", "  ")
"""What the rule looks at, in parts."""


def by_the_rule(paragraph: str) -> list[str]:
    """What `split_sentences` returns."""
    sentences, start, position = [], 0, 0
    while position < len(paragraph):
        first = position
        position = past(paragraph, position, ".!?…".__contains__)
        if position == first:
            position += 1
            continue
        closed = past(paragraph, position, "\"'”’)]".__contains__)
        spaces = past(paragraph, closed, str.isspace)
        opened = past(paragraph, spaces, "\"'“‘([".__contains__)
        follower = paragraph[opened : opened + 1]
        may_follow = spaces > closed and follower.isascii() and (follower.isupper() or follower.isdigit())
        if may_follow and not (
            position == closed and paragraph[position - 1] == "." and is_exception(paragraph[:first])
        ):
            sentences.append(paragraph[start:closed])
            start = closed
        position = closed
    return [*sentences, paragraph[start:]] if paragraph else []


def words_of(paragraph: str) -> list[tuple[str, bool]]:
    """The words between single spaces, and whether a sentence ends with each."""
    end = 0
    ends = {end := end + len(sentence) for sentence in by_the_rule(paragraph)[:-1]}
    found, start = [], 0
    for word in paragraph.split(" "):
        found.append((word, start + len(word.rstrip()) in ends and bool(word.rstrip())))
        start += len(word) + 1
    return found


def past(paragraph: str, position: int, belongs: Callable[[str], bool]) -> int:
    while position < len(paragraph) and belongs(paragraph[position]):
        position += 1
    return position


def is_exception(before: str) -> bool:
    """Whether a text ends with a word after which a full stop ends no sentence."""
    word = ""
    while before and is_letter(before[-1]):
        before, word = before[:-1], before[-1] + word
    return len(word) == 1 or word in ABBREVIATIONS


def is_letter(character: str) -> bool:
    is_european = 0xC0 <= ord(character) <= 0x52F or 0x1E00 <= ord(character) <= 0x1FFF
    return is_european or character == "_" or (character.isascii() and character.isalnum())
