"""How far the training of a model has come, in numbers that a checkpoint keeps.

BatchesSeen         variables: every batch counts, also one whose step loss scaling has skipped
TrainingProgress    fit 0 ... fit 1, epoch 3, 40 batches of it    a script may call `fit` more than once
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tf_codistill import weights
from tf_codistill.redealing import Redealing

NONE = -1


class Position(NamedTuple):
    """A point of training.

    Attributes:
        fit: Which call of `fit`, from 0, of those with `Checkpointing`.
        epoch: Epochs that have ended, validation included.
        batch: Batches of the next epoch that have been learned from.
    """

    fit: int = 0
    epoch: int = 0
    batch: int = 0


class Found(NamedTuple):
    """What was in a directory of checkpoints when this process first looked.

    Attributes:
        step: Step of the newest complete checkpoint; `NONE` if there was none.
        start: Number that the workers of this start share.
        manifest: Its manifest.
    """

    step: int
    start: int
    manifest: dict[str, Any]


@dataclasses.dataclass
class TrainingProgress:
    """What callbacks of one `fit` after another know of the training of a model.

    Attributes:
        position: Where it is.
        fit: Which call of `fit` it is in.
        found: What was found in each directory.
        restored: Metrics of the epoch of a checkpoint that has just been restored.
        saved_step: Step of the newest checkpoint of this model; `NONE` before the first.
        best: The best of the values that are monitored, less being better.
    """

    position: Position = Position()
    fit: int = NONE
    found: dict[str, Found] = dataclasses.field(default_factory=dict)
    restored: list[np.ndarray] | None = None
    saved_step: int = NONE
    best: float = np.inf


class BatchesSeen:
    """Counts the batches that were learned from; invisible to Keras, which counts weights.

    Attributes:
        number: How many.
        first: What tells the first of a `fit` apart, 0 before it; of that of the group it is this worker's
            part, all of which add up.
    """

    def __init__(self) -> None:
        """Has seen none; call it in the scope of the strategy."""
        self.number, self.first = (
            keras.Variable(np.int64(0), dtype="int64", trainable=False, name=name)
            for name in ("batches_seen", "first_batch")
        )

    def note(self, data: Any) -> None:
        """Counts a batch; called once for all replicas of this worker, with what all of them get."""
        copies = zip(weights.local_copies(self.number), weights.local_copies(self.first), strict=True)
        for number, first in copies:
            first.assign(tf.cond(first == 0, lambda: fingerprint(data), lambda first=first: first))
            number.assign_add(1)

    def begin(self) -> None:
        """Forgets the first batch."""
        weights.assign([self.first], [np.array(0)])

    @staticmethod
    def redealt(parts: Sequence[np.ndarray], redealing: Redealing) -> np.ndarray:
        """What `first` is to be on the replicas of a worker, from what it was on those of old workers.

        Args:
            parts: For each old worker an array [its replicas].
            redealing: From which workers to which.

        Returns:
            An array [replicas]: parts of which none is 0 and whose sum over all workers is what it was.
        """
        total = np.sum([part[:1] for part in parts], axis=0)  # it wraps around
        part = total - (redealing.now.num_workers - 1) if redealing.worker == 0 else np.ones_like(total)
        return np.repeat(part if total.any() else total, redealing.now.num_replicas)


def fingerprint(batch: Any) -> tf.Tensor:
    """A number that tells batches apart, int64; of what this worker's replicas get.

    It is a sum over rows, so that the sum over workers is the same whoever of them reads which.
    """
    parts = [part for part in tf.nest.flatten(batch, expand_composites=True) if part is not None]
    return tf.reduce_sum(tf.stack([_hash(tf.convert_to_tensor(part)) for part in parts]))


def _hash(part: tf.Tensor) -> tf.Tensor:
    if part.dtype == tf.string:
        return tf.reduce_sum(tf.strings.to_hash_bucket_fast(part, 1 << 62))
    shape = tf.concat([tf.shape(part), [1]], axis=0)
    rows = tf.reshape(part, [shape[0], tf.reduce_prod(shape[1:])])
    return tf.reduce_sum(tf.bitcast(tf.fingerprint(rows), tf.int64))
