"""Batches as Keras and as our streams yield them; dealing out and putting together."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_codistill.batches import Batch, Keyed, batch_of, every_nth, interleave, num_rows, with_next

X, Y, WEIGHTS = np.arange(12.0).reshape(6, 2), np.arange(6), np.linspace(0, 1, 6)
KEYS = np.stack([np.arange(6) + 100, np.zeros(6, int)], axis=1)


@pytest.mark.parametrize("data", [X, (X,), (X, Y), (X, Y, WEIGHTS)], ids=lambda data: str(len(data)))
@pytest.mark.parametrize("keys", [None, KEYS], ids=["plain", "keyed"])
def test_a_batch_is_what_keras_makes_of_it_and_its_keys(data: Any, keys: Any) -> None:
    found = batch_of(data if keys is None else Keyed(data, keys))
    assert found[:3] == keras.utils.unpack_x_y_sample_weight(data)
    assert found.keys is keys


def stream(number: int, rows: int = 3) -> Keyed:
    """The batch of one of several data sets, in which no number occurs twice."""
    first = 100 * number
    features = {
        "words": tf.reshape(tf.range(first, first + rows * 4), [rows, 4]),
        "age": tf.range(first, first + rows),
    }
    keys = tf.stack([tf.range(first, first + rows), tf.zeros(rows, tf.int32)], axis=1)
    return Keyed((features, tf.range(rows) - first, tf.linspace(0.0, first + 1.0, rows)), keys)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_dealing_out_takes_apart_what_was_interleaved(number: int) -> None:
    batches = [stream(one) for one in range(number)]
    together = batch_of(interleave(batches))
    assert num_rows(together) == number * num_rows(batch_of(batches[0]))
    for one, batch in enumerate(batches):
        found = every_nth(together, one, number)
        for ours, theirs in zip(keras.tree.flatten(found), keras.tree.flatten(batch_of(batch)), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_interleaving_puts_dealt_out_parts_together() -> None:
    whole = Batch(X, Y, WEIGHTS, KEYS)
    for number in (1, 2, 3, 6):
        parts = [every_nth(whole, one, number)[:4] for one in range(number)]
        for ours, theirs in zip(interleave(parts), whole[:4], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_of_fewer_rows_than_parts_each_part_has_one() -> None:
    for rows in ([3], [3, 4]):
        given = np.array(rows)
        of_unknown_size = tf.function(
            lambda x, one: every_nth(Batch(x), one, 3).features,
            input_signature=[tf.TensorSpec([None], tf.int64)] + [tf.TensorSpec([], tf.int32)],
        )
        for one in range(3):
            expected = [rows[one % len(rows)]]
            np.testing.assert_array_equal(every_nth(Batch(given), one, 3).features, expected)
            np.testing.assert_array_equal(of_unknown_size(given, one), expected)


def test_what_a_batch_lacks_no_part_of_it_has() -> None:
    part = every_nth(Batch(X), 1, 2)
    np.testing.assert_array_equal(part.features, X[1::2])
    assert part[1:] == (None, None, None, None)


def test_the_number_of_rows_may_be_unknown() -> None:
    (spec,) = [tf.TensorSpec([None, 3])]
    assert num_rows(Batch({"a": spec, "b": spec})) is None


@pytest.mark.parametrize("turns", [1, 2])
def test_each_batch_tells_what_the_same_replica_gets_next(turns: int) -> None:
    batches = [stream(one) for one in range(1, 5)]
    dataset = tf.data.Dataset.from_generator(
        lambda: batches,
        output_signature=keras.tree.map_structure(tf.TensorSpec.from_tensor, batches[0]),
    ).apply(tf.data.experimental.assert_cardinality(4))
    told = with_next(dataset, turns)
    assert int(told.cardinality()) == 4
    assert int(with_next(dataset.repeat(), turns).cardinality()) == tf.data.INFINITE_CARDINALITY
    found = [batch_of(one) for one in told]
    assert len(found) == 4
    for number, (batch, expected) in enumerate(zip(found, map(batch_of, batches), strict=True)):
        for ours, theirs in zip(keras.tree.flatten(batch[:4]), keras.tree.flatten(expected[:4]), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        is_there = number + turns < 4
        assert batch.following.is_there_B.numpy().tolist() == [is_there] * 3
        if is_there:
            following = batch_of(batches[number + turns]).features
            for name, values in batch.following.features.items():
                np.testing.assert_array_equal(values, following[name])


@pytest.mark.parametrize("kind", ["unknown rows", "ragged"])
def test_of_data_without_fixed_shapes_nothing_can_be_told(kind: str) -> None:
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    if kind == "ragged":
        data = tf.data.Dataset.from_tensors(tf.ragged.constant([[1], [2, 3]]))
    with pytest.raises(ValueError, match="expected dense ones of fixed shapes.*drop_remainder=True"):
        with_next(data)
