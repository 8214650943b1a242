"""Every measure against a computation of its own, and against scikit-learn where it has it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from tf_codistill.reproducibility import measures
from tf_codistill.reproducibility.comparing import compare
from tf_codistill.reproducibility.predictions import Predictions

RNG = np.random.default_rng(7)
N, T, C = 60, 3, 5
P_N, Q_N = RNG.uniform(size=N), RNG.uniform(size=N)
LABELS_N = (RNG.uniform(size=N) < 0.4).astype(int)
P_NTC, Q_NTC = (RNG.dirichlet(np.full(C, 0.5), size=(N, T)) for _ in range(2))
LABELS_NT = RNG.integers(0, C, (N, T))


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def by_hand(p: np.ndarray, q: np.ndarray, labels: np.ndarray, is_binary: bool) -> dict[str, float]:
    """One example after the other, as one reads the definitions."""
    found: dict[str, list[float]] = {}
    for a, b, label in zip(p.tolist(), q.tolist(), labels.tolist(), strict=True):
        both = [(x + y) / 2 for x, y in zip(a, b, strict=True)]
        shown = 1 if is_binary else both.index(max(both))
        chosen, other = (x.index(max(x)) for x in (a, b))
        one = {
            "mean_absolute_difference": sum(abs(x - y) for x, y in zip(a, b, strict=True)) / 2,
            "relative_difference": 2 * abs(a[shown] - b[shown]) / (a[shown] + b[shown]),
            "flip_rate": chosen != other,
            "negative_flip_rate": chosen == label != other,
            "positive_flip_rate": chosen != label == other,
            "log_loss_difference": math.log(a[label]) - math.log(b[label]),
            "kl": kl(a, b),
            "jsd": (kl(a, both) + kl(b, both)) / 2,
        }
        for name, value in one.items():
            found.setdefault(name, []).append(float(value))
    means = {name: math.fsum(values) / len(values) for name, values in found.items()}
    return {**means, "win_loss_ratio": means["positive_flip_rate"] / means["negative_flip_rate"]}


def test_two_classes_are_measured_as_defined() -> None:
    found = measures.measure(P_N, Q_N, LABELS_N)
    two = [np.stack([1 - p, p], axis=-1) for p in (P_N, Q_N)]
    assert found == pytest.approx(by_hand(*two, LABELS_N, is_binary=True), rel=1e-12)
    assert found["mean_absolute_difference"] == pytest.approx(np.abs(P_N - Q_N).mean(), rel=1e-12)


def test_positions_of_sequences_are_measured_as_defined() -> None:
    flat = [array.reshape(-1, *array.shape[2:]) for array in (P_NTC, Q_NTC, LABELS_NT)]
    expected = by_hand(*flat, is_binary=False)
    assert measures.measure(P_NTC, Q_NTC, LABELS_NT) == pytest.approx(expected, rel=1e-12)
    assert measures.measure(*flat) == pytest.approx(expected, rel=1e-12), "[N, C] are positions as well"
    unlabelled = measures.measure(P_NTC, Q_NTC)
    assert unlabelled == pytest.approx({name: expected[name] for name in unlabelled}, rel=1e-12)
    assert {"negative_flip_rate", "win_loss_ratio"}.isdisjoint(unlabelled)


def test_two_classes_as_one_number_or_as_two_are_the_same() -> None:
    two = [np.stack([1 - p, p], axis=-1) for p in (P_N, Q_N)]
    one, other = measures.measure(P_N, Q_N, LABELS_N), measures.measure(*two, LABELS_N)
    del one["relative_difference"], other["relative_difference"]  # of class 1, or of the likeliest
    assert one == pytest.approx(other, rel=1e-12)


def test_flips_at_another_threshold() -> None:
    found = measures.measure(P_N, Q_N, LABELS_N, threshold=0.8)
    before, after = P_N >= 0.8, Q_N >= 0.8
    assert found["flip_rate"] == (before != after).mean()
    assert found["negative_flip_rate"] == ((before != after) & (before == LABELS_N)).mean()
    assert found["flip_rate"] != measures.measure(P_N, Q_N)["flip_rate"]


@pytest.mark.filterwarnings("error")
def test_equal_and_extreme_predictions_have_finite_figures() -> None:
    assert set(measures.measure(P_NTC, P_NTC).values()) == {0.0}
    assert math.isnan(measures.measure(P_N, P_N, LABELS_N)["win_loss_ratio"])
    extreme = measures.measure(np.array([0.0, 1.0]), np.array([1.0, 0.0]), np.array([0, 1]))
    assert extreme["mean_absolute_difference"] == extreme["flip_rate"] == extreme["negative_flip_rate"] == 1
    assert extreme["relative_difference"] == 2
    assert extreme["jsd"] == pytest.approx(math.log(2))
    assert extreme["kl"] == pytest.approx(-math.log(measures.FLOOR))
    assert extreme["win_loss_ratio"] == 0
    zeros = measures.measure(np.zeros(2), np.zeros(2))
    assert zeros["relative_difference"] == 0


def test_positions_that_do_not_count() -> None:
    counted = RNG.uniform(size=(N, T)) < 0.5
    sums = {
        name: vector.sum()
        for name, vector in measures.per_example(P_NTC, Q_NTC, LABELS_NT, counted=counted).items()
    }
    expected = by_hand(P_NTC[counted], Q_NTC[counted], LABELS_NT[counted], is_binary=False)
    found = {name: float(value) for name, value in measures.summarise(sums).items()}
    assert found == pytest.approx(expected, rel=1e-12)


def of_models(p: np.ndarray, q: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    found = compare({"one": Predictions(p, labels), "two": Predictions(q)}).models["one"]
    return {name: estimate.value for name, estimate in found.items()}


def test_one_model_against_scikit_learn() -> None:
    ties = np.round(P_N, 1)  # equal predictions count by half
    for p in (P_N, ties):
        found = of_models(p, Q_N, LABELS_N)
        assert found["auc"] == pytest.approx(sklearn_metrics.roc_auc_score(LABELS_N, p), rel=1e-12)
        assert found["log_loss"] == pytest.approx(sklearn_metrics.log_loss(LABELS_N, p), rel=1e-12)
        assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(LABELS_N, p >= 0.5))
        assert found["calibration"] == pytest.approx(p.mean() / LABELS_N.mean(), rel=1e-12)
    found = of_models(P_NTC, Q_NTC, LABELS_NT)
    flat, labels = P_NTC.reshape(-1, C), LABELS_NT.reshape(-1)
    assert found["log_loss"] == pytest.approx(
        sklearn_metrics.log_loss(labels, flat, labels=range(C)), rel=1e-12
    )
    assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, flat.argmax(axis=-1)))
    top_accuracy = (flat.argmax(axis=-1) == labels).mean()
    assert found["calibration"] == pytest.approx(flat.max(axis=-1).mean() / top_accuracy, rel=1e-12)
    assert "auc" not in found


def test_auc_where_there_is_one_class() -> None:
    assert math.isnan(of_models(P_N, Q_N, np.ones(N, int))["auc"])


def test_ambiguity_is_the_share_on_which_some_model_disagrees() -> None:
    everyone = [P_NTC, Q_NTC, RNG.dirichlet(np.ones(C), size=(N, T))]
    chosen = [p.argmax(axis=-1).reshape(-1).tolist() for p in everyone]
    expected = sum(len(set(classes)) > 1 for classes in zip(*chosen, strict=True)) / (N * T)
    comparison = compare({str(index): Predictions(p) for index, p in enumerate(everyone)})
    assert comparison.overall["ambiguity"].value == pytest.approx(expected)
    pairs = [comparison.overall["flip_rate"].value, comparison.pair("0", "2").figures["flip_rate"].value]
    assert max(pairs) < expected, "the more models, the more ambiguous"
