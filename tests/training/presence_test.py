"""Teachers that have something to say of some rows: psi is the sum over taught rows divided by all rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.training.codistillation_test import BATCH, NUM_CLASSES, examples, regression, softmax
from tests.training.distillation_test import two_headed, xent
from tf_codistill import losses, weights
from tf_codistill.batches import Keyed
from tf_codistill.teaching.base import Taught, Teaching
from tf_codistill.training.codistillation import CodistillationModel

RATE, WEIGHT = 0.5, 0.7
X, Y = examples(0, 1)
LOGITS_PBC = np.random.default_rng(1).normal(size=(3, BATCH, NUM_CLASSES)).astype("float32")

ALL = np.ones([3, BATCH], "float32")
PARTS = np.array(
    [[1, 0, 1, 0, 0, 0.5, 0.25, 0], [1, 1, 0, 0, 0, 0.5, 0, 0], [0, 1, 0, 0, 1, 1, 0.5, 0]], "float32"
)


class Prepared(Teaching):
    """What P teachers say of N examples, found by the key of each example."""

    def __init__(self, logits: Sequence[Any], present_PN: np.ndarray) -> None:
        self.taught_by = (tuple(range(len(logits))),)
        self._predictions, self._present_PN = list(logits), present_PN

    def names(self) -> list[str]:
        return [f"teacher {number}" for number in self.taught_by[0]]

    def any_present(self, step: tf.Tensor) -> tf.Tensor:
        return tf.constant(True)

    def teach(
        self, features: Sequence[Any], keys: Sequence[Any], step: tf.Tensor, predictions: Sequence[Any]
    ) -> list[Taught]:
        ids = keys[0][:, 0]
        logits = keras.tree.map_structure(lambda one: tf.gather(tf.constant(one), ids), self._predictions)
        return [Taught(logits, tf.gather(tf.constant(self._present_PN), ids, axis=1))]


def keyed(data: tuple[Any, ...]) -> tf.data.Dataset:
    """One batch; the key of an example is its number and that it has never been visited."""
    keys = np.stack([np.arange(BATCH), np.zeros(BATCH, int)], axis=1)
    return tf.data.Dataset.from_tensors(Keyed(data, keys))


def one_step(
    teachers: Prepared,
    psi: Any = None,
    sample_weight: np.ndarray | None = None,
    strategy: tf.distribute.Strategy | None = None,
    jit_compile: bool = False,
) -> tuple[list[np.ndarray], list[np.ndarray], dict[str, float]]:
    """Weights before and after a step of plain SGD, and what was logged."""
    strategy = strategy or tf.distribute.get_strategy()
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = CodistillationModel(regression, teachers, psi, WEIGHT, measure_every_steps=1)
        model.compile(keras.optimizers.SGD(RATE), xent(), jit_compile=jit_compile)
    before = [np.array(array) for array in weights.values(model.student.weights)]
    data = keyed((X, Y) if sample_weight is None else (X, Y, sample_weight))
    logs = model.fit(strategy.experimental_distribute_dataset(data), steps_per_epoch=1, verbose=0).history
    return before, weights.values(model.student.weights), {name: values[0] for name, values in logs.items()}


def mean_of(logits_PBC: np.ndarray, weights_PB: np.ndarray) -> np.ndarray:
    """The mean over teachers of each row; 0 where nobody teaches."""
    sums_B = weights_PB.sum(0)
    shares_PB = np.divide(weights_PB, sums_B, out=np.zeros_like(weights_PB), where=sums_B > 0)
    kept_PBC = np.where(weights_PB[..., None] > 0, logits_PBC, 0.0)
    return (shares_PB[..., None] * kept_PBC).sum(0)


def expected_step(
    before: Sequence[np.ndarray],
    logits_PBC: np.ndarray,
    weights_PB: np.ndarray,
    scale_B: np.ndarray | float = 1.0,
) -> tuple[list[np.ndarray], float]:
    """Algorithm 1 with soft-target cross-entropy, and psi of the batch."""
    kernel, bias = (array.astype("float64") for array in before)
    z, taught_B, scale_B = X @ kernel + bias, weights_PB.max(0), scale_B * np.ones(BATCH)
    targets = mean_of(softmax(np.nan_to_num(logits_PBC)), weights_PB)
    d_task = softmax(z) - np.eye(NUM_CLASSES)[Y]
    d_psi = taught_B[:, None] * (softmax(z) - targets)
    d_z = scale_B[:, None] * (d_task + WEIGHT * d_psi) / BATCH
    psi = (scale_B * taught_B * -(targets * np.log(softmax(z))).sum(-1)).sum() / BATCH
    return [kernel - RATE * X.T @ d_z, bias - RATE * d_z.sum(0)], psi


def broken(logits_PBC: np.ndarray, *at: tuple[int, int]) -> np.ndarray:
    """The same with a number of a row of a teacher that is not finite."""
    logits_PBC = logits_PBC.copy()
    for number, (teacher, row) in enumerate(at):
        logits_PBC[teacher, row, number % NUM_CLASSES] = (np.nan, np.inf, -np.inf)[number % 3]
    return logits_PBC


CASES = {
    "everybody of every row": (LOGITS_PBC, ALL, ALL),
    "some of some rows": (LOGITS_PBC, PARTS, PARTS),
    "one of half the rows": (LOGITS_PBC[:1], PARTS[1:2], PARTS[1:2]),
    "nobody": (LOGITS_PBC, 0 * ALL, 0 * ALL),
    "broken rows": (
        broken(LOGITS_PBC, (0, 2), (1, 2), (2, 5)),
        ALL,
        ALL * (np.arange(BATCH) != [[2], [2], [5]]),
    ),
    "a broken row that nobody else teaches": (
        broken(LOGITS_PBC[:1], (0, 0)),
        ALL[:1],
        ALL[:1] * (np.arange(BATCH) != 0),
    ),
    "a broken row of one who is not present": (broken(LOGITS_PBC, (0, 1), (2, 2)), PARTS, PARTS),
    "all broken": (LOGITS_PBC * np.nan, ALL, 0 * ALL),
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_algorithm_1_over_the_rows_that_are_taught(case: str) -> None:
    logits_PBC, present_PB, weights_PB = CASES[case]
    before, after, logs = one_step(Prepared(list(logits_PBC), present_PB))
    expected, psi = expected_step(before, logits_PBC, weights_PB)
    for ours, theirs in zip(after, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert logs["distillation_loss"] == pytest.approx(psi, rel=1e-5)
    assert logs["distillation_weight"] == pytest.approx(WEIGHT * bool(weights_PB.any()))
    dropped = (present_PB - weights_PB).mean(1).sum()
    assert logs["dropped_teachers"] == pytest.approx(dropped, abs=1e-6)


@pytest.mark.parametrize(
    "options", [{"jit_compile": True}, {"strategy": two_replicas}], ids=["XLA", "two replicas"]
)
def test_xla_and_replicas_that_are_taught_unequally(options: dict[str, Any]) -> None:
    options = {name: value() if callable(value) else value for name, value in options.items()}
    logits_PBC, scale_B = broken(LOGITS_PBC, (0, 0), (1, 1)), np.linspace(0.0, 2.0, BATCH).astype("float32")
    weights_PB = PARTS * [[0] + [1] * 7, [1, 0] + [1] * 6, [1] * 8]
    before, after, logs = one_step(Prepared(list(logits_PBC), PARTS), None, scale_B, **options)
    expected, psi = expected_step(before, logits_PBC, weights_PB, scale_B)
    for ours, theirs in zip(after, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert logs["distillation_loss"] == pytest.approx(psi, rel=1e-5)


def test_a_mean_over_weights_is_one_over_those_of_all_rows() -> None:
    psi = losses.SoftCrossEntropy(reduction="mean_with_sample_weight")
    scale_B = np.linspace(0.0, 2.0, BATCH).astype("float32")
    for sample_weight, scale in ((None, 1.0), (scale_B, scale_B / scale_B.mean())):
        before, after, logs = one_step(Prepared(list(LOGITS_PBC), PARTS), psi, sample_weight)
        expected, value = expected_step(before, LOGITS_PBC, PARTS, scale)
        assert logs["distillation_loss"] == pytest.approx(value, rel=1e-5)
        if sample_weight is None:  # the task's loss is a mean over rows, not over weights
            np.testing.assert_allclose(after[0], expected[0], atol=1e-6)


def log_softmax(z: np.ndarray) -> np.ndarray:
    return np.log(softmax(z))


RULES: dict[str, tuple[Any, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]]] = {
    "logits": (
        losses.KLDivergence(mean_over="logits"),
        lambda logits, w, z: kl(softmax(mean_of(logits, w)), z),
    ),
    "losses": (
        losses.KLDivergence(mean_over="losses"),
        lambda logits, w, z: mean_of(np.stack([kl(softmax(one), z) for one in logits])[..., None], w)[..., 0],
    ),
    "keras": (
        keras.losses.CategoricalCrossentropy(from_logits=True),
        lambda logits, w, z: -(mean_of(softmax(logits), w) * log_softmax(z)).sum(-1),
    ),
}


def kl(targets: np.ndarray, z: np.ndarray) -> np.ndarray:
    return (targets * (np.log(targets) - log_softmax(z))).sum(-1)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_of_averaging_weighs_teachers_row_by_row(rule: str) -> None:
    psi, reference = RULES[rule]
    before, _, logs = one_step(Prepared(list(LOGITS_PBC), PARTS), psi)
    each = reference(LOGITS_PBC, PARTS, X @ before[0] + before[1])
    assert logs["distillation_loss"] == pytest.approx((PARTS.max(0) * each).sum() / BATCH, rel=1e-4)


def test_teachers_are_compared_over_the_rows_that_they_teach() -> None:
    logits_PBC = broken(LOGITS_PBC, (0, 2))
    weights_PB = PARTS * (np.arange(BATCH) != [[2], [-1], [-1]])
    before, _, logs = one_step(Prepared(list(logits_PBC), PARTS))
    z = X @ before[0] + before[1]
    logits_PBC = np.nan_to_num(logits_PBC)

    def mean(each_PB: np.ndarray) -> float:
        return (weights_PB * each_PB).sum() / weights_PB.sum()

    nll_PB = -np.take_along_axis(log_softmax(logits_PBC), np.tile(Y, (3, 1))[..., None], -1)[..., 0]
    assert logs["teacher_agreement"] == pytest.approx(mean(logits_PBC.argmax(-1) == z.argmax(-1)), rel=1e-5)
    assert logs["teacher_kl"] == pytest.approx(mean(kl(softmax(logits_PBC), z)), rel=1e-4)
    assert logs["teacher_task_loss"] == pytest.approx(mean(nll_PB), rel=1e-5)
    assert logs["chance_task_loss"] == pytest.approx(np.log(NUM_CLASSES), rel=1e-5)
    for number in range(3):
        own = np.average(nll_PB[number], weights=weights_PB[number])
        assert logs[f"teacher_{number}_task_loss"] == pytest.approx(own, rel=1e-5)


def test_a_row_with_one_broken_output_is_dropped_from_all_that_are_distilled() -> None:
    rng = np.random.default_rng(2)
    logits = {
        name: rng.normal(size=(BATCH, size)).astype("float32") for name, size in (("kind", 4), ("place", 3))
    }
    logits["place"][3, 0] = np.nan
    targets = {"kind": Y, "place": Y % 3}
    found = {}
    for names in (("kind", "place"), ("kind",)):
        teachers = Prepared([logits], ALL[:1])
        keras.utils.set_random_seed(1)
        psi = {name: losses.SquaredLogits() for name in names}
        model = CodistillationModel(two_headed, teachers, psi)
        model.compile(keras.optimizers.SGD(0.0), {"kind": xent(), "place": xent()}, jit_compile=False)
        logs = model.fit(keyed((X, targets)), verbose=0).history
        found[names] = {name: logs[f"{name}_distillation_loss"][0] for name in names}
        own = {name: np.array(value) for name, value in model.student(X).items()}
    each = {name: ((logits[name] - own[name]) ** 2).mean(-1) for name in own}
    kept = np.arange(BATCH) != 3
    assert found["kind", "place"] == pytest.approx(
        {n: e[kept].sum() / BATCH for n, e in each.items()}, rel=1e-4
    )
    assert found["kind",] == pytest.approx({"kind": each["kind"].mean()}, rel=1e-4)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight"])
def test_rows_of_masked_sequences_are_taught_as_a_whole(reduction: str) -> None:
    window = 3

    def model_fn() -> keras.Model:
        layers = [keras.layers.Embedding(9, 5, mask_zero=True), keras.layers.Dense(NUM_CLASSES)]
        return keras.Sequential([keras.Input((window,)), *layers])

    rng = np.random.default_rng(3)
    ids = rng.integers(1, 9, (BATCH, window))
    ids[np.arange(window) >= rng.integers(1, 4, (BATCH, 1))] = 0
    y = rng.integers(0, NUM_CLASSES, (BATCH, window))
    logits = rng.normal(size=(BATCH, window, NUM_CLASSES)).astype("float32")
    logits[0, 0, 0] = np.nan
    present_B = PARTS[:1]
    model = CodistillationModel(
        model_fn, Prepared([logits], present_B), losses.SoftCrossEntropy(reduction=reduction)
    )
    model.compile(keras.optimizers.SGD(0.0), xent(), jit_compile=False)
    logs = model.fit(keyed((ids, y)), verbose=0).history
    taught_BT = np.where(np.arange(BATCH) == 0, 0.0, present_B[0])[:, None] * (ids > 0)
    each = -(softmax(np.nan_to_num(logits)) * log_softmax(np.array(model.student(ids)))).sum(-1)
    assert logs["distillation_loss"][0] == pytest.approx((taught_BT * each).sum() / (ids > 0).sum(), rel=1e-4)
