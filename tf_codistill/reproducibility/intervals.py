"""Bootstrap intervals of figures that are functions of sums over examples (Efron & Tibshirani 1993).

    vectors = measures.per_example(p, q)                     {"count": [N], "flips": [N], ...}
    Bootstrap(num_resamples=2000).estimates(vectors, measures.summarise)
    {"flip_rate": Estimate(value=0.040, low=0.036, high=0.045), ...}

    N examples --(clusters)--> units --(at random, if there are more)--> at most 10,000 blocks
    2,000 times: as many blocks as there are, drawn with replacement -> sums -> figures -> percentiles

Up to 10,000 units every unit is a block, and this is the plain percentile bootstrap. Beyond that blocks of
units are drawn: the variance of a sum stays the same in expectation, estimated with a standard error of 1 %,
and neither time nor memory grows with the number of resamples times that of examples.

The interval says what other examples would have shown of the same models. It does not say what other
retrains would have shown: for that, retrain more often.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from tf_codistill.reproducibility.measures import Array, Vectors

_COUNTS_AT_A_TIME = 1 << 21


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: The figure, of all examples.
        low: Lower end of the interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """The three by name, None where one is not finite."""
        fields = dataclasses.asdict(self).items()
        return {name: value if math.isfinite(value) else None for name, value in fields}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How intervals are made. Figures of equally many examples are resampled alike.

    Attributes:
        num_resamples: How often examples are drawn anew.
        confidence: Share of such intervals that shall hold the truth.
        seed: Fixes what is drawn.
        max_blocks: Number of units beyond which several are drawn together.
    """

    num_resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0
    max_blocks: int = 10_000

    def __post_init__(self) -> None:
        """Checks the numbers."""
        for name, least in (("num_resamples", 1), ("seed", 0), ("max_blocks", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence is {self.confidence}; expected more than 0 and less than 1")

    def estimates(
        self,
        vectors: Mapping[str, Array],
        statistic: Callable[[Mapping[str, Array]], Mapping[str, Array]],
        clusters: Array | None = None,
    ) -> dict[str, Estimate]:
        """Figures with their intervals.

        Args:
            vectors: For each example what is added up, arrays [N] by name.
            statistic: Makes figures of sums, each an array with a value for each resample.
            clusters: What examples belong to that are drawn together, since they are no independent evidence
                (the rows of a document, the flights of a day), integers or strings [N]; None if every example
                stands for itself.

        Returns:
            The figures by name.
        """
        values = statistic({name: np.asarray([vector.sum()]) for name, vector in vectors.items()})
        figures: dict[str, list[Array]] = {name: [] for name in values}
        for sums in self._resampled(vectors, clusters):
            for name, of_resamples in statistic(sums).items():
                figures[name].append(of_resamples)
        tail = (1 - self.confidence) / 2
        found = {}
        for name, parts in figures.items():
            low, high = _percentiles(np.concatenate(parts), tail)
            found[name] = Estimate(float(values[name][0]), low, high)
        return found

    def _resampled(self, vectors: Mapping[str, Array], clusters: Array | None) -> Iterator[Vectors]:
        """Sums of some resamples at a time."""
        number = len(next(iter(vectors.values())))
        block_of, num_blocks = self._blocks(number, clusters)
        of_blocks = np.stack(
            [np.bincount(block_of, vector, minlength=num_blocks) for vector in vectors.values()], axis=1
        )
        generator = np.random.default_rng((self.seed, 1))
        at_a_time = max(1, _COUNTS_AT_A_TIME // num_blocks)
        for first in range(0, self.num_resamples, at_a_time):
            resamples = min(at_a_time, self.num_resamples - first)
            drawn = generator.integers(num_blocks, size=(resamples, num_blocks), dtype=np.int32)
            drawn += num_blocks * np.arange(resamples, dtype=np.int32)[:, np.newaxis]
            counts = np.bincount(drawn.reshape(-1), minlength=resamples * num_blocks)
            sums = counts.reshape(resamples, num_blocks).astype(np.float64) @ of_blocks
            yield dict(zip(vectors, sums.T, strict=True))

    def _blocks(self, number: int, clusters: Array | None) -> tuple[Array, int]:
        """The block of each example, and how many there are."""
        unit_of, num_units = np.arange(number), number
        if clusters is not None:
            units, unit_of = np.unique(clusters, return_inverse=True)
            num_units = len(units)
        if num_units <= self.max_blocks:
            return unit_of, num_units
        order = np.random.default_rng((self.seed, 0)).permutation(num_units)
        return order[unit_of] % self.max_blocks, self.max_blocks


def _percentiles(values: Array, tail: float) -> tuple[float, float]:
    """Of those resamples that have a value: a quotient may have had nothing to divide."""
    values = np.sort(values[~np.isnan(values)])
    if not len(values):
        return math.nan, math.nan
    # Of resamples as they are, not between two of them: infinity has nothing between it and a number.
    low, high = np.quantile(values, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)
