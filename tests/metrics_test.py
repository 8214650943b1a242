"""Perplexity and agreement against NumPy."""

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

    def share(values):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.split(values, [1, 3])[context.replica_id_in_sync_group]
        )

    strategy.run(perplexity.update_state, args=(share(TARGETS_BT), share(LOGITS_BTV)))
    expected = np.exp(nats(LOGITS_BTV, TARGETS_BT).mean())
    np.testing.assert_allclose(perplexity.result(), expected, rtol=1e-5)


def test_perplexity_config():
    twin = keras.metrics.deserialize(keras.metrics.serialize(metrics.Perplexity(name="mine")))
    assert isinstance(twin, metrics.Perplexity)
    assert twin.name == "mine"


@pytest.mark.parametrize("num_equal", [0, 3, 4])
def test_agreement_is_the_share_of_equal_favourites(num_equal):
    student = np.eye(4, dtype="float32")
    teacher = np.roll(student, 1, axis=-1)
    teacher[:num_equal] = 0.7 * student[:num_equal]
    assert float(metrics.agreement(teacher, student)) == num_equal / 4
