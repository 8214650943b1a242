"""What a distillation loss is: how the predictions of all teachers become one target, and the distance to it.

    mean_over          aggregate returns                     the loss of an example
    "probabilities"    mean_p softmax(t_p / T)               psi(aggregated, student)
    "logits"           softmax(mean_p t_p / T), mean_p t_p   psi(aggregated, student)
    "losses"           all targets, weights of teachers      mean_p psi(target_p, student)

The first two are Algorithm 1 of Anil et al. 2018: psi({1 / (N - 1) sum_j F(theta_j, f)}, F(theta_i, f)), a
loss against the mean prediction. The third is that of Sodhani et al. 2020: the mean over peers of pairwise
losses. A teacher of weight 0 is left out whatever it predicts, even NaN. No gradient flows into a teacher.

What is left is Keras: a loss for every example, and their mean over the positions that a mask does not hide.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from tf_codistill import keras_private


class DistillationLoss(keras.losses.Loss, abc.ABC):
    """psi of Algorithm 1: aggregates what the teachers predict, then compares the student with it.

    Attributes:
        needs_teachers: Whether the loss looks at teachers at all; if not, `aggregate` need not be called.
    """

    needs_teachers: ClassVar[bool] = True

    @abc.abstractmethod
    def aggregate(
        self, teacher_logits: tf.Tensor | Sequence[tf.Tensor], weights: tf.Tensor | None = None
    ) -> Any:
        """Makes the first argument of `call` of the predictions of all teachers.

        Args:
            teacher_logits: Logits of P teachers: a sequence of P tensors [..., C] or one tensor [P, ..., C].
            weights: Weight of each teacher in the mean, float32 [P], or for each row [P, B], 0 to leave it
                out; None for equal weights. Where all are 0 the outcome is finite but means nothing, and the
                loss deserves no weight.

        Returns:
            A tensor or a structure of tensors; only this loss knows what is in it.
        """

    @abc.abstractmethod
    def call(self, teacher: Any, student_logits: tf.Tensor) -> tf.Tensor:
        """Compares the student with its teachers.

        Args:
            teacher: What `aggregate` returned.
            student_logits: Logits of the student, [..., C].

        Returns:
            The loss of each example, [...].
        """

    def __call__(
        self, teacher: Any, student_logits: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The loss of a batch, reduced as Keras reduces task losses.

        Args:
            teacher: What `aggregate` returned; anything, None too, for a loss that needs no teachers.
            student_logits: Logits of the student, [..., C]. Positions that its Keras mask hides count
                nowhere, neither in the sum nor in the number that divides it.
            sample_weight: Weight of each example, or of the leading axes of the examples: [B] or [B, T] for
                logits [B, T, C]; None for 1.

        Returns:
            A scalar, already divided by the number of replicas in sync; [...] if `reduction` is None.
        """
        mask = keras_private.mask(student_logits)
        num_axes = self._num_example_axes(student_logits)
        if mask is not None and len(mask.shape) < num_axes:
            # Keras lines masks and weights up with the last axes of the examples, not with the first.
            student_logits = keras_private.set_mask(tf.identity(student_logits), _with_axes(mask, num_axes))
        if sample_weight is not None:
            sample_weight = _with_axes(sample_weight, num_axes)
        return super().__call__(teacher if self.needs_teachers else (), student_logits, sample_weight)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, for Keras's serialization."""
        return {**super().get_config(), "dtype": self.dtype}

    def _num_example_axes(self, student_logits: tf.Tensor) -> int:
        return len(student_logits.shape) - 1


class Comparison(DistillationLoss):
    """A loss between the logits of teachers and student, or what follows from them.

    A subclass says in `target` what of a teacher is compared and in `compare` how. Here is what means over
    teachers are made of.

    Attributes:
        MEANS: What the mean over teachers can be taken of; the first is the default.
        mean_over: What it is taken of.
    """

    MEANS: ClassVar[tuple[str, ...]] = ("probabilities", "logits", "losses")

    def __init__(
        self,
        mean_over: str | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: str | None = None,
    ) -> None:
        """Makes the loss.

        Args:
            mean_over: What the mean over teachers is taken of, one of `MEANS`; None for the first of them.
            reduction: How `keras.losses.Loss` reduces over examples.
            name: Name of the loss; None for one made from the class.
            dtype: Type that the loss is computed in; None for float32.

        Raises:
            ValueError: This loss cannot take such a mean.
        """
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.mean_over = one_of("mean_over", self.MEANS[0] if mean_over is None else mean_over, self.MEANS)

    @abc.abstractmethod
    def target(self, teacher_logits: tf.Tensor) -> tf.Tensor:
        """What of a teacher the student is compared with.

        Args:
            teacher_logits: Logits of one teacher, or the mean of those of several, [..., C].

        Returns:
            A tensor of the same shape.
        """

    @abc.abstractmethod
    def compare(self, target: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
        """The distance of the student from one target.

        Args:
            target: What `target` returned, or a mean of that, [..., C].
            student_logits: Logits of the student, [..., C].

        Returns:
            The loss of each example, [...].
        """

    def aggregate(
        self, teacher_logits: tf.Tensor | Sequence[tf.Tensor], weights: tf.Tensor | None = None
    ) -> Any:
        """Makes the first argument of `call` of the predictions of all teachers.

        Args:
            teacher_logits: Logits of P teachers: a sequence of P tensors [..., C] or one tensor [P, ..., C].
            weights: Weight of each teacher in the mean, float32 [P], or for each row [P, B], 0 to leave it
                out; None for equal weights. Where all are 0 the outcome is finite but means nothing, and the
                loss deserves no weight.

        Returns:
            The mean of what `mean_over` names, [..., C]; for losses a pair, the target of each teacher and
            their weights, which sum to 1.

        Raises:
            ValueError: There are no teachers, or their logits differ in shape.
        """
        teachers = [self._examples(logits) for logits in _each_teacher(teacher_logits)]
        for other in teachers[1:]:
            check_shapes("the first teacher", teachers[0], "another", other)
        teacher_weights = _normalised(weights, len(teachers), self.dtype)
        if weights is not None:
            teachers = list(map(_without_excluded, teacher_weights, teachers))
        if self.mean_over == "logits":
            return self.target(_mean(teacher_weights, teachers))
        targets = [self.target(logits) for logits in teachers]
        return (targets, teacher_weights) if self.mean_over == "losses" else _mean(teacher_weights, targets)

    def call(self, teacher: Any, student_logits: tf.Tensor) -> tf.Tensor:
        """Compares the student with its teachers.

        Args:
            teacher: What `aggregate` returned.
            student_logits: Logits of the student, [..., C].

        Returns:
            The loss of each example, [...].

        Raises:
            ValueError: Teacher and student differ in shape.
        """
        student = self._examples(student_logits)
        teacher = tf.nest.map_structure(lambda one: tf.stop_gradient(tf.cast(one, self.dtype)), teacher)
        targets, teacher_weights = teacher if self.mean_over == "losses" else ([teacher], None)
        for target in targets:
            check_shapes("the teacher", target, "the student", student)
        losses = [self.compare(target, student) for target in targets]
        return losses[0] if teacher_weights is None else _mean(teacher_weights, losses)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, for Keras's serialization."""
        return {**super().get_config(), "mean_over": self.mean_over}

    def _examples(self, logits: tf.Tensor) -> tf.Tensor:
        """Logits in the type and shape that this loss works with."""
        return check_classes(tf.cast(logits, self.dtype), at_least=1)


class ProbabilityComparison(Comparison):
    """A comparison that makes probabilities of logits, at a temperature.

    Attributes:
        binary: Whether a logit is a logistic output, an example of its own: [...] or [..., 1].
        temperature: Divides the logits of teachers and student.
    """

    binary: bool = False

    def __init__(
        self,
        temperature: float = 1.0,
        mean_over: str | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: str | None = None,
    ) -> None:
        """Makes the loss.

        Args:
            temperature: Divides the logits of teachers and student; finite and greater than 0. The loss is
                multiplied by its square.
            mean_over: What the mean over teachers is taken of: ``probabilities``, ``logits`` or ``losses``;
                None for the first that the class offers.
            reduction: How `keras.losses.Loss` reduces over examples.
            name: Name of the loss; None for one made from the class.
            dtype: Type that the loss is computed in; None for float32.

        Raises:
            ValueError: The temperature is not a finite number greater than 0, or `mean_over` is unknown.
        """
        super().__init__(mean_over=mean_over, reduction=reduction, name=name, dtype=dtype)
        if not math.isfinite(temperature) or temperature <= 0:
            raise ValueError(
                f"temperature is {temperature!r}; expected a finite number > 0, 1.0 for plain softmax"
            )
        self.temperature = float(temperature)

    def probabilities(self, logits: tf.Tensor) -> tf.Tensor:
        """Probabilities at this loss's temperature.

        Args:
            logits: Logits, [..., C] or those of logistic outputs, [...].

        Returns:
            A tensor of the same shape.
        """
        activation = tf.sigmoid if self.binary else tf.nn.softmax
        return activation(self.at_temperature(logits))

    def at_temperature(self, logits: tf.Tensor) -> tf.Tensor:
        """Logits divided by the temperature; the very tensor, with what has been left at it, if that is 1."""
        return logits if self.temperature == 1 else logits / self.temperature

    def target(self, teacher_logits: tf.Tensor) -> tf.Tensor:
        """The teacher's probabilities at this loss's temperature, [..., C]."""
        return self.probabilities(teacher_logits)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, for Keras's serialization."""
        return {**super().get_config(), "temperature": self.temperature}

    def _examples(self, logits: tf.Tensor) -> tf.Tensor:
        logits = tf.cast(logits, self.dtype)
        if self.binary:
            return tf.squeeze(logits, axis=-1) if _has_output_axis(logits) else logits
        return check_classes(logits, at_least=2)

    def _num_example_axes(self, student_logits: tf.Tensor) -> int:
        has_axis = not self.binary or _has_output_axis(student_logits)
        return len(student_logits.shape) - int(has_axis)


def one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    """The value of an argument, if it is among those that it can have.

    Args:
        name: Name of the argument.
        value: What the user gave.
        allowed: What is possible.

    Returns:
        The value.

    Raises:
        ValueError: It is another one.
    """
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(allowed)}")
    return value


def check_classes(logits: tf.Tensor, at_least: int = 2) -> tf.Tensor:
    """The logits, if they have an axis of classes; a softmax over examples would pass unnoticed.

    Args:
        logits: Logits, [..., C].
        at_least: How many classes there must be.

    Returns:
        The logits.

    Raises:
        ValueError: There is no axis of classes, or it is too short.
    """
    shape = logits.shape
    if shape.rank is not None and (shape.rank < 2 or (shape[-1] is not None and shape[-1] < at_least)):
        raise ValueError(
            f"logits have shape {tuple(shape)}; expected [batch, ..., classes] with at least {at_least} "
            "classes, or one of the Binary losses for logistic outputs"
        )
    return logits


def check_shapes(name: str, tensor: tf.Tensor, other_name: str, other: tf.Tensor) -> None:
    """Checks that two predictions, or what was made of them, have one shape.

    Args:
        name: Whose prediction the first is.
        tensor: The first.
        other_name: Whose the second is.
        other: The second.

    Raises:
        ValueError: Their static shapes differ.
    """
    if not tensor.shape.is_compatible_with(other.shape):
        raise ValueError(
            f"{name} predicts shape {tuple(tensor.shape)}, {other_name} {tuple(other.shape)}; expected equal "
            "shapes, from models with the same outputs on the same batch"
        )


def _has_output_axis(logits: tf.Tensor) -> bool:
    return len(logits.shape) > 1 and logits.shape[-1] == 1


def _with_axes(per_example: tf.Tensor, num_axes: int) -> tf.Tensor:
    per_example = tf.convert_to_tensor(per_example)
    for _ in range(num_axes - len(per_example.shape)):
        per_example = per_example[..., tf.newaxis]
    return per_example


def _each_teacher(teacher_logits: tf.Tensor | Sequence[tf.Tensor]) -> list[tf.Tensor]:
    one_each = isinstance(teacher_logits, (list, tuple))
    teachers = list(teacher_logits) if one_each else tf.unstack(teacher_logits)
    if not teachers:
        raise ValueError("teacher_logits is empty; expected the logits of at least one teacher")
    return teachers


def _normalised(weights: tf.Tensor | None, num_teachers: int, dtype: str) -> list[tf.Tensor]:
    if weights is None:
        return [tf.constant(1 / num_teachers, dtype)] * num_teachers
    weights = tf.cast(weights, dtype)
    return tf.unstack(tf.math.divide_no_nan(weights, tf.reduce_sum(weights, axis=0)), num=num_teachers)


def _without_excluded(weight: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """A teacher's logits, zeros where its weight is 0: times NaN that would be NaN."""

    def some() -> tf.Tensor:
        return tf.where(_like(weight, logits) > 0, logits, tf.zeros_like(logits))

    # Mostly no weight is 0, and nothing is copied.
    return tf.cond(tf.reduce_all(weight > 0), lambda: logits, some)


def _mean(weights: list[tf.Tensor], values: list[tf.Tensor]) -> tf.Tensor:
    if len(values) == 1:
        return values[0]
    return tf.add_n([_like(weight, value) * value for weight, value in zip(weights, values, strict=True)])


def _like(weight: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """A weight, or one for each row, with as many axes as what it is a weight of."""
    return _with_axes(weight, len(value.shape)) if len(weight.shape) else weight
