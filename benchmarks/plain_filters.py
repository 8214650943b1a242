"""The default filters once more, as one would write them down: a page at a time, a line at a time.

    judge_plainly(text, language)       the paragraphs that are left of a page, or the reason for dropping it

It is what the benchmark of the WET reader puts behind warcio, and what tests compare `corpus.filters` with.
The detector sees the whole page here, the default filters its first 2 KiB.
"""

from __future__ import annotations

import re

import pycld2

from tf_codistill.corpus.filters import NOTICES, OWNER_OR_CALL

_CONTROLS = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\U0001fffe-\U0001ffff]"
)
_SENTENCE_END = re.compile(r"""[.!?:;,…]["'”’»)\]]*$""")
_OWNER_OR_CALL = re.compile(OWNER_OR_CALL, re.VERBOSE)
_SEPARATOR = re.compile(r"[|»›•·>]+")


def judge_plainly(text: str, language: str | None) -> list[str] | str:
    """Judges a page by the rules of docs/corpus_filters.md with their default thresholds.

    Args:
        text: Its text.
        language: What its record says, None where it does not.

    Returns:
        The paragraphs that are left, or the reason for dropping the page.
    """
    lines = [line.strip() for line in text.split("\n")]
    lines = [line for line in lines if line]
    if not _is_english(text, language):
        return "other_language"
    if sum(len(line) for line in lines if _is_link(line)) > 0.5 * sum(len(line) for line in lines):
        return "link_list"
    left = [line for line in lines if not _is_boilerplate(line)]
    if lines and not left:
        return "boilerplate"
    if not any(len(line) >= 100 and len(line.split()) >= 10 for line in left):
        return "no_long_paragraphs"
    left = [line for line in left if len(line) >= 30]
    num_characters = sum(len(line) for line in left)
    num_words = sum(len(line.split()) for line in left)
    if num_characters < 200 or num_words < 30:
        return "too_short"
    return "too_long" if num_characters > 1_000_000 or num_words > 200_000 else left


def _is_english(text: str, language: str | None) -> bool:
    if language is not None:
        return language.split(",")[0].strip() == "eng"
    is_reliable, _, found = pycld2.detect(_CONTROLS.sub(" ", text), isPlainText=True)
    _, code, percent, _ = found[0]
    return bool(is_reliable) and code == "en" and percent >= 80


def _is_link(line: str) -> bool:
    return len(line) <= 40 and not _SENTENCE_END.search(line)


def _is_boilerplate(line: str) -> bool:
    if len(line) > 200:
        return False
    lowered = line.lower()
    if any(notice in lowered for notice in NOTICES) or _OWNER_OR_CALL.fullmatch(lowered):
        return True
    entries = [entry.strip() for entry in _SEPARATOR.split(line) if entry.strip()]
    return len(entries) >= 3 and max(len(entry) for entry in entries) <= 30
