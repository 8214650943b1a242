"""Perplexity, agreement and divergence against NumPy."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tf_codistill import metrics

RNG = np.random.default_rng(0)
LOGITS_BTV = RNG.normal(size=(4, 3, 5)).astype("float32")
TARGETS_BT = RNG.integers(0, 5, (4, 3))


def nats(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return -np.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]


def test_perplexity_is_over_all_tokens_whatever_the_batches():
    perplexity = metrics.Perplexity()
    assert float(perplexity.result()) == 1.0
    perplexity.update_state(TARGETS_BT[:1], LOGITS_BTV[:1])
    perplexity.update_state(TARGETS_BT[1:], LOGITS_BTV[1:])
    expected = np.exp(nats(LOGITS_BTV, TARGETS_BT).mean())
    np.testing.assert_allclose(perplexity.result(), expected, rtol=1e-5)
    perplexity.reset_state()
    assert float(perplexity.result()) == 1.0


def test_perplexity_of_a_uniform_guess_is_the_vocabulary():
    perplexity = metrics.Perplexity()
    perplexity.update_state(TARGETS_BT, tf.zeros_like(LOGITS_BTV, tf.bfloat16))
    np.testing.assert_allclose(perplexity.result(), 5, rtol=1e-6)


def test_perplexity_with_weights_leaves_tokens_out():
    perplexity = metrics.Perplexity()
    perplexity.update_state(TARGETS_BT, LOGITS_BTV, sample_weight=np.array([[1.0], [0.0], [1.0], [0.0]]))
    expected = np.exp(nats(LOGITS_BTV[::2], TARGETS_BT[::2]).mean())
    np.testing.assert_allclose(perplexity.result(), expected, rtol=1e-5)


def test_perplexity_counts_the_tokens_of_every_replica():
    strategy = two_replicas()
    with strategy.scope():
        perplexity = metrics.Perplexity()

    def split(values):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.split(values, [1, 3])[context.replica_id_in_sync_group]
        )

    strategy.run(perplexity.update_state, args=(split(TARGETS_BT), split(LOGITS_BTV)))
    expected = np.exp(nats(LOGITS_BTV, TARGETS_BT).mean())
    np.testing.assert_allclose(perplexity.result(), expected, rtol=1e-5)


def test_perplexity_config():
    twin = keras.metrics.deserialize(keras.metrics.serialize(metrics.Perplexity(name="mine")))
    assert isinstance(twin, metrics.Perplexity)
    assert twin.name == "mine"


@pytest.mark.parametrize("num_equal", [0, 3, 4])
def test_agreement_is_the_fraction_of_equal_favourites(num_equal):
    student = np.eye(4, dtype="float32")
    teacher = np.roll(student, 1, axis=-1)
    teacher[:num_equal] = 0.7 * student[:num_equal]
    assert float(metrics.agreement(teacher, student)) == num_equal / 4


def masked(logits: np.ndarray, mask: np.ndarray) -> tf.Tensor:
    tensor = tf.constant(logits)
    tensor._keras_mask = tf.constant(mask)
    return tensor


MASK_BT = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0]], bool)


def test_perplexity_leaves_masked_tokens_out():
    perplexity = metrics.Perplexity()
    perplexity.update_state(TARGETS_BT, masked(LOGITS_BTV, MASK_BT))
    np.testing.assert_allclose(
        perplexity.result(), np.exp(nats(LOGITS_BTV, TARGETS_BT)[MASK_BT].mean()), rtol=1e-5
    )


def test_perplexity_takes_a_weight_for_each_row():
    """A square batch, where weights along the wrong axis would go unnoticed."""
    perplexity = metrics.Perplexity()
    perplexity.update_state(TARGETS_BT[:3], LOGITS_BTV[:3], sample_weight=np.array([1.0, 0.0, 1.0]))
    expected = np.exp(nats(LOGITS_BTV[:3:2], TARGETS_BT[:3:2]).mean())
    np.testing.assert_allclose(perplexity.result(), expected, rtol=1e-5)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


TEACHERS_PBTV = RNG.normal(size=(3, 4, 3, 5)).astype("float32")
MEASURES = {
    "agreement": lambda t, s: (t.argmax(-1) == s.argmax(-1)).astype(float),
    "divergence": lambda t, s: (np.exp(log_softmax(t)) * (log_softmax(t) - log_softmax(s))).sum(-1),
}


@pytest.mark.parametrize("name", MEASURES)
def test_mean_over_the_teachers_that_count_and_the_positions_that_count(name):
    measure, reference = getattr(metrics, name), MEASURES[name]
    teachers = TEACHERS_PBTV.copy()
    weights = np.array([1.0, 3.0, 0.0], "float32")
    expected = sum(
        weight * reference(teacher, LOGITS_BTV)[MASK_BT].mean()
        for weight, teacher in zip((0.25, 0.75), teachers[:2], strict=True)
    )
    teachers[2] = np.nan
    student = masked(LOGITS_BTV, MASK_BT)
    value = measure(list(teachers), student, teacher_weights=tf.constant(weights))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    weighted = measure(list(teachers), LOGITS_BTV, MASK_BT.astype("float32"), tf.constant(weights))
    np.testing.assert_allclose(weighted, expected, rtol=1e-5)
    single = measure(TEACHERS_PBTV[0], LOGITS_BTV)
    np.testing.assert_allclose(single, reference(TEACHERS_PBTV[0], LOGITS_BTV).mean(), rtol=1e-5)
    assert float(measure(list(teachers), LOGITS_BTV, teacher_weights=tf.zeros(3))) == 0
    assert float(measure(TEACHERS_PBTV[0], masked(LOGITS_BTV, MASK_BT & False))) == 0


WEIGHTS_PB = np.array([[1, 0, 1, 0.5], [0, 0, 1, 0.25], [1, 0, 0, 0.25]], "float32")


@pytest.mark.parametrize("name", MEASURES)
def test_mean_over_the_rows_that_each_teacher_teaches(name):
    """A broken row of weight 0 counts nowhere."""
    measure, reference = getattr(metrics, name), MEASURES[name]
    each_PBT = np.stack([reference(teacher, LOGITS_BTV) for teacher in TEACHERS_PBTV])
    teachers = TEACHERS_PBTV.copy()
    teachers[:, 1] = np.nan
    teachers[2, 2, 1, 0] = np.inf
    value = measure(list(teachers), LOGITS_BTV, teacher_weights=tf.constant(WEIGHTS_PB))
    expected = (WEIGHTS_PB[..., None] * each_PBT).sum() / (WEIGHTS_PB.sum() * each_PBT.shape[-1])
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    masked_value = measure(
        list(teachers), masked(LOGITS_BTV, MASK_BT), teacher_weights=tf.constant(WEIGHTS_PB)
    )
    counts_PBT = WEIGHTS_PB[..., None] * MASK_BT
    means_P = (counts_PBT * each_PBT).sum((1, 2)) / counts_PBT.sum((1, 2))
    np.testing.assert_allclose(masked_value, np.average(means_P, weights=WEIGHTS_PB.mean(1)), rtol=1e-5)
    assert float(measure(list(teachers), LOGITS_BTV, teacher_weights=tf.zeros([3, 4]))) == 0


@pytest.mark.parametrize("name", MEASURES)
def test_weights_of_rows_may_have_an_axis_as_for_keras(name):
    measure, student_BV = getattr(metrics, name), LOGITS_BTV[:, 0]
    teacher_BV, weights_B = TEACHERS_PBTV[0, :, 0], np.array([1.0, 0.0, 3.0, 0.5], "float32")
    expected = np.average(MEASURES[name](teacher_BV, student_BV), weights=weights_B)
    for sample_weight in (weights_B, weights_B[:, None]):
        np.testing.assert_allclose(measure(teacher_BV, student_BV, sample_weight), expected, rtol=1e-5)


@pytest.mark.parametrize("name", MEASURES)
def test_a_logistic_output_is_two_classes(name):
    measure = getattr(metrics, name)
    teacher, student = LOGITS_BTV[..., :1], TEACHERS_PBTV[0, ..., :1]
    both = [np.concatenate([np.zeros_like(one), one], axis=-1) for one in (teacher, student)]
    np.testing.assert_allclose(measure(teacher, student), measure(*both), rtol=1e-6)
    assert 0 < float(measure(teacher, student)) < 1


def test_equal_predictions_do_not_diverge():
    assert float(metrics.divergence(LOGITS_BTV * 30, LOGITS_BTV * 30)) == 0
