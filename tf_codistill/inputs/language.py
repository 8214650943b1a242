"""Batches of a language model: lanes of text, each a pure function of the step.

The documents of a group's partition, shuffled anew for each epoch, make one virtual row of N tokens. Each of
L lanes reads a segment of M of them, T tokens at a time, the recurrent state carried along (section 3.1):

    virtual row  d3 d3 d3 d3 d3 d0 d0 d0 d2 d2 d2 d2 d2 d1 d1 d1 d1 d1     N = 18, L = 4, T = 2
    lane 0      [s0 s0|s1 s1]                                              M = T * floor(N / (L * T)) = 4
    lane 1                  [s0 s0|s1 s1]
    lane 2                              [s0 s0|s1 s1]
    lane 3                                          [s0 s0|s1 s1]          the last 2 tokens are left out

The targets of step 1 are the tokens above s1, its inputs the tokens one before each of them (END_OF_DOCUMENT
before the first token of all). So in an epoch no token is a target twice and fewer than L * T are left out;
then the next epoch begins in another order. Nothing is remembered from step to step: to resume at a step is
to request it. To a model without a state each row is a window of its own.

Where shards are not local, the blocks that the lanes will come to are read in the background meanwhile.

    stream = LaneStream(corpus.split("train"), seed=1, num_lanes=64)
    inputs_BT, targets_BT = stream.batch(step=1370)
    model.fit(dataset(stream, first_step=1370), ...)
"""

from __future__ import annotations

import functools
from typing import Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tf_codistill import tokens
from tf_codistill.batches import Keyed
from tf_codistill.inputs import partition

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

_PREFETCHED_BATCHES = 8
_TOKENS_AHEAD = 4096  # of each lane: a few documents, each likely in a block of its own


class LaneBatches(Protocol):
    """Batches by step: `LaneStream` or `mixture.MixedLanes`.

    Attributes:
        num_lanes: Rows of the batch of the whole group.
        window_tokens: Tokens of each lane in one batch.
        steps_per_epoch: Steps until something that is read is exhausted.
    """

    num_lanes: int
    window_tokens: int
    steps_per_epoch: int

    def batch(self, step: int, lanes: range | slice | None = None) -> tuple[Int32Array, Int32Array]:
        """Inputs and targets of a step, each int32 ``[B, T]`` with a row for each requested lane."""

    def keys(self, step: int, lanes: range) -> Int64Array:
        """Id and visit of each row of a step, int64 ``[B, 2]``."""


class LaneStream:
    """The batches of one group, by step.

    Args:
        split: The tokens to read.
        seed: At least 0; with `group` and the epoch it fixes the order of the documents.
        group: Index of the group, from 0.
        num_groups: Number of groups that train together.
        data: One of `partition.SWITCHES`.
        num_lanes: Rows of the batch of the whole group, all workers and replicas together.
        window_tokens: Tokens of each lane in one batch.
        shuffle: Whether each epoch shuffles the documents; otherwise they come as stored (validation).

    Attributes:
        num_lanes: As given.
        window_tokens: As given.
        steps_per_epoch: Steps until the partition is exhausted.

    Raises:
        ValueError: A number is out of range, or the partition is too small for the lanes.
    """

    def __init__(
        self,
        split: tokens.Split,
        *,
        seed: int,
        group: int = 0,
        num_groups: int = 1,
        data: str = "same",
        num_lanes: int,
        window_tokens: int = 32,
        shuffle: bool = True,
    ) -> None:
        for name, value, least in (
            ("seed", seed, 0),
            ("num_lanes", num_lanes, 1),
            ("window_tokens", window_tokens, 1),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}; expected at least {least}")
        self.num_lanes = num_lanes
        self.window_tokens = window_tokens
        self._split = split
        self._order_seed = partition.order_seed(seed, group, data)
        self._shuffle = shuffle
        self._partition = partition.documents_of(split.num_documents, group, num_groups, data)
        num_tokens = int(np.diff(split.starts)[self._partition].sum())
        self.steps_per_epoch = num_tokens // (num_lanes * window_tokens)
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"num_lanes is {num_lanes} with window_tokens={window_tokens}, but the partition of group "
                f"{group} of split {split.name!r} has {num_tokens} tokens; use at most "
                f"{num_tokens // window_tokens} lanes or a larger corpus"
            )
        # Replicas at both sides of an epoch's end read two epochs in turn, and reading ahead a third.
        self._epoch = functools.lru_cache(maxsize=3)(self._lay_out)
        self._read_ahead: dict[range, int] = {}  # the first step that has not been, for each row of lanes

    def batch(self, step: int, lanes: range | slice | None = None) -> tuple[Int32Array, Int32Array]:
        """The batch of a step.

        Args:
            step: Step of training, from 0, through all epochs.
            lanes: Which lanes; all of them by default.

        Returns:
            Inputs and targets, each int32 ``[B, T]`` with a row for each requested lane.

        Raises:
            ValueError: The step is negative, or a lane is out of range.
        """
        if step < 0:
            raise ValueError(f"step is {step}; expected at least 0")
        if not isinstance(lanes, range):
            lanes = range(self.num_lanes)[lanes or slice(None)]
        if len(lanes) and (min(lanes) < 0 or max(lanes) >= self.num_lanes):
            raise ValueError(f"lanes are {lanes}; expected lanes 0 to {self.num_lanes - 1}")
        virtual, stored = self._positions(int(step), lanes)
        if self._split.reads_ahead:
            self._prefetch(int(step), lanes)
        ids = self._split.gather(stored)
        ids[virtual < 0] = tokens.END_OF_DOCUMENT
        return ids[:, :-1], ids[:, 1:]

    def keys(self, step: int, lanes: range) -> Int64Array:
        """What names the rows of a step, whoever reads them in whatever order.

        Args:
            step: Step of training, from 0, through all epochs.
            lanes: Which lanes.

        Returns:
            Where in the split the first target of each row is stored, and the epoch; int64 ``[B, 2]``.
        """
        _, stored = self._positions(step, lanes)
        return np.stack([stored[:, 1], np.full(len(stored), step // self.steps_per_epoch)], axis=1)

    def _positions(self, step: int, lanes: range) -> tuple[Int64Array, Int64Array]:
        """Where the tokens of a step are, in the virtual row and in the split; ``[B, T + 1]`` each."""
        epoch, window = divmod(step, self.steps_per_epoch)
        ends, shifts = self._epoch(epoch)
        first_B = (np.array(lanes, np.int64) * self.steps_per_epoch + window) * self.window_tokens
        virtual = first_B[:, None] + np.arange(-1, self.window_tokens)
        stored = virtual + shifts[np.searchsorted(ends, virtual, side="right")]
        return virtual, np.maximum(stored, 0)

    def _prefetch(self, step: int, lanes: range) -> None:
        """Begins to read what these lanes will come to, a step at a time once it is ahead."""
        ahead = max(1, _TOKENS_AHEAD // self.window_tokens)
        end = min(step + ahead, (step // self.steps_per_epoch + 2) * self.steps_per_epoch - 1) + 1
        done = self._read_ahead.get(lanes, 0)
        for later in range(done if step < done <= end else step, end):
            self._split.prefetch(self._positions(later, lanes)[1])
        self._read_ahead[lanes] = end

    def _lay_out(self, epoch: int) -> tuple[Int64Array, Int64Array]:
        """Virtual end of each document of the epoch, and its stored minus its virtual position."""
        order = self._partition
        if self._shuffle:
            # NumPy promises the same raw bits in every version, but not the same permutation.
            source = np.random.PCG64(np.random.SeedSequence((*self._order_seed, epoch)))
            order = order[np.argsort(source.random_raw(len(order)), kind="stable")]
        lengths = np.diff(self._split.starts)[order]
        ends = np.cumsum(lengths)
        return ends, self._split.starts[order] - (ends - lengths)


def dataset(
    stream: LaneBatches,
    *,
    first_step: int = 0,
    num_steps: int | None = None,
    worker: int = 0,
    num_workers: int = 1,
    num_replicas: int = 1,
    keyed: bool = False,
) -> tf.data.Dataset:
    """The batches of one worker as a `tf.data.Dataset`.

    The worker's replicas take the elements in turn: element i is for step ``first_step + i // num_replicas``
    and replica ``i % num_replicas``, which always gets the same lanes. Workers and their replicas hold the
    lanes in order, so that together they see the rows that a single worker with the whole batch sees.

    Args:
        stream: The group's batches.
        first_step: Step of the first element.
        num_steps: Steps after which the dataset ends; without end by default.
        worker: Index of the worker in its group, from 0.
        num_workers: Number of workers of the group.
        num_replicas: Replicas of each worker.
        keyed: Whether elements are `Keyed`, with what names each row.

    Returns:
        Inputs and targets, each int32 ``[num_lanes / (num_workers * num_replicas), T]``.

    Raises:
        ValueError: A number is out of range, or the lanes do not divide evenly.
    """
    lanes_per_replica = _lanes_per_replica(stream.num_lanes, worker, num_workers, num_replicas)
    if first_step < 0 or (num_steps is not None and num_steps < 0):
        raise ValueError(f"first_step is {first_step}, num_steps is {num_steps}; expected at least 0")

    def read(index: np.int64) -> tuple[Int32Array, Int32Array, Int64Array]:
        step, replica = divmod(int(index), num_replicas)
        first_lane = (worker * num_replicas + replica) * lanes_per_replica
        lanes = range(first_lane, first_lane + lanes_per_replica)
        return (*stream.batch(step, lanes), stream.keys(step, lanes))

    def element(index: tf.Tensor) -> Keyed | tuple[tf.Tensor, tf.Tensor]:
        *batch, keys = tf.numpy_function(read, [index], (tf.int32, tf.int32, tf.int64), stateful=False)
        shape = (lanes_per_replica, stream.window_tokens)
        data = (tf.ensure_shape(batch[0], shape), tf.ensure_shape(batch[1], shape))
        return Keyed(data, tf.ensure_shape(keys, (lanes_per_replica, 2))) if keyed else data

    indices = tf.data.Dataset.counter(first_step * num_replicas)
    if num_steps is not None:
        indices = indices.take(num_steps * num_replicas)
    # Nothing is left to tune, and an iterator that goes waits for its tuning thread, up to half a minute.
    options = tf.data.Options()
    options.autotune.enabled = False
    return indices.map(element).prefetch(_PREFETCHED_BATCHES).with_options(options)


def _lanes_per_replica(num_lanes: int, worker: int, num_workers: int, num_replicas: int) -> int:
    if num_replicas < 1 or not 0 <= worker < num_workers:
        raise ValueError(
            f"worker is {worker} of num_workers={num_workers} with num_replicas={num_replicas}; expected "
            "0 <= worker < num_workers and at least one replica"
        )
    lanes_per_replica, rest = divmod(num_lanes, num_workers * num_replicas)
    if rest:
        raise ValueError(
            f"num_lanes is {num_lanes}; expected a multiple of num_workers * num_replicas = "
            f"{num_workers} * {num_replicas}"
        )
    return lanes_per_replica
