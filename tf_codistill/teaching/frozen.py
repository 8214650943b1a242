"""Frozen models that hold snapshots, and teach one student: what `PeerExchange` and `SavedTeachers` share.

    teachers.make([student], [model_fn])              as many models as there are seats
    teachers.refresh(0, snapshot)                     weights of peer 0 at step 50
    teachers.teach(...)                               one prediction for each teacher, no gradient
    teachers.present(step)                            [1., 0.]: the second has no snapshot yet

Teachers are invisible to Keras: not among the student's layers, weights or files. A recurrent teacher reads
the same lanes as the student and carries its own hidden state over them. A model whose state has never been
reset may not work from a zero state, so a new teacher starts from the state of its peer's lanes, which
travels with the snapshot; when later snapshots of this peer replace the weights the state is kept, because it
belongs to the text that this group has read. A teacher that comes to stand for another peer is a new one, and
so is one that has not read since its last snapshot.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_codistill import recurrent_state, weights
from tf_codistill.exchange import precision as precisions
from tf_codistill.exchange.snapshot import Ref, Snapshot
from tf_codistill.exchange.topology import NO_PEER
from tf_codistill.teaching import quantized_model
from tf_codistill.teaching.base import Arrays, ModelFn, Taught, Teaching, rows_of
from tf_codistill.teaching.batch_statistics import use_batch_statistics

NO_SNAPSHOT = -1

STATISTICS = ("moving", "batch")
"""Means and variances of a teacher's batch normalization: from its snapshot, or of the batch."""


class FrozenTeachers(Teaching):
    """The teachers of one student, in the order of those that they stand for.

    Attributes:
        frozen: Their models.
        held: Which snapshot each holds, of `NO_PEER` before the first.
    """

    refreshed: int

    def __init__(
        self,
        num_teachers: int,
        precision: str = "float32",
        statistics: str = "moving",
        max_staleness_steps: int | None = None,
        min_teacher_quality: float | None = None,
    ) -> None:
        """Takes note of how many there will be.

        Args:
            num_teachers: How many, 0 or more.
            precision: How they hold their weights, one of `precision.PRECISIONS`.
            statistics: What their batch normalization uses, one of `STATISTICS`.
            max_staleness_steps: `staleness_steps` beyond which a teacher has no share; None for any.
            min_teacher_quality: Quality below which its share is less than 1, see `weigh`; None for any.

        Raises:
            ValueError: There is no such precision, or no such statistics, or a bound is out of range.
        """
        if min_teacher_quality is not None and not 0 < min_teacher_quality <= 1:
            raise ValueError(
                f"min_teacher_quality is {min_teacher_quality}; expected more than 0 and at most 1, or None"
            )
        if max_staleness_steps is not None and max_staleness_steps < 1:
            raise ValueError(f"max_staleness_steps is {max_staleness_steps}; expected at least 1, or None")
        if statistics not in STATISTICS:
            raise ValueError(f"statistics is {statistics!r}; expected one of {', '.join(STATISTICS)}")
        self._precision, self._statistics = precisions.check(precision), statistics
        self._max_staleness_steps, self.min_teacher_quality = max_staleness_steps, min_teacher_quality
        self._seat(num_teachers)

    def _seat(self, num_teachers: int) -> None:
        self.taught_by = (tuple(range(num_teachers)),)
        self.frozen: list[keras.Model] = []
        self.held = [Ref(NO_PEER)] * num_teachers
        self._published_at = [0.0] * num_teachers
        self._metadata: list[keras.Variable] = []  # steps of snapshots; whether lanes have been read since
        self._shares: list[keras.Variable] = []
        self.refreshed = 0

    def names(self) -> list[str]:
        """The teachers by number."""
        return [f"teacher {number}" for number in range(len(self.held))]

    def model_fns(self, model_fn: ModelFn) -> list[ModelFn]:
        """What makes each teacher: that which made the student, unless a kind of teaching knows better."""
        return [model_fn for _ in self.held]

    def make(self, students: Sequence[keras.Model], model_fns: Sequence[ModelFn]) -> None:
        """Makes the teachers, anew for another student; called in the scope of the strategy."""
        self._seat(len(self.held))
        self.frozen = [make() for make in self.model_fns(model_fns[0])]
        for model in self.frozen:
            model.trainable = False
            if self._statistics == "batch":
                use_batch_statistics(model)
        self.prepare()
        if not self.frozen:
            return
        kwargs = {"dtype": "int64", "trainable": False}
        steps_P = np.full(len(self.frozen), NO_SNAPSHOT, np.int64)
        have_read_P = np.zeros(len(self.frozen), np.int64)
        self._metadata = [
            keras.Variable(steps_P, name="teachers_steps", **kwargs),
            keras.Variable(have_read_P, name="teachers_have_read", synchronization="on_read", **kwargs),
        ]
        if self.min_teacher_quality is not None:
            shares_P = np.ones(len(self.frozen), np.float32)
            self._shares = [
                keras.Variable(shares_P, dtype="float32", trainable=False, name="teachers_shares")
            ]

    def models(self) -> dict[str, keras.Model]:
        """The teachers."""
        return {f"teacher {number}": teacher for number, teacher in enumerate(self.frozen)}

    def prepare(self) -> None:
        """Quantizes the weights of models that have been built since; called in the strategy's scope."""
        for model in self.frozen:
            quantized_model.quantize(model, self._precision)

    def num_bytes(self) -> int:
        """Memory that the weights of all teachers take up on each replica, in bytes."""
        return sum(quantized_model.num_bytes(model) for model in self.frozen)

    def teaches_rows(self) -> bool:
        """Neither where lanes are read, nor where teachers normalise by what they are asked about."""
        return super().teaches_rows() and self._statistics == "moving"

    def any_present(self, step: tf.Tensor) -> tf.Tensor:
        """Whether any teacher holds a snapshot that is not out of date."""
        return tf.reduce_max(self.present(step), axis=0) > 0 if self.frozen else tf.constant(False)

    def teach(
        self, features: Sequence[Any], keys: Sequence[Any], step: tf.Tensor, predictions: Sequence[Any]
    ) -> list[Taught]:
        """Asks every teacher; recurrent states move on."""
        of_teachers, rows = self._predict(step, features[0], keys[0], predictions[0]), rows_of(features[0])
        present_PB = tf.repeat(self.present(step)[:, tf.newaxis], rows, axis=1)
        # Nobody needs the gradient of shares, which XLA cannot compile for every loss.
        return [Taught(of_teachers, tf.stop_gradient(present_PB))]

    def _predict(self, step: tf.Tensor, features: Any, keys: Any = None, prediction: Any = None) -> list[Any]:
        """What each teacher predicts for the batch of a step, which it has read then."""
        of_teachers = self.ask(features, keys, prediction)
        if self.frozen:
            self._metadata[1].assign(tf.ones([len(self.frozen)], tf.int64))
        return of_teachers

    def ask(self, features: Any, keys: Any, prediction: Any) -> list[Any]:
        """What each teacher predicts.

        Args:
            features: Those of the student's rows.
            keys: Their keys, or None.
            prediction: What the student predicts.

        Returns:
            A prediction of each, structured like the student's.
        """
        return [
            keras.tree.map_structure(tf.stop_gradient, model(features, training=False))
            for model in self.frozen
        ]

    def present(self, step: tf.Tensor) -> tf.Tensor:
        """The share of every teacher that holds a snapshot which is not out of date, else 0.0; float32 [P].

        It is 1.0, unless `weigh` has found it worse.
        """
        present_P = self._steps_P(step) > NO_SNAPSHOT
        if self._max_staleness_steps is not None:
            present_P &= self._behind_P(step) <= self._max_staleness_steps
        share = tf.convert_to_tensor(self._shares[0].value) if self._shares else 1.0
        return tf.cast(present_P, tf.float32) * share

    def weigh(self, task_loss: float, teacher_losses: Sequence[float | None]) -> list[float]:
        """Gives each teacher the share that it deserves, if there is a quality to be asked for.

        A teacher's quality is exp(task loss of the student - that of the teacher) on the same examples: of
        cross-entropies the ratio of the student's perplexity to the teacher's. Below `min_teacher_quality`
        its share is the quality over that, so that it never is without any, and is measured again.

        Args:
            task_loss: The student's, averaged over some steps.
            teacher_losses: Each teacher's; None where it has not been measured, so that its share stays.

        Returns:
            The shares.
        """
        if not self._shares:
            return [1.0] * len(self.frozen)
        (shares_P,) = weights.values(self._shares)
        for index, loss in enumerate(teacher_losses):
            if loss is not None and np.isfinite(loss - task_loss):
                quality = np.exp(min(task_loss - loss, 0.0))
                shares_P[index] = min(quality / self.min_teacher_quality, 1.0)
        weights.assign(self._shares, [shares_P])
        return shares_P.tolist()

    def staleness_steps(self, step: tf.Tensor) -> tf.Tensor:
        """How old the snapshots are once this step is done, averaged over teachers that are present."""
        present_P, behind_P = self.present(step), tf.cast(self._behind_P(step), tf.float32)
        return tf.math.divide_no_nan(tf.reduce_sum(behind_P * present_P), tf.reduce_sum(present_P))

    def out_of_date(self, step: int) -> list[int]:
        """Those that hold a snapshot, but will have no share in the step after so many."""
        most = np.inf if self._max_staleness_steps is None else self._max_staleness_steps
        pairs = enumerate(zip(self.peers(), self.steps(), strict=True))
        return [
            index
            for index, (peer, held) in pairs
            if peer != NO_PEER and (held == NO_SNAPSHOT or step + 1 - held > most)
        ]

    def steps(self) -> list[int]:
        """The step of the snapshot that each teacher holds; `NO_SNAPSHOT` before the first."""
        return [int(step) for values in weights.values(self._metadata[:1]) for step in values]

    def peers(self) -> list[int]:
        """The group whose snapshot each teacher holds; `NO_PEER` before the first."""
        return [ref.peer for ref in self.held]

    def ages_secs(self, now: float) -> dict[int, float]:
        """Age of the snapshot of each teacher that holds one, at `now` in seconds since the epoch."""
        return {
            index: now - at
            for index, (ref, at) in enumerate(zip(self.held, self._published_at, strict=True))
            if ref.peer != NO_PEER
        }

    def staleness_secs(self, now: float) -> float:
        """Mean age of the snapshots that are held, at `now` in seconds since the epoch; 0 without any."""
        ages = self.ages_secs(now).values()
        return sum(ages) / len(ages) if ages else 0.0

    def stage(self, index: int, snapshot: Snapshot) -> Snapshot:
        """A snapshot with weights as teacher `index` holds them; a `ValueError` if it does not fit the model.

        It touches no variable, so that any thread may do it.
        """
        model = self.frozen[index]
        if snapshot.is_staged:
            return snapshot
        if snapshot.states:
            recurrent_state.check(recurrent_state.variables(model), snapshot.states)
        arrays = quantized_model.staged(model, snapshot.weights, snapshot.precision, self._precision)
        return dataclasses.replace(snapshot, weights=arrays, precision=self._precision, is_staged=True)

    def refresh(self, index: int, snapshot: Snapshot, worker: int = 0) -> None:
        """Replaces a teacher's weights.

        Args:
            index: Which teacher, from 0.
            snapshot: The snapshot that it shall hold; its arrays become the teacher's own.
            worker: Which worker of its group this one is, and so which lanes of the snapshot are its own.

        Raises:
            ValueError: The snapshot does not fit the model.
        """
        model = self.frozen[index]
        weights.give(quantized_model.stored(model), self.stage(index, snapshot).weights)
        self.refreshed += 1
        states = recurrent_state.variables(model)
        steps_P, has_read_P = weights.values(self._metadata)
        keeps = (
            has_read_P[index]
            and self.held[index].peer == snapshot.ref.peer
            and recurrent_state.is_finite(states)
        )
        if states and snapshot.states and not keeps:
            recurrent_state.assign(states, snapshot.states, worker)
        steps_P[index], has_read_P[index] = snapshot.step, 0
        weights.assign(self._metadata, [steps_P, has_read_P])
        if self._shares and self.held[index].peer != snapshot.ref.peer:
            (shares_P,) = weights.values(self._shares)
            weights.assign(self._shares, [np.where(np.arange(len(shares_P)) == index, 1.0, shares_P)])
        self.held[index], self._published_at[index] = snapshot.ref, snapshot.published_at

    def retire(self, index: int) -> None:
        """Takes a teacher's share until it is given another snapshot; what it holds stays."""
        steps_P, have_read_P = weights.values(self._metadata)
        steps_P[index] = NO_SNAPSHOT
        weights.assign(self._metadata, [steps_P, have_read_P])

    def state(self) -> tuple[Arrays, Arrays]:
        """What a checkpoint keeps; of this worker alone the recurrent state of each teacher over its lanes.

        Shared are which snapshots they hold, when these were published, their steps, whether teachers have
        read since, and the weights of each as it holds them.
        """
        if not self.frozen:
            return [], []
        origins = [np.array(self.held, np.int64).reshape(-1, len(Ref._fields)), np.array(self._published_at)]
        shared = [*origins, *weights.values([*self._metadata, *self._shares, *self._weights()])]
        return shared, recurrent_state.values(self._recurrent_states())

    def restore(self, shared: Arrays, own: Arrays) -> None:
        """Takes back what `state` returned."""
        weights.assign([*self._metadata, *self._shares, *self._weights()], shared[2:])
        self.refreshed += 1
        recurrent_state.restore(self._recurrent_states(), own)
        if self.frozen:
            self.held = [Ref(*(int(number) for number in ref)) for ref in shared[0]]
            self._published_at = [float(at) for at in shared[1]]

    def _recurrent_states(self) -> list[keras.Variable]:
        return [state for model in self.frozen for state in recurrent_state.variables(model)]

    def _weights(self) -> list[keras.Variable]:
        return [weight for model in self.frozen for weight in quantized_model.stored(model)]

    def _steps_P(self, step: tf.Tensor) -> tf.Tensor:  # noqa: N802 - P is a shape letter
        """Of which step is the snapshot by which each teacher predicts the batch of a step."""
        return tf.convert_to_tensor(self._metadata[0].value) if self._metadata else tf.zeros([0], tf.int64)

    def _behind_P(self, step: tf.Tensor) -> tf.Tensor:  # noqa: N802 - P is a shape letter
        return tf.cast(step + 1, tf.int64) - self._steps_P(step)
