"""Word n-grams of texts as hashes, and files of hashes, of which each range can be read without the others.

    hashes([b"Call me Ishmael. Some years ago", b"Loomings"], 3)        64 bits for each of
        call me ishmael | me ishmael some | ishmael some years | some years ago
        loomings                                        and 0, 4, 5: where those of each text begin and end

A word is a run of letters and digits, whether A or a, and of characters that are not ASCII but for U+0080
to U+00BF and U+2000 to U+2FFF, where punctuation and symbols are. So texts are alike whose quotation marks,
dashes, line breaks and spaces differ. A text of fewer words has one n-gram, all of them. Texts are UTF-8,
as they are stored, and many at once: to decode them, and to call NumPy for each, would take longer than to
hash them.

    spill = Spill(prefix)        <prefix>.0.hashed, <prefix>.1.hashed, ...: runs of bounded size, in 1024
    spill.add(entries)           partitions by the first bits of the hash
    number = spill.close()
    gather([(prefix, number)], dtype, range(0, 8))      all entries of some partitions
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tf_codistill.corpus.stages import partitioned
from tf_codistill.jobs.stages import Stage

Hashes = npt.NDArray[np.uint64]

NUM_BUCKETS = 1 << 10
"""Number of partitions of the files that `Spill` writes."""

_BUCKET_SHIFT = np.uint64(54)
_ENTRIES_PER_RUN = 1 << 21
_OF_LETTERS, _OF_WORDS = 0x9E3779B97F4A7C15, np.uint64(0xD1342543DE82EF95)  # both odd
_SEPARATORS = {0xC2: 1, 0xE2: 2}  # first bytes of characters that are in no word, with how many follow
_BATCH_BYTES = 1 << 16
_LEAST_BITS = 20  # documents of up to a million characters share their tables


def hashes(texts: Sequence[bytes], length: int, step: int = 1) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Hashes the word n-grams of texts.

    Args:
        texts: The texts. N-grams go on from one line to the next.
        length: Number of words of an n-gram.
        step: An n-gram begins at every word, every second, ...

    Returns:
        A hash for each n-gram, in order, as often as it occurs; and where those of each text begin, and at
        last where they end. A text without a word has none.
    """
    words, starts = _words(b"\n".join((b"", *texts, b"")))
    ends_of_texts = np.cumsum([1 + len(text) for text in texts])
    num_words = np.diff(np.searchsorted(starts, ends_of_texts), prepend=0)
    # Behind the words of each text come zeros, so that those of the next are in no n-gram of it.
    gap = length - 1
    padded = np.zeros(len(words) + gap * len(texts), np.uint64)
    padded[np.arange(len(words)) + np.repeat(gap * np.arange(len(texts)), num_words)] = words
    numbers = -(-np.maximum(num_words - gap, num_words > 0) // step)
    bounds = np.concatenate([[0], np.cumsum(numbers)])
    firsts = np.cumsum(num_words + gap) - num_words - gap
    places = np.repeat(firsts - step * bounds[:-1], numbers) + step * np.arange(bounds[-1])
    grams = padded[places]
    for place in range(1, length):
        grams *= _OF_WORDS
        grams += padded[places + place]
    return mixed(grams), bounds


def batches(
    texts: Iterable[tuple[int, bytes | None]], advance: Callable[[int], None]
) -> Iterator[tuple[list[int], list[bytes]]]:
    """Places and texts, without None, as many at a time as fit into a cache of the processor.

    `advance` is told how many have been done, None among them.
    """
    number = num_bytes = 0
    batch: tuple[list[int], list[bytes]] = ([], [])
    for place, text in texts:
        number += 1
        if text is not None:
            batch[0].append(place)
            batch[1].append(text)
            num_bytes += len(text)
        if num_bytes > _BATCH_BYTES:
            yield batch
            advance(number)
            number, num_bytes, batch = 0, 0, ([], [])
    if batch[0]:
        yield batch
    advance(number)


def mixed(values: Hashes) -> Hashes:
    """Spreads the differences of numbers over all their bits, as the end of MurmurHash3 does."""
    values = (values ^ values >> np.uint64(33)) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ values >> np.uint64(33)) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ values >> np.uint64(33)


class Spill:
    """Writes entries in runs, so that no more than one of them is in memory.

    Args:
        prefix: Path that the names of the runs begin with.

    Attributes:
        num_entries: How many were added.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._waiting: list[npt.NDArray[np.void]] = []
        self._num_waiting = self._num_runs = self.num_entries = 0

    def add(self, entries: npt.NDArray[np.void]) -> None:
        """Adds entries, whose first field is called ``hash``."""
        self._waiting.append(entries)
        self._num_waiting += len(entries)
        self.num_entries += len(entries)
        if self._num_waiting >= _ENTRIES_PER_RUN:
            self._write()

    def close(self) -> int:
        """Writes what is left; returns the number of runs."""
        if self._num_waiting:
            self._write()
        return self._num_runs

    def _write(self) -> None:
        entries = np.concatenate(self._waiting)
        buckets = (entries["hash"] >> _BUCKET_SHIFT).astype(np.uint16)  # which is sorted fast
        entries = entries[np.argsort(buckets, kind="stable")]
        sizes = np.bincount(buckets, minlength=NUM_BUCKETS) * entries.itemsize
        partitioned.write(_run(self._prefix, self._num_runs), sizes, [entries.tobytes()])
        self._num_runs += 1
        self._waiting, self._num_waiting = [], 0


def gather(spilled: Iterable[tuple[str, int]], dtype: np.dtype, span: range) -> list[npt.NDArray[np.void]]:
    """The entries in a range of partitions, for each `Spill` by its prefix and number of runs."""
    found = []
    for prefix, num_runs in spilled:
        paths = (_run(prefix, number) for number in range(num_runs))
        runs = (partitioned.read(path, span.start, span.stop) for path in paths)
        found.append(np.frombuffer(b"".join(runs), dtype))
    return found


def spilled_by(stage: Stage) -> list[tuple[str, int]]:
    """What `gather` takes of a stage whose tasks each had a `Spill`, with its ``runs`` among their facts."""
    return [(stage.path(task, ""), stage.facts(task)["runs"]) for task in stage.sizes()]


def _run(prefix: str, number: int) -> str:
    return f"{prefix}.{number}.hashed"


def _words(text: bytes) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """A hash for each word of a text that begins and ends with a newline, and where it begins."""
    codes = np.frombuffer(text, np.uint8)
    values = _letters()[codes]
    for lead, num_others in _SEPARATORS.items():
        found = np.flatnonzero(codes == lead)
        for place in range(1, num_others + 1):
            values[found + place] = 0
    is_letter = values != 0
    edges = np.flatnonzero(is_letter[1:] ^ is_letter[:-1])
    before, last = edges[::2], edges[1::2]
    # A polynomial in the letters for each word, as the difference of two sums, shifted to the word's start.
    powers, inverses = _powers(max(_LEAST_BITS, len(values).bit_length()))
    values *= powers[: len(values)]
    sums = np.cumsum(values, out=values)
    return (sums[last] - sums[before]) * inverses[before], before


@functools.cache
def _letters() -> Hashes:
    """A number for each byte of UTF-8: the same for A and a, 0 for what is in no word."""
    is_letter = [byte >= 0x80 or chr(byte).isalnum() for byte in range(256)]
    folded = np.frombuffer(bytes(range(256)).lower(), np.uint8).astype(np.uint64)
    values = np.where(is_letter, mixed(folded + np.uint64(1)) | np.uint64(1), np.uint64(0))
    values[list(_SEPARATORS)] = 0
    return values


@functools.cache
def _powers(bits: int) -> tuple[Hashes, Hashes]:
    """As many powers of a number as `bits` can count, from the first, and their inverses, modulo 2 ** 64."""
    inverse = pow(_OF_LETTERS, -1, 1 << 64)
    bases = (np.full(1 << bits, base, np.uint64) for base in (_OF_LETTERS, inverse))
    powers, inverses = (np.cumprod(base, dtype=np.uint64) for base in bases)
    return powers, inverses
