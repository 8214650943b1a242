"""Metrics of clicks against scikit-learn: any batches, weights, replicas, XLA, and inside of `evaluate`."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf

from tests.replicas import two_replicas
from tf_codistill import click_metrics
from tf_codistill.click_metrics import AreaUnderROC, Calibration, LogLoss, NormalizedEntropy

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(-2.0, 1.2, 3000).astype("float32")
PROBABILITIES = 1 / (1 + np.exp(-LOGITS.astype("float64")))
LABELS = (RNG.random(3000) < PROBABILITIES**0.9).astype("float32")
WEIGHTS = RNG.integers(0, 3, 3000).astype("float32")


def entropy(rate: float) -> float:
    return float(-rate * np.log(rate) - (1 - rate) * np.log(1 - rate))


def log_loss(weights: np.ndarray | None) -> float:
    return float(sklearn.metrics.log_loss(LABELS, PROBABILITIES, sample_weight=weights))


EXPECTED = {
    LogLoss: log_loss,
    NormalizedEntropy: lambda weights: log_loss(weights) / entropy(np.average(LABELS, weights=weights)),
    AreaUnderROC: lambda weights: sklearn.metrics.roc_auc_score(LABELS, PROBABILITIES, sample_weight=weights),
    Calibration: lambda weights: (
        np.average(PROBABILITIES, weights=weights) / np.average(LABELS, weights=weights)
    ),
}
METRICS = pytest.mark.parametrize("make", EXPECTED, ids=lambda make: make.__name__)


def tolerance(metric: keras.metrics.Metric) -> float:
    return float(metric.error()) + 1e-6 if isinstance(metric, AreaUnderROC) else 1e-5


@METRICS
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("from_logits", [True, False])
def test_all_batches_together_give_what_scikit_learn_says(make, weights, from_logits):
    metric = make(from_logits=from_logits)
    predictions = LOGITS if from_logits else PROBABILITIES
    for first, last in ((0, 10), (10, 11), (11, 2000), (2000, 3000)):
        own = None if weights is None else weights[first:last]
        metric.update_state(LABELS[first:last], predictions[first:last, np.newaxis], own)
    assert float(metric.result()) == pytest.approx(EXPECTED[make](weights), abs=tolerance(metric))
    metric.reset_state()
    assert float(metric.result()) == (0.5 if make is AreaUnderROC else 0.0)


@METRICS
def test_replicas_add_up(make):
    with two_replicas().scope():
        metric = make()

    @tf.function
    def step() -> None:
        def update() -> None:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            own = [tf.constant(one)[replica * 1000 :][:2000] for one in (LABELS, LOGITS, WEIGHTS)]
            metric.update_state(*(one[:, tf.newaxis] for one in own))

        two_replicas().run(update)

    step()
    rows = np.concatenate([np.arange(2000), np.arange(1000, 3000)])
    assert float(metric.result()) == pytest.approx(updated(make, rows), abs=1e-5)


@METRICS
def test_xla_counts_as_the_graph_does(make):
    metric = make()
    tf.function(metric.update_state, jit_compile=True)(
        *(tf.constant(one[:, np.newaxis]) for one in (LABELS, LOGITS, WEIGHTS))
    )
    assert float(metric.result()) == pytest.approx(updated(make, np.arange(3000)), abs=1e-5)


def updated(make: type[keras.metrics.Metric], rows: np.ndarray) -> float:
    metric = make()
    metric.update_state(LABELS[rows], LOGITS[rows], WEIGHTS[rows])
    return float(metric.result())


@METRICS
def test_it_is_a_weighted_metric_of_a_model(make):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True), weighted_metrics=[make()])
    data = tf.data.Dataset.from_tensor_slices((LOGITS[:, np.newaxis], LABELS[:, np.newaxis], WEIGHTS)).batch(
        750
    )
    found = model.evaluate(data, verbose=0, return_dict=True)
    assert found[make().name] == pytest.approx(updated(make, np.arange(3000)), rel=1e-5)


@METRICS
def test_it_comes_back_from_its_configuration(make):
    again = keras.metrics.deserialize(keras.metrics.serialize(make(from_logits=False, name="mine")))
    assert isinstance(again, make)
    assert (again.name, again.from_logits) == ("mine", False)


@METRICS
def test_predictions_of_short_floats_are_summed_in_long_ones(make):
    metric = make()
    metric.update_state(LABELS, tf.cast(LOGITS[:, np.newaxis], tf.bfloat16))
    alone = make()
    alone.update_state(LABELS, tf.cast(tf.cast(LOGITS, tf.bfloat16), tf.float32))
    assert float(metric.result()) == float(alone.result())


def test_probabilities_of_nought_and_one_are_finite():
    metric = LogLoss(from_logits=False)
    metric.update_state([1.0, 0.0], [0.0, 1.0])
    assert 80 < float(metric.result()) < 100


def test_of_rows_that_are_all_alike_no_metric_is_nan():
    for labels, expected in ((np.zeros(4), [0, 0.5, 0]), (np.ones(4), [0, 0.5, 0.5])):
        for make, value in zip((NormalizedEntropy, AreaUnderROC, Calibration), expected, strict=True):
            metric = make()
            metric.update_state(labels, np.zeros(4))
            assert float(metric.result()) == value


def test_the_area_is_exact_where_no_bin_is_shared_and_says_how_far_it_can_be_off():
    width = 2 * click_metrics.MAX_LOGIT / click_metrics.NUM_BINS
    apart, metric = np.arange(-50, 50) * width * 1.001, AreaUnderROC()
    labels = (RNG.random(100) < np.linspace(0, 0.6, 100)).astype("float32")
    metric.update_state(labels, apart)
    assert float(metric.error()) == 0
    assert float(metric.result()) == pytest.approx(sklearn.metrics.roc_auc_score(labels, apart), abs=1e-7)
    crowded = AreaUnderROC()
    crowded.update_state(labels, apart / 200 + width / 2)
    off = abs(float(crowded.result()) - sklearn.metrics.roc_auc_score(labels, apart))
    assert 0.01 < off <= float(crowded.error())


def test_where_clicks_are_rare_it_is_nearer_than_that_of_keras():
    """The reason for a metric of our own."""
    logits = RNG.normal(-6.5, 0.8, 20_000).astype("float32")
    labels = (RNG.random(20_000) < 10 / (1 + np.exp(-logits))).astype("float32")
    exact = sklearn.metrics.roc_auc_score(labels, logits)
    ours, theirs = AreaUnderROC(), keras.metrics.AUC(from_logits=True)
    for metric in (ours, theirs):
        metric.update_state(labels, logits)
    assert abs(float(ours.result()) - exact) < 1e-3
    assert abs(float(theirs.result()) - exact) > 0.01
