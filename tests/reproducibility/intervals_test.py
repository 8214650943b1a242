"""Intervals hold the truth as often as they say, and cost what they should."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc

import numpy as np
import pytest

from tf_codistill.reproducibility import measures
from tf_codistill.reproducibility.intervals import Bootstrap, Estimate

TRIALS = 400
# Of 400 trials at 95 % the number that hold the truth is below 361 or above 396 once in 5,000 times each,
# the exact binomial; the seeds are fixed, so that a test that has passed passes again.
LEAST, MOST = 361, 396


def holding(truth: float, estimates: list[Estimate]) -> int:
    return sum(one.low <= truth <= one.high for one in estimates)


def binomial_tail(number: int, below: int, p: float) -> float:
    return sum(math.comb(number, k) * p**k * (1 - p) ** (number - k) for k in range(below))


def test_the_bounds_are_those_of_the_binomial_distribution() -> None:
    assert binomial_tail(TRIALS, LEAST, 0.95) < 2e-4
    assert binomial_tail(TRIALS, TRIALS - MOST, 0.05) < 2e-4


def predictions(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Two retrains of a model of noise, and labels."""
    signal = rng.normal(size=shape)
    p, q = (1 / (1 + np.exp(-(signal + 0.5 * rng.normal(size=shape)))) for _ in range(2))
    return p, q, (rng.uniform(size=shape) < 1 / (1 + np.exp(-signal))).astype(int)


def all_sums(p: np.ndarray, q: np.ndarray, labels: np.ndarray) -> measures.Vectors:
    vectors = measures.over_positions(measures.per_position_of_model(p, labels))
    return {**measures.per_example(p, q, labels), **vectors, **measures.auc_vectors(p, labels)}


def test_intervals_hold_the_truth_at_the_nominal_rate() -> None:
    rng = np.random.default_rng(0)
    many = all_sums(*predictions(rng, (500_000,)))
    truth = {name: float(v) for name, v in measures.summarise({k: v.sum() for k, v in many.items()}).items()}
    found: dict[str, list[Estimate]] = {}
    for trial in range(TRIALS):
        bootstrap = Bootstrap(num_resamples=300, seed=trial)
        vectors = all_sums(*predictions(rng, (300,)))
        for name, estimate in bootstrap.estimates(vectors, measures.summarise).items():
            found.setdefault(name, []).append(estimate)
    assert set(found) == set(truth) >= {"mean_absolute_difference", "flip_rate", "kl", "auc", "log_loss"}
    held = {name: holding(truth[name], estimates) for name, estimates in found.items()}
    assert {name: number for name, number in held.items() if not LEAST <= number <= MOST} == {}


def test_positions_of_a_document_are_no_independent_evidence() -> None:
    """Ten positions of a row differ alike: who resamples positions is too sure of himself."""
    rng = np.random.default_rng(1)
    by_row, by_position = [], []
    for trial in range(TRIALS):
        rows = rng.exponential(size=(150, 1)) * np.ones((150, 10))
        bootstrap = Bootstrap(num_resamples=300, seed=trial)
        for estimates, values in ((by_row, rows), (by_position, rows.reshape(-1, 1))):
            vectors = {
                "absolute_difference": values.sum(axis=1),
                "count": np.full(len(values), values.shape[1]),
            }
            estimates.append(bootstrap.estimates(vectors, measures.summarise)["mean_absolute_difference"])
        if trial == 0:
            clusters = np.repeat(np.arange(150), 10)
            clustered = bootstrap.estimates(vectors, measures.summarise, clusters)
            found = dataclasses.astuple(clustered["mean_absolute_difference"])
            assert found == pytest.approx(dataclasses.astuple(by_row[0]), rel=1e-12)
    assert LEAST - 8 <= holding(1.0, by_row) <= MOST, "150 rows of a skewed distribution are few"
    assert holding(1.0, by_position) < TRIALS / 2


def test_many_examples_are_drawn_in_blocks_and_the_interval_is_the_same() -> None:
    rng = np.random.default_rng(2)
    vectors = {"flips": (rng.uniform(size=60_000) < 0.05).astype(float), "count": np.ones(60_000)}
    exact = Bootstrap(max_blocks=60_000, num_resamples=600).estimates(vectors, measures.summarise)[
        "flip_rate"
    ]
    blocks = Bootstrap(max_blocks=2_000, num_resamples=600).estimates(vectors, measures.summarise)[
        "flip_rate"
    ]
    assert blocks.value == exact.value
    assert blocks.high - blocks.low == pytest.approx(exact.high - exact.low, rel=0.15)
    expected = 2 * 1.96 * math.sqrt(0.05 * 0.95 / 60_000)
    assert blocks.high - blocks.low == pytest.approx(expected, rel=0.15)
    clusters = np.arange(60_000) // 20  # 3,000 clusters in 2,000 blocks
    clustered = Bootstrap(max_blocks=2_000).estimates(vectors, measures.summarise, clusters)["flip_rate"]
    assert clustered.high - clustered.low == pytest.approx(expected, rel=0.15)


def test_memory_grows_neither_with_resamples_nor_with_their_product_with_examples() -> None:
    vectors = {"flips": np.random.default_rng(0).uniform(size=300_000), "count": np.ones(300_000)}
    tracemalloc.start()
    try:
        Bootstrap(num_resamples=2000).estimates(vectors, measures.summarise)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 150e6, "all resamples of all examples would be 4.8 GB"


def test_the_seed_fixes_the_interval() -> None:
    vectors = {"flips": np.sqrt(np.arange(100)) % 1, "count": np.ones(100)}
    first, again = (Bootstrap(seed=3).estimates(vectors, measures.summarise) for _ in range(2))
    assert first == again
    assert first != Bootstrap(seed=4).estimates(vectors, measures.summarise)
    wider = Bootstrap(seed=3, confidence=0.99).estimates(vectors, measures.summarise)["flip_rate"]
    assert wider.low < first["flip_rate"].low < first["flip_rate"].high < wider.high


def test_a_ratio_that_may_have_nothing_to_divide() -> None:
    vectors = {"positive_flips": np.array([1.0] + [0.0] * 9), "negative_flips": np.array([0.0] * 9 + [1.0])}
    ratio = Bootstrap().estimates(vectors, measures.summarise)["win_loss_ratio"]
    assert ratio.value == 1
    assert (ratio.low, ratio.high) == (0, math.inf)
    assert ratio.to_json() == {"value": 1, "low": 0, "high": None}
    none = Bootstrap().estimates({name: 0 * v for name, v in vectors.items()}, measures.summarise)
    assert none["win_loss_ratio"].to_json() == {"value": None, "low": None, "high": None}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_resamples": 0}, "num_resamples is 0; expected at least 1"),
        ({"confidence": 95}, "confidence is 95; expected more than 0 and less than 1"),
        ({"max_blocks": 1}, "max_blocks is 1; expected at least 2"),
        ({"seed": -1}, "seed is -1; expected at least 0"),
    ],
    ids=str,
)
def test_settings_out_of_range(settings: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Bootstrap(**settings)
