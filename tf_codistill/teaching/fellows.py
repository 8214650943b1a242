"""FellowStudents: all copies in one process (Anil et al. 2018, footnote 1), which teach each other.

    batches="same"         student 0  F(theta_0, f)   ---->  prediction of student 0, teaching for 1 and 2
        f ------------>    student 1  F(theta_1, f)   ---->  prediction of student 1, teaching for 0 and 2
                           student 2  F(theta_2, f)   ---->  prediction of student 2, teaching for 0 and 1

    batches="different"    rows 0, N, 2N, ... of the batch are student 0's, rows 1, N + 1, ... student 1's;
                           its teachers read them too, in a forward pass of their own

    refresh_every_steps=1  teachers are the students as they are: no second copy of any weights
    refresh_every_steps=k  teachers are copies of the students, taken anew every k steps

                          teachers up to date                   stale copies, refreshed every k steps
    the same batch        none: predictions serve twice         one forward pass for each copy
    different batches     one for each pair of teacher          one for each pair of copy and learner
                          and learner

With `RandomPeers` only the passes of teachers that have been sampled are made. Nothing is exchanged through
files: this is for models of which several fit a device.

A teacher that reads rows which it does not learn from has a recurrent state of its own for them. As long as
nobody asks it this state is that of the student's own lanes: of other text, perhaps, but of a kind that the
weights know.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import gin
import keras
import numpy as np
import tensorflow as tf

from tf_codistill import recurrent_state, weights
from tf_codistill.batches import Batch, every_nth, num_rows
from tf_codistill.exchange.topology import RandomPeers, Topology, candidates_of
from tf_codistill.redealing import Redealing
from tf_codistill.teaching.base import Arrays, ModelFn, Place, Taught, Teaching, equal_logits, rows_of

_NEVER = -1

_Pass = tuple[int, int]  # a teacher, and the student whose features it reads


@gin.configurable(module="tf_codistill")
class FellowStudents(Teaching):
    """N students of one process teach each other; stale copies of them are invisible to Keras.

    Attributes:
        copies: The stale copies by student, if teachers are stale.
    """

    def __init__(
        self,
        num_students: int = 2,
        batches: str = "same",
        topology: Topology = "fully_connected",
        refresh_every_steps: int = 1,
    ) -> None:
        """Takes note of the arguments.

        Args:
            num_students: How many, N, at least 1.
            batches: ``"same"``: all students learn from the whole batch. ``"different"``: student i learns
                from rows i, i + N, i + 2N, ... of a batch that is N times as large. Examples of N datasets
                are dealt out so by ``tf.data.Dataset.choose_from_datasets`` before ``batch``.
            topology: Who teaches whom.
            refresh_every_steps: 1 for teachers that are up to date, k for copies of the students that are
                taken anew at steps 0, k, 2k, ... `RandomPeers` are sampled anew at the same steps.

        Raises:
            ValueError: An argument is out of its range, or the topology does not fit.
        """
        for name, value in (("num_students", num_students), ("refresh_every_steps", refresh_every_steps)):
            if value < 1 or value != int(value):
                raise ValueError(f"{name} is {value!r}; expected an integer >= 1")
        if batches not in ("same", "different"):
            raise ValueError(f"batches is {batches!r}; expected 'same' or 'different'")
        self.taught_by = [
            sorted({peer for seat in candidates_of(learner, num_students, topology) for peer in seat})
            for learner in range(num_students)
        ]
        self._random = topology if isinstance(topology, RandomPeers) else None
        self._share_batch = batches == "same"
        self._every_steps = refresh_every_steps
        self._students: Sequence[keras.Model] = ()
        self.copies: dict[int, keras.Model] = {}
        self._states: dict[_Pass, recurrent_state.SecondState] = {}

    def learners(self) -> list[str]:
        """The students."""
        return [f"student {number}" for number in range(self.num_students)]

    def names(self) -> list[str]:
        """The students once more."""
        return self.learners()

    def join(self, place: Place) -> None:
        """Checks that there is one group."""
        super().join(place)
        if place.num_groups > 1:
            raise ValueError(
                f"num_groups is {place.num_groups}, but the {self.num_students} students of one process have "
                "no peers; start one group"
            )

    def parts(self, group: int, num_groups: int) -> list[tuple[int, int]]:
        """The whole data, or a part for each student."""
        return [(0, 1)] if self._share_batch else [(i, self.num_students) for i in range(self.num_students)]

    def make(self, students: Sequence[keras.Model], model_fns: Sequence[ModelFn]) -> None:
        """Makes the stale copies, if there are to be any; called in the scope of the strategy."""
        self._students = list(students)
        teaching = {teacher for teachers in self.taught_by for teacher in teachers}
        if self._every_steps > 1:
            self.copies = {teacher: model_fns[teacher]() for teacher in sorted(teaching)}
        for copy in self.copies.values():
            copy.trainable = False
        self._copied_at = keras.Variable(_NEVER, dtype="int64", trainable=False, name="copied_at_step")

    def models(self) -> dict[str, keras.Model]:
        """The stale copies."""
        return {f"the copy of student {number}": copy for number, copy in self.copies.items()}

    def prepare(self) -> None:
        """Makes the recurrent states of teachers that read on their own."""
        if not self._states and not self._serve_twice():
            self._states = {one: recurrent_state.SecondState(self._model(one[0])) for one in self._passes()}

    def teaches_rows(self) -> bool:
        """Where predictions serve twice, of recurrent students, too; else where no state is carried along."""
        return self._serve_twice() or not any(recurrent_state.variables(one) for one in self._students)

    def deal(self, batch: Batch) -> list[Batch]:
        """Each student's part of a batch."""
        number = self.num_students
        if self._share_batch:
            return [batch] * number
        rows = num_rows(batch)
        # Eagerly a last batch says how many rows it has, too, which may be any number.
        if rows is not None and rows % number and not tf.executing_eagerly():
            raise ValueError(
                f"a batch of {rows} rows on one replica cannot be dealt out to {number} students; with "
                f"batches='different' its size has to be a multiple of {number}"
            )
        return [every_nth(batch, learner, number) for learner in range(number)]

    def before_step(self, step: tf.Tensor) -> None:
        """Copies the students if it is time to."""
        if self.copies:
            step = tf.cast(step, tf.int64)
            is_first = weights.local_copies(self._copied_at)[0] == _NEVER
            tf.cond(is_first | (step % self._every_steps == 0), lambda: self._copy(step), lambda: None)

    def any_present(self, step: tf.Tensor) -> tf.Tensor:
        """Whether anybody teaches anybody."""
        return tf.constant(any(self.taught_by))

    def teach(
        self, features: Sequence[Any], keys: Sequence[Any], step: tf.Tensor, predictions: Sequence[Any]
    ) -> list[Taught]:
        """Asks the teachers that are sampled for this step."""
        present = [self.present(learner, step) for learner in range(self.num_students)]
        of_teachers = self._predictions(features, predictions, present)
        return [
            Taught(
                [keras.tree.map_structure(tf.stop_gradient, one) for one in theirs],
                tf.repeat(present_P[:, tf.newaxis], rows_of(own), axis=1),
            )
            for theirs, present_P, own in zip(of_teachers, present, predictions, strict=True)
        ]

    def wait(self, features: Sequence[Any], predictions: Sequence[Any]) -> list[Taught]:
        """Lets the states of the teachers' own reading follow the students' lanes."""
        for (teacher, _), state in self._states.items():
            state.follow(self._students[teacher])
        return super().wait(features, predictions)

    def staleness_steps(self, step: tf.Tensor) -> tf.Tensor:
        """How old the copies are."""
        if not self.copies:
            return tf.constant(0.0)
        return tf.cast(tf.cast(step, tf.int64) - self._copied_at.value, tf.float32)

    def state(self) -> tuple[Arrays, Arrays]:
        """What a checkpoint keeps: the copies; of what they hold apart on replicas that, and states."""
        apart = [np.stack(weights.replica_values(one)) for one in self._apart()]
        shared = weights.values([self._copied_at, *(own for own, _ in self._pairs())])
        return shared, [*apart, *recurrent_state.values(self._own_states())]

    def restore(self, shared: Arrays, own: Arrays) -> None:
        """Takes back what `state` returned."""
        apart = self._apart()
        weights.assign([self._copied_at, *(own for own, _ in self._pairs())], shared)
        weights.assign_replicas(apart, own[: len(apart)])
        recurrent_state.restore(self._own_states(), own[len(apart) :])

    def redeal(self, owns: Sequence[Arrays], redealing: Redealing) -> Arrays:
        """Own parts of other workers, dealt out: first what replicas hold apart, then states of lanes."""
        parts, apart = list(zip(*owns, strict=True)), len(self._apart())
        of_replicas = [redealing.replicas(one) for one in parts[:apart]]
        return [*of_replicas, *(redealing.lanes(one) for one in parts[apart:])]

    def present(self, learner: int, step: tf.Tensor) -> tf.Tensor:
        """1.0 for each of ``taught_by[learner]`` who teaches in a step, else 0.0; float32 [P]."""
        num_teachers = len(self.taught_by[learner])
        if self._random is None:
            return tf.ones([num_teachers])
        exchange = tf.cast(step, tf.int64) // self._every_steps
        seed = tf.stack([tf.constant(self._random.seed, tf.int64), exchange * self.num_students + learner])
        keys = tf.random.stateless_uniform([num_teachers], seed, alg="philox")
        least = tf.sort(keys, direction="DESCENDING")[self._random.num_peers - 1]
        return tf.cast(keys >= least, tf.float32)

    def _predictions(
        self, features: Sequence[Any], own: Sequence[Any], present: Sequence[tf.Tensor]
    ) -> list[list[Any]]:
        """For each student the predictions of its teachers; zeros of those who are not present."""
        if self._serve_twice():
            return [[own[teacher] for teacher in teachers] for teachers in self.taught_by]
        predictions: dict[_Pass, Any] = {}
        for (teacher, reads), served in self._passes().items():
            read = functools.partial(self._read, teacher, reads, features[reads])
            skip = functools.partial(self._skip, teacher, reads, features[reads], own[reads])
            if self._random is None:
                predictions[teacher, reads] = read()
            else:
                whether = tf.stack([present[learner][index] for learner, index in served])
                predictions[teacher, reads] = tf.cond(tf.reduce_max(whether) > 0, read, skip)
        return [
            [predictions[self._pass(teacher, learner)] for teacher in teachers]
            for learner, teachers in enumerate(self.taught_by)
        ]

    def _serve_twice(self) -> bool:
        return self._share_batch and not self.copies

    def _pass(self, teacher: int, learner: int) -> _Pass:
        return (teacher, 0 if self._share_batch else learner)

    def _passes(self) -> dict[_Pass, list[tuple[int, int]]]:
        """For each forward pass whom it serves: a learner, and the teacher's index among its own."""
        served: dict[_Pass, list[tuple[int, int]]] = {}
        for learner, teachers in enumerate(self.taught_by):
            for index, teacher in enumerate(teachers):
                served.setdefault(self._pass(teacher, learner), []).append((learner, index))
        return dict(sorted(served.items()))

    def _pairs(self) -> list[tuple[keras.Variable, keras.Variable]]:
        """Each weight of the copies, with that of the student of which it is a copy."""
        return [
            pair
            for teacher, copy in self.copies.items()
            for pair in zip(copy.weights, self._students[teacher].weights, strict=True)
        ]

    def _apart(self) -> list[keras.Variable]:
        """Of the copies what is not trained in the students, such as batch statistics."""
        return [own for own, theirs in self._pairs() if not theirs.trainable]

    def _own_states(self) -> list[keras.Variable]:
        return [state for one in self._states.values() for state in one.states]

    def _model(self, teacher: int) -> keras.Model:
        return self.copies.get(teacher, self._students[teacher])

    def _read(self, teacher: int, reads: int, features: Any) -> Any:
        with self._states[teacher, reads].in_use():
            return self._model(teacher)(features, training=False)

    def _skip(self, teacher: int, reads: int, features: Any, like: Any) -> Any:
        self._states[teacher, reads].follow(self._students[teacher])
        return keras.tree.map_structure(functools.partial(equal_logits, rows=rows_of(features)), like)

    def _copy(self, step: tf.Tensor) -> None:
        for own, theirs in self._pairs():
            for to_copy, from_copy in zip(
                weights.local_copies(own), weights.local_copies(theirs), strict=True
            ):
                to_copy.assign(from_copy)
        for copied_at in weights.local_copies(self._copied_at):
            copied_at.assign(step)
