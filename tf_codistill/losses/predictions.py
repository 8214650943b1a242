"""Losses between the predictions of teachers and student.

    p = teacher, q = student, both at temperature T; t, s their logits

                                                                    default mean over teachers
    SoftCrossEntropy              T^2 sum_c -p_c log q_c            probabilities   (Anil et al. 2018)
    KLDivergence                  T^2 sum_c p_c log(p_c / q_c)      probabilities   (Anil et al. 2018)
    SquaredProbabilities          T^2 sum_c (p_c - q_c)^2           probabilities
    SquaredLogits                 1/C sum_c (t_c - s_c)^2           losses          (Sodhani et al. 2020)

    BinarySoftCrossEntropy        -T^2 (p log q + (1-p) log(1-q))   probabilities, p = sigmoid(t / T)
    BinaryKLDivergence            the same less its entropy         probabilities
    BinarySquaredProbabilities    T^2 (p - q)^2                     probabilities

Probabilities are compared by a sum over classes: a number of nats, or a squared distance, for each example.
Only squared logits are averaged over classes, as the mean squared error of Sodhani et al. is. The factor T^2
keeps the size of the gradient when the temperature grows (Hinton et al. 2015, section 2).
"""

from __future__ import annotations

from typing import ClassVar

import keras
import tensorflow as tf

from tf_codistill.losses.base import Comparison, ProbabilityComparison
from tf_codistill.losses.shared_softmax import soft_cross_entropy

_register = keras.saving.register_keras_serializable(package="tf_codistill")


@_register
class SoftCrossEntropy(ProbabilityComparison):
    """Cross-entropy with the teachers' probabilities as soft targets; the loss of Anil et al. 2018.

    It is linear in them, so that the mean over pairwise losses is the loss against the mean probabilities.
    """

    def compare(self, target: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
        """The cross-entropy of the student under probabilities [..., C], in nats, [...]."""
        nats = soft_cross_entropy(target, self.at_temperature(student_logits))
        return nats * self.temperature**2


@_register
class KLDivergence(ProbabilityComparison):
    """Divergence KL(teacher || student): the gradient of `SoftCrossEntropy`, but 0 where both agree."""

    def compare(self, target: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
        """The divergence from probabilities [..., C] to the student, in nats, [...]."""
        nats = soft_cross_entropy(target, self.at_temperature(student_logits))
        return (nats + tf.reduce_sum(tf.math.xlogy(target, target), axis=-1)) * self.temperature**2


@_register
class SquaredProbabilities(ProbabilityComparison):
    """Squared distance between the probabilities, summed over classes."""

    def compare(self, target: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
        """The squared distance of the student from probabilities [..., C], [...]."""
        squares = tf.math.squared_difference(target, self.probabilities(student_logits))
        return tf.reduce_sum(squares, axis=-1) * self.temperature**2


@_register
class SquaredLogits(Comparison):
    """Squared difference of logits, averaged over classes; the loss of Sodhani et al. 2020.

    With ``mean_over="logits"`` it is that of the mean logits: less by the variance of the teachers, with the
    same gradient. There is no temperature: T^2 would cancel it. A logistic output needs its axis, [..., 1].
    """

    MEANS: ClassVar[tuple[str, ...]] = ("losses", "logits")

    teacher = "logits"

    def target(self, teacher_logits: tf.Tensor) -> tf.Tensor:
        """The logits themselves."""
        return teacher_logits

    def compare(self, target: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
        """The squared difference of logits [..., C], a mean over classes, [...]."""
        return tf.reduce_mean(tf.math.squared_difference(target, student_logits), axis=-1)


@_register
class BinarySoftCrossEntropy(ProbabilityComparison):
    """`SoftCrossEntropy` for logistic outputs."""

    binary = True

    def compare(self, target: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
        """The cross-entropy of each output under probabilities of its positive class, in nats, [...]."""
        nats = tf.nn.sigmoid_cross_entropy_with_logits(target, self.at_temperature(student_logits))
        return nats * self.temperature**2


@_register
class BinaryKLDivergence(ProbabilityComparison):
    """`KLDivergence` for logistic outputs."""

    binary = True

    def compare(self, target: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
        """The divergence of each output from probabilities of its positive class, in nats, [...]."""
        nats = tf.nn.sigmoid_cross_entropy_with_logits(target, self.at_temperature(student_logits))
        negative_entropy = tf.math.xlogy(target, target) + tf.math.xlogy(1 - target, 1 - target)
        return (nats + negative_entropy) * self.temperature**2


@_register
class BinarySquaredProbabilities(ProbabilityComparison):
    """Squared difference between the probabilities of logistic outputs."""

    binary = True

    def compare(self, target: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
        """The squared difference of each output from probabilities of its positive class, [...]."""
        squares = tf.math.squared_difference(target, self.probabilities(student_logits))
        return squares * self.temperature**2
