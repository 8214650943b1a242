"""Embeddings of many categorical columns, of which a step touches only the rows that its batch names.

    categories_BN = [[3, 0, 7], ...]     column 0: 3 of 10, column 1: missing, column 2: 7 of 1000
    widths        = [8, 8, 24]           a table for each width, columns of equal width share one
    table_8       [10 + 5, 8]            rows 0..9 are column 0, rows 10..14 column 1
    table_24      [1000, 24]
    result_BD     D = 8 + 8 + 24         columns in the order of the tables

One lookup for each table, not for each column. The table is read by its rows, never as a whole, and stays
float32 in mixed precision; Keras's `Embedding` copies or casts all of it in each step. The gradient has each
row once, then row 0 with zeros. Keras's optimizers take rows that come twice for two gradients, which for
Adagrad is another step, and on CPUs add them up in whatever order threads come, so that no run could be
repeated exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_codistill.optimizers.sparse_adagrad import distinct


@keras.saving.register_keras_serializable(package="tf_codistill")
class CategoryEmbedding(keras.layers.Layer):
    """Looks up the rows of all categorical columns and puts them side by side."""

    def __init__(self, cardinalities: Sequence[int], widths: Sequence[int], **kwargs: Any) -> None:
        """Takes note of the columns.

        Args:
            cardinalities: Categories of each column; ids of column i are 0 to ``cardinalities[i] - 1``.
            widths: Numbers by which a category of each column is described.
            **kwargs: Those of a Keras layer.

        Raises:
            ValueError: There are not as many widths as columns, or one of the numbers is below 1.
        """
        super().__init__(**kwargs)
        if len(cardinalities) != len(widths):
            raise ValueError(
                f"there are {len(cardinalities)} cardinalities and {len(widths)} widths; give one width for "
                "each column"
            )
        for name, values in (("cardinalities", cardinalities), ("widths", widths)):
            if wrong := [value for value in values if value != int(value) or value < 1]:
                raise ValueError(
                    f"{name} of a CategoryEmbedding include {wrong[0]!r}; expected integers >= 1"
                )
        self.cardinalities = [int(value) for value in cardinalities]
        self.widths = [int(value) for value in widths]
        self._columns = {
            width: [column for column, own in enumerate(self.widths) if own == width]
            for width in sorted(set(self.widths))
        }

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the tables.

        Args:
            input_shape: Shape of the ids, [B, N].

        Raises:
            ValueError: There are not as many ids in a row as columns.
        """
        if input_shape[-1] != len(self.cardinalities):
            raise ValueError(
                f"there are {input_shape[-1]} categories in a row, but {len(self.cardinalities)} "
                "cardinalities; expected one for each"
            )
        # Without autocast: a table is never cast, only the rows that are looked up.
        self.tables = [
            self.add_weight(
                name=f"table_{width}",
                shape=(sum(self.cardinalities[column] for column in columns), width),
                initializer=keras.initializers.RandomUniform(-0.05, 0.05),
                autocast=False,
            )
            for width, columns in self._columns.items()
        ]

    def call(self, categories: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Looks up rows.

        Args:
            categories: Ids, integers [B, N].
            training: False where no gradient is wanted, which saves the search for equal ids.

        Returns:
            [B, sum of widths], in the layer's compute dtype, columns of the narrowest table first.
        """
        if not self.tables:
            return tf.zeros([tf.shape(categories)[0], 0], self.compute_dtype)
        found = []
        for table, (width, columns) in zip(self.tables, self._columns.items(), strict=True):
            sizes = [self.cardinalities[column] for column in columns]
            offsets = np.cumsum([0, *sizes[:-1]])
            rows = tf.gather(tf.cast(categories, tf.int64), columns, axis=1) + offsets
            vectors = _look_up(table.value, tf.reshape(rows, [-1]), is_learning=training is not False)
            found.append(tf.reshape(vectors, [-1, len(columns) * width]))
        return tf.cast(tf.concat(found, axis=1), self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape of what `call` returns."""
        return (input_shape[0], sum(self.widths))

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, for Keras's serialization."""
        return {**super().get_config(), "cardinalities": self.cardinalities, "widths": self.widths}


def _look_up(table: tf.Variable, rows: tf.Tensor, is_learning: bool) -> tf.Tensor:
    # Gathering from the variable, not from its value: the value would be a copy of the table.
    if not is_learning:
        return tf.gather(table, rows)
    found, places = distinct(rows)
    return tf.gather(tf.gather(table, found), places)
