"""Distillation losses: how far the student is from its teachers (psi in Anil et al. 2018, Algorithm 1).

    loss = SoftCrossEntropy()
    teacher_BTV = loss.aggregate([logits_BTV of each teacher])   mean over peers of what this loss compares
    loss(teacher_BTV, student_logits_BTV)                        a scalar, mean over the batch

    SoftCrossEntropy   T^2 H(p, q)            the teachers' mean probabilities as soft targets (the paper)
    KLDivergence       T^2 KL(p || q)         the same gradient, zero when student and teacher agree
    SquaredLogits      mean_c (t_c - s_c)^2   against the mean of the teachers' logits

p is the teachers' mean of softmax(logits / T), q the student's softmax(logits / T). The factor T^2 keeps the
size of the gradient when the temperature T grows (Hinton et al. 2015, section 2). No gradient flows into the
teacher.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


def soft_cross_entropy(
    teacher_probs: tf.Tensor, student_logits: tf.Tensor, temperature: float = 1.0
) -> tf.Tensor:
    """Cross-entropy of the student under soft targets, times the temperature squared.

    Args:
        teacher_probs: Probabilities at the given temperature, [..., C], each row with sum 1.
        student_logits: Logits of the student, [..., C].
        temperature: Temperature of the student's softmax, greater than 0.

    Returns:
        The loss of each example in nats, [...].
    """
    targets = tf.stop_gradient(teacher_probs)
    return tf.nn.softmax_cross_entropy_with_logits(targets, student_logits / temperature) * temperature**2


def kl_divergence(teacher_probs: tf.Tensor, student_logits: tf.Tensor, temperature: float = 1.0) -> tf.Tensor:
    """Kullback-Leibler divergence from the teacher to the student, times the temperature squared.

    Args:
        teacher_probs: Probabilities at the given temperature, [..., C], each row with sum 1.
        student_logits: Logits of the student, [..., C].
        temperature: Temperature of the student's softmax, greater than 0.

    Returns:
        The loss of each example in nats, [...]; 0 where both agree.
    """
    teacher_probs = tf.stop_gradient(teacher_probs)
    negative_entropy = tf.reduce_sum(tf.math.xlogy(teacher_probs, teacher_probs), axis=-1)
    cross_entropy = soft_cross_entropy(teacher_probs, student_logits, temperature)
    return cross_entropy + negative_entropy * temperature**2


def squared_logits(teacher_logits: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
    """Mean squared difference of logits.

    Args:
        teacher_logits: Logits of the teacher, [..., C].
        student_logits: Logits of the student, [..., C].

    Returns:
        The loss of each example, [...], a mean over classes.
    """
    targets = tf.stop_gradient(teacher_logits)
    return tf.reduce_mean(tf.math.squared_difference(targets, student_logits), axis=-1)


class DistillationLoss(keras.losses.Loss, abc.ABC):
    """What every distillation loss can do: aggregate the teachers, then compare the student with them."""

    @abc.abstractmethod
    def aggregate(
        self, teacher_logits: tf.Tensor | Sequence[tf.Tensor], weights: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Makes one prediction of those of all teachers.

        Args:
            teacher_logits: Logits of P teachers: a sequence of P tensors [..., C] or one tensor [P, ..., C].
            weights: Share of each teacher in the mean, float32 [P], 0 to leave it out; None for equal shares.

        Returns:
            The first argument of `call`, [..., C].
        """

    @abc.abstractmethod
    def call(self, teacher: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
        """Compares the student with its teachers.

        Args:
            teacher: What `aggregate` returned, [..., C].
            student_logits: Logits of the student, [..., C].

        Returns:
            The loss of each example, [...].
        """


class _SoftTargets(DistillationLoss):
    """Shared by the losses whose targets are probabilities."""

    def __init__(
        self,
        temperature: float = 1.0,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: str | None = None,
    ) -> None:
        """Makes the loss.

        Args:
            temperature: Divides the logits of teachers and student; finite and greater than 0.
            reduction: How `keras.losses.Loss` reduces over examples.
            name: Name of the loss; None for one made from the class.
            dtype: Type that the loss is computed in; None for float32.

        Raises:
            ValueError: The temperature is not a finite number greater than 0.
        """
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if not math.isfinite(temperature) or temperature <= 0:
            raise ValueError(
                f"temperature is {temperature!r}; expected a finite number > 0, 1.0 for plain softmax"
            )
        self.temperature = float(temperature)

    def aggregate(
        self, teacher_logits: tf.Tensor | Sequence[tf.Tensor], weights: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The mean of the teachers' probabilities at this loss's temperature.

        Args:
            teacher_logits: Logits of P teachers: a sequence of P tensors [..., C] or one tensor [P, ..., C].
            weights: Share of each teacher in the mean, float32 [P], 0 to leave it out; None for equal shares.

        Returns:
            Probabilities, [..., C].
        """
        teachers = _each_teacher(teacher_logits, self.dtype)
        return _mean([tf.nn.softmax(logits / self.temperature) for logits in teachers], weights)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, for Keras's serialization."""
        return {**super().get_config(), "temperature": self.temperature}


@keras.saving.register_keras_serializable(package="tf_codistill")
class SoftCrossEntropy(_SoftTargets):
    """Cross-entropy with the teachers' mean probabilities as soft targets; the paper's distillation loss."""

    def call(self, teacher: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
        """Compares the student with its teachers.

        Args:
            teacher: Probabilities from `aggregate`, [..., C].
            student_logits: Logits of the student, [..., C].

        Returns:
            The loss of each example in nats, [...].
        """
        return soft_cross_entropy(teacher, student_logits, self.temperature)


@keras.saving.register_keras_serializable(package="tf_codistill")
class KLDivergence(_SoftTargets):
    """KL divergence from the mean of the teachers' probabilities to the student's."""

    def call(self, teacher: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
        """Compares the student with its teachers.

        Args:
            teacher: Probabilities from `aggregate`, [..., C].
            student_logits: Logits of the student, [..., C].

        Returns:
            The loss of each example in nats, [...].
        """
        return kl_divergence(teacher, student_logits, self.temperature)


@keras.saving.register_keras_serializable(package="tf_codistill")
class SquaredLogits(DistillationLoss):
    """Squared distance between the student's logits and the mean of the teachers' logits."""

    def aggregate(
        self, teacher_logits: tf.Tensor | Sequence[tf.Tensor], weights: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The mean of the teachers' logits.

        Args:
            teacher_logits: Logits of P teachers: a sequence of P tensors [..., C] or one tensor [P, ..., C].
            weights: Share of each teacher in the mean, float32 [P], 0 to leave it out; None for equal shares.

        Returns:
            Logits, [..., C].
        """
        teachers = _each_teacher(teacher_logits, self.dtype)
        return _mean(teachers, weights)

    def call(self, teacher: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
        """Compares the student with its teachers.

        Args:
            teacher: Logits from `aggregate`, [..., C].
            student_logits: Logits of the student, [..., C].

        Returns:
            The loss of each example, [...].
        """
        return squared_logits(teacher, student_logits)


def _each_teacher(teacher_logits: tf.Tensor | Sequence[tf.Tensor], dtype: str) -> list[tf.Tensor]:
    if isinstance(teacher_logits, (list, tuple)):
        teachers = list(teacher_logits)
    else:
        teachers = tf.unstack(teacher_logits)
    if not teachers:
        raise ValueError("teacher_logits is empty; expected the logits of at least one teacher")
    return [tf.cast(logits, dtype) for logits in teachers]


def _mean(predictions: list[tf.Tensor], weights: tf.Tensor | None) -> tf.Tensor:
    if weights is None:
        return tf.add_n(predictions) / len(predictions)
    shares = tf.unstack(tf.math.divide_no_nan(weights, tf.reduce_sum(weights)), num=len(predictions))
    return tf.add_n([share * one for share, one in zip(shares, predictions, strict=True)])
