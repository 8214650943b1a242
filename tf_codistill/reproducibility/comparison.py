"""What comes out when models are compared: each pair, all together, slices, what changed most.

    comparison = comparing.compare({"retrain 1": p, "retrain 2": q, "retrain 3": r})
    comparison.overall["mean_absolute_difference"]      Estimate(value=0.029, low=0.028, high=0.030)
    comparison.pair("retrain 1", "retrain 3").figures["flip_rate"]
    comparison.models["retrain 1"]["log_loss"]
    comparison.spread("mean_absolute_difference")       mean over pairs, half the range
    files.write_json("churn.json", comparison.to_json())

Churn is measured across independent runs (Bhojanapalli et al. 2021). Models that name the same run are peers,
which learned from each other: their pairs are shown, but overall figures leave them out where there are
others, and where there are none, `is_churn` is false.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tf_codistill.reproducibility.intervals import Bootstrap, Estimate
from tf_codistill.reproducibility.measures import Array, quotient

Figures = dict[str, Estimate]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two models.

    Attributes:
        first: Name of one.
        second: Name of the other; a flip is negative if it is wrong where the first is right.
        is_same_run: Whether they are peers of one run.
        figures: Figures of the pair, see `measures`.
        differences: Mean absolute difference of each example, [N].
    """

    first: str
    second: str
    is_same_run: bool
    figures: Figures
    differences: Array


@dataclasses.dataclass(frozen=True)
class Slice:
    """Examples with one value in a column.

    Attributes:
        value: Name of the value.
        num_examples: How many there are.
        figures: Overall figures of these.
    """

    value: str
    num_examples: int
    figures: Figures


@dataclasses.dataclass(frozen=True)
class Change:
    """An example about which the models disagree much.

    Attributes:
        example: Its number.
        key: Its key, or None.
        position: Which of its positions; None if it has just one.
        label: The true class, or None.
        difference: Mean absolute difference there, over the pairs that count.
        probabilities: By model: of class 1, of the true class, or of the class that is likeliest in the mean.
        classes: By model: the class that it chooses.
        columns: What else is known of the example.
    """

    example: int
    key: str | None
    position: int | None
    label: int | None
    difference: float
    probabilities: Mapping[str, float]
    classes: Mapping[str, int]
    columns: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class ModelComparison:
    """What came out.

    Attributes:
        num_examples: N.
        num_positions: Positions that were compared; N unless predictions are of sequences.
        is_churn: Whether overall figures are of independent models.
        threshold: From which probability on class 1 was chosen.
        confidence: Share of such intervals that hold the truth.
        models: Figures of each model where labels are known, otherwise empty.
        pairs: Every pair.
        overall: Mean figures of the pairs that count, and the ambiguity.
        slices: By column.
        most_changed: The examples that changed most, the worst first.
        notes: What a reader has to know, in sentences.
        scores: Of each model and example one probability, as in `Change`, for pictures; [k, N].
    """

    num_examples: int
    num_positions: int
    is_churn: bool
    threshold: float
    confidence: float
    models: Mapping[str, Figures]
    pairs: Sequence[Pair]
    overall: Figures
    slices: Mapping[str, Sequence[Slice]]
    most_changed: Sequence[Change]
    notes: Sequence[str]
    scores: Array

    def pair(self, first: str, second: str) -> Pair:
        """The pair of two models.

        Args:
            first: The one that was named first.
            second: The other.

        Returns:
            The pair.

        Raises:
            KeyError: There is no such pair in that order.
        """
        for pair in self.pairs:
            if (pair.first, pair.second) == (first, second):
                return pair
        raise KeyError((first, second))

    def counted_pairs(self) -> list[Pair]:
        """The pairs that overall figures are made of: independent ones, if there are any."""
        return [pair for pair in self.pairs if not (self.is_churn and pair.is_same_run)]

    def values(self) -> dict[str, list[float]]:
        """Each figure of every model, or of every pair that counts, by its name."""
        found: dict[str, list[float]] = {}
        for figures in (*self.models.values(), *(pair.figures for pair in self.counted_pairs())):
            for name, estimate in figures.items():
                found.setdefault(name, []).append(estimate.value)
        return found

    def spread(self, figure: str) -> tuple[float, float]:
        """How a figure varies from pair to pair, or from model to model.

        Args:
            figure: Its name.

        Returns:
            The mean, and half the range, as table 1 of Anil et al. 2018 has them.

        Raises:
            KeyError: There is no such figure.
        """
        values = self.values()[figure]
        return float(np.mean(values)), float(np.ptp(values)) / 2

    def reduction_from(self, baseline: ModelComparison, bootstrap: Bootstrap | None = None) -> Estimate:
        """By which share the mean absolute difference is lower than that of other models.

        Args:
            baseline: Other models, compared on the same examples.
            bootstrap: How the interval is made, over examples of these very models; see `Bootstrap`.

        Returns:
            0.35 if the difference is 35 % lower.

        Raises:
            ValueError: The two are not of as many examples.
        """
        if self.num_examples != baseline.num_examples:
            raise ValueError(
                f"{self.num_examples:,} examples were compared here and {baseline.num_examples:,} there; "
                "expected the same examples"
            )
        vectors = {
            name: np.mean([pair.differences for pair in one.counted_pairs()], axis=0)
            for name, one in (("here", self), ("there", baseline))
        }
        bootstrap = bootstrap or Bootstrap()
        return bootstrap.estimates(
            vectors, lambda sums: {"reduction": 1 - quotient(sums["here"], sums["there"])}
        )["reduction"]

    def to_json(self) -> dict[str, Any]:
        """All figures by name, each with ``value``, ``low`` and ``high``."""
        return {
            "num_examples": self.num_examples,
            "num_positions": self.num_positions,
            "is_churn": self.is_churn,
            "threshold": self.threshold,
            "confidence": self.confidence,
            "notes": list(self.notes),
            "models": {name: _json(figures) for name, figures in self.models.items()},
            "pairs": [
                {
                    "first": pair.first,
                    "second": pair.second,
                    "is_same_run": pair.is_same_run,
                    **_json(pair.figures),
                }
                for pair in self.pairs
            ],
            "overall": _json(self.overall),
            "slices": {
                column: {one.value: {"num_examples": one.num_examples, **_json(one.figures)} for one in found}
                for column, found in self.slices.items()
            },
            "most_changed": [dataclasses.asdict(change) for change in self.most_changed],
        }


def _json(figures: Figures) -> dict[str, Any]:
    return {name: estimate.to_json() for name, estimate in figures.items()}
