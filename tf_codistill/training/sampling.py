"""A random share of the batch is taught, and psi is still that of the whole batch in expectation.

    Sampling(0.25).of_rows(students, step)    8 of 32 rows: teachers and psi see these alone
    Sampling(0.25).times(step)                1 in a quarter of the steps, in which psi counts 4 times; else 0

Rows are sampled where a row's teaching depends on that row alone. A recurrent teacher reads its lanes from
step to step, and its model is made for all of them, so that whole steps are sampled instead: between them it
keeps the state that it had, of an earlier part of the same text.

Either way the gradient of psi is unbiased. Rows are drawn without replacement, m of B, which multiplies the
variance that rows of a batch bring by no more than B / m. Of steps exactly one is drawn in every 1 / share of
them, at random within, so that a mean over some more steps than that hardly varies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_codistill import keras_private
from tf_codistill.teaching.base import rows_of
from tf_codistill.training.outputs import Outputs, by_name
from tf_codistill.training.task_losses import StudentStep, TaskLosses


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Draws rows or steps, as a function of the seed and of the step: who resumes draws the same.

    Attributes:
        share: Which share of the rows, or of the steps, is taught, above 0 and at most 1.
        seed: Fixes which.
    """

    share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(
                f"teaching_share is {self.share!r}; expected more than 0 and at most 1; for no teaching at "
                "all let distillation_weight be 0"
            )

    def weights(self, weights: Outputs, step: tf.Tensor) -> Outputs:
        """The weights of psi in a step that may be drawn; their means over steps are those given."""
        factor = tf.cast(self.times(step), tf.float32) / self.share
        return {name: weight * factor for name, weight in weights.items()}

    def times(self, step: tf.Tensor) -> tf.Tensor:
        """How often a step is drawn.

        One moment is drawn in each stretch of 1 / share steps; a step counts those that fall into it.

        Args:
            step: Number of steps done.

        Returns:
            An integer scalar: 0 or 1, and 2 where two stretches meet within the step.
        """
        start, end = (tf.cast(step + more, tf.float64) * self.share for more in (0, 1))
        stretch = tf.floor(start)
        stretches = [stretch, stretch + 1]
        times = tf.stack(
            [one + tf.cast(self._uniform([], tf.cast(one, tf.int64)), tf.float64) for one in stretches]
        )
        return tf.reduce_sum(tf.cast((start <= times) & (times < end), tf.int32))

    def of_rows(self, students: Sequence[StudentStep], step: tf.Tensor) -> list[StudentStep]:
        """What each student does on the rows that are drawn for a step, the same ones for each of them.

        Args:
            students: What each does on all rows of this replica's batch.
            step: Number of steps done.

        Returns:
            The same of `share` of the rows, rounded, at least one. A mean over them has the expectation of a
            mean over all rows, a sum that of a sum.
        """
        context = tf.distribute.get_replica_context()
        place = tf.cast(step, tf.int64) * context.num_replicas_in_sync
        place += tf.cast(context.replica_id_in_sync_group, tf.int64)
        size = rows_of(students[0].batch.features)
        number = max(1, round(self.share * size)) if isinstance(size, int) else self._number(size)
        keys = self._uniform([size], place)
        # A slice, as a replica may have no row: of a last batch of fewer rows than replicas.
        drawn = tf.sort(tf.argsort(keys, direction="DESCENDING")[:number])
        share = tf.cast(number / tf.maximum(size, 1), tf.float32)
        return [_drawn(student, drawn, share) for student in students]

    def _number(self, size: tf.Tensor) -> tf.Tensor:
        return tf.maximum(1, tf.cast(tf.round(self.share * tf.cast(size, tf.float64)), tf.int32))

    def _uniform(self, shape: Sequence[Any], number: tf.Tensor) -> tf.Tensor:
        seed = tf.stack([tf.constant(self.seed, tf.int64), number])
        return tf.random.stateless_uniform(shape, seed, alg="philox")


def _drawn(student: StudentStep, rows: tf.Tensor, share: tf.Tensor) -> StudentStep:
    """What a student does on some rows, which are such a share of all."""

    def of_rows(part: Any) -> Any:
        if part is None:
            return None
        mask = keras_private.mask(part)
        return keras_private.set_mask(tf.gather(part, rows), None if mask is None else tf.gather(mask, rows))

    batch, prediction = keras.tree.map_structure(of_rows, (student.batch, student.prediction))
    fractions = dict(student.fractions)
    for name, output in by_name(student.prediction).items():
        if (mask := keras_private.mask(output)) is not None:
            # Keras divides by what the mask leaves of these rows, not by a share of what it leaves of all.
            left, of_all = (tf.reduce_sum(tf.cast(one, tf.float32)) for one in (tf.gather(mask, rows), mask))
            fractions[name] = fractions.get(name, 1.0) * tf.math.divide_no_nan(left, of_all * share)
    task = TaskLosses.of_batch(student.task.losses, batch, prediction, fractions, share)
    return student._replace(batch=batch, prediction=prediction, fractions=fractions, task=task, share=share)
