"""Codistillation that leaves an audit trail, and that lets faults happen to it when it is ordered to.

    Experiment.teaching = @AuditedExchange
    AuditedExchange.trail_dir = 'runs/torture/tortured/trail'

    each step       what it has learned from: a hash of the keys of its batch           -> a line of the trail
                    chain = hash(chain, hash of keys)         kept in the checkpoint, with the weights
    each snapshot   a digest of the weights that are handed over to be published        -> a line
    each swap       a digest of what the teacher holds now, and of what it has held     -> a line
    <trail>/group_0/order_000007_nan                          let it happen with the next step

The chain is the proof of whose sum the weights are: it is updated in the graph of the training step, and
saved and restored with the weights, so that a batch that was left out, or learned twice, shows in the last
checkpoint whatever the trail says.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import gin
import keras
import numpy as np
import tensorflow as tf

from tf_codistill import injection, weights
from tf_codistill.batches import Batch
from tf_codistill.exchange.snapshot import Snapshot
from tf_codistill.exchange.store import Store
from tf_codistill.teaching.base import Arrays, ModelFn, Place
from tf_codistill.teaching.snapshots import PeerExchange
from tf_codistill.torturing import trail


@gin.configurable(module="tf_codistill")
class AuditedExchange(PeerExchange):
    """`PeerExchange` of groups of one worker, with an audit trail."""

    def __init__(self, trail_dir: str, every_steps: int = 50) -> None:
        """Takes note of the arguments; touches no file.

        Args:
            trail_dir: Directory of the trail, on this machine.
            every_steps: Steps between two exchanges.
        """
        super().__init__(every_steps=every_steps)
        self.trail_dir, self.place = trail_dir, Place("", 0, 1, lambda group: lambda: None)
        self._trail = trail.Trail(trail_dir, 0)
        self._digests: dict[int, str] = {}

    def join(self, place: Place) -> None:
        """Takes note of the group."""
        super().join(place)
        self.place, self._trail = place, trail.Trail(self.trail_dir, place.group)

    def make(self, students: Sequence[keras.Model], model_fns: Sequence[ModelFn]) -> None:
        """Makes the variables of the chain."""
        super().make(students, model_fns)
        self.chain, self.keys = (
            keras.Variable(np.int64(0), dtype="int64", trainable=False, name=name)
            for name in ("chain", "keys")
        )

    def deal(self, batch: Batch) -> list[Batch]:
        """Adds the batch to the chain."""
        keys = hashed(batch.keys)
        self.keys.assign(keys)
        self.chain.assign(link(self.chain.value, keys))
        return super().deal(batch)

    def state(self) -> tuple[Arrays, Arrays]:
        """The chain goes with the weights."""
        shared, own = super().state()
        return [*shared, *weights.values([self.chain])], own

    def restore(self, shared: Arrays, own: Arrays) -> None:
        """So it comes back with them."""
        super().restore(shared[:-1], own)
        weights.assign([self.chain], shared[-1:])

    def store(self) -> Store:
        """The exchange, which notes what is handed over to be published."""
        store = super().store()
        publish = store.publish

        def noted(step: int, model: weights.Description, arrays: Arrays, states: Arrays) -> int:
            self._trail.note("publish", step, incarnation=store.incarnation, digest=digest(arrays))
            return publish(step, model, arrays, states)

        store.publish = noted  # type: ignore[method-assign,assignment]
        return store

    def refresh(self, index: int, snapshot: Snapshot, worker: int = 0) -> None:
        """Notes what a teacher held, and what it holds from now on."""
        variables = self.frozen[index].weights
        before, known = digest(weights.values(variables)), self._digests.get(index)
        super().refresh(index, snapshot, worker)
        self._digests[index] = now = digest(weights.values(variables))
        self._trail.note(
            "swap",
            snapshot.step,
            peer=snapshot.ref.peer,
            incarnation=snapshot.ref.incarnation,
            serial=snapshot.ref.serial,
            digest=now,
            has_changed=known not in (None, before),
        )

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """What writes the trail and obeys orders."""
        return [*super().callbacks(), Auditing(self, self._trail)]


class Auditing(keras.callbacks.Callback):
    """Writes a line for each step, and obeys orders."""

    def __init__(self, audited: AuditedExchange, written: trail.Trail) -> None:
        """Takes note of whose steps they are."""
        super().__init__()
        place = audited.place
        self._audited, self._trail, self._step = audited, written, 0
        self._directory = trail.group_dir(audited.trail_dir, place.group)
        self._faults = injection.Injection([], place.group, 0, "", place.exchange_dir)

    def on_train_begin(self, logs: Any = None) -> None:
        """Begins with the step that was restored."""
        self._faults.set_model(self.model)
        self._step = self.model.step()
        self._trail.begin(self._step)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Notes the step, if it is no batch that was learned from before and is only read over."""
        step = self.model.step()
        if step > self._step:
            self._step = step
            (keys,) = weights.values([self._audited.keys])
            self._trail.note("step", step, keys=int(keys))
            self._faults.on_train_batch_end(batch, logs)
            self._obey(step)

    def _obey(self, step: int) -> None:
        orders = sorted(name for name in os.listdir(self._directory) if name.startswith(trail.ORDER))
        for order in orders[:1]:
            kind = order.removeprefix(trail.ORDER).partition("_")[2]
            os.remove(os.path.join(self._directory, order))
            self._trail.note("fault", step, fault=kind)
            injection.KINDS[kind](self._faults)


def link(chain: Any, keys: Any) -> tf.Tensor:
    """The chain with one batch more.

    Args:
        chain: The chain before, int64.
        keys: The hash of the keys of the batch, int64.

    Returns:
        An int64 scalar.
    """
    return hashed(tf.stack([tf.cast(chain, tf.int64), tf.cast(keys, tf.int64)]))


def hashed(array: Any) -> tf.Tensor:
    """A number that tells arrays apart, also those of the same rows in another order; an int64 scalar."""
    return tf.bitcast(tf.fingerprint(tf.reshape(array, [1, -1])), tf.int64)[0]


def digest(arrays: Sequence[np.ndarray]) -> str:
    """SHA-256 of arrays, one after the other."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
