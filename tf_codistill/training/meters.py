"""All that a codistillation step logs beside the task's loss and metrics: averages over the rows of an epoch.

    total_loss  distillation_loss  distillation_weight  staleness_steps  dropped_teachers    of the method
    kind_distillation_loss ...                                                   of each output that was named
    teacher_agreement  teacher_kl  teacher_task_loss  chance_task_loss                 see `training.measures`
    student_0_task_loss ...                                   of several students also each by itself
    ensemble_task_loss                                 of the mean of their predictions; only in validation

``total_loss`` is what is minimised: task losses, the penalty of `weight_decay`, psi times its weight. Of
several students the first ones are means over them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_codistill.exchange.predictions.forms import DRAWS
from tf_codistill.teaching.base import Teaching
from tf_codistill.training.distillation import Distillation, SoftTargets
from tf_codistill.training.measures import TeacherMeasures
from tf_codistill.training.outputs import Outputs
from tf_codistill.training.task_losses import StudentStep
from tf_codistill.training.whole_batch import of_whole_batch

_PARTS = ("total_loss", "distillation_loss", "distillation_weight", "staleness_steps", "dropped_teachers")
_PARTS_OF_EACH = ("distillation_loss", "teacher_agreement", "teacher_kl")
_ENSEMBLE = "ensemble_task_loss"


class Meters(keras.metrics.Metric):
    """All of them as one Keras metric: one variable, which a step changes once."""

    def __init__(self, distillation: Distillation, teachers: Teaching, every_steps: int) -> None:
        """Makes the variable; call it in the scope of the strategy.

        Args:
            distillation: Which outputs are distilled, and by which losses.
            teachers: Who teaches whom.
            every_steps: Steps between two times that teachers and students are compared.

        Raises:
            ValueError: `every_steps` is less than 1.
        """
        super().__init__(name="meters", dtype="float32")
        self._distillation = distillation
        self._taught_by = teachers.taught_by
        self._measures = TeacherMeasures(distillation, len(teachers.names()), every_steps)
        # Of a few draws one cannot see how good a teacher is.
        self._measured = self._measures if teachers.fidelity != DRAWS else lambda *_: ()
        several = range(len(self._taught_by)) if len(self._taught_by) > 1 else ()
        of_each = [f"student_{one}_{part}" for one in several for part in ("task_loss", *_PARTS_OF_EACH)]
        names = [*_PARTS, *distillation.part_names(), *self._measures.part_names(), *of_each]
        self.names = [*names, _ENSEMBLE] if several else names
        self._task_losses = [f"student_{number}_task_loss" for number in several]
        self._sums = self.add_variable([2, len(self.names)], "zeros", name="sums")  # of values, of weights

    def note(
        self,
        step: tf.Tensor,
        staleness_steps: tf.Tensor,
        loss: tf.Tensor,
        students: Sequence[StudentStep],
        targets: Sequence[SoftTargets],
        psis: Sequence[Outputs],
    ) -> None:
        """Notes a training step of one replica.

        Args:
            step: Number of steps done before it.
            staleness_steps: How old teaching was.
            loss: The sum of all that is minimised.
            students: What each student does.
            targets: What each learns from.
            psis: psi of each, by output.
        """
        noted = [("total_loss", of_whole_batch(loss / len(students)), 1.0)]
        noted += self._of_tasks([student.task_loss for student in students])
        for number, (student, target, values) in enumerate(zip(students, targets, psis, strict=True)):
            of_student = f"student_{number}_" if self._task_losses else ""
            num_measured = self._sums.value[1, self.names.index(f"{of_student}teacher_kl")]
            losses = {name: of_whole_batch(psi) for name, psi in values.items()}
            parts = [
                ("staleness_steps", staleness_steps, target.is_taught()),
                ("dropped_teachers", target.num_dropped(), 1.0),
                *self._distillation.parts(losses, target),
                *self._measured(step + 1, num_measured, student, target, self._taught_by[number]),
            ]
            of_each = [part for part in parts if part[0] in _PARTS_OF_EACH and of_student]
            noted += parts + [(of_student + name, value, counts) for name, value, counts in of_each]
        self.update_state(noted, students[0].num_rows())

    def note_task_losses(
        self, losses: Sequence[tf.Tensor], rows: tf.Tensor, ensemble: tf.Tensor | None = None
    ) -> None:
        """Notes each student's task loss of one replica's rows, and that of the mean of their predictions."""
        of_ensemble = [] if ensemble is None else [(_ENSEMBLE, ensemble, 1.0)]
        self.update_state(self._of_tasks(losses) + of_ensemble, rows)

    def update_state(self, noted: Iterable[tuple[str, Any, Any]], rows: tf.Tensor) -> None:
        """Adds to averages over rows, of which a last batch has fewer: name, value and weight, scalars."""
        sums: dict[str, list[Any]] = {name: [] for name in self.names}
        for name, value, counts in noted:
            counts = tf.cast(counts, tf.float32) * rows
            sums[name].append(tf.stack([tf.cast(value, tf.float32) * counts, counts]))
        self._sums.assign_add(tf.stack([_sum(terms) for terms in sums.values()], axis=1))

    def result(self) -> dict[str, tf.Tensor]:
        """The averages by name; 0 where nothing has been noted."""
        averages = tf.math.divide_no_nan(*tf.unstack(self._sums.value))
        return dict(zip(self.names, tf.unstack(averages), strict=True))

    def _of_tasks(self, losses: Sequence[tf.Tensor]) -> list[tuple[str, Any, Any]]:
        pairs = zip(self._task_losses, losses, strict=False)  # one alone is Keras's ``loss`` already
        return [(name, of_whole_batch(loss), 1.0) for name, loss in pairs]

    def hidden(self, validation: bool) -> set[str]:
        """Names of what validation, or training, does not log because it has not noted it."""
        return set(self.names) - {*self._task_losses, _ENSEMBLE} if validation else {_ENSEMBLE}


def _sum(terms: list[Any]) -> tf.Tensor:
    if len(terms) > 1:
        return tf.reduce_sum(tf.stack(terms), axis=0)  # not by ``+``, see `whole_batch.total`
    return terms[0] if terms else tf.zeros([2])
