"""Embeddings of many columns: whose row is whose, and gradients of single rows wherever they go."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tf_codistill import weights
from tf_codistill.models.category_embedding import CategoryEmbedding
from tf_codistill.optimizers.sparse_adagrad import SparseAdagrad
from tf_codistill.schedules import WeightDecay
from tf_codistill.training.codistillation import CodistillationModel

CARDINALITIES, WIDTHS = [5, 300, 7, 2], [2, 4, 2, 1]
IDS = np.array([[4, 0, 6, 1], [4, 299, 0, 0], [0, 299, 6, 1]])


def columns_of(layer: CategoryEmbedding) -> list[np.ndarray]:
    """The table of each column, in the order of the result."""
    width_1, width_2, width_4 = layer.get_weights()
    return [width_1, width_2[:5], width_2[5:], width_4]


@pytest.mark.parametrize("training", [True, False])
def test_a_row_is_that_of_its_column(training):
    layer = CategoryEmbedding(CARDINALITIES, WIDTHS)
    found = layer(IDS, training=training)
    assert [weight.shape for weight in layer.weights] == [(2, 1), (12, 2), (300, 4)]
    tables = columns_of(layer)
    expected = [table[IDS[:, column]] for table, column in zip(tables, [3, 0, 2, 1], strict=True)]
    np.testing.assert_array_equal(found, np.concatenate(expected, axis=1))


def test_a_gradient_has_each_row_once_and_then_nothing():
    layer = CategoryEmbedding([3, 4], [2, 2])
    layer.build((None, 2))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(np.array([[0, 3], [0, 1], [0, 3]])) * [1.0, 2.0, 3.0, 4.0])
    gradient = tape.gradient(loss, layer.tables[0])
    assert isinstance(gradient, tf.IndexedSlices)
    assert gradient.indices.numpy().tolist() == [0, 4, 6, 0, 0, 0]
    assert gradient.values.numpy().tolist() == [[3, 6], [3, 4], [6, 8], [0, 0], [0, 0], [0, 0]]


def test_a_gradient_is_that_of_one_hot_columns():
    layer = CategoryEmbedding(CARDINALITIES, WIDTHS, dtype="float64")
    layer.build((None, 4))
    factors = np.random.default_rng(0).normal(size=(3, sum(WIDTHS)))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(IDS) ** 2 * factors)
    gradients = [tf.convert_to_tensor(one).numpy() for one in tape.gradient(loss, layer.tables)]
    one_hot = [np.eye(size)[IDS[:, column]] for column, size in enumerate(CARDINALITIES)]
    first = 0
    for table, gradient, column in zip(columns_of(layer), _split(gradients), [3, 0, 2, 1], strict=True):
        own = factors[:, first : first + table.shape[1]] * 2 * (one_hot[column] @ table)
        np.testing.assert_allclose(gradient, one_hot[column].T @ own, rtol=1e-12)
        first += table.shape[1]


def _split(gradients: list[np.ndarray]) -> list[np.ndarray]:
    width_1, width_2, width_4 = gradients
    return [width_1, width_2[:5], width_2[5:], width_4]


def test_tables_stay_float32_where_the_rest_is_shorter():
    layer = CategoryEmbedding(CARDINALITIES, WIDTHS, dtype="mixed_bfloat16")
    with tf.GradientTape() as tape:
        found = layer(IDS)
        loss = tf.reduce_sum(tf.cast(found, tf.float32))
    assert found.dtype == tf.bfloat16
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    gradients = tape.gradient(loss, layer.tables)
    assert all(isinstance(one, tf.IndexedSlices) and one.dtype == tf.float32 for one in gradients)


def test_no_columns_are_no_numbers():
    layer = CategoryEmbedding([], [])
    assert layer(np.zeros([3, 0], "int32")).shape == (3, 0)


@pytest.mark.parametrize(
    ("cardinalities", "widths", "told"),
    [
        ([3, 4], [2], "2 cardinalities and 1 widths; give one width"),
        ([3, 0], [2, 2], "cardinalities of a CategoryEmbedding include 0; expected integers >= 1"),
        ([3], [0.5], "widths of a CategoryEmbedding include 0.5"),
    ],
)
def test_columns_that_cannot_be_are_refused(cardinalities, widths, told):
    with pytest.raises(ValueError, match=told):
        CategoryEmbedding(cardinalities, widths)


def test_rows_of_another_width_are_refused():
    with pytest.raises(ValueError, match="3 categories in a row, but 2 cardinalities"):
        CategoryEmbedding([3, 4], [2, 2])(np.zeros([5, 3], "int32"))


# What holds of a table in training: through our step, clipping, replicas and optimizers.

SIZE = 50


def tabular(dtype: str | None = None) -> keras.Model:
    embedding = CategoryEmbedding([SIZE, SIZE], [4, 4], name="embedding", dtype=dtype)
    head = keras.layers.Dense(1, dtype="float32")
    return keras.Sequential([keras.Input((2,), dtype="int32"), embedding, head])


class Seen(SparseAdagrad):
    """Notes what reaches the optimizer."""

    kinds: list[Any]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if variable.shape == (2 * SIZE, 4):
            self.kinds.append(type(gradient))
        super().update_step(gradient, variable, learning_rate)


def rows(number: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.integers(0, 9, (number, 2)).astype("int32"), rng.integers(0, 2, (number, 1)).astype("float32")


def fitted(
    strategy: tf.distribute.Strategy,
    clipnorm: float | None = None,
    jit_compile: bool = False,
    dtype: str | None = None,
    **options: Any,
) -> tuple[list[np.ndarray], Seen]:
    keras.utils.set_random_seed(5)
    with strategy.scope():
        model = CodistillationModel(lambda: tabular(dtype), **options)
        optimizer = Seen(0.1, clipnorm=clipnorm)
        optimizer.kinds = []
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        model.compile(optimizer, loss, jit_compile=jit_compile)
    x, y = rows(64)
    model.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(16), epochs=1, verbose=0, shuffle=False)
    return weights.values(model.student.weights), optimizer


@pytest.mark.parametrize("options", [{}, {"clipnorm": 0.5}], ids=["plain", "clipped"])
def test_the_optimizer_is_given_rows_and_never_the_table(options):
    one, optimizer = fitted(tf.distribute.get_strategy(), **options)
    assert set(optimizer.kinds) == {tf.IndexedSlices}
    two, optimizer = fitted(two_replicas(), **options)
    assert set(optimizer.kinds) == {tf.IndexedSlices}
    for alone, shared in zip(one, two, strict=True):
        np.testing.assert_allclose(shared, alone, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"jit_compile": True}, {"dtype": "mixed_float16"}, {"dtype": "mixed_bfloat16", "jit_compile": True}],
    ids=["xla", "scaled loss", "xla and bfloat16"],
)
def test_so_it_is_with_xla_and_in_mixed_precision(options):
    plain, _ = fitted(tf.distribute.get_strategy())
    found, optimizer = fitted(tf.distribute.get_strategy(), **options)
    assert set(optimizer.kinds) == {tf.IndexedSlices}
    for expected, own in zip(plain, found, strict=True):
        np.testing.assert_allclose(own, expected, atol=0.02 if "dtype" in options else 1e-6)


def test_weight_decay_of_a_table_makes_its_gradient_as_large_as_the_table():
    """Who wants rows exempts tables."""
    _, optimizer = fitted(tf.distribute.get_strategy(), weight_decay=WeightDecay(0.1))
    assert tf.IndexedSlices not in optimizer.kinds
    exempt = WeightDecay(0.1, exempt=["table_"])
    _, optimizer = fitted(tf.distribute.get_strategy(), weight_decay=exempt)
    assert set(optimizer.kinds) == {tf.IndexedSlices}


def test_a_run_is_repeated_to_the_last_bit():
    runs = [fitted(tf.distribute.get_strategy())[0] for _ in range(2)]
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(first, second)
