"""Reading over data of steps that were done before training was stopped.

epoch 0, 1, 2                       epoch 3: 40 batches done          goes on with batch 40 of epoch 3
| read, or iterated over, at once   | read one execution at a time,   |
| before the first step             | while the callbacks look on     |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import logging


class PassOver:
    """What takes the place of training steps that were done before.

    Args:
        batches_before: Batches to be read before those of the epoch.
        batches: Batches of the epoch that were learned from.
        check: Called with the very first batch, if that is read again.
        done: Called when training goes on.
    """

    def __init__(
        self, batches_before: int, batches: int, check: Callable[[Any], None], done: Callable[[], None]
    ) -> None:
        self._before, self._batches = batches_before, batches
        self._check, self._done = check, done

    def __call__(self, iterator: Any, steps_per_execution: int) -> bool:
        """Reads what an execution would, if that was done before.

        Args:
            iterator: The data.
            steps_per_execution: Batches in an execution.

        Returns:
            Whether it was; otherwise the next batch is for learning.
        """
        self._read(iterator, self._before)
        self._before = 0
        if not self._batches:
            return False
        number = min(self._batches, steps_per_execution)
        self._read(iterator, number)
        self._batches -= number
        if not self._batches:
            self._done()
        return True

    def _read(self, iterator: Any, number: int) -> None:
        for _ in range(number):
            batch = next(iterator)
            self._check(batch)
            self._check = lambda batch: None


def check_first(batch: Any, expected: int) -> None:
    """Warns if the first batch is another one than it was.

    Args:
        batch: The batch.
        expected: What `fingerprint` said of it when training began.
    """
    if int(fingerprint(batch)) != expected:
        logging.warning(
            "the data do not repeat: the first batch is another one than when training began, so that it "
            "goes on with other data than it would have; shuffle and map with a seed, or pass shuffle=False "
            "with arrays"
        )


def before_epoch(
    data: Any, epochs: int, steps_per_epoch: int | None, check: Callable[[Any], None]
) -> tuple[int, bool]:
    """Brings a data set to where an epoch begins, as far as that can be done before it is iterated over.

    A shuffle that differs from pass to pass takes its seed when an iterator is made, so as many are made here
    as Keras has made: where it knows the number of batches, two for each epoch, one of which it never reads.

    Args:
        data: What `fit` got.
        epochs: Epochs that are over.
        steps_per_epoch: Batches of an epoch, if they do not end with the data.
        check: Called with the very first batch, if it comes up here.

    Returns:
        Batches to be read before those of the epoch; and whether they begin with the very first.
    """
    number = _num_batches(data)
    iterators = epochs if number is None else 2 * epochs
    read = 0
    if steps_per_epoch is not None:
        iterators, read = 0, epochs * steps_per_epoch
    if steps_per_epoch is not None and number is not None:
        read = 0
        for _ in range(epochs):
            read = min(read + steps_per_epoch, number)
            if read == number:
                iterators, read = iterators + 1, 0
    if isinstance(data, tf.data.Dataset | tf.distribute.DistributedDataset):
        for number in range(iterators):
            iterator = iter(data)
            if number == 0:
                check(next(iterator))
    return read, not iterators


def fingerprint(batch: Any) -> tf.Tensor:
    """A number that tells batches apart, int64; of what this worker's replicas get."""
    parts = [
        _hash(tf.convert_to_tensor(part))
        for part in tf.nest.flatten(batch, expand_composites=True)
        if part is not None
    ]
    return tf.reduce_sum(tf.stack(parts))


def _hash(part: tf.Tensor) -> tf.Tensor:
    if part.dtype == tf.string:
        return tf.reduce_sum(tf.strings.to_hash_bucket_fast(part, 1 << 62))
    return tf.bitcast(tf.fingerprint(tf.reshape(part, [1, -1])), tf.int64)[0]


def _num_batches(data: Any) -> int | None:
    """How many batches a data set has, where that is known."""
    cardinality = getattr(data, "cardinality", None)
    number = int(cardinality() if callable(cardinality) else -1 if cardinality is None else cardinality)
    return number if number >= 0 else None
