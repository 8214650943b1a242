"""Reading over data of steps that were done before training was stopped.

epoch 0, 1, 2                       epoch 3: 40 batches done          goes on with batch 40 of epoch 3
| read, or iterated over, at once   | read one execution at a time,   |
| before the first step             | while the callbacks look on     |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import logging

from tf_codistill import keras_private
from tf_codistill.training.progress import fingerprint

Check = Callable[[Any], None]

_SHORTER = (
    "the data end {} batches before the one with which training goes on; resume with the data with which it "
    "began"
)


class PassOver:
    """What takes the place of training steps that were done before.

    Attributes:
        batches: Batches of the epoch that are still to be passed over.
    """

    def __init__(self, before: int, batches: int, check: Check, begin: Callable[[], Any]) -> None:
        """Takes note of the arguments.

        Args:
            before: Batches to be read before those of the epoch.
            batches: Batches of the epoch that were learned from.
            check: Called with the first batch that is read.
            begin: Gives the metrics of the epoch the values that they had, and returns them as logs.
        """
        self.batches = batches
        self._before, self._check, self._begin = before, check, begin
        self._logs: Any = None

    def __call__(self, iterator: Any, steps_per_execution: int) -> Any:
        """Reads what an execution would, if that was done before.

        Args:
            iterator: The data.
            steps_per_execution: Batches in an execution.

        Returns:
            The logs of the epoch; None if the next batch is for learning.
        """
        self._read(iterator, self._before)
        self._before = 0
        if not self.batches:
            return None
        self._logs = self._logs or self._begin()
        number = min(self.batches, steps_per_execution)
        self._read(iterator, number)
        self.batches -= number
        return self._logs

    def check_end(self) -> None:
        """Called when the epoch ends.

        Raises:
            ValueError: There were fewer batches in it than before.
        """
        if self.batches:
            raise ValueError(_SHORTER.format(self.batches))

    def _read(self, iterator: Any, number: int) -> None:
        for done in range(number):
            try:
                batch = next(iterator)
            except (StopIteration, tf.errors.OutOfRangeError) as error:
                raise ValueError(_SHORTER.format(number - done)) from error
            self._check(batch)
            self._check = _ignore


def check_against(expected: int) -> Check:
    """Warns if the first batch is another one than it was.

    Args:
        expected: What `fingerprint` said of it when training began; 0 if that is not known.

    Returns:
        What is called with the first batch.
    """

    def check(batch: Any) -> None:
        if expected and int(fingerprint(batch)) != expected:
            logging.warning(
                "the data do not repeat: the first batch is another one than when training began, so that "
                "it goes on with other data than it would have; shuffle and map with a seed, or pass "
                "shuffle=False with arrays"
            )

    return check


def to_epoch(feed: Any, epochs: int, check: Check) -> tuple[int, Check]:
    """Brings data to where an epoch begins, as far as that can be done before it is iterated over.

    A shuffle that differs from pass to pass takes its seed when an iterator is made, so as many are made here
    as Keras has made: where it knows the number of batches, two for each epoch, one of which it never reads.

    Args:
        feed: Keras's iterator over epochs of the data.
        epochs: Epochs that are over.
        check: Called with the very first batch, if it comes up here.

    Returns:
        Batches to be read before those of the epoch; and what is to be called with the first of them.
    """
    data, number, at_once = (
        keras_private.dataset(feed),
        feed.data_adapter.num_batches,
        feed.steps_per_execution,
    )
    iterators, read = epochs if number is None else 2 * epochs, 0
    if feed.steps_per_epoch is not None:
        iterators = 0
        for _ in range(epochs):
            read += math.ceil(feed.steps_per_epoch / at_once) * at_once
            if number is not None and read >= number:
                iterators, read = iterators + 1, 0
    for index in range(iterators):
        iterator = iter(data)
        if index == 0:
            check(next(iterator))
    return read, _ignore if iterators else check


def _ignore(batch: Any) -> None:
    """Is called with batches that need no check."""
