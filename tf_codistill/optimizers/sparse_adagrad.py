"""Adagrad whose step costs what a batch names of an embedding, not what the table holds.

    optimizer = SparseAdagrad(0.001)         the same step as `keras.optimizers.Adagrad` with dense gradients

    gradient of a table: rows [7, 3, 7], values [a, b, c]       7 comes twice, of two replicas, say
    -> rows [7, 3], values [a + c, b]                           each once, as the gradient of the whole batch
    -> accumulator[rows] += values ** 2,  table[rows] -= rate * values / sqrt(accumulator[rows] + epsilon)

Keras's Adagrad takes the square root of the whole accumulator in each step, and a row that comes twice for
two gradients: it adds a ** 2 + c ** 2 in place of (a + c) ** 2, and on CPUs in whatever order threads come.
"""

from __future__ import annotations

from typing import Any

import gin
import keras
import tensorflow as tf

from tf_codistill import keras_private


@gin.configurable(module="tf_codistill")
@keras.saving.register_keras_serializable(package="tf_codistill")
class SparseAdagrad(keras.optimizers.Adagrad):
    """Adagrad (Duchi et al. 2011) with updates of single rows; its arguments are those of Keras's."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable on one replica.

        Args:
            gradient: Its gradient, summed over replicas, dense or ``tf.IndexedSlices``.
            variable: The variable.
            learning_rate: The rate.
        """
        if not isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable, learning_rate)
            return
        accumulator = keras_private.accumulator(self, variable)
        rows, places = distinct(gradient.indices)
        values = tf.math.unsorted_segment_sum(gradient.values, places, tf.size(rows))
        values = tf.cast(values, variable.dtype)
        sums = tf.gather(accumulator.value, rows) + tf.square(values)
        # Added, not assigned: rows that only fill up must leave the first row of the table as it is.
        self.assign_add(accumulator, tf.IndexedSlices(tf.square(values), rows))
        steps = tf.cast(learning_rate, variable.dtype) * values / tf.sqrt(sums + self.epsilon)
        self.assign_sub(variable, tf.IndexedSlices(steps, rows))


def distinct(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the rows of a table that a batch names, each once.

    The result has as many elements as there are rows, whatever they are: XLA miscalculates where the result
    of one `tf.unique`, whose length it does not know, goes through another.

    Args:
        rows: Rows of a table, integers >= 0, [N].

    Returns:
        Each of them once in ascending order, then zeros, [N], and where in it each one of `rows` is, [N].
    """
    order = tf.argsort(rows)
    ordered = tf.gather(rows, order)
    is_new = tf.cast(ordered[1:] != ordered[:-1], tf.int32)
    numbers = tf.cumsum(tf.concat([tf.zeros_like(order[:1]), is_new], axis=0))
    places = tf.scatter_nd(order[:, tf.newaxis], numbers, tf.shape(order))
    found = tf.math.unsorted_segment_max(ordered, numbers, tf.size(rows))
    return tf.maximum(found, 0), places
