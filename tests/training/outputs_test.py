"""Outputs by name, and weights that fit what Keras makes of each: names, weights, alignment."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_codistill.training.outputs import aligned, by_name, structured, weighed, weight_of

ROWS, WINDOW, CLASSES = 4, 4, 3  # as many rows as positions: weights along the wrong axis would go unnoticed
RNG = np.random.default_rng(0)
FACTOR_B = np.array([1.0, 0.0, 0.5, 2.0], "float32")
GIVEN_B = np.array([3.0, 1.0, 2.0, 0.5], "float32")


@pytest.mark.parametrize(
    ("prediction", "names"),
    [(5, [""]), ({"kind": 5, "place": 6}, ["kind", "place"]), ([5, 6], ["0", "1"]), ((5, 6), ["0", "1"])],
)
def test_every_output_has_a_name_and_its_place(prediction: Any, names: list[str]) -> None:
    outputs = by_name(prediction)
    assert list(outputs) == names
    assert list(outputs.values()) == [5, 6][: len(names)]
    back = structured({name: value + 1 for name, value in outputs.items()}, prediction)
    assert keras.tree.flatten(back) == [6, 7][: len(names)]
    assert isinstance(back, dict) == isinstance(prediction, dict)


@pytest.mark.parametrize(
    ("sample_weight", "name", "expected"),
    [
        (None, "kind", None),
        (5, "", 5),
        (5, "kind", 5),
        ({"kind": 5}, "kind", 5),
        ({"kind": 5}, "place", None),
        ([5, 6], "1", 6),
        ([5], "", 5),
    ],
)
def test_weights_of_an_output(sample_weight: Any, name: str, expected: Any) -> None:
    assert weight_of(sample_weight, name) == expected


@pytest.mark.parametrize(
    ("factor", "num_axes", "shape"),
    [(2.0, 3, ()), (np.ones(4), 1, (4,)), (np.ones(4), 3, (4, 1, 1)), (np.ones((4, 2)), 1, (4, 2))],
)
def test_factors_are_lined_up_with_the_leading_axes(factor: Any, num_axes: int, shape: tuple) -> None:
    found = aligned(tf.constant(factor), num_axes)
    assert (found.shape, found.dtype) == (shape, tf.float32)


def test_without_factors_weights_are_left_alone() -> None:
    sample_weight = {"kind": GIVEN_B}
    assert weighed(sample_weight, {"kind": GIVEN_B[:, None]}, {}) is sample_weight


def test_an_output_without_a_factor_keeps_its_weights() -> None:
    logits = tf.zeros([ROWS, CLASSES])
    found = weighed({"kind": GIVEN_B}, {"kind": logits, "place": logits}, {"place": tf.constant(0.5)})
    assert found["kind"] is GIVEN_B
    np.testing.assert_array_equal(np.ravel(found["place"]), np.full(ROWS, 0.5))
    found = weighed([GIVEN_B, None], [logits, logits], {"0": tf.constant(FACTOR_B)})
    np.testing.assert_array_equal(np.ravel(found[0]), GIVEN_B * FACTOR_B)
    assert found[1] is None


class OfEachNumber(keras.losses.Loss):
    def call(self, targets: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
        return tf.abs(targets - prediction)


class OfEachRow(keras.losses.Loss):
    def call(self, targets: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.square(targets - prediction), axis=[1, 2])


LOSSES: dict[str, tuple[keras.losses.Loss, tuple[int, ...]]] = {
    "row": (keras.losses.CategoricalCrossentropy(from_logits=True), (ROWS, CLASSES)),
    "position": (keras.losses.CategoricalCrossentropy(from_logits=True), (ROWS, WINDOW, CLASSES)),
    "pixel": (keras.losses.MeanSquaredError(), (ROWS, WINDOW, 2, CLASSES)),
    "number": (keras.losses.MeanAbsoluteError(), (ROWS, 1)),
    "each number": (OfEachNumber(), (ROWS, WINDOW)),
    "whole row": (OfEachRow(), (ROWS, WINDOW, CLASSES)),
}
POSITIONS = RNG.uniform(0.5, 2, (ROWS, WINDOW)).astype("float32")
GIVEN = {"none": None, "rows": GIVEN_B, "rows with an axis": GIVEN_B[:, None]}
CASES = [(kind, weights) for kind in LOSSES for weights in GIVEN.values()] + [("position", POSITIONS)]


@pytest.mark.parametrize("factor", [np.float32(0.25), FACTOR_B], ids=["scalar", "rows"])
@pytest.mark.parametrize(("kind", "given"), CASES)
def test_keras_multiplies_the_loss_of_each_row(kind: str, given: Any, factor: Any) -> None:
    loss, shape = LOSSES[kind]
    targets, prediction = tf.constant(RNG.normal(size=(2, *shape)).astype("float32"))
    each = np.array(loss.call(targets, prediction))
    expected = each.copy()
    for weights in (factor, given):
        if weights is not None:
            weights = weights[:, 0] if np.shape(weights) == (ROWS, 1) else weights
            expected *= np.reshape(weights, np.shape(weights) + (1,) * (each.ndim - np.ndim(weights)))
    found = loss(targets, prediction, weighed(given, prediction, {"": tf.constant(factor)}))
    np.testing.assert_allclose(found, expected.mean(), rtol=1e-5)


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_weights_of_a_masked_output_fit_its_mask(given: Any) -> None:
    keep = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    values = RNG.normal(size=(ROWS, WINDOW, CLASSES)).astype("float32")
    prediction = tf.constant(values)
    prediction._keras_mask = tf.constant(keep)
    sample_weight = weighed(given, prediction, {"": tf.constant(FACTOR_B)})
    found = keras.losses.MeanSquaredError()(np.zeros_like(values), prediction, sample_weight)
    weights = FACTOR_B * (1.0 if given is None else GIVEN_B)
    expected = ((values**2).mean(-1) * weights[:, None])[keep].sum() / keep.sum()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
