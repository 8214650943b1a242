"""The Keras metric gives the figures that `reproducibility.measures` defines."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tf_codistill import metrics
from tf_codistill.reproducibility import measures

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, 12, 3, 5))
NUMBERS = RNG.normal(size=(2, 12))
CHURN = ("mean_absolute_difference", "relative_difference", "flip_rate", "kl", "jsd")


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def sigmoid(numbers: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-numbers))


@pytest.mark.parametrize("measure", CHURN)
def test_the_metric_is_the_measure(measure: str) -> None:
    expected = measures.measure(*softmax(LOGITS))[measure]
    of_two = measures.measure(*sigmoid(NUMBERS), threshold=0.3)[measure]
    for from_logits in (False, True):
        metric = metrics.Churn(measure, from_logits, dtype="float64")
        first, second = LOGITS if from_logits else softmax(LOGITS)
        metric.update_state(first[:5], second[:5])
        metric.update_state(first[5:], second[5:])
        np.testing.assert_allclose(metric.result(), expected, rtol=1e-5 if from_logits else 1e-12)
        metric.reset_state()
        assert float(metric.result()) == 0
        metric = metrics.Churn(measure, from_logits, threshold=0.3, dtype="float64")
        first, second = NUMBERS if from_logits else sigmoid(NUMBERS)
        for shape in ((12,), (12, 1)):
            metric.reset_state()
            metric.update_state(first.reshape(shape), second.reshape(shape))
            np.testing.assert_allclose(metric.result(), of_two, rtol=1e-5 if from_logits else 1e-12)


def test_weights_leave_positions_out() -> None:
    first, second = softmax(LOGITS)
    counted = RNG.uniform(size=(12, 3)) < 0.5
    metric = metrics.Churn("kl")
    metric.update_state(first, second, sample_weight=counted)
    np.testing.assert_allclose(
        metric.result(), measures.measure(first[counted], second[counted])["kl"], rtol=1e-5
    )
    metric.reset_state()
    rows = counted[:, 0]
    metric.update_state(first, second, sample_weight=rows)
    np.testing.assert_allclose(metric.result(), measures.measure(first[rows], second[rows])["kl"], rtol=1e-5)


def test_two_replicas_are_one() -> None:
    first, second = softmax(LOGITS).astype("float32")
    strategy = two_replicas()
    with strategy.scope():
        metric = metrics.Churn()

    def split(values: np.ndarray) -> Any:
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.split(values, [3, 9])[context.replica_id_in_sync_group]
        )

    strategy.run(metric.update_state, args=(split(first), split(second)))
    np.testing.assert_allclose(
        metric.result(), measures.measure(first, second)["mean_absolute_difference"], rtol=1e-5
    )


def test_it_can_be_saved() -> None:
    metric = metrics.Churn("flip_rate", True, 0.2, name="flips")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert again.get_config() == metric.get_config()
    assert metrics._FLOOR == measures.FLOOR


def test_settings_that_are_none() -> None:
    with pytest.raises(ValueError, match="measure is 'churn'; expected one of mean_absolute_difference, "):
        metrics.Churn("churn")
    with pytest.raises(ValueError, match="threshold is 0; expected a probability between 0 and 1"):
        metrics.Churn(threshold=0)
