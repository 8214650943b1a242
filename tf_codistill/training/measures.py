"""How far teachers and student are apart, and what each teacher would score on the student's task.

    teacher_agreement    fraction of positions at which teacher and student have the same favourite class
    teacher_kl           KL(teacher || student), nats per position
    teacher_task_loss    the losses given to `compile`, of a teacher's prediction of the student's batch
    chance_task_loss     the same, if the teacher gave every class the same probability: log C for C classes

Means over the teachers that teach and over the rows that they teach; with several teachers the task loss of
each is logged, too. 0 stands for what cannot be said, as of outputs that are no classes. All this is measured
only in every tenth step or so, and in the first step of an epoch in which anything is taught, so that it
costs next to nothing. `training.watch` reads the averages of an epoch and warns of useless teachers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tf_codistill import metrics
from tf_codistill.training.distillation import Distillation, SoftTargets, mean_over_rows
from tf_codistill.training.outputs import aligned, masked_like, weight_of
from tf_codistill.training.task_losses import StudentStep, TaskLosses, is_binary

Measure = Callable[[], tf.Tensor]
Form = Callable[[Any], Any]

_PARTS = ("teacher_agreement", "teacher_kl", "teacher_task_loss", "chance_task_loss")


class TeacherMeasures:
    """Compares teachers with the student and with the task, now and then.

    Attributes:
        every_steps: Steps between two times.
    """

    def __init__(self, distillation: Distillation, num_teachers: int, every_steps: int) -> None:
        """Takes note of what is distilled and how often to compare; a `ValueError` if that is below 1."""
        if every_steps < 1:
            raise ValueError(f"measure_every_steps is {every_steps}; expected at least 1")
        self._distillation = distillation
        self.every_steps = every_steps
        self._each = [f"teacher_{i}_task_loss" for i in range(num_teachers)] if num_teachers > 1 else []

    def part_names(self) -> list[str]:
        """Names of what is measured."""
        return [*_PARTS, *self._each]

    def __call__(
        self,
        step: tf.Tensor,
        num_measured: tf.Tensor,
        student: StudentStep,
        targets: SoftTargets,
        numbers: Sequence[int],
    ) -> Iterator[tuple[str, tf.Tensor, tf.Tensor]]:
        """Measures, if it is due: name, value, and weight in the average, 0 if it is not.

        Args:
            step: Number of optimizer steps done, this one included.
            num_measured: How often it has been done in this epoch.
            student: What the student does.
            targets: What it learns from.
            numbers: Of those that there are, which teachers those in `targets` are.

        Yields:
            The parts; none if there is no teacher.
        """
        if not targets.predictions:
            return
        is_time = tf.equal(tf.cast(step, tf.int64) % self.every_steps, 0) | tf.equal(num_measured, 0)
        is_due = is_time & (targets.is_taught() > 0)
        measures, num_values = self._measures(student, targets), [len(targets.complete)]
        values = tf.cond(
            is_due,
            lambda: {name: measure() for name, measure in measures.items()},
            lambda: {name: tf.zeros(num_values if name in _PARTS[2:] else []) for name in measures},
        )
        counts = tf.cast(is_due, tf.float32)
        weights_P = mean_over_rows(targets.teacher_weights_PB)
        for name in ("teacher_agreement", "teacher_kl"):
            yield name, values.get(name, tf.constant(0.0)), counts
        for name in ("teacher_task_loss", "chance_task_loss"):
            if name in values:
                total = tf.reduce_sum(values[name] * weights_P)
                yield name, tf.math.divide_no_nan(total, tf.reduce_sum(weights_P)), counts
        if "teacher_task_loss" in values and self._each:
            for index, number in enumerate(numbers):
                yield self._each[number], values["teacher_task_loss"][index], counts * weights_P[index]

    def _measures(self, student: StudentStep, targets: SoftTargets) -> dict[str, Measure]:
        """What there is to be measured: scalars and, of the task's loss, the value of each teacher, [P]."""
        task, own = student.task, self._distillation.outputs(student.prediction)
        forms = {name: form for name in own if (form := self._form(name, task)) is not None}
        taught = tf.unstack(targets.teacher_weights_PB, num=len(targets.complete))
        predictions = [
            tf.nest.map_structure(functools.partial(_where_taught, rows), student.prediction, one)
            for one, rows in zip(targets.complete, taught, strict=True)
        ]

        def mean(measure: Callable[..., tf.Tensor]) -> tf.Tensor:
            values = []
            for name, form in forms.items():
                theirs, weight = [form(one[name]) for one in targets.predictions], task.sample_weight
                values.append(
                    measure(theirs, form(own[name]), weight_of(weight, name), targets.teacher_weights_PB)
                )
            return tf.reduce_mean(values)

        def task_losses(form: Form) -> tf.Tensor:
            return _finite(
                [task.loss(form(one), rows) for one, rows in zip(predictions, taught, strict=True)]
            )

        measures: dict[str, Measure] = {}
        if forms:
            measures["teacher_agreement"] = lambda: mean(metrics.agreement)
            measures["teacher_kl"] = lambda: mean(metrics.divergence)
        if task.losses is not None:
            measures["teacher_task_loss"] = lambda: task_losses(lambda one: one)
        if task.classifying():
            measures["chance_task_loss"] = lambda: task_losses(task.by_chance)
        return measures

    def _form(self, name: str, task: TaskLosses) -> Form | None:
        """What makes of an output the logits of classes; None if there are no classes."""
        psi, cross_entropy = self._distillation.psi(name), task.classifying().get(name)
        forms = (getattr(psi, "teacher", "probabilities"), getattr(psi, "student", "logits"))
        suits_regression = "probabilities" not in forms
        if suits_regression and cross_entropy is None:
            return None
        of_psi = getattr(psi, "binary", False)
        of_task = cross_entropy is not None and is_binary(cross_entropy)
        return _logistic if of_psi or of_task else tf.convert_to_tensor


def _where_taught(taught_B: tf.Tensor, student: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
    """A prediction with the student's mask, and the student's own in rows that count nowhere."""
    # 0 * NaN is NaN, so a weight of 0 alone would not keep a broken row out.
    is_taught = aligned(taught_B, len(prediction.shape)) > 0
    return masked_like(student, tf.where(is_taught, prediction, tf.cast(student, prediction.dtype)))


def _logistic(logits: tf.Tensor) -> tf.Tensor:
    """Logistic outputs with an axis of length 1 behind, each an example of its own."""
    return logits if logits.shape[-1] == 1 else masked_like(logits, logits[..., tf.newaxis])


def _finite(values: list[tf.Tensor]) -> tf.Tensor:
    # An output that is not distilled may be broken where the others are not.
    values_P = tf.stack(values)
    return tf.where(tf.math.is_finite(values_P), values_P, 0.0)
