"""A batch of examples on one replica, as data sets yield it and as students learn from it.

    (features, targets), (features, targets, sample_weight)     from Keras's data sets
    Keyed((features, targets), keys)                            from our streams
    batch_of(either)  ->  Batch(features, targets, sample_weight, keys)

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


class Batch(NamedTuple):
    """Examples on one replica.

    Attributes:
        features: What the model takes.
        targets: What it shall predict.
        sample_weight: Weights of the examples, for all outputs or by output, or None.
        keys: Id and visit of each example, int64 [B, 2], or None.
    """

    features: Any
    targets: Any = None
    sample_weight: Any = None
    keys: Any = None


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
        data: `Keyed`, or anything that `keras.utils.unpack_x_y_sample_weight` takes.

    Returns:
        The batch.
    """
    keys = None
    if isinstance(data, Keyed):
        data, keys = data
    features, targets, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    return Batch(features, targets, sample_weight, keys)


def every_nth(batch: Batch, first: int, number: int) -> Batch:
    """Rows first, first + number, first + 2 number, ... of a batch.

    Args:
        batch: The batch.
        first: The first row.
        number: Distance from row to row.

    Returns:
        A batch with 1 / number of the rows.
    """
    return keras.tree.map_structure(lambda part: None if part is None else part[first::number], batch)


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
    return keras.tree.flatten(batch.features)[0].shape[0]
