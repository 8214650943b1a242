"""A batch of examples on one replica, as data sets yield it and as students learn from it.

    (features, targets), (features, targets, sample_weight)     from Keras's data sets
    Keyed((features, targets), keys)                            from our streams
    batch_of(either)  ->  Batch(features, targets, sample_weight, keys)
    with_next(dataset)                                          each with the features of the one after it

A key names an example for ever: int64 [B, 2], an id and how often it has been visited before. Whoever
exchanges what was predicted for an example finds it by its key; plain Keras data has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import keras
import tensorflow as tf


class Keyed(NamedTuple):
    """What a stream yields.

    Attributes:
        data: As Keras takes it: features, targets and optionally sample weights.
        keys: Id and visit of each example, int64 [B, 2].
    """

    data: tuple[Any, ...]
    keys: Any


class Following(NamedTuple):
    """What is known of the batch after another one.

    Attributes:
        features: What the model takes of it; zeros where there is none.
        is_there_B: Whether there is one, the same for each row, bool [B]: so it is shared out as rows are.
    """

    features: Any
    is_there_B: Any


class WithNext(NamedTuple):
    """What `with_next` makes a data set yield.

    Attributes:
        data: What it yielded before.
        following: What comes after that, on the same replica.
    """

    data: Any
    following: Following


class Batch(NamedTuple):
    """Examples on one replica.

    Attributes:
        features: What the model takes.
        targets: What it shall predict.
        sample_weight: Weights of the examples, for all outputs or by output, or None.
        keys: Id and visit of each example, int64 [B, 2], or None.
        following: What comes after them, or None where data do not say it.
    """

    features: Any
    targets: Any = None
    sample_weight: Any = None
    keys: Any = None
    following: Following | None = None


class Stream(Protocol):
    """Batches by step: to resume at a step is to request it."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps until what is read is exhausted."""

    @property
    def units_per_step(self) -> int:
        """How many of the task's units a whole group's batch has."""

    @property
    def units_per_epoch(self) -> int:
        """How many there are until what is read is exhausted, without what fills up a last batch."""

    def dataset(
        self,
        *,
        first_step: int = 0,
        num_steps: int | None = None,
        worker: int = 0,
        num_workers: int = 1,
        num_replicas: int = 1,
    ) -> tf.data.Dataset:
        """The batches of one worker.

        Args:
            first_step: Step of the first batch.
            num_steps: Steps after which the data set ends; without end by default.
            worker: Index of the worker in its group, from 0.
            num_workers: Number of workers of the group.
            num_replicas: Replicas of each worker, which take the elements in turn.

        Returns:
            `Keyed` elements of static shapes.
        """


def batch_of(data: Any) -> Batch:
    """What a data set yielded, as a batch.

    Args:
        data: Anything that `keras.utils.unpack_x_y_sample_weight` takes, `Keyed` or not, `WithNext` or not.

    Returns:
        The batch.
    """
    keys = following = None
    if isinstance(data, WithNext):
        data, following = data
    if isinstance(data, Keyed):
        data, keys = data
    features, targets, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    return Batch(features, targets, sample_weight, keys, following)


def with_next(dataset: tf.data.Dataset, turns: int = 1) -> tf.data.Dataset:
    """Tells of each batch what comes after it; nothing is read twice, only earlier.

    Args:
        dataset: Batches of static shapes, with what `batch_of` takes.
        turns: How many replicas take its elements in turn: what comes after one is so many further on.

    Returns:
        As many elements, `WithNext`.

    Raises:
        ValueError: A shape is not static.
    """
    spec = dataset.element_spec
    for one in tf.nest.flatten(spec):
        if not (isinstance(one, tf.TensorSpec) and one.shape.is_fully_defined()):
            raise ValueError(
                f"the data set has elements of {one}; expected dense ones of fixed shapes, so that there is "
                "room for what is predicted of them: batch with drop_remainder=True"
            )
    nothing = tf.nest.map_structure(lambda one: tf.zeros(one.shape, one.dtype), spec)
    rows = num_rows(batch_of(spec))

    def next_one(waiting: tuple[Any, ...], read: tuple[Any, tf.Tensor]) -> tuple[Any, WithNext]:
        element, is_there = read
        following = Following(batch_of(element).features, tf.fill([rows], is_there))
        return (*waiting[1:], element), WithNext(waiting[0], following)

    there = tf.data.Dataset.zip((dataset, tf.data.Dataset.from_tensors(True).repeat()))
    end = tf.data.Dataset.from_tensors((nothing, False)).repeat(turns)
    return there.concatenate(end).scan((nothing,) * turns, next_one).skip(turns)


def every_nth(batch: Batch, first: int, number: int) -> Batch:
    """Rows first, first + number, first + 2 number, ... of a batch.

    Args:
        batch: The batch.
        first: The first row.
        number: Distance from row to row.

    Returns:
        A batch with 1 / number of the rows; of fewer rows than that with one of them, as a model whose batch
        is empty normalises by NaN.
    """
    rows = num_rows(batch)
    start = first % (tf.maximum(tf.shape(_first_part(batch))[0], 1) if rows is None else max(rows, 1))
    return keras.tree.map_structure(lambda part: None if part is None else part[start::number], batch)


def interleave(batches: Sequence[Any]) -> Any:
    """Puts what N data sets yield together so that `every_nth` takes it apart again.

    Args:
        batches: Batches of equal structures and shapes, of arrays [B, ...].

    Returns:
        One with arrays [N B, ...], in which rows i, i + N, i + 2N, ... are those of batch i.
    """

    def rows(*parts: Any) -> Any:
        shape = [len(parts) * parts[0].shape[0], *parts[0].shape[1:]]
        return keras.ops.reshape(keras.ops.stack(parts, axis=1), shape)

    return keras.tree.map_structure(rows, *batches)


def num_rows(batch: Batch) -> int | None:
    """How many examples there are, if that is known before any is read."""
    return _first_part(batch).shape[0]


def _first_part(batch: Batch) -> Any:
    return keras.tree.flatten(batch.features)[0]
