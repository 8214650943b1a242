"""Label smoothing in the place of teachers: the baselines of Anil et al. 2018, section 3.3.

    UniformSmoothing()                 H(u, q)    u = 1 / C for every class
    UnigramSmoothing(frequencies_C)    H(u, q)    u = how often each class occurs

q is the student's prediction. If codistillation were nothing but a penalty on confident predictions, these
would do as well. They need no teachers: the burn-in, the weight and the logs are those of codistillation.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from tf_codistill.losses.base import DistillationLoss, check_classes


class Smoothing(DistillationLoss):
    """A loss that pulls the student towards one distribution, the same for every example."""

    needs_teachers: ClassVar[bool] = False

    def aggregate(
        self, teacher_logits: tf.Tensor | Sequence[tf.Tensor], weights: tf.Tensor | None = None
    ) -> Any:
        """An empty structure: no teacher is used."""
        return ()

    def call(self, teacher: Any, student_logits: tf.Tensor) -> tf.Tensor:
        """The cross-entropy of the student under the distribution, in nats, [...]."""
        logits = check_classes(tf.cast(student_logits, self.dtype))
        return -self.mean_over_classes(tf.nn.log_softmax(logits))

    @abc.abstractmethod
    def mean_over_classes(self, values: tf.Tensor) -> tf.Tensor:
        """The mean under the distribution.

        Args:
            values: A value for each class, [..., C].

        Returns:
            Their mean, [...].
        """


@keras.saving.register_keras_serializable(package="tf_codistill")
class UniformSmoothing(Smoothing):
    """Pulls the student towards equal probabilities."""

    def mean_over_classes(self, values: tf.Tensor) -> tf.Tensor:
        """The plain mean."""
        return tf.reduce_mean(values, axis=-1)


@keras.saving.register_keras_serializable(package="tf_codistill")
class UnigramSmoothing(Smoothing):
    """Pulls the student towards the frequencies of the classes, in text those of the word pieces."""

    def __init__(
        self,
        frequencies: Sequence[float] | np.ndarray,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: str | None = None,
    ) -> None:
        """Makes the loss.

        Args:
            frequencies: How often each class occurs, [C]: counts or probabilities, scaled here to sum 1.
            reduction: How `keras.losses.Loss` reduces over examples.
            name: Name of the loss; None for one made from the class.
            dtype: Type that the loss is computed in; None for float32.

        Raises:
            ValueError: The frequencies are not two finite numbers or more, at least 0 and not all 0.
        """
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        array = np.asarray(frequencies, np.float64)
        valid = array.ndim == 1 and array.size > 1 and np.isfinite(array).all() and (array >= 0).all()
        if not valid or not array.sum() > 0:
            raise ValueError(
                f"frequencies have shape {array.shape} and values {array!r}; expected one finite number >= 0 "
                "for each of the classes, not all of them 0"
            )
        self.frequencies = array / array.sum()

    def mean_over_classes(self, values: tf.Tensor) -> tf.Tensor:
        """The mean weighted by frequency; a `ValueError` if there are not as many classes as frequencies."""
        if values.shape[-1] != self.frequencies.size:
            raise ValueError(
                f"the student predicts {values.shape[-1]} classes; expected {self.frequencies.size}, the "
                "number of frequencies"
            )
        return tf.reduce_sum(values * tf.constant(self.frequencies, values.dtype), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, for Keras's serialization."""
        return {**super().get_config(), "frequencies": self.frequencies.tolist()}
