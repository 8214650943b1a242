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

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_codistill import keras_private, losses, metrics
from tf_codistill.training.distillation import Distillation, SoftTargets
from tf_codistill.training.outputs import Outputs, aligned, by_name, structured, weighed, weight_of
from tf_codistill.training.whole_batch import of_whole_batch

Measure = Callable[[], tf.Tensor]

_PARTS = ("teacher_agreement", "teacher_kl", "teacher_task_loss", "chance_task_loss")


@dataclasses.dataclass(frozen=True)
class TaskLosses:
    """The losses given to `compile`, for predictions that are not the student's.

    Attributes:
        losses: What Keras made of them, `keras_private.compile_loss`; None if none were given.
        targets: The targets of one replica's batch.
        sample_weight: Weights of its examples, or None.
    """

    losses: Any
    targets: Any
    sample_weight: Any

    def loss(self, prediction: Any, taught_B: tf.Tensor | None = None) -> tf.Tensor:
        """The loss of a prediction.

        Args:
            prediction: A prediction of the batch, structured like the student's.
            taught_B: How much each row counts, float32 [B]; None for all alike.

        Returns:
            A float32 scalar, a mean over the rows that count; the mean of those of all replicas is that of
            the whole batch.
        """
        sample_weight = self.sample_weight
        if taught_B is not None:
            rows = tf.cast(tf.size(taught_B), tf.float32)
            scaled_B = taught_B * tf.math.divide_no_nan(rows, tf.reduce_sum(taught_B))
            sample_weight = weighed(sample_weight, prediction, dict.fromkeys(by_name(prediction), scaled_B))
        # In the scope assignments are noted and forgotten: Keras's own averages shall be the student's.
        with keras.StatelessScope():
            loss = self.losses(self.targets, prediction, sample_weight)
        return tf.cast(of_whole_batch(loss), tf.float32)

    def by_chance(self, prediction: Any) -> Any:
        """A prediction without knowledge: wherever it is one of classes, all are equally probable.

        Args:
            prediction: A prediction of the batch.

        Returns:
            Another one; outputs whose loss is no cross-entropy are left as they are.
        """
        classifying = self.classifying()
        parts = by_name(prediction)
        equal = {name: _equal(classifying[name], parts[name]) for name in classifying if name in parts}
        return structured({**parts, **equal}, prediction)

    def classifying(self) -> dict[str, keras.losses.Loss]:
        """The cross-entropies among the losses, by output.

        Returns:
            Keras's losses that take logits or probabilities of classes, which those have in common that ask
            which of both they get.
        """
        every = keras_private.losses(self.losses)
        return {name: loss for name, loss in every.items() if _takes_logits(loss) is not None}


class TeacherMeasures:
    """Compares teachers with the student and with the task, now and then.

    Attributes:
        every_steps: Steps between two times.
    """

    def __init__(self, distillation: Distillation, num_teachers: int, every_steps: int = 10) -> None:
        """Takes note of the arguments.

        Args:
            distillation: Which outputs are distilled, and by which losses.
            num_teachers: How many teachers there are.
            every_steps: Steps between two times, at least 1.

        Raises:
            ValueError: `every_steps` is less than 1.
        """
        if every_steps < 1:
            raise ValueError(f"measure_every_steps is {every_steps}; expected at least 1")
        self._distillation = distillation
        self.every_steps = every_steps
        self._each = [f"teacher_{i}_task_loss" for i in range(num_teachers)] if num_teachers > 1 else []

    def part_names(self) -> list[str]:
        """Names of what is measured."""
        return [*_PARTS, *self._each]

    def is_due(self, step: tf.Tensor, num_measured: tf.Tensor, targets: SoftTargets) -> tf.Tensor:
        """Whether to measure in this step.

        Args:
            step: Number of optimizer steps done.
            num_measured: How often it has been done in this epoch.
            targets: What the student learns from.

        Returns:
            A boolean scalar.
        """
        is_time = tf.equal(tf.cast(step, tf.int64) % self.every_steps, 0) | tf.equal(num_measured, 0)
        return is_time & (targets.is_taught() > 0)

    def __call__(
        self,
        targets: SoftTargets,
        prediction: Any,
        task: TaskLosses,
        is_due: tf.Tensor,
        numbers: Sequence[int],
    ) -> Iterator[tuple[str, tf.Tensor, tf.Tensor]]:
        """Measures, if it is due: name, value, and weight in the average, 0 if it is not.

        Args:
            targets: What the student learns from.
            prediction: The student's prediction.
            task: The task's losses for this batch.
            is_due: What the method of this name returned.
            numbers: Of those that there are, which teachers those in `targets` are.

        Yields:
            The parts.
        """
        measures = self._measures(targets, prediction, task)
        values = tf.cond(
            is_due,
            lambda: {name: measure() for name, measure in measures.items()},
            lambda: {name: tf.zeros(_shape(name, targets)) for name in measures},
        )
        counts = tf.cast(is_due, tf.float32)
        weights_P = tf.reduce_mean(targets.teacher_weights_PB, axis=1)
        for name in ("teacher_agreement", "teacher_kl"):
            yield name, values.get(name, tf.constant(0.0)), counts
        for name in ("teacher_task_loss", "chance_task_loss"):
            if name in values:
                total = tf.reduce_sum(values[name] * weights_P)
                yield name, tf.math.divide_no_nan(total, tf.reduce_sum(weights_P)), counts
        if "teacher_task_loss" in values and self._each:
            for index, number in enumerate(numbers):
                yield self._each[number], values["teacher_task_loss"][index], counts * weights_P[index]

    def _measures(self, targets: SoftTargets, prediction: Any, task: TaskLosses) -> dict[str, Measure]:
        """What there is to be measured: scalars and, of the task's loss, the value of each teacher, [P]."""
        own = self._distillation.outputs(prediction)
        classes = [name for name in own if self._has_classes(name, task)]
        taught = tf.unstack(targets.teacher_weights_PB, num=len(targets.complete))
        predictions = [
            tf.nest.map_structure(functools.partial(_where_taught, rows), prediction, one)
            for one, rows in zip(targets.complete, taught, strict=True)
        ]

        def task_losses(form: Callable[[Any], Any]) -> tf.Tensor:
            return _finite(
                [task.loss(form(one), rows) for one, rows in zip(predictions, taught, strict=True)]
            )

        measures: dict[str, Measure] = {}
        if classes:
            mean = functools.partial(self._mean, targets, own, classes, task)
            measures["teacher_agreement"] = lambda: mean(metrics.agreement)
            measures["teacher_kl"] = lambda: mean(metrics.divergence)
        if task.losses is not None:
            measures["teacher_task_loss"] = lambda: task_losses(lambda one: one)
        if task.classifying():
            measures["chance_task_loss"] = lambda: task_losses(task.by_chance)
        return measures

    def _has_classes(self, name: str, task: TaskLosses) -> bool:
        psi = self._distillation.psi(name)
        forms = (getattr(psi, "teacher", "probabilities"), getattr(psi, "student", "logits"))
        if isinstance(psi, losses.SquaredLogits) or "probabilities" not in forms:
            # Such a loss suits regression as well, so the task's loss has to say what the output is.
            return name in task.classifying()
        return True

    def _mean(
        self,
        targets: SoftTargets,
        own: Outputs,
        names: Sequence[str],
        task: TaskLosses,
        measure: Callable[..., tf.Tensor],
    ) -> tf.Tensor:
        cross_entropies = task.classifying()
        values = []
        for name in names:
            is_binary = getattr(self._distillation.psi(name), "binary", False)
            is_binary = is_binary or (name in cross_entropies and _is_binary(cross_entropies[name]))
            form = _logistic if is_binary else tf.convert_to_tensor
            predictions = [form(one[name]) for one in targets.predictions]
            sample_weight = weight_of(task.sample_weight, name)
            values.append(measure(predictions, form(own[name]), sample_weight, targets.teacher_weights_PB))
        return tf.reduce_mean(values)


def _shape(measure: str, targets: SoftTargets) -> list[int]:
    return [len(targets.complete)] if measure.endswith("_task_loss") else []


def _takes_logits(loss: keras.losses.Loss) -> bool | None:
    """Whether a cross-entropy gets logits, not probabilities; None for a loss that is no cross-entropy."""
    function = getattr(loss, "fn", None)
    parameter = inspect.signature(function).parameters.get("from_logits") if function else None
    return None if parameter is None else bool(getattr(loss, "from_logits", parameter.default))


def _is_binary(loss: keras.losses.Loss) -> bool:
    return loss.fn.__name__.startswith("binary")


def _equal(loss: keras.losses.Loss, prediction: tf.Tensor) -> tf.Tensor:
    if _takes_logits(loss):
        return _masked_like(prediction, tf.zeros_like(prediction))
    num_classes = 2 if _is_binary(loss) else prediction.shape[-1]
    return _masked_like(prediction, tf.ones_like(prediction) / num_classes)


def _masked_like(student: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
    """A prediction with the student's Keras mask, so that its loss is taken of the same positions."""
    return keras_private.set_mask(tf.identity(prediction), keras_private.mask(student))


def _where_taught(taught_B: tf.Tensor, student: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
    """A prediction with the student's mask, and the student's own in rows that count nowhere."""
    # 0 * NaN is NaN, so a weight of 0 alone would not keep a broken row out.
    is_taught = aligned(taught_B, len(prediction.shape)) > 0
    return _masked_like(student, tf.where(is_taught, prediction, tf.cast(student, prediction.dtype)))


def _logistic(logits: tf.Tensor) -> tf.Tensor:
    """Logistic outputs with an axis of length 1 behind, each an example of its own."""
    return logits if logits.shape[-1] == 1 else _masked_like(logits, logits[..., tf.newaxis])


def _finite(values: list[tf.Tensor]) -> tf.Tensor:
    # An output that is not distilled may be broken where the others are not.
    values_P = tf.stack(values)
    return tf.where(tf.math.is_finite(values_P), values_P, 0.0)
