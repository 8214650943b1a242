"""Comparisons: pairs, slices, what changed most, batches, peers, and what cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tf_codistill.reproducibility import measures, predictions
from tf_codistill.reproducibility.comparing import Comparer, compare
from tf_codistill.reproducibility.comparison import ModelComparison
from tf_codistill.reproducibility.predictions import Predictions

N = 40
RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, 2, N)
KEYS = np.arange(100, 100 + N)
ORIGIN = RNG.choice(["EWR", "JFK", ""], N)
FIELDS = {"value", "low", "high"}


def random(**changes: Any) -> Predictions:
    settings = {"labels": LABELS, "keys": KEYS, **changes}
    return Predictions(**{"probabilities": RNG.uniform(size=N), **settings})


def everyone(**changes: Any) -> dict[str, Predictions]:
    return {name: random(**changes) for name in ("a", "b", "c")}


def test_a_comparison_has_all_figures_of_pairs_models_and_slices() -> None:
    found = everyone(columns={"origin": ORIGIN})
    comparison = compare(found, slices=["origin", "label"])
    assert [(pair.first, pair.second) for pair in comparison.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    for pair in comparison.pairs:
        first, second = (found[name].probabilities for name in (pair.first, pair.second))
        expected = measures.measure(first, second, LABELS)
        assert {name: one.value for name, one in pair.figures.items()} == pytest.approx(expected)
        assert all(one.low <= one.value <= one.high for one in pair.figures.values())
        np.testing.assert_allclose(pair.differences, np.abs(first - second))
    values = [pair.figures["mean_absolute_difference"].value for pair in comparison.pairs]
    assert comparison.overall["mean_absolute_difference"].value == pytest.approx(np.mean(values))
    expected_spread = (np.mean(values), (max(values) - min(values)) / 2)
    assert comparison.spread("mean_absolute_difference") == pytest.approx(expected_spread)
    assert comparison.spread("log_loss")[0] == pytest.approx(
        np.mean([figures["log_loss"].value for figures in comparison.models.values()])
    )
    by_origin = {one.value: one for one in comparison.slices["origin"]}
    assert sorted(by_origin) == ["(missing)", "EWR", "JFK"]
    assert sum(one.num_examples for one in by_origin.values()) == N
    at = ORIGIN == "JFK"
    pairs_at = [
        np.abs(found[one].probabilities[at] - found[other].probabilities[at]).mean()
        for one, other in (("a", "b"), ("a", "c"), ("b", "c"))
    ]
    figures = by_origin["JFK"].figures
    assert figures["mean_absolute_difference"].value == pytest.approx(np.mean(pairs_at))
    assert [one.value for one in comparison.slices["label"]] == ["0", "1"]
    with pytest.raises(KeyError):
        comparison.pair("b", "a")


def test_every_figure_is_in_json_under_its_name() -> None:
    found = json.loads(json.dumps(compare(everyone(columns={"o": ORIGIN}), slices=["o"]).to_json()))
    of_pairs = set(measures.RATIOS) - {"ambiguity", "log_loss", "accuracy", "calibration"}
    assert set(found["overall"]) == of_pairs | {"ambiguity"}
    assert set(found["models"]["a"]) == {"log_loss", "accuracy", "calibration", "auc"}
    assert of_pairs < set(found["pairs"][0])
    every = [*found["overall"].values(), *found["models"]["a"].values()]
    every += [found["pairs"][0][name] for name in of_pairs]
    every += [figure for name, figure in found["slices"]["o"]["JFK"].items() if name != "num_examples"]
    assert all(set(figure) == FIELDS for figure in every)
    assert found["num_examples"] == N


def test_the_examples_that_changed_most_come_first() -> None:
    p, q = np.full(N, 0.5), np.full(N, 0.5)
    p[7], q[7], p[3], q[3] = 0.9, 0.1, 0.4, 0.7
    columns = {"origin": np.array([f"o{i}" for i in range(N)])}
    found = {"old": Predictions(p, LABELS, KEYS, columns), "new": Predictions(q)}
    first, second, third = compare(found, num_changed=3).most_changed
    assert (first.example, first.key, first.label) == (7, "107", LABELS[7])
    assert first.difference == pytest.approx(0.8)
    assert first.probabilities == {"old": 0.9, "new": 0.1}
    assert first.classes == {"old": 1, "new": 0}
    assert first.columns == {"origin": "o7"}
    assert first.position is None
    assert (second.example, third.difference) == (3, 0)


def test_the_position_that_changed_most_is_named() -> None:
    p = np.full((4, 3, 2), 0.5)
    q = p.copy()
    q[2, 1] = 0.1, 0.9
    labels = np.zeros((4, 3), int)
    keys = np.stack([np.arange(4), np.full(4, 5)], axis=1)
    (change,) = compare({"a": Predictions(p, labels, keys), "b": Predictions(q)}, num_changed=1).most_changed
    assert (change.example, change.position, change.key) == (2, 1, "2 visit 5")
    assert change.classes == {"a": 0, "b": 1}
    assert change.probabilities == pytest.approx({"a": 0.5, "b": 0.1}), "of the true class"
    hidden = np.ones((4, 3), bool)
    hidden[2, 1] = False
    comparison = compare({"a": Predictions(p, labels, counted=hidden), "b": Predictions(q)})
    assert comparison.most_changed[0].difference == 0
    assert comparison.num_positions == 11


def figures_of(comparison: ModelComparison) -> dict[str, Any]:
    found = comparison.to_json()
    return {name: found[name] for name in ("overall", "pairs", "models", "slices", "most_changed")}


def test_batch_by_batch_is_the_same_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = (RNG.dirichlet(np.ones(4), size=(N, 3)) for _ in range(2))
    labels = RNG.integers(0, 4, (N, 3))
    whole = compare({"p": Predictions(p, labels, KEYS, {"o": ORIGIN}), "q": Predictions(q)}, slices=["o"])
    comparer = Comparer(["p", "q"])
    for first, last in ((0, 7), (7, 8), (8, N)):
        rows = slice(first, last)
        comparer.add([p[rows], q[rows]], labels[rows], KEYS[rows], {"o": ORIGIN[rows]})
    assert figures_of(comparer.result(["o"])) == figures_of(whole)
    monkeypatch.setattr(predictions, "_ELEMENTS_AT_A_TIME", 30)
    parts = compare({"p": Predictions(p, labels, KEYS, {"o": ORIGIN}), "q": Predictions(q)}, slices=["o"])
    assert figures_of(parts) == figures_of(whole)


def test_peers_of_one_run_are_no_churn() -> None:
    one = np.full(N, 0.5)
    found = {
        "run 1, group 0": random(probabilities=one, run="1"),
        "run 1, group 1": random(probabilities=one + 0.01, run="1"),
        "run 2, group 0": random(probabilities=one + 0.2, run="2"),
    }
    comparison = compare(found)
    peers = comparison.pair("run 1, group 0", "run 1, group 1")
    assert peers.is_same_run
    assert peers.figures["mean_absolute_difference"].value == pytest.approx(0.01)
    assert comparison.is_churn
    assert comparison.overall["mean_absolute_difference"].value == pytest.approx((0.2 + 0.19) / 2)
    assert comparison.spread("mean_absolute_difference") == pytest.approx((0.195, 0.005))
    note = "run 1, group 0 and run 1, group 1 are peers of the same run; their distance is not churn"
    assert note in comparison.notes
    alone = compare({name: found[name] for name in list(found)[:2]})
    assert not alone.is_churn
    assert "no two models are of independent runs: nothing here is churn" in alone.notes
    assert alone.overall["mean_absolute_difference"].value == pytest.approx(0.01)
    assert not compare({"a": random(run="1"), "b": random(run="2")}).pairs[0].is_same_run


def test_notes_say_what_could_not_be_checked() -> None:
    notes = " ".join(compare({"a": random(keys=None), "b": random(run="1", keys=None)}).notes)
    assert "of a it is not known which run trained it" in notes
    assert "no model has keys: that all have their rows in one order could not be checked" in notes


def test_the_reduction_of_churn() -> None:
    lone = compare({"a": random(), "b": random()})
    here = lone.pairs[0].differences
    half = compare({"a": random(probabilities=np.zeros(N)), "b": random(probabilities=here / 2)})
    found = half.reduction_from(lone)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5)), "on every example"
    shorter = compare({"a": Predictions(np.zeros(3)), "b": Predictions(np.ones(3))})
    with pytest.raises(ValueError, match="3 examples were compared here and 40 there; expected the same"):
        shorter.reduction_from(lone)


def test_examples_of_a_cluster_are_resampled_together() -> None:
    day = np.arange(N) // 20
    apart = np.where(day == 0, 0.0, 0.4)
    found = {
        "a": random(probabilities=np.zeros(N), columns={"day": day}),
        "b": random(probabilities=apart, columns={"day": day}),
    }
    alone = compare(found).overall["mean_absolute_difference"]
    together = compare(found, cluster="day").overall["mean_absolute_difference"]
    assert alone.value == together.value
    assert (together.low, together.high) == pytest.approx((0, 0.4)), "two days are not much"
    assert alone.low > 0.1
    assert alone.high < 0.3


def one_wrong(where: Any, value: float, shape: tuple[int, ...] = (N,)) -> np.ndarray:
    p = np.full(shape, 0.5)
    p[where] = value
    return p


WRONG: list[tuple[dict[str, Predictions], str]] = [
    ({"a": random()}, "there is 1 model to compare .a.; name at least two, trained independently"),
    (
        {"a": random(), "b": Predictions(np.full(39, 0.5))},
        "'a' has 40 examples and 'b' has 39; expected predictions of the same examples, in the same order",
    ),
    (
        {"a": random(), "b": Predictions(np.full((N, 2), 0.5))},
        r"probabilities of 'a' have the shape \[40\], those of 'b' \[40, 2\]; expected models with the same",
    ),
    (
        {"a": random(), "b": random(probabilities=one_wrong(17, np.nan))},
        "prediction of 'b' for example 17 is nan; expected a number; 1 of these values are not finite",
    ),
    (
        {"a": random(), "b": random(probabilities=one_wrong(17, -2.5))},
        "prediction of 'b' for example 17 is -2.5; expected a probability, 0 to 1; give probabilities in",
    ),
    (
        {
            "a": random(),
            "b": random(labels=np.zeros((N, 3), int), probabilities=one_wrong((5, 2), 0.9, (N, 3, 2))),
        },
        "probabilities of 'b' for example 5, position 2 add up to 1.8; expected 1 over the classes",
    ),
    (
        {"a": random(), "b": random(keys=KEYS[::-1])},
        "key of example 0 is 100 in 'a' and 139 in 'b'; both have the same keys, but in another order: sort",
    ),
    (
        {"a": random(), "b": random(keys=np.where(KEYS == 120, 7, KEYS))},
        "key of example 20 is 120 in 'a' and 7 in 'b'; 1 of 40 keys differ: predict the same examples",
    ),
    (
        {"a": random(), "b": random(labels=np.where(np.arange(N) == 5, 1 - LABELS, LABELS))},
        r"label of example 5 is \d in 'a' and \d in 'b'; expected the same labels in both",
    ),
    (
        {"a": random(labels=LABELS + 1), "b": random()},
        r"label of example \d+ of 'a' is 2; expected an integer from 0 to 1",
    ),
    (
        {"a": random(labels=np.full(N, "yes")), "b": random()},
        r"label of example 0 of 'a' is yes; expected an integer from 0 to 1",
    ),
    (
        {"a": random(labels=LABELS[:5]), "b": random()},
        r"labels of 'a' have the shape \[5\]; expected \[40\] beside probabilities of the shape \[40\]",
    ),
    (
        {"a": random(columns={"o": ORIGIN[:3]}), "b": random()},
        r"column 'o' of 'a' have the shape \[3\]; expected \[40\] beside",
    ),
    (
        {"a": random(probabilities=np.full((N, 1), 0.5)), "b": random()},
        r"probabilities of 'a' have the shape \[40, 1\], with one class; expected at least 2 on the",
    ),
    ({"a": Predictions(np.zeros(0)), "b": random()}, r"have the shape \[0\]; .* with at least one example"),
    (
        {"a": random(probabilities=np.full(N, "0.5")), "b": random()},
        "probabilities of 'a' are <U3; expected floating point",
    ),
]


@pytest.mark.parametrize(
    ("found", "sentence"), WRONG, ids=lambda value: value[:40] if isinstance(value, str) else ""
)
def test_what_cannot_be_compared_is_named(found: Mapping[str, Predictions], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        compare(found)


def test_keys_with_and_without_visit_and_as_text_are_the_same_examples() -> None:
    visits = np.stack([KEYS, np.zeros(N, int)], axis=1)
    found = compare({"a": random(keys=visits), "b": random(), "c": random(keys=KEYS.astype(str))})
    assert found.most_changed[0].key.endswith("visit 0")
    with pytest.raises(
        ValueError, match="key of example 0 is 100 in 'a' and 101 in 'b'; 40 of 40 keys differ"
    ):
        compare({"a": random(keys=visits), "b": random(keys=KEYS + 1)})


def test_columns_and_thresholds_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="no column 'air' to slice or .* --data have origin, label"):
        compare(everyone(columns={"origin": ORIGIN}), slices=["air"])
    with pytest.raises(ValueError, match="no column 'day' .* have none"):
        compare({"a": Predictions(np.zeros(3)), "b": Predictions(np.zeros(3))}, cluster="day")
    with pytest.raises(ValueError, match="threshold is 1.5; expected a probability between 0 and 1"):
        compare(everyone(), threshold=1.5)
    with pytest.raises(ValueError, match="models are named a, a; expected at least two, each with a name"):
        Comparer(["a", "a"])
    with pytest.raises(ValueError, match="there are no examples to compare"):
        Comparer(["a", "b"]).result()
    comparer = Comparer(["a", "b"])
    comparer.add([np.zeros(3), np.zeros(3)], np.zeros(3, int))
    with pytest.raises(ValueError, match="expected in each batch the same shape, labels or none"):
        comparer.add([np.zeros(3), np.zeros(3)])
