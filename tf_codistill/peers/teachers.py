"""Frozen models that hold the peers' snapshots.

    teachers = Teachers(model_fn, num_teachers=2)
    teachers.refresh(0, snapshot, carrying=True)      # weights of peer 0 at step 50
    logits_P = teachers.predict(features)             # one prediction for each teacher, no gradient
    teachers.present()                                # [1., 0.]: the second has no snapshot yet

Teachers are invisible to Keras: not among the student's layers, weights or files. A recurrent teacher reads
the same lanes as the student and carries its own hidden state over them. A model whose state has never been
reset may not work from a zero state, so a new teacher starts from the state of its peer's lanes, which
travels with the snapshot; when later snapshots replace the weights the state is kept, because it belongs to
the text that this group has read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_codistill import recurrent_state, weights
from tf_codistill.peers.exchange import Snapshot

NO_SNAPSHOT = -1


class Teachers:
    """The teachers of one student, in the order of the groups that they stand for."""

    def __init__(self, model_fn: Callable[[], keras.Model], num_teachers: int) -> None:
        """Creates the models; call it in the scope of the group's strategy.

        Args:
            model_fn: Makes a model like the student.
            num_teachers: How many, 0 or more.

        Raises:
            ValueError: `num_teachers` is negative.
        """
        if num_teachers < 0:
            raise ValueError(f"num_teachers is {num_teachers}; expected 0 or more")
        self.models = [model_fn() for _ in range(num_teachers)]
        for model in self.models:
            model.trainable = False
        self._steps = [
            keras.Variable(np.int64(NO_SNAPSHOT), dtype="int64", trainable=False, name=f"teacher_{i}_step")
            for i in range(num_teachers)
        ]
        self._carrying = [False] * num_teachers

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
        weights.assign(model.weights, snapshot.weights)
        if states and snapshot.states and not (carrying and self._carrying[index]):
            recurrent_state.assign(states, snapshot.states, worker)
        self._carrying[index] = carrying
        weights.assign(self._steps[index : index + 1], [np.array(snapshot.step)])

    def arrays(self) -> list[np.ndarray]:
        """All that is shared by the group's workers: snapshot steps, then the weights of each teacher."""
        return weights.values([*self._steps, *self._weights()])

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        """Takes back what `arrays` returned; recurrent states are restored by the worker that owns them."""
        weights.assign([*self._steps, *self._weights()], arrays)
        self._carrying = [step != NO_SNAPSHOT for step in self.steps()]

    def recurrent_states(self) -> list[keras.Variable]:
        """The state variables of all teachers, in order."""
        return [state for model in self.models for state in recurrent_state.variables(model)]

    def _weights(self) -> list[keras.Variable]:
        return [weight for model in self.models for weight in model.weights]

    def _steps_P(self) -> tf.Tensor:  # noqa: N802 - P is a shape letter
        if not self._steps:
            return tf.zeros([0], tf.int64)
        return tf.stack([tf.convert_to_tensor(step.value) for step in self._steps])
