"""A cache of words: texts to ids word by word, where each different word is encoded once.

    text       It rains. It stays.
    words      " It"   " rains."   " It"   " stays."    each with the space before it; the first gets one
    numbers    0       1           0       2            in the order in which they were met
    ends       no      yes         no      no           whether a sentence ends, see `sentences`
    rows       0: [55]            2: [812, 9]            4: [34, 5]             the ids of each different word
               1: [55, </s> <s>]  3: [812, 9, </s> <s>]  5: [34, 5, </s> <s>]   and where a sentence ends
    ids        55      812 9 </s> <s>      55      34 5

Nearly every word of a text was met before, and to look it up takes a small part of the time in which its best
segmentation is found. Arrow hashes all words of a list of texts at once, where they stand.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
from pyarrow import compute

from tf_codistill.tokenizer import sentences
from tf_codistill.tokenizer.base import Ids

_MAX_IDS = 1 << 22  # 300,000 to 500,000 words, about 30 MB
_MIN_WORDS = 1 << 17  # to hash the cached ones again takes 2 to 60 ms for each list of texts


class WordCache:
    """Encodes texts, and keeps the ids of their words; may be used by several threads.

    Args:
        encode_words: Takes an Arrow array of different words, each of which begins with a space and has no
            other; returns a list array with two rows for each: its ids, and those where a sentence ends.
        max_ids: The cache is emptied when its words have more ids.
        min_words: Texts of fewer words are encoded anew: even that is faster than to hash all cached words.
    """

    def __init__(
        self,
        encode_words: Callable[[pyarrow.Array], pyarrow.ListArray],
        max_ids: int = _MAX_IDS,
        min_words: int = _MIN_WORDS,
    ) -> None:
        self._encode_words = encode_words
        self._min_words = min_words
        self._max_ids = max_ids
        self._lock = threading.Lock()
        self._words: pyarrow.Array
        self._rows: pyarrow.ListArray
        self._classes: npt.NDArray[np.uint8]
        self._clear()

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """A row of ids for each of some texts, at least one, as `sentences.to_words` returns them."""
        words, text_ends = _split(texts)
        if len(words) < self._min_words:
            coded = words.dictionary_encode()
            rows, classes = self._encode_words(coded.dictionary), sentences.classes(coded.dictionary)
            numbers = coded.indices
        else:
            with self._lock:
                numbers = self._look_up(words)
                rows, classes = self._rows, self._classes
                if len(rows.values) > self._max_ids:
                    self._clear()
        numbers = numbers.to_numpy()
        rows = rows.take(pyarrow.array(2 * numbers + sentences.sentence_ends(classes[numbers])))
        return np.split(rows.flatten().to_numpy(), rows.offsets.to_numpy()[text_ends[:-1]])

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is empty, and has a lock of its own."""
        return WordCache, (self._encode_words, self._max_ids, self._min_words)

    def _look_up(self, words: pyarrow.Array) -> pyarrow.Array:
        numbers = compute.index_in(words, value_set=self._words)
        if numbers.null_count:
            new = words.filter(numbers.is_null()).dictionary_encode()
            numbers = compute.replace_with_mask(
                numbers, numbers.is_null(), compute.add(new.indices, len(self._words)).cast(pyarrow.int32())
            )
            # Nothing changes before all has been found: it may fail.
            rows = pyarrow.concat_arrays([self._rows, self._encode_words(new.dictionary)])
            classes = np.append(self._classes, sentences.classes(new.dictionary))
            words = pyarrow.concat_arrays([self._words, new.dictionary])
            self._rows, self._classes, self._words = rows, classes, words
        return numbers

    def _clear(self) -> None:
        self._words = pyarrow.array([], pyarrow.large_string())
        self._rows = pyarrow.array([], pyarrow.list_(pyarrow.int32()))
        self._classes = np.empty(0, np.uint8)


def _split(texts: Sequence[str]) -> tuple[pyarrow.Array, npt.NDArray[np.int64]]:
    """The words of texts, and after how many of them each text ends."""
    encoded = [text.encode("utf-8") for text in texts]
    content = b" ".join([b"", *encoded, b""])
    bounds = np.flatnonzero(np.frombuffer(content, np.uint8) == ord(" "))
    words = pyarrow.LargeStringArray.from_buffers(len(bounds) - 1, *map(pyarrow.py_buffer, (bounds, content)))
    ends = np.cumsum([1 + len(text) for text in encoded])
    return words, np.searchsorted(bounds, ends)
