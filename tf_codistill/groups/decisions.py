"""Decisions that hold for all workers of a group.

    step, = broadcast(strategy, [step])     the chief decides, then every worker knows
    if all_agree(strategy, is_readable):    every worker, or none

They are collectives: all workers make the same calls in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_codistill import distribution


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
