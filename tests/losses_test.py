"""Distillation losses against NumPy, values and gradients."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tf_codistill import losses

RNG = np.random.default_rng(0)
TEACHERS_PBTC = RNG.normal(size=(3, 2, 4, 5)) * 2
STUDENT_BTC = RNG.normal(size=(2, 4, 5)) * 2
KINDS = [
    lambda **kwargs: losses.SoftCrossEntropy(temperature=2.0, **kwargs),
    lambda **kwargs: losses.KLDivergence(temperature=2.0, **kwargs),
    lambda **kwargs: losses.SquaredLogits(**kwargs),
]


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def reference(kind: int, teachers: np.ndarray, student: np.ndarray) -> np.ndarray:
    if kind == 2:
        return ((teachers.mean(axis=0) - student) ** 2).mean(axis=-1)
    p, q = softmax(teachers / 2).mean(axis=0), softmax(student / 2)
    return 4 * (p * ((np.log(p) if kind == 1 else 0) - np.log(q))).sum(axis=-1)


@pytest.mark.parametrize("kind", range(3))
def test_value_of_each_example(kind):
    loss = KINDS[kind](reduction=None, dtype="float64")
    values = loss(loss.aggregate(tf.constant(TEACHERS_PBTC)), tf.constant(STUDENT_BTC))
    assert values.shape == (2, 4)
    np.testing.assert_allclose(values, reference(kind, TEACHERS_PBTC, STUDENT_BTC), rtol=1e-10)
    np.testing.assert_allclose(
        KINDS[kind](dtype="float64")(loss.aggregate(TEACHERS_PBTC), STUDENT_BTC), np.mean(values)
    )


@pytest.mark.parametrize("kind", range(3))
def test_gradient_flows_to_the_student_only(kind):
    loss = KINDS[kind](dtype="float64")
    teachers, student = tf.constant(TEACHERS_PBTC), tf.constant(STUDENT_BTC)
    with tf.GradientTape() as tape:
        tape.watch([teachers, student])
        value = loss(loss.aggregate(teachers), student)
    to_teachers, to_student = tape.gradient(value, [teachers, student])
    assert to_teachers is None
    expected = np.zeros_like(STUDENT_BTC)
    for index in np.ndindex(expected.shape):
        step = np.zeros_like(expected)
        step[index] = 1e-5
        rise = reference(kind, TEACHERS_PBTC, STUDENT_BTC + step) - reference(
            kind, TEACHERS_PBTC, STUDENT_BTC - step
        )
        expected[index] = rise.mean() / 2e-5
    np.testing.assert_allclose(to_student, expected, atol=1e-9, rtol=1e-5)


@pytest.mark.parametrize("kind", range(3))
def test_teachers_may_be_a_list_or_a_stack(kind):
    loss = KINDS[kind]()
    stacked = loss.aggregate(tf.constant(TEACHERS_PBTC))
    listed = loss.aggregate([tf.constant(logits) for logits in TEACHERS_PBTC])
    np.testing.assert_array_equal(stacked, listed)
    with pytest.raises(ValueError, match="at least one teacher"):
        loss.aggregate([])


@pytest.mark.parametrize("kind", range(3))
def test_a_teacher_of_weight_zero_says_nothing(kind):
    loss = KINDS[kind]()
    weighted = loss.aggregate(TEACHERS_PBTC, weights=tf.constant([0.5, 0.0, 0.5]))
    np.testing.assert_allclose(weighted, loss.aggregate(TEACHERS_PBTC[::2]), rtol=1e-5)


def test_probabilities_are_averaged_not_logits():
    teachers = np.log([[[0.9, 0.1]], [[0.1, 0.9]], [[0.8, 0.2]]])
    np.testing.assert_allclose(losses.SoftCrossEntropy().aggregate(teachers), [[0.6, 0.4]], rtol=1e-5)
    np.testing.assert_allclose(losses.SquaredLogits().aggregate(teachers), teachers.mean(axis=0), rtol=1e-5)


def test_divergence_is_zero_for_equal_predictions_also_for_certain_ones():
    logits = tf.constant([[0.0, 100.0, -100.0], [1.0, 2.0, 3.0]])
    loss = losses.KLDivergence(temperature=0.5, reduction=None)
    np.testing.assert_allclose(loss(loss.aggregate([logits]), logits), [0, 0], atol=1e-6)


def test_half_precision_logits_are_compared_in_float32():
    loss = losses.SoftCrossEntropy(reduction=None)
    logits = tf.constant(STUDENT_BTC, tf.bfloat16)
    teacher = loss.aggregate([logits])
    assert teacher.dtype == loss(teacher, logits).dtype == tf.float32


def test_loss_shrinks_with_the_number_of_replicas():
    """Gradients are summed over replicas, so each must count for its share."""
    strategy = two_replicas()
    loss = losses.SoftCrossEntropy()
    teacher = loss.aggregate(TEACHERS_PBTC.astype("float32"))
    alone = loss(teacher, STUDENT_BTC)
    shares = strategy.run(lambda: loss(teacher, tf.constant(STUDENT_BTC, tf.float32)))
    np.testing.assert_allclose(sum(strategy.experimental_local_results(shares)), alone, rtol=1e-6)


@pytest.mark.parametrize("kind", range(3))
def test_config_makes_an_equal_loss(kind):
    loss = KINDS[kind](name="mine")
    twin = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(twin) is type(loss)
    assert twin.get_config() == loss.get_config()


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf")])
def test_bad_temperature_is_told(temperature):
    with pytest.raises(ValueError, match="temperature is"):
        losses.SoftCrossEntropy(temperature=temperature)
