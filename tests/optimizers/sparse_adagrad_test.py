"""Adagrad by rows: the step of the dense gradient, each row once, on one replica and two, with XLA."""

from __future__ import annotations

from typing import Any

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tf_codistill import configurables, keras_private  # noqa: F401
from tf_codistill.optimizers.sparse_adagrad import SparseAdagrad, distinct

ROWS, WIDTH = 40, 3


def slices(seed: int, number: int = 64) -> tf.IndexedSlices:
    """A gradient in which rows come several times."""
    rng = np.random.default_rng(seed)
    rows = np.minimum(rng.geometric(0.2, number) - 1, ROWS - 1)
    values = tf.constant(rng.normal(size=(number, WIDTH)), tf.float64)
    return tf.IndexedSlices(values, tf.constant(rows, tf.int64), tf.constant([ROWS, WIDTH], tf.int64))


def table() -> keras.Variable:
    initial = np.random.default_rng(9).normal(size=(ROWS, WIDTH))
    return keras.Variable(initial, dtype="float64", autocast=False)


def trained(
    optimizer: keras.optimizers.Optimizer, gradients: list[Any], **how: Any
) -> tuple[np.ndarray, np.ndarray]:
    variable = table()
    optimizer.build([variable])
    step = tf.function(lambda one: optimizer.apply_gradients([(one, variable)]), **how)
    for one in gradients:
        step(one)
    return np.array(variable), np.array(keras_private.accumulator(optimizer, variable))


@pytest.mark.parametrize("how", [{}, {"jit_compile": True}], ids=["graph", "xla"])
def test_a_step_is_that_of_the_dense_gradient(how):
    gradients = [slices(seed) for seed in range(4)]
    dense = [tf.convert_to_tensor(one) for one in gradients]
    found = trained(SparseAdagrad(0.1), gradients, **how)
    for own, theirs in zip(found, trained(keras.optimizers.Adagrad(0.1), dense), strict=True):
        np.testing.assert_allclose(own, theirs, rtol=1e-12)
    for own, dense_one in zip(trained(SparseAdagrad(0.1), dense), found, strict=True):
        np.testing.assert_allclose(own, dense_one, rtol=1e-12, err_msg="dense gradients are Keras's business")


@pytest.mark.parametrize("how", [{}, {"jit_compile": True}], ids=["graph", "xla"])
def test_distinct_rows_are_found_and_where_they_are(how):
    function = tf.function(distinct, **how)
    found, places = function(tf.constant([5, 2, 5, 0, 9, 2, 2]))
    np.testing.assert_array_equal(found, [0, 2, 5, 9, 0, 0, 0])
    np.testing.assert_array_equal(places, [2, 1, 2, 0, 3, 1, 1])
    for rows in ([3], [4, 4, 4], [1, 2, 3]):
        found, places = function(tf.constant(rows, tf.int64))
        np.testing.assert_array_equal(tf.gather(found, places), rows)
    found, places = distinct(tf.constant([], tf.int64))
    assert found.shape == places.shape == (0,)


def test_keras_takes_a_row_that_comes_twice_for_two_gradients():
    """Why there is a class of our own: when this fails, Keras adds up rows, and ours may go."""
    gradients = [slices(0)]
    _, ours = trained(SparseAdagrad(0.1), gradients)
    _, theirs = trained(keras.optimizers.Adagrad(0.1), gradients)
    squares = tf.IndexedSlices(tf.square(gradients[0].values), gradients[0].indices, gradients[0].dense_shape)
    np.testing.assert_allclose(theirs, 0.1 + tf.convert_to_tensor(squares), rtol=1e-7)
    assert np.abs(ours - theirs).max() > 0.1


def test_two_replicas_make_the_step_of_one():
    strategy, gradients = two_replicas(), [slices(seed) for seed in range(3)]
    with strategy.scope():
        variable, optimizer = table(), SparseAdagrad(0.1)
        optimizer.build([variable])

    @tf.function
    def step(values: tf.Tensor, rows: tf.Tensor, shape: tf.Tensor) -> None:
        def on_replica() -> None:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            own = tf.IndexedSlices(values[replica::2], rows[replica::2], shape)
            optimizer.apply_gradients([(own, variable)])

        strategy.run(on_replica)

    for one in gradients:
        step(one.values, one.indices, one.dense_shape)
    expected, accumulated = trained(SparseAdagrad(0.1), gradients)
    for copy in keras_private.stored(variable).values:
        np.testing.assert_allclose(copy, expected, rtol=1e-12)
    found = keras_private.accumulator(optimizer, variable)
    for copy in keras_private.stored(found).values:
        np.testing.assert_allclose(copy, accumulated, rtol=1e-12)


def test_it_comes_back_from_its_configuration_and_from_gin(fresh_gin):
    gin.parse_config("SparseAdagrad.learning_rate = 0.25")
    optimizer = SparseAdagrad(initial_accumulator_value=0.5)
    config = keras.saving.serialize_keras_object(optimizer)
    again = keras.saving.deserialize_keras_object(config)
    assert isinstance(again, SparseAdagrad)
    assert float(again.learning_rate) == 0.25
    assert again.initial_accumulator_value == 0.5
