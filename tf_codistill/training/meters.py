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

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_codistill.teaching.base import Teaching
from tf_codistill.training.distillation import Distillation, SoftTargets
from tf_codistill.training.measures import TaskLosses, TeacherMeasures
from tf_codistill.training.outputs import Outputs
from tf_codistill.training.whole_batch import of_whole_batch

_PARTS = ("total_loss", "distillation_loss", "distillation_weight", "staleness_steps", "dropped_teachers")
_PARTS_OF_EACH = ("distillation_loss", "teacher_agreement", "teacher_kl")
_ENSEMBLE = "ensemble_task_loss"

_Part = tuple[str, tf.Tensor, tf.Tensor]


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
        self._meters = {name: keras.metrics.Mean(name=name) for name in names}
        self._task_losses = [f"student_{number}_task_loss" for number in several]
        self._ensemble = keras.metrics.Mean(name=_ENSEMBLE) if several else None
        self.metrics = [*self._meters.values(), *([self._ensemble] if self._ensemble else [])]

    def note(
        self,
        step: tf.Tensor,
        staleness_steps: tf.Tensor,
        loss: tf.Tensor,
        students: Sequence[tuple[Any, TaskLosses, tf.Tensor, Outputs, SoftTargets]],
    ) -> None:
        """Notes a training step of one replica.

        Args:
            step: Number of steps done before it.
            staleness_steps: How old teaching was.
            loss: The sum of all that is minimised.
            students: Of each student its prediction, the losses of its batch, its task loss, psi by output,
                and what it learned from.
        """
        self._meters["total_loss"].update_state(of_whole_batch(loss / len(students)))
        self._note_task_losses([student[2] for student in students])
        for number, (prediction, task, _, psis, targets) in enumerate(students):
            losses = {name: of_whole_batch(psi) for name, psi in psis.items()}
            parts = [
                ("staleness_steps", staleness_steps, targets.is_taught()),
                ("dropped_teachers", targets.num_dropped(), tf.constant(1.0)),
                *self._distillation.parts(losses, targets),
                *self._compared(step, number, prediction, task, targets),
            ]
            for name, value, counts in parts:
                self._meters[name].update_state(value, counts)
                if name in _PARTS_OF_EACH and self._task_losses:
                    self._meters[f"student_{number}_{name}"].update_state(value, counts)

    def note_validation(self, task_losses: Sequence[tf.Tensor], ensemble: tf.Tensor | None) -> None:
        """Notes a validation step of one replica.

        Args:
            task_losses: The task loss of each student.
            ensemble: That of the mean of their predictions, or None.
        """
        self._note_task_losses(task_losses)
        if self._ensemble is not None and ensemble is not None:
            self._ensemble.update_state(ensemble)

    def _note_task_losses(self, task_losses: Sequence[tf.Tensor]) -> None:
        for name, loss in zip(self._task_losses, task_losses, strict=False):
            self._meters[name].update_state(of_whole_batch(loss))

    def hidden(self, validation: bool) -> set[str]:
        """Names of what is not logged, because it has not been noted.

        Args:
            validation: Whether that is by validation, or by training.

        Returns:
            The names.
        """
        return set(self._meters) - set(self._task_losses) if validation else {_ENSEMBLE}

    def _compared(
        self, step: tf.Tensor, number: int, prediction: Any, task: TaskLosses, targets: SoftTargets
    ) -> Iterator[_Part]:
        if not targets.predictions:
            return
        name = f"student_{number}_teacher_kl" if self._task_losses else "teacher_kl"
        num_measured = tf.convert_to_tensor(self._meters[name].count)
        is_due = self._measures.is_due(step + 1, num_measured, targets)
        yield from self._measures(targets, prediction, task, is_due, self._taught_by[number])
