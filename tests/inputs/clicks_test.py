"""Batches of clicks: a function of the step, cut for workers and replicas; validation is weighted."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.toy_tables import write_table
from tf_codistill.inputs.clicks import RowStream
from tf_codistill.inputs.order import Order
from tf_codistill.tables import shards


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> shards.EncodedTable:
    return shards.open_table(write_table(tmp_path_factory.mktemp("table"), 133))  # 107 + 13 + 13 rows


def training(table: shards.EncodedTable, batch_size: int = 12, **group: Any) -> RowStream:
    settings = {"group": 0, "num_groups": 1, "seed": 3, "data": "same", **group}
    part = table.part("train")
    return RowStream(part, 13, batch_size, Order.of_group(len(part), **settings))


def elements(stream: RowStream, **where: Any) -> list[Any]:
    return [keras.tree.map_structure(lambda one: one.numpy(), one) for one in stream.dataset(**where)]


def same(one: Any, other: Any) -> None:
    for a, b in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_elements_are_rows_of_the_table_with_static_shapes(table: shards.EncodedTable) -> None:
    stream = training(table)
    (features, labels), keys = stream.dataset().element_spec
    assert features["numeric"] == tf.TensorSpec([12, 13], tf.float32)
    assert features["categories"] == tf.TensorSpec([12, 39], tf.int32)
    assert labels == tf.TensorSpec([12, 1], tf.float32)
    assert keys == tf.TensorSpec([12, 2], tf.int64)
    for element in elements(stream, num_steps=20):
        rows = table.part("train").take(element.keys[:, 0])
        labels, numbers, ids = shards.split_columns(rows, 13)
        same(element.data, ({"categories": ids, "numeric": numbers}, labels[:, None]))


def test_every_row_is_visited_once_before_any_is_twice(table: shards.EncodedTable) -> None:
    stream = training(table)
    assert (stream.steps_per_epoch, stream.units_per_step) == (8, 12)
    keys = np.concatenate([element.keys for element in elements(stream, num_steps=30)])
    for visit in range(3):
        ids = keys[keys[:, 1] == visit, 0]
        assert sorted(ids) == list(range(107))
    assert keys[:107, 0].tolist() != keys[107:214, 0].tolist()


def test_a_batch_is_a_function_of_the_step(table: shards.EncodedTable) -> None:
    whole = elements(training(table), num_steps=20)
    same(elements(training(table), first_step=13, num_steps=3), whole[13:16])
    other = elements(training(table, seed=4), num_steps=1)
    assert not np.array_equal(other[0].keys, whole[0].keys)


@pytest.mark.parametrize(("num_workers", "num_replicas"), [(2, 1), (1, 2), (3, 2)])
def test_workers_and_replicas_have_equal_consecutive_parts(
    table: shards.EncodedTable, num_workers: int, num_replicas: int
) -> None:
    whole = elements(training(table), first_step=7, num_steps=4)
    parts = [
        elements(
            training(table),
            first_step=7,
            num_steps=4,
            worker=worker,
            num_workers=num_workers,
            num_replicas=num_replicas,
        )
        for worker in range(num_workers)
    ]
    for step in range(4):
        replicas = [part[step * num_replicas + replica] for part in parts for replica in range(num_replicas)]
        same(tf.nest.map_structure(lambda *rows: np.concatenate(rows), *replicas), whole[step])


def test_groups_have_their_own_rows_or_the_same_or_the_same_batches(table: shards.EncodedTable) -> None:
    def ids(data: str, group: int) -> list[int]:
        stream = training(table, 10, data=data, group=group, num_groups=2)
        found = elements(stream, num_steps=stream.steps_per_epoch)
        return np.concatenate([element.keys[:, 0] for element in found]).tolist()

    assert not set(ids("disjoint", 0)) & set(ids("disjoint", 1))
    assert ids("same", 0) != ids("same", 1)
    assert set(ids("same", 0)) & set(ids("same", 1))
    assert ids("same_batches", 0) == ids("same_batches", 1)


def test_the_mean_over_batches_of_validation_is_the_mean_over_rows(table: shards.EncodedTable) -> None:
    part = table.part("validation")
    stream = RowStream(part, 13, 4, Order(len(part)), is_weighted=True)
    assert stream.steps_per_epoch == 4
    found = elements(stream, num_steps=8)
    same(found[:4], found[4:])
    features, labels, weights = (
        np.concatenate([keras.tree.flatten(element.data[index])[-1] for element in found[:4]])
        for index in range(3)
    )
    keys = np.concatenate([element.keys for element in found[:4]])
    assert keys[:13].tolist() == [[row, 0] for row in range(13)]
    assert weights[:13, 0].tolist() == pytest.approx([16 / 13] * 13)
    assert not weights[13:].any()
    losses = features.sum(axis=1, keepdims=True) + labels
    means = [(losses[i : i + 4] * weights[i : i + 4]).mean() for i in range(0, 16, 4)]
    np.testing.assert_allclose(np.mean(means), losses[:13].mean(), rtol=1e-6)


@pytest.mark.parametrize(
    ("batch_size", "where", "sentence"),
    [
        (0, {}, "batch_size is 0; expected at least 1"),
        (108, {}, "batch_size is 108, but there are only 107 rows for the group in part 'train'"),
        (9, {"num_workers": 2}, "batch_size is 9, .* expected a batch size that is a multiple"),
        (8, {"worker": 2, "num_workers": 2}, "worker is 2 of num_workers=2"),
        (8, {"first_step": -1}, "first_step is -1"),
    ],
)
def test_what_cannot_be_read_is_told(
    table: shards.EncodedTable, batch_size: int, where: dict[str, int], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        training(table, batch_size).dataset(**where)
