r"""Made rows in the layout of the Criteo data set, from a function that is known.

    clicks = SyntheticClicks(seed=1)
    rows = clicks.rows(first=1_000_000, number=1000)        each a function of the seed and its number
    rows.probabilities                                      how likely a click is, given what the row shows
    clicks.text(rows)                                       b"0\t1\t\t5 ... \t68fd1e64\t...\n..."
    clicks.best_log_loss(first=1_000_000, number=1000)      what no model can beat

    logit = bias + signal x ( effects of single categories + functions of numbers + effects of pairs )

Shares of missing values, numbers of distinct categories, most common categories, quantiles of integers and
the click rate are like those of the real data, which must not be passed on. An effect of a pair depends on
the hidden types of both values, a handful for each column, as a rare value can show no more. All of this,
and no memory of it, comes from hashes: a column of ten million categories costs nothing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TypeAlias

import gin
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tf_codistill import settings

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Words: TypeAlias = npt.NDArray[np.uint64]

BLOCK_ROWS = 1 << 14
"""So many rows at a time are made fastest."""

MISSING = -1
"""Stands for a category that a row does not have."""

_LEVELS = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1)
_QUANTILES = (
    (0, 0, 0, 1, 3, 8, 40, 2000),
    (-2, 0, 0, 3, 38, 188, 2194, 18522),
    (0, 1, 2, 6, 17, 45, 260, 20000),
    (0, 1, 2, 5, 10, 18, 40, 400),
    (0, 14, 299, 2779, 10507, 33138, 299734, 1618112),
    (0, 4, 12, 40, 110, 270, 1100, 50000),
    (0, 0, 0, 3, 10, 29, 178, 1147),
    (0, 0, 2, 8, 18, 33, 49, 1500),
    (0, 4, 12, 40, 110, 260, 900, 9000),
    (0, 0, 0, 1, 1, 1, 3, 8),
    (0, 0, 1, 1, 3, 6, 19, 120),
    (0, 0, 0, 0, 0, 2, 14, 800),
    (0, 1, 2, 4, 10, 18, 47, 2500),
)
_NUMBERS_MISSING = (0.45, 0, 0.20, 0.19, 0.05, 0.25, 0.05, 0, 0.05, 0.45, 0.05, 0.77, 0.19)

# Of each column: how many categories there are, the exponent of their power law, the share of rows without
# one, and the share of rows with the most common one where the law alone would not give it.
_CATEGORIES = (
    *((1460, 1.85, 0, 0.5), (583, 1.57, 0, 0), (10131227, 1.03, 0.04, 0), (2202608, 1.1, 0.04, 0)),
    *((305, 2.64, 0, 0), (14, 2.5, 0.13, 0), (12517, 1.02, 0, 0), (633, 2.29, 0, 0), (3, 0, 0, 0.89)),
    *((93145, 1.14, 0, 0), (5683, 1.1, 0.04, 0), (8351593, 1.05, 0, 0), (3194, 1.1, 0, 0)),
    *((27, 3.05, 0, 0), (14992, 1.19, 0.04, 0), (5461306, 1.08, 0, 0), (10, 0, 0, 0), (5652, 1.34, 0, 0)),
    *((2173, 1.41, 0.44, 0), (4, 0, 0.44, 0.45), (7046547, 1.05, 0.04, 0), (18, 3.99, 0.82, 0)),
    *((15, 0, 0, 0), (286181, 1.2, 0.04, 0), (105, 2.74, 0.44, 0), (142572, 1.14, 0.44, 0)),
)
NUM_NUMBERS, NUM_CATEGORIES = len(_QUANTILES), len(_CATEGORIES)
_NUM_COLUMNS = NUM_NUMBERS + NUM_CATEGORIES

_COMMON = 50  # of a column: the effects of so many categories are large
_TYPED = 1000  # so many have a type of their own, the others share one
_STRIPPED_SHARE = 0.5  # of the rows, lose empty fields at their end
_CALIBRATION_ROWS = 1 << 15
_PAIRED = [NUM_NUMBERS + c for c, (size, _, _, top) in enumerate(_CATEGORIES) if size > 5 and top < 0.8]
_HEX = np.array([b"%04x" % value for value in range(1 << 16)], "S4")
_DRAW, _EFFECT, _TYPE, _PAIR, _LABEL, _STRIP, _WAVE, _NAME = range(8)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of a table of clicks, of R rows.

    Attributes:
        labels: 1 for a click, 0 for none, int64 [R].
        numbers: The integers, int64 [R, 13]; what stands where one is missing means nothing.
        is_missing: Whether an integer is missing, bool [R, 13].
        categories: Which category it is, 0 for the most common one, `MISSING` for none, int64 [R, 26].
        probabilities: How likely a click was, float64 [R].
        is_stripped: Whether empty fields at the end are left out of its line, bool [R].
    """

    labels: Ints
    numbers: Ints
    is_missing: npt.NDArray[np.bool_]
    categories: Ints
    probabilities: Floats
    is_stripped: npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class _Scales:
    """What makes the parts of the logit as large as they shall be."""

    means: Floats
    deviations: Floats
    bias: float


@gin.configurable(module="tf_codistill")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticClicks:
    """A function from rows to probabilities, and the rows.

    Attributes:
        seed: Fixes function and rows.
        click_rate: Share of the rows that are clicked.
        signal: Standard deviation of the logit: the larger, the smaller the best possible log loss.
        pair_share: Share of pairs in the variance of the logit.
        number_share: Share of functions of single numbers in it; the rest are effects of single categories.
        num_pairs: How many pairs of columns have an effect together.
        num_types: Hidden types of the values of a column.
        effect_share: Share of the categories that have an effect of their own.
    """

    seed: int = 0
    click_rate: float = 0.22
    signal: float = 1.6
    pair_share: float = 0.4
    number_share: float = 0.2
    num_pairs: int = 8
    num_types: int = 4
    effect_share: float = 0.5

    def __post_init__(self) -> None:
        settings.check_types(self)
        if not 0 < self.click_rate < 1 or not 0 < self.effect_share <= 1:
            raise ValueError(
                f"click_rate is {self.click_rate} and effect_share {self.effect_share}; expected more than "
                "0, and less than 1 for the rate"
            )
        if self.signal < 0 or min(self.num_pairs, self.num_types) < 1 or self.seed < 0:
            raise ValueError(
                f"signal is {self.signal}, num_pairs {self.num_pairs}, num_types {self.num_types} and seed "
                f"{self.seed}; expected signal and seed >= 0, and the others >= 1"
            )
        if min(self.pair_share, self.number_share) < 0 or self.pair_share + self.number_share > 1:
            raise ValueError(
                f"pair_share is {self.pair_share} and number_share {self.number_share}; expected numbers "
                ">= 0 with a sum of at most 1"
            )

    def rows(self, first: int, number: int) -> Rows:
        """Makes rows.

        Args:
            first: Number of the first one, at least 0.
            number: How many.

        Returns:
            The rows, the same whatever others are made with them.
        """
        indices = np.arange(first, first + number, dtype=np.uint64)
        numbers, is_missing, categories = self._features(indices)
        parts = self._parts(numbers, is_missing, categories)
        probabilities = _sigmoid(self._logits(parts, self._scales) + self._scales.bias)
        labels = (self._uniform(_LABEL, 0, indices) < probabilities).astype(np.int64)
        is_stripped = self._uniform(_STRIP, 0, indices) < _STRIPPED_SHARE
        return Rows(labels, numbers, is_missing, categories, probabilities, is_stripped)

    def text(self, rows: Rows) -> bytes:
        """Lines of a file in the Criteo layout.

        Args:
            rows: The rows.

        Returns:
            Label, 13 integers and 26 categories of 8 hexadecimal digits, with tabs between them, nothing
            where a value is missing, a newline after each row.
        """
        numbers = [
            pc.fill_null(pa.array(rows.numbers[:, j], mask=rows.is_missing[:, j]).cast(pa.string()), "")
            for j in range(NUM_NUMBERS)
        ]
        categories = [self._names(c, rows.categories[:, c]) for c in range(NUM_CATEGORIES)]
        labels = pa.array(rows.labels).cast(pa.string())
        lines = pc.binary_join_element_wise(labels, *numbers, *categories, "\t")
        lines = pc.if_else(pa.array(rows.is_stripped), pc.utf8_rtrim(lines, characters="\t"), lines)
        content = pc.binary_join_element_wise(lines, "", "\n")
        return content.buffers()[2].to_pybytes() if len(rows.labels) else b""

    def best_log_loss(self, first: int, number: int) -> float:
        """The smallest log loss that can be expected, that of who knows the probabilities.

        Args:
            first: Number of the first row.
            number: How many rows, at least 1.

        Returns:
            The mean entropy of the rows' labels in nats.
        """
        starts = range(first, first + number, BLOCK_ROWS)
        blocks = [self.rows(start, min(BLOCK_ROWS, first + number - start)) for start in starts]
        return float(np.concatenate([entropies(one.probabilities) for one in blocks]).mean())

    def _features(self, indices: Words) -> tuple[Ints, npt.NDArray[np.bool_], Ints]:
        """Integers, where they are missing, and categories, of the rows of these numbers."""
        shape = (len(indices), NUM_NUMBERS)
        numbers, is_missing = np.empty(shape, np.int64), np.empty(shape, np.bool_)
        for j, (quantiles, missing) in enumerate(zip(_QUANTILES, _NUMBERS_MISSING, strict=True)):
            u = self._uniform(_DRAW, j, indices)
            is_missing[:, j] = u < missing
            u = np.maximum(u - missing, 0) / (1 - missing)
            numbers[:, j] = np.floor(np.exp(np.interp(u, _LEVELS, np.log(np.add(quantiles, 3)))) - 3 + 1e-6)
        categories = np.empty((len(indices), NUM_CATEGORIES), np.int64)
        for c, column in enumerate(_CATEGORIES):
            categories[:, c] = _of_power_law(self._uniform(_DRAW, NUM_NUMBERS + c, indices), *column)
        return numbers, is_missing, categories

    def _parts(self, numbers: Ints, is_missing: npt.NDArray[np.bool_], categories: Ints) -> Floats:
        """The three parts of the logit, [R, 3], not yet as large as they shall be."""
        logs = np.log(numbers + 3)
        total = np.zeros((len(numbers), 3))
        types = np.empty((len(numbers), _NUM_COLUMNS), np.uint64)
        for c in range(NUM_CATEGORIES):
            values = (categories[:, c] + 1).astype(np.uint64)
            size = 1 / np.sqrt(1 + categories[:, c] / _COMMON)
            is_typed = values <= _TYPED
            types[:, NUM_NUMBERS + c] = is_typed * (1 + self._uniform(_TYPE, c, values) * self.num_types)
            has_effect = self._uniform(_EFFECT, NUM_CATEGORIES + c, values) < self.effect_share
            total[:, 0] += size * has_effect * (self._uniform(_EFFECT, c, values) - 0.5)
        for j in range(NUM_NUMBERS):
            frequency, phase = self._uniform(_WAVE, j, np.arange(2, dtype=np.uint64))
            wave = np.sin((0.5 + frequency) * logs[:, j] + 6.28 * phase)
            total[:, 1] += np.where(is_missing[:, j], 0.5, wave)
            types[:, j] = np.where(is_missing[:, j], 0, 1 + logs[:, j])
        for pair, (a, b) in enumerate(self._pairs):
            both = types[:, a] * np.uint64(1 << 16) + types[:, b]
            total[:, 2] += self._uniform(_PAIR, pair, both) - 0.5
        return total

    @functools.cached_property
    def _pairs(self) -> list[tuple[int, int]]:
        """Columns that have an effect together; those that hardly vary take part in none."""
        columns = np.array([*range(NUM_NUMBERS), *_PAIRED])
        rng = np.random.default_rng((self.seed, _PAIR))
        return [tuple(rng.choice(columns, 2, replace=False).tolist()) for _ in range(self.num_pairs)]

    @functools.cached_property
    def _scales(self) -> _Scales:
        """Sizes of the parts and the bias, of rows that no file holds."""
        indices = np.arange(_CALIBRATION_ROWS, dtype=np.uint64) + np.uint64(1 << 63)
        parts = self._parts(*self._features(indices))
        means, deviations = parts.mean(axis=0), parts.std(axis=0)
        logits = self._logits(parts, _Scales(means, deviations, 0.0))
        low, high = -50.0, 50.0
        for _ in range(60):
            bias = (low + high) / 2
            low, high = (bias, high) if _sigmoid(logits + bias).mean() < self.click_rate else (low, bias)
        return _Scales(means, deviations, bias)

    def _logits(self, parts: Floats, scales: _Scales) -> Floats:
        """The logits without the bias."""
        single = max(1 - self.pair_share - self.number_share, 0.0)
        factors = np.sqrt([single, self.number_share, self.pair_share]) / scales.deviations
        # No matrix product: its last bits would depend on how many rows there are.
        return self.signal * ((parts - scales.means) * factors).sum(axis=1)

    def _names(self, column: int, categories: Ints) -> pa.Array:
        """How categories are written; no two of a column alike."""
        (key,) = _keys(self.seed, _NAME, column)[:1]
        names = _permuted(categories.astype(np.uint32) ^ key.astype(np.uint32))
        digits = np.stack([_HEX[names >> np.uint32(16)], _HEX[names & np.uint32(0xFFFF)]], axis=1)
        is_there = categories != MISSING
        offsets = np.concatenate([[0], np.cumsum(8 * is_there)]).astype(np.int32)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(digits[is_there]))]
        return pa.Array.from_buffers(pa.string(), len(categories), buffers)

    def _uniform(self, purpose: int, number: int, values: Words) -> Floats:
        """For each value a number from 0 to less than 1, always the same for the same purpose."""
        first, second = _keys(self.seed, purpose, number)
        bits = _mixed(_mixed(values + first) ^ second) >> np.uint64(11)
        return bits.astype(np.float64) * 2.0**-53


def entropies(probabilities: Floats) -> Floats:
    """What the best possible log loss of each row is, the entropy of its label.

    Args:
        probabilities: How likely a click is, float64 [R].

    Returns:
        Nats, float64 [R].
    """
    inside = np.clip(probabilities, 1e-300, 1 - 1e-16)
    return -(inside * np.log(inside) + (1 - inside) * np.log1p(-inside))


def _of_power_law(u: Floats, size: int, exponent: float, missing: float, top: float) -> Ints:
    """Categories by uniform numbers: 0 with probability `top`, the others by rank ** -exponent."""
    rest = np.maximum(u - missing - top, 0) / (1 - missing - top)
    power = 1 - exponent
    ranks = ((float(size) ** power - 1) * rest + 1) ** (1 / power)
    found = np.minimum(ranks.astype(np.int64) - (top == 0), size - 1)
    return np.where(u < missing, MISSING, np.where(u < missing + top, 0, found))


@functools.lru_cache(maxsize=1024)
def _keys(*values: int) -> Words:
    return np.random.SeedSequence(values).generate_state(2, np.uint64).astype(np.uint64)


def _mixed(values: Words) -> Words:
    """Spreads every bit over all others: the finaliser of SplitMix64 (Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _permuted(values: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """A permutation of the numbers of 32 bits: the finaliser of MurmurHash3 (Appleby)."""
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))


def _sigmoid(logits: Floats) -> Floats:
    return 1 / (1 + np.exp(-logits))


def column_names() -> Sequence[str]:
    """The names of the columns in their order: label, I1 to I13, C1 to C26."""
    numbers = [f"I{number}" for number in range(1, NUM_NUMBERS + 1)]
    return ["label", *numbers, *(f"C{number}" for number in range(1, NUM_CATEGORIES + 1))]
