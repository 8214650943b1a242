"""All that a codistillation step logs beside the task's loss and metrics: averages over an epoch.

    total_loss  distillation_loss  distillation_weight  staleness_steps  dropped_teachers    of the method
    kind_distillation_loss ...                                                   of each output that was named
    teacher_agreement  teacher_kl  teacher_task_loss  chance_task_loss                 see `training.measures`
    student_0_task_loss ...                                   of several students also each by itself
    ensemble_task_loss                                 of the mean of their predictions; only in validation

``total_loss`` is what is minimised: task losses, the penalty of `weight_decay`, psi times its weight. Of
several students the first ones are means over them.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from tf_codistill.teaching.base import Teaching
from tf_codistill.training.distillation import Distillation, SoftTargets
from tf_codistill.training.measures import TeacherMeasures
from tf_codistill.training.outputs import Outputs
from tf_codistill.training.task_losses import StudentStep
from tf_codistill.training.whole_batch import of_whole_batch

_PARTS = ("total_loss", "distillation_loss", "distillation_weight", "staleness_steps", "dropped_teachers")
_PARTS_OF_EACH = ("distillation_loss", "teacher_agreement", "teacher_kl")
_ENSEMBLE = "ensemble_task_loss"


class Meters:
    """Keras metrics by name, and what is noted in them.

    Attributes:
        metrics: The metrics, for Keras to reset and to read.
    """

    def __init__(self, distillation: Distillation, teachers: Teaching, every_steps: int) -> None:
        """Makes the metrics.

        Args:
            distillation: Which outputs are distilled, and by which losses.
            teachers: Who teaches whom.
            every_steps: Steps between two times that teachers and students are compared.

        Raises:
            ValueError: `every_steps` is less than 1.
        """
        self._distillation = distillation
        self._taught_by = teachers.taught_by
        self._measures = TeacherMeasures(distillation, len(teachers.names()), every_steps)
        several = range(len(self._taught_by)) if len(self._taught_by) > 1 else ()
        of_each = [f"student_{one}_{part}" for one in several for part in ("task_loss", *_PARTS_OF_EACH)]
        names = [*_PARTS, *distillation.part_names(), *self._measures.part_names(), *of_each]
        names += [_ENSEMBLE] if several else []
        self._meters = {name: keras.metrics.Mean(name=name) for name in names}
        self._task_losses = [f"student_{number}_task_loss" for number in several]
        self.metrics = list(self._meters.values())

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
        self._meters["total_loss"].update_state(of_whole_batch(loss / len(students)))
        self.note_task_losses([student.task_loss for student in students])
        for number, (student, target, values) in enumerate(zip(students, targets, psis, strict=True)):
            of_student = f"student_{number}_" if self._task_losses else ""
            num_measured = tf.convert_to_tensor(self._meters[f"{of_student}teacher_kl"].count)
            numbers = self._taught_by[number]
            losses = {name: of_whole_batch(psi) for name, psi in values.items()}
            parts = [
                ("staleness_steps", staleness_steps, target.is_taught()),
                ("dropped_teachers", target.num_dropped(), tf.constant(1.0)),
                *self._distillation.parts(losses, target),
                *self._measures(step + 1, num_measured, student, target, numbers),
            ]
            for name, value, counts in parts:
                self._meters[name].update_state(value, counts)
                if name in _PARTS_OF_EACH and of_student:
                    self._meters[of_student + name].update_state(value, counts)

    def note_task_losses(self, losses: Sequence[tf.Tensor], ensemble: tf.Tensor | None = None) -> None:
        """Notes the task loss of each student on one replica, and that of the mean of their predictions."""
        for name, loss in zip(self._task_losses, losses, strict=False):
            self._meters[name].update_state(of_whole_batch(loss))
        if ensemble is not None:
            self._meters[_ENSEMBLE].update_state(ensemble)

    def hidden(self, validation: bool) -> set[str]:
        """Names of what validation, or training, does not log because it has not noted it."""
        return set(self._meters) - {*self._task_losses, _ENSEMBLE} if validation else {_ENSEMBLE}
