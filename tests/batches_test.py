"""Batches: from whatever a data set yields, dealt out to students and put together again."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_codistill import batches
from tf_codistill.batches import Batch, Keyed


def features(rows: int = 6) -> dict[str, np.ndarray]:
    return {"image": np.arange(rows * 4).reshape(rows, 2, 2), "size": np.arange(rows)}


KEYS = np.stack([np.arange(6) + 100, np.zeros(6, int)], axis=1)


@pytest.mark.parametrize(
    ("data", "given"),
    [
        ("x", ("features", None, None, None)),
        (("x", "y"), ("features", "targets", None, None)),
        (("x", "y", "w"), ("features", "targets", "weights", None)),
        (Keyed(("x", "y"), "k"), ("features", "targets", None, "keys")),
        (Keyed(("x", "y", "w"), "k"), ("features", "targets", "weights", "keys")),
    ],
    ids=str,
)
def test_a_batch_of_what_a_data_set_yields(data, given: tuple[str | None, ...]) -> None:
    names = {"features": "x", "targets": "y", "weights": "w", "keys": "k", None: None}
    assert batches.batch_of(data) == Batch(*(names[name] for name in given))


def test_keyed_elements_pass_through_data_sets() -> None:
    elements = Keyed((features(), np.arange(6)), KEYS)
    (element,) = tf.data.Dataset.from_tensor_slices(elements).batch(6).prefetch(1)
    assert isinstance(element, Keyed)
    batch = batches.batch_of(element)
    np.testing.assert_array_equal(batch.features["image"], features()["image"])
    np.testing.assert_array_equal(batch.keys, KEYS)


def test_rows_are_dealt_out_with_their_keys() -> None:
    batch = Batch(features(), np.arange(6), None, KEYS)
    for number in range(3):
        part = batches.every_nth(batch, number, 3)
        np.testing.assert_array_equal(part.features["size"], [number, number + 3])
        np.testing.assert_array_equal(part.features["image"], features()["image"][number::3])
        np.testing.assert_array_equal(part.targets, [number, number + 3])
        np.testing.assert_array_equal(part.keys[:, 0], [number + 100, number + 103])
        assert part.sample_weight is None
        assert batches.num_rows(part) == 2


@pytest.mark.parametrize("is_keyed", [False, True])
def test_data_sets_take_turns_row_by_row(is_keyed: bool) -> None:
    parts = [(np.full((2, 5), number) + [[0], [10]], np.array([number, -number])) for number in range(3)]
    keys = [np.array([[number, 0], [number, 1]]) for number in range(3)]
    given = [Keyed(*pair) for pair in zip(parts, keys, strict=True)] if is_keyed else parts
    datasets = tuple(tf.data.Dataset.from_tensors(one) for one in given)
    (joined,) = tf.data.Dataset.zip(datasets).map(lambda *elements: batches.interleave(elements))
    batch = batches.batch_of(joined)
    assert batch.features.shape == (6, 5)
    for number in range(3):
        own = batches.every_nth(batch, number, 3)
        np.testing.assert_array_equal(own.features, parts[number][0])
        np.testing.assert_array_equal(own.targets, parts[number][1])
        if is_keyed:
            np.testing.assert_array_equal(own.keys, keys[number])
