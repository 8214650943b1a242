"""Decisions that hold for all workers of a group.

    step, = broadcast(strategy, [step])     the chief decides, then every worker knows
    if all_agree(strategy, is_readable):    every worker, or none

They are collectives: all workers make the same calls in the same order. While training goes on there is one
of them at the end of each execution, the `Meeting`, whatever there is to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_codistill import distribution

_Item = tuple[int, Callable[[], Sequence[int]], Callable[[list[int]], None], bool]


class Meeting(keras.callbacks.Callback):
    """Where the workers of a group decide, once at the end of an execution; `fit` adds it first."""

    def __init__(self) -> None:
        """Has nothing to decide yet."""
        super().__init__()
        self._items: list[_Item] = []

    def join(
        self,
        size: int,
        propose: Callable[[], Sequence[int]],
        decide: Callable[[list[int]], None],
        in_validation: bool = False,
    ) -> None:
        """Puts something on the agenda, on all workers in the same order.

        Args:
            size: How many integers it takes.
            propose: Gives this worker's integers.
            decide: Called with their sums over all workers.
            in_validation: Whether that is also done at the end of each execution of a validation.
        """
        self._items.append((size, propose, decide, in_validation))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Decides."""
        del batch, logs
        self._meet(self._items)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Decides what is decided in a validation, too."""
        del batch, logs
        self._meet([item for item in self._items if item[3]])

    def _meet(self, items: Sequence[_Item]) -> None:
        proposals = [integer for _, propose, _, _ in items for integer in propose()]
        if not proposals:
            return
        sums = _sum_over_workers(self.model.distribute_strategy, proposals)
        for size, _, decide, _ in items:
            decide(sums[:size])
            sums = sums[size:]


def broadcast(strategy: tf.distribute.Strategy, integers: Sequence[int]) -> list[int]:
    """The chief's integers, on every worker. All workers must call it, with lists of one length."""
    mine = integers if distribution.is_chief(strategy) else [0] * len(integers)
    return _sum_over_workers(strategy, mine)


def all_agree(strategy: tf.distribute.Strategy, flag: bool) -> bool:
    """Whether the flag is true on every worker. All workers must call it; it is also a barrier."""
    return _sum_over_workers(strategy, [int(flag)]) == [distribution.num_workers(strategy)]


def any_worker(strategy: tf.distribute.Strategy, flag: bool) -> bool:
    """Whether the flag is true on at least one worker. All workers must call it."""
    return _sum_over_workers(strategy, [int(flag)]) > [0]


def _sum_over_workers(strategy: tf.distribute.Strategy, integers: Sequence[int]) -> list[int]:
    if distribution.num_workers(strategy) == 1:
        return [int(i) for i in integers]
    # Only the first replica of each worker carries the values, so that a worker counts once.
    replicas = distribution.num_local_replicas(strategy)
    rows = [
        np.asarray(integers, np.int64) if r == 0 else np.zeros(len(integers), np.int64)
        for r in range(replicas)
    ]
    values = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(rows[context.replica_id_in_sync_group % replicas])
    )
    total = strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)
    return [int(i) for i in total.numpy()]
