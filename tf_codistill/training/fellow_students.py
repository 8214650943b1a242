"""Students that teach each other in one process: which forward passes it takes, and with which weights.

                          teachers up to date                   stale copies, refreshed every k steps
    the same batch        none: predictions serve twice         one for each copy
    different batches     one for each pair of teacher          one for each pair of copy and learner
                          and learner

With `RandomPeers` only the passes of teachers that have been drawn are made.

A teacher that reads rows which it does not learn from has a recurrent state of its own for them. As long as
nobody asks it this state is that of the student's own lanes: of other text, perhaps, but of a kind that the
weights know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_codistill import recurrent_state, weights
from tf_codistill.peers.teachers import ModelFn
from tf_codistill.peers.topology import RandomPeers, Topology, candidates_of
from tf_codistill.training.distillation import equal_logits

_NEVER = -1


class FellowStudents:
    """Who teaches whom among N students of one process; invisible to Keras, as `Teachers` are.

    Attributes:
        taught_by: For each student, those who may teach it.
        copies: The stale copies by student, if teachers are stale.
    """

    def __init__(
        self,
        students: Sequence[keras.Model],
        model_fns: Sequence[ModelFn],
        topology: Topology,
        share_batch: bool,
        refresh_every_steps: int,
    ) -> None:
        """Makes the stale copies, if there are to be any; call it in the scope of the strategy.

        Args:
            students: The students.
            model_fns: What made each of them.
            topology: Who teaches whom.
            share_batch: Whether all students learn from the same batch.
            refresh_every_steps: 1 for teachers that are up to date, else the steps from copy to copy.

        Raises:
            ValueError: The topology is unknown or does not fit the number of students.
        """
        number = len(students)
        self.taught_by = [_may_teach(learner, number, topology) for learner in range(number)]
        self._random = topology if isinstance(topology, RandomPeers) else None
        self._students = list(students)
        self._share_batch = share_batch
        self._every_steps = refresh_every_steps
        teaching = {teacher for teachers in self.taught_by for teacher in teachers}
        self.copies = {t: model_fns[t]() for t in sorted(teaching)} if refresh_every_steps > 1 else {}
        for copy in self.copies.values():
            copy.trainable = False
        self._copied_at = keras.Variable(
            np.int64(_NEVER), dtype="int64", trainable=False, name="copied_at_step"
        )
        self._states: dict[tuple[int, int], recurrent_state.SecondState] = {}

    def prepare(self) -> None:
        """Makes the recurrent states of teachers that read on their own; in scope, with built models."""
        if not self._states and not self._serve_twice():
            self._states = {one: recurrent_state.SecondState(self._model(one[0])) for one in self._askers()}

    def refresh(self, step: tf.Tensor) -> None:
        """Copies the students if it is time to; called outside ``strategy.run``, eagerly or in a graph.

        Args:
            step: Number of optimizer steps done, integer scalar.
        """
        if self.copies:
            step = tf.cast(step, tf.int64)
            is_first = weights.local_copies(self._copied_at)[0] == _NEVER
            tf.cond(is_first | (step % self._every_steps == 0), lambda: self._copy(step), lambda: None)

    def staleness_steps(self, step: tf.Tensor) -> tf.Tensor:
        """How old the teachers are, float32 scalar; called on a replica.

        Args:
            step: Number of optimizer steps done, integer scalar.

        Returns:
            Steps since the copies were taken; 0 for teachers that are up to date.
        """
        if not self.copies:
            return tf.constant(0.0)
        return tf.cast(tf.cast(step, tf.int64) - self._copied_at.value, tf.float32)

    def arrays(self) -> list[np.ndarray]:
        """All that is shared by the group's workers: the step of the copies, and the weights of each."""
        return weights.values([self._copied_at, *self._copied()])

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        """Takes back what `arrays` returned; recurrent states are restored by the worker that owns them."""
        weights.assign([self._copied_at, *self._copied()], arrays)

    def recurrent_states(self) -> list[keras.Variable]:
        """The states in which teachers read rows that are not their own, pass by pass."""
        return [state for one in self._states.values() for state in one.states]

    def predictions(
        self, features: Sequence[Any], own: Sequence[Any], asked: Sequence[tf.Tensor]
    ) -> list[list[Any]]:
        """What its teachers predict for each student's batch; called on a replica.

        Args:
            features: Each student's features.
            own: Each student's prediction for them.
            asked: What `asked` returned for each student.

        Returns:
            For each student the predictions of its teachers in order; zeros of those who were not asked,
            unless they are there anyway.
        """
        if self._serve_twice():
            return [[own[teacher] for teacher in teachers] for teachers in self.taught_by]
        said: dict[tuple[int, int], Any] = {}
        for passes, are_asked in self._questions(asked):
            heard = tf.cond(
                are_asked,
                lambda passes=passes: [
                    self._read(teacher, reads, features[reads]) for teacher, reads in passes
                ],
                lambda passes=passes: [self._wait(teacher, reads, own[reads]) for teacher, reads in passes],
            )
            said |= zip(passes, heard, strict=True)
        return [
            [said[self._pass(teacher, learner)] for teacher in teachers]
            for learner, teachers in enumerate(self.taught_by)
        ]

    def asked(self, learner: int, step: tf.Tensor, is_due: tf.Tensor) -> tf.Tensor:
        """Which of its teachers a student is to hear.

        Args:
            learner: The student.
            step: Number of optimizer steps done, integer scalar.
            is_due: Whether teaching has any weight in this step; if not, nobody is asked.

        Returns:
            1.0 or 0.0 for each of ``taught_by[learner]``, float32 [P].
        """
        return self._drawn(learner, step) * tf.cast(is_due, tf.float32)

    def _drawn(self, learner: int, step: tf.Tensor) -> tf.Tensor:
        num_teachers = len(self.taught_by[learner])
        if self._random is None:
            return tf.ones([num_teachers])
        exchange = tf.cast(step, tf.int64) // self._every_steps
        seed = tf.stack([tf.constant(self._random.seed, tf.int64), exchange * len(self._students) + learner])
        lots = tf.random.stateless_uniform([num_teachers], seed, alg="philox")
        least = tf.sort(lots, direction="DESCENDING")[self._random.num_peers - 1]
        return tf.cast(lots >= least, tf.float32)

    def _serve_twice(self) -> bool:
        return self._share_batch and not self.copies

    def _pass(self, teacher: int, learner: int) -> tuple[int, int]:
        """The forward pass for a pair: teacher, and a student whose features are read."""
        return (teacher, 0 if self._share_batch else learner)

    def _askers(self) -> dict[tuple[int, int], list[tuple[int, int]]]:
        """For each forward pass whom it serves: a learner, and the teacher's place among its own."""
        askers: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for learner, teachers in enumerate(self.taught_by):
            for place, teacher in enumerate(teachers):
                askers.setdefault(self._pass(teacher, learner), []).append((learner, place))
        return dict(sorted(askers.items()))

    def _questions(self, asked: Sequence[tf.Tensor]) -> Iterator[tuple[list[tuple[int, int]], tf.Tensor]]:
        """Forward passes that are made together or not at all, with whether they are."""
        askers = self._askers()
        together = [[one] for one in askers] if self._random else [list(askers)]
        for passes in together:
            shares = [asked[learner][place] for one in passes for learner, place in askers[one]]
            yield passes, tf.reduce_max(tf.stack(shares)) > 0 if shares else tf.constant(False)

    def _copied(self) -> list[keras.Variable]:
        return [weight for copy in self.copies.values() for weight in copy.weights]

    def _model(self, teacher: int) -> keras.Model:
        return self.copies.get(teacher, self._students[teacher])

    def _read(self, teacher: int, reads: int, features: Any) -> Any:
        with self._states[teacher, reads].in_use():
            return self._model(teacher)(features, training=False)

    def _wait(self, teacher: int, reads: int, like: Any) -> Any:
        self._states[teacher, reads].follow(self._students[teacher])
        return keras.tree.map_structure(equal_logits, like)

    def _copy(self, step: tf.Tensor) -> None:
        for teacher, copy in self.copies.items():
            for own, theirs in zip(copy.weights, self._students[teacher].weights, strict=True):
                for to_copy, from_copy in zip(
                    weights.local_copies(own), weights.local_copies(theirs), strict=True
                ):
                    to_copy.assign(from_copy)
        for copied_at in weights.local_copies(self._copied_at):
            copied_at.assign(step)


def _may_teach(learner: int, number: int, topology: Topology) -> list[int]:
    return sorted({peer for seat in candidates_of(learner, number, topology) for peer in seat})
