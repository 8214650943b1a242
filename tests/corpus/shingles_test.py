"""Hashes of word n-grams: equal for equal words, whatever is between them, and no others; files of them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tf_codistill.corpus.stages import partitioned, shingles

ENTRY = np.dtype([("hash", "<u8"), ("number", "<u4")])
TEXT = st.text(st.sampled_from("aAbBéÉ1 \n.,'’“-\xa0\ud800\U0001f600ß") | st.characters(), max_size=60)


def encoded(texts: list[str]) -> list[bytes]:
    return [text.encode("utf-8", "surrogatepass") for text in texts]


def words_of(text: str) -> list[str]:
    """Runs of letters and digits of ASCII, whatever their case, and of other characters that are no signs."""
    kept = ""
    for c in text:
        is_in_word = c.isalnum() if c < "\x80" else not ("\x80" <= c <= "\xbf" or "\u2000" <= c <= "\u2fff")
        kept += (c.lower() if c < "\x80" else c) if is_in_word else " "
    return kept.split(" ")


def grams(text: str, length: int, step: int) -> list[tuple[str, ...]]:
    words = [word for word in words_of(text) if word]
    number = max(len(words) - length + 1, 1 if words else 0)
    return [tuple(words[i : i + length]) for i in range(0, number, step)]


@settings(max_examples=400, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=4), st.integers(1, 6), st.integers(1, 4))
@example([""], 3, 1)
@example(["", " ", "a", ""], 2, 2)
@example(["ab", "a b", "ab"], 1, 1)
@example(["aab", "a ab aa b", "aa bab"], 1, 1)
@example(["a b", "c", "a b c d"], 4, 1)
def test_hashes_are_equal_where_words_are(texts: list[str], length: int, step: int) -> None:
    expected = [grams(text, length, step) for text in texts]
    found, bounds = shingles.hashes(encoded(texts), length, step)
    assert bounds.tolist() == [0, *itertools.accumulate(map(len, expected))]
    flat = list(itertools.chain.from_iterable(expected))
    assert len(set(found.tolist())) == len(set(flat))
    by_gram = dict(zip(flat, found.tolist(), strict=True))
    assert [by_gram[gram] for gram in flat] == found.tolist()
    one_by_one = [shingles.hashes([text], length, step)[0] for text in encoded(texts)]
    assert np.concatenate(one_by_one).tolist() == found.tolist()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.sampled_from("abc"), min_size=1, max_size=3), min_size=1, max_size=30))
def test_what_is_between_words_does_not_count(words: list[str]) -> None:
    others = ["“" + "”, \xa0\n-- ".join(words).upper() + "!", "\n".join(words)]
    texts = encoded([" ".join(words), *others])
    plain, *changed = (shingles.hashes([text], 3)[0].tolist() for text in texts)
    assert changed == [plain, plain]


def test_hashes_are_the_same_everywhere() -> None:
    """They are in files that other processes and machines read."""
    expected = [12149834396091302223, 10060008661477402568]
    assert shingles.hashes([b"Call me Ishmael. Some years ago"], 5)[0].tolist() == expected


def test_a_long_text_has_hashes_as_its_parts_have() -> None:
    words = b"the quick brown fox jumps over lazy dogs ".split() * 30_000
    whole, part = (shingles.hashes([b" ".join(part)], 5)[0] for part in (words, words[:40]))
    assert len(words) * 5 > 1 << 20
    assert set(whole.tolist()) == set(part.tolist())


def test_batches_leave_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shingles, "_BATCH_BYTES", 5)
    for texts in ([], [None], [b"abc", None, b"defg", b"", None], [b"longer", b"than", b"a batch"] * 3):
        done: list[int] = []
        batches = list(shingles.batches(enumerate(texts), done.append))
        flat = [entry for batch in batches for entry in zip(*batch, strict=True)]
        assert flat == [(place, text) for place, text in enumerate(texts) if text is not None]
        assert sum(done) == len(texts)
        assert all(sum(map(len, batch[:-1])) <= 5 for _, batch in batches)


def entries(rng: np.random.Generator, number: int) -> np.ndarray:
    made = np.empty(number, ENTRY)
    made["hash"] = rng.integers(0, 1 << 64, number, np.uint64)
    made["number"] = np.arange(number)
    return made


@pytest.mark.parametrize("num_entries", [0, 1, 500])
def test_what_is_spilled_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_entries: int
) -> None:
    monkeypatch.setattr(shingles, "_ENTRIES_PER_RUN", 64)
    rng = np.random.default_rng(num_entries)
    made = [entries(rng, num_entries), entries(rng, 10)]
    spilled = []
    for number, each in enumerate(made):
        spill = shingles.Spill(str(tmp_path / f"task-{number}"))
        for start in range(0, len(each), 50):
            spill.add(each[start : start + 50])
        spilled.append((str(tmp_path / f"task-{number}"), spill.close()))
    assert [number for _, number in spilled] == [-(-num_entries // 100), 1]
    found: list[list[np.ndarray]] = [[], []]
    for span in partitioned.ranges(shingles.NUM_BUCKETS, num_entries, 100).values():
        for number, block in enumerate(shingles.gather(spilled, ENTRY, span)):
            assert set((block["hash"] >> np.uint64(54)).tolist()) <= set(span)
            found[number].append(block)
    for each, blocks in zip(made, found, strict=True):
        assert sorted(np.concatenate(blocks).tolist()) == sorted(each.tolist())
