"""Decisions that hold for all workers of a group.

    step, = broadcast(strategy, [step])     the chief decides, then every worker knows
    sums = total(strategy, [is_ready])      how many workers are
    meeting.join(size, propose, decide)     once an execution of `fit`, for all that has to be decided

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


def broadcast(strategy: tf.distribute.Strategy, integers: Sequence[int]) -> list[int]:
    """The chief's integers, on every worker. All workers must call it, with lists of one length."""
    mine = integers if distribution.is_chief(strategy) else [0] * len(integers)
    return total(strategy, mine)


def total(strategy: tf.distribute.Strategy, integers: Sequence[int]) -> list[int]:
    """The sums of all workers' integers, on every worker. All must call it, with lists of one length."""
    if distribution.num_workers(strategy) == 1 or not integers:
        return [int(i) for i in integers]
    # Only the first replica of each worker carries the values, so that a worker counts once.
    replicas = distribution.num_local_replicas(strategy)
    own, nothing = np.asarray(integers, np.int64), np.zeros(len(integers), np.int64)
    values = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(nothing if context.replica_id_in_sync_group % replicas else own)
    )
    sums = strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)
    return [int(i) for i in sums.numpy()]


class Meeting(keras.callbacks.Callback):
    """Where the workers of a group decide, at the end of each execution of `fit`, by one collective.

        self.model.meeting.join(2, propose, decide)      in a callback's `on_train_begin`, on every worker

    `propose` returns so many integers, `decide` gets their sums over all workers.
    """

    def __init__(self) -> None:
        """Begins with nobody."""
        super().__init__()
        self._members: list[tuple[int, Callable[[], Sequence[int]], Callable[[list[int]], None], bool]] = []

    def join(
        self,
        size: int,
        propose: Callable[[], Sequence[int]],
        decide: Callable[[list[int]], None],
        in_validation: bool = False,
    ) -> None:
        """Takes part from now on; all workers join in the same order.

        Args:
            size: How many integers are proposed, always.
            propose: Returns them.
            decide: Called with their sums, after all have proposed.
            in_validation: Whether to meet at the end of test batches as well.
        """
        self._members.append((size, propose, decide, in_validation))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """All meet."""
        self._meet(only_in_validation=False)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Those meet who joined for it."""
        self._meet(only_in_validation=True)

    def _meet(self, only_in_validation: bool) -> None:
        members = [one for one in self._members if one[3] or not only_in_validation]
        if not members:
            return
        proposals = [list(propose()) for _, propose, _, _ in members]
        for (size, *_), proposal in zip(members, proposals, strict=True):
            if len(proposal) != size:
                raise ValueError(f"{len(proposal)} integers are proposed; expected {size}, as given to join")
        sums = iter(total(self.model.distribute_strategy, [i for one in proposals for i in one]))
        for size, _, decide, _ in members:
            decide([next(sums) for _ in range(size)])
