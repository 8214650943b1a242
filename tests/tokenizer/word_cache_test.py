"""The word cache: the ids are those of each word of each text, however many words are cached."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tokenizer.sentence_rule import RICH, words_of
from tf_codistill.tokenizer import sentences
from tf_codistill.tokenizer.word_cache import WordCache

KEEP_ALL = 1 << 20
TEXTS = st.lists(st.lists(st.sampled_from(RICH), max_size=6).map("".join), min_size=1, max_size=5)
END = -1


def ids_of(word: str) -> list[int]:
    """As many ids as characters behind the space, so that an empty word has none."""
    return [1000 * len(word) + ord(character) for character in word[1:]]


def expected(texts: Sequence[str]) -> list[list[int]]:
    """The ids of texts of one line each."""
    rows = []
    for text in texts:
        words = [(sentences.to_words(word)[3:-3], is_end) for word, is_end in words_of(text)]
        # Foreign characters are written in another way.
        signed = [("\n(", False), *words, ("\n)", False)] if text else [("\n|", False)]
        rows.append([index for word, is_end in signed for index in [*ids_of(" " + word), *[END] * is_end]])
    return rows


def different_words(texts: Sequence[str]) -> set[str]:
    return {" " + word for text in texts for word in sentences.to_words(text).split(" ")}


class Encoder:
    """Encodes words, and counts how often each is requested."""

    def __init__(self) -> None:
        self.requested: Counter[str] = Counter()
        self.num_calls = 0

    def __call__(self, words: pyarrow.Array) -> pyarrow.ListArray:
        self.num_calls += 1
        self.requested.update(words.to_pylist())
        rows = [row for word in words.to_pylist() for row in (ids_of(word), [*ids_of(word), END])]
        return pyarrow.array(rows, pyarrow.list_(pyarrow.int32()))


def encode(cache: WordCache, texts: Sequence[str]) -> list[list[int]]:
    rows = cache.encode(list(map(sentences.to_words, texts)))
    assert all(row.dtype == np.int32 for row in rows)
    return [row.tolist() for row in rows]


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, max_size=5), st.sampled_from([0, 3, 7, KEEP_ALL]), st.sampled_from([0, 4, KEEP_ALL]))
@example([[""], [" "], ["", "  ", ""], ["a"], [" a"], ["a "]], KEEP_ALL, 0)
@example([["a é"], ["é 日"], ["a é 日"], ["é 日 a aa", "a"]], 1, 0)
@example([["a. A", "a."], ["A a.  A"], ["a. a"]], KEEP_ALL, 0)
def test_ids_are_those_of_each_word(calls: list[list[str]], max_ids: int, min_words: int) -> None:
    cache = WordCache(Encoder(), max_ids, min_words)
    for texts in calls:
        assert encode(cache, texts) == expected(texts)


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS, max_size=5))
def test_each_different_word_is_asked_for_once(calls: list[list[str]]) -> None:
    encoder = Encoder()
    cache = WordCache(encoder, KEEP_ALL, min_words=0)
    for texts in calls:
        encode(cache, texts)
    assert encoder.requested == Counter(set().union(*map(different_words, calls)))
    assert encoder.num_calls <= len(calls)


def test_the_cache_is_emptied_when_it_has_too_many_ids() -> None:
    encoder = Encoder()
    cache = WordCache(encoder, max_ids=19, min_words=0)  # 10 of them for the paragraph, 3 for a letter
    for text, number in (("a b c", 3), ("c b a", 3), ("d", 4), ("a b c d", 8), ("a b", 10), ("b a", 10)):
        assert encode(cache, [text]) == expected([text])
        assert sum(encoder.requested[" " + letter] for letter in "abcd") == number, text


def test_few_words_are_encoded_anew() -> None:
    encoder = Encoder()
    cache = WordCache(encoder, min_words=6)  # with those for the paragraph
    for text, number in (("a b a", 2), ("a b a b", 4), ("b b b c", 5), ("c b a", 8)):
        assert encode(cache, [text]) == expected([text])
        assert sum(encoder.requested[" " + letter] for letter in "abcd") == number, text


def test_words_that_could_not_be_encoded_are_not_cached() -> None:
    encoder = Encoder()

    def fail_for_c(words: pyarrow.Array) -> pyarrow.ListArray:
        if " c" in words.to_pylist() and encoder.num_calls < 2:
            encoder.num_calls += 1
            raise MemoryError("c is too much")
        return encoder(words)

    cache = WordCache(fail_for_c, min_words=0)
    encode(cache, ["a b"])
    with pytest.raises(MemoryError, match="too much"):
        encode(cache, ["b c d"])
    for texts in (["d a b c"], ["c d"]):
        assert encode(cache, texts) == expected(texts)


def test_words_whose_classes_could_not_be_found_are_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(words: pyarrow.Array) -> None:
        raise MemoryError(f"{len(words)} are too many")

    cache = WordCache(Encoder(), min_words=0)
    encode(cache, ["a b"])
    with monkeypatch.context() as patch:
        patch.setattr(sentences, "classes", fail)
        with pytest.raises(MemoryError, match="too many"):
            encode(cache, ["b c d"])
    for texts in (["d a b c"], ["c d"]):
        assert encode(cache, texts) == expected(texts)


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads that take turns after as few steps as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("max_ids", [5, KEEP_ALL])
@pytest.mark.usefixtures("eager_threads")
def test_several_threads_at_once_get_their_own_ids(max_ids: int) -> None:
    cache = WordCache(Encoder(), max_ids, min_words=0)
    together = threading.Barrier(4)

    def encode_many(number: int) -> bool:
        together.wait()
        for step in range(200):
            texts = [f"{'a' * step} b{number} c{step % 7} {'d' * (step % 5)}", f"{number} {step}"]
            if encode(cache, texts) != expected(texts):
                return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(encode_many, range(4)))
