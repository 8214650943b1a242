"""Frozen models that hold the peers' snapshots.

    teachers = Teachers(model_fn, num_teachers=2)
    teachers.refresh(0, snapshot, carrying=True)      # weights of peer 0 at step 50
    logits_P = teachers.predict(features)             # one prediction for each teacher, no gradient
    teachers.present()                                # [1., 0.]: the second has no snapshot yet

Teachers are invisible to Keras: not among the student's layers, weights or files. A recurrent teacher reads
the same lanes as the student and carries its own hidden state over them. A model whose state has never been
reset may not work from a zero state, so a new teacher starts from the state of its peer's lanes, which
travels with the snapshot; when later snapshots of this peer replace the weights the state is kept, because it
belongs to the text that this group has read. A teacher that comes to stand for another peer is a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_codistill import recurrent_state, weights
from tf_codistill.peers import packed_model
from tf_codistill.peers import precision as precisions
from tf_codistill.peers.exchange import Snapshot
from tf_codistill.peers.topology import NO_PEER

NO_SNAPSHOT = -1

ModelFn = Callable[[], keras.Model]


class Teachers:
    """The teachers of one student, in the order of the groups that they stand for."""

    def __init__(
        self, model_fns: ModelFn | Sequence[ModelFn], num_teachers: int, precision: str = "float32"
    ) -> None:
        """Creates the models; call it in the scope of the group's strategy.

        Args:
            model_fns: Makes each teacher; one for each of them where peers train different architectures.
            num_teachers: How many, 0 or more.
            precision: How they hold their weights, one of `precision.PRECISIONS`.

        Raises:
            ValueError: `num_teachers` is negative, or there is no such precision.
        """
        if num_teachers < 0:
            raise ValueError(f"num_teachers is {num_teachers}; expected 0 or more")
        makers = [model_fns] * num_teachers if callable(model_fns) else model_fns
        self.models = [make() for make in makers]
        for model in self.models:
            model.trainable = False
        self._precision = precisions.check(precision)
        self.pack()
        self._steps = [
            keras.Variable(np.int64(NO_SNAPSHOT), dtype="int64", trainable=False, name=f"teacher_{i}_step")
            for i in range(num_teachers)
        ]
        self._peers = [NO_PEER] * num_teachers
        self._published_at = [0.0] * num_teachers
        self._carrying = [False] * num_teachers

    def pack(self) -> None:
        """Packs the weights of models that have been built since; call it in the scope of the strategy."""
        for model in self.models:
            packed_model.pack(model, self._precision)

    def num_bytes(self) -> int:
        """Memory that the weights of all teachers take up on each replica, in bytes."""
        return sum(packed_model.num_bytes(model) for model in self.models)

    def __len__(self) -> int:
        return len(self.models)

    def predict(self, features: Any) -> list[Any]:
        """Predictions of all teachers, [B, ...] each, cut off from gradients; recurrent states move on."""
        return [
            keras.tree.map_structure(tf.stop_gradient, model(features, training=False))
            for model in self.models
        ]

    def present(self) -> tf.Tensor:
        """1.0 for every teacher that holds a snapshot, else 0.0; float32 [P]."""
        return tf.cast(self._steps_P() > NO_SNAPSHOT, tf.float32)

    def staleness_steps(self, step: tf.Tensor) -> tf.Tensor:
        """`step` minus the step of the snapshot, averaged over the teachers that hold one; float32 scalar."""
        present_P = self.present()
        behind_P = tf.cast(tf.cast(step, tf.int64) - self._steps_P(), tf.float32)
        return tf.math.divide_no_nan(tf.reduce_sum(behind_P * present_P), tf.reduce_sum(present_P))

    def steps(self) -> list[int]:
        """The step of the snapshot that each teacher holds; `NO_SNAPSHOT` before the first."""
        return [int(step) for step in weights.values(self._steps)]

    def peers(self) -> list[int]:
        """The group whose snapshot each teacher holds; `NO_PEER` before the first."""
        return list(self._peers)

    def staleness_secs(self, now: float) -> float:
        """Age of the snapshots, averaged over the teachers that hold one.

        Args:
            now: Seconds since the epoch, by a clock that agrees with those of the peers.

        Returns:
            Seconds; 0 if no teacher holds a snapshot.
        """
        ages = [now - at for peer, at in zip(self._peers, self._published_at, strict=True) if peer != NO_PEER]
        return sum(ages) / len(ages) if ages else 0.0

    def refresh(self, index: int, snapshot: Snapshot, carrying: bool, worker: int = 0) -> None:
        """Replaces a teacher's weights.

        Args:
            index: Which teacher, from 0.
            snapshot: The snapshot that it shall hold.
            carrying: Whether the teacher has been reading the lanes, so that its recurrent state is worth
                keeping; otherwise it takes the snapshot's.
            worker: Which worker of its group this one is, and so which lanes of the snapshot are its own.

        Raises:
            ValueError: The snapshot does not fit the model.
        """
        model = self.models[index]
        states = recurrent_state.variables(model)
        packed_model.assign(model, snapshot.weights, self._precision)
        keeps = (
            carrying
            and self._carrying[index]
            and self._peers[index] == snapshot.group
            and recurrent_state.is_finite(states)
        )
        if states and snapshot.states and not keeps:
            recurrent_state.assign(states, snapshot.states, worker)
        self._carrying[index] = carrying
        self._peers[index] = snapshot.group
        self._published_at[index] = snapshot.published_at
        weights.assign(self._steps[index : index + 1], [np.array(snapshot.step)])

    def arrays(self) -> list[np.ndarray]:
        """All that is shared by the group's workers.

        Returns:
            For each teacher the step of its snapshot, for each the peer, for each when it was published, then
            the weights of each as it holds them.
        """
        origins = [np.array(one) for one in (*self._peers, *self._published_at)]
        return [*weights.values(self._steps), *origins, *weights.values(self._weights())]

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        """Takes back what `arrays` returned; recurrent states are restored by the worker that owns them."""
        number = len(self)
        steps, peers, published_at = (arrays[i * number : (i + 1) * number] for i in range(3))
        weights.assign([*self._steps, *self._weights()], [*steps, *arrays[3 * number :]])
        self._peers = [int(peer) for peer in peers]
        self._published_at = [float(at) for at in published_at]
        self._carrying = [step != NO_SNAPSHOT for step in self.steps()]

    def recurrent_states(self) -> list[keras.Variable]:
        """The state variables of all teachers, in order."""
        return [state for model in self.models for state in recurrent_state.variables(model)]

    def _weights(self) -> list[keras.Variable]:
        return [weight for model in self.models for weight in packed_model.stored(model)]

    def _steps_P(self) -> tf.Tensor:  # noqa: N802 - P is a shape letter
        if not self._steps:
            return tf.zeros([0], tf.int64)
        return tf.stack([tf.convert_to_tensor(step.value) for step in self._steps])
