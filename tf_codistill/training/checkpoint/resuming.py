"""What `fit` does so that it goes on where a checkpoint has it.

with resuming(model, callbacks, arguments) as callbacks:
    which epoch               from the manifest of the newest complete checkpoint
    ... Keras builds ...      then the checkpoint is restored, and data brought to where the epoch begins
    ... the first epoch ...   begins with reading over the batches that were done:

epoch 0, 1, 2                       epoch 3: 40 batches done          goes on with batch 40 of epoch 3
| read, or iterated over, at once   | read one execution at a time,   |
| before the first step             | while the callbacks look on     |
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from tf_codistill import keras_private, weights
from tf_codistill.groups import decisions
from tf_codistill.training.checkpoint import state
from tf_codistill.training.checkpoint.checkpointing import Checkpointing
from tf_codistill.training.checkpoint.progress import Position, fingerprint

_SHORTER = (
    "the data end {} batches before the one with which training goes on; resume with the data with which it "
    "began"
)


@contextlib.contextmanager
def resuming(model: Any, callbacks: Sequence[Any], arguments: dict[str, Any]) -> Iterator[list[Any] | None]:
    """Lets `fit` go on from the newest complete checkpoint, if `Checkpointing` is among its callbacks.

    Args:
        model: The `CodistillationModel`.
        callbacks: Those given to `fit`.
        arguments: All that was given to `fit` by name; the epoch to begin with is changed.

    Yields:
        The callbacks, `Checkpointing` as the last, so that it sees what the others have done; None if there
        is nothing to do, because training was in a later call of `fit` already.

    Raises:
        ValueError: There is more than one `Checkpointing`.
    """
    found = [callback for callback in callbacks if isinstance(callback, Checkpointing)]
    if not found:
        yield list(callbacks)
        return
    if len(found) > 1:
        raise ValueError(f"fit got {len(found)} Checkpointing; expected one")
    (checkpointing,) = found
    others, waits = [callback for callback in callbacks if callback is not checkpointing], True
    try:
        yield [*others, checkpointing] if _begin(model, checkpointing, arguments) else None
    except KeyboardInterrupt:
        waits = False  # It has waited, or this was a second signal.
        raise
    finally:
        model.pass_over = model.when_built = None
        checkpointing.close(waits)


def _begin(model: Any, checkpointing: Checkpointing, arguments: dict[str, Any]) -> bool:
    progress = model.progress
    progress.fit += 1
    first = Position(progress.fit, arguments.get("initial_epoch", 0))
    found = checkpointing.find(model)
    if found is not None and found.fit > progress.fit:
        logging.info("call number %d of fit was over, and is passed over", progress.fit + 1)
        return False
    if arguments.get("shuffle", True) and any(
        hasattr(leaf, "__array__") for leaf in keras.tree.flatten(arguments.get("x"))
    ):
        logging.warning(
            "arrays are shuffled in an order that cannot be restored, so that a resumed run learns from "
            "other batches; give fit shuffle=False, or a tf.data.Dataset that is shuffled with a seed"
        )
    if found is not None and found.fit == progress.fit:
        arguments["initial_epoch"] = max(found.epoch, first.epoch)
        _align(model, found.batch)
        model.when_built = functools.partial(_continue_from, model, checkpointing, first, found)
    else:
        progress.position = first
        model.batches_seen.begin()
    return True


def _align(model: Any, batch: int) -> None:
    """Lets no execution begin before the batch with which training goes on and end behind it."""
    at_once = model.steps_per_execution
    model.steps_per_execution = math.gcd(at_once, batch)
    if model.steps_per_execution < at_once:
        logging.warning(
            "training goes on with batch %d of an epoch, which is no multiple of the %d steps_per_execution: "
            "until it is started again they are %d",
            batch,
            at_once,
            model.steps_per_execution,
        )


def _continue_from(
    model: Any, checkpointing: Checkpointing, first: Position, found: Position, feed: Any
) -> None:
    """Restores the model when it has been built, and brings data to where training goes on."""
    progress = model.progress
    if progress.restored is None:
        checkpointing.restore(model)
    metrics, progress.restored = progress.restored, None
    if found <= first:
        return
    # Data that begins with a later epoch begins with another batch than training did.
    (first_batch,) = weights.values([model.batches_seen.first]) if first.epoch == 0 else [0]

    def restored_logs() -> Any:
        state.assign_metrics(model, metrics)
        return model.read_metrics()

    epochs = found.epoch - first.epoch
    strategy = model.distribute_strategy
    model.pass_over = PassOver(feed, epochs, found.batch, int(first_batch), restored_logs, strategy)


class PassOver:
    """What takes the place of training steps that were done before.

    Attributes:
        batches: Batches of the epoch that are still to be passed over.
    """

    def __init__(
        self,
        feed: Any,
        epochs: int,
        batches: int,
        first_batch: int,
        begin: Callable[[], Any],
        strategy: tf.distribute.Strategy,
    ) -> None:
        """Brings data to where an epoch begins, as far as that can be done before it is iterated over.

        Args:
            feed: Keras's iterator over epochs of the data.
            epochs: Epochs that are over.
            batches: Batches of the epoch that were learned from.
            first_batch: This worker's part of what `fingerprint` returned for the first batch of all when
                training began; 0 if that is not known.
            begin: Gives the metrics of the epoch the values that they had, and returns them as logs.
            strategy: That of the group.
        """
        self.batches = batches
        self._first_batch, self._begin, self._strategy = first_batch, begin, strategy
        self._logs: Any = None
        self._before = self._to_epoch(feed, epochs)

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

    def _to_epoch(self, feed: Any, epochs: int) -> int:
        """Makes iterators that Keras has made; returns how many batches are still to be read."""
        # A shuffle that differs from pass to pass takes its seed when an iterator is made. Where Keras knows
        # the number of batches, it makes two for each epoch, one of which it never reads.
        data, number = keras_private.dataset(feed), feed.data_adapter.num_batches
        iterators, read = epochs if number is None else 2 * epochs, 0
        if feed.steps_per_epoch is not None:
            iterators, at_once = 0, feed.steps_per_execution
            for _ in range(epochs):
                read += math.ceil(feed.steps_per_epoch / at_once) * at_once
                if number is not None and read >= number:
                    iterators, read = iterators + 1, 0
        for index in range(iterators):
            iterator = iter(data)
            if index == 0:
                self._check(next(iterator))
        return read

    def _read(self, iterator: Any, number: int) -> None:
        for done in range(number):
            try:
                batch = next(iterator)
            except (StopIteration, tf.errors.OutOfRangeError) as error:
                raise ValueError(_SHORTER.format(number - done)) from error
            self._check(batch)

    def _check(self, batch: Any) -> None:
        """Warns if the first batch is another one than it was; the others need no check."""
        expected, self._first_batch = self._first_batch, 0
        if not expected:
            return
        found, began_with = decisions.total(self._strategy, [int(fingerprint(batch)), expected])
        if found != began_with:
            logging.warning(
                "the data do not repeat: the first batch is another one than when training began, so that "
                "it goes on with other data than it would have; shuffle and map with a seed, pass "
                "shuffle=False with arrays, and keep the batch size of the whole group"
            )
