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
        rows, places = tf.unique(gradient.indices)
        values = tf.math.unsorted_segment_sum(gradient.values, places, tf.size(rows))
        values = tf.cast(values, variable.dtype)
        sums = tf.gather(accumulator.value, rows) + tf.square(values)
        self.assign(accumulator, tf.IndexedSlices(sums, rows))
        steps = tf.cast(learning_rate, variable.dtype) * values / tf.sqrt(sums + self.epsilon)
        self.assign_sub(variable, tf.IndexedSlices(steps, rows))
