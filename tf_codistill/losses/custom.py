"""Any Keras loss, or any function, as a distillation loss.

    Custom(keras.losses.Huber(), teacher="logits")                        Huber loss between logits
    Custom(keras.losses.KLDivergence(), student="probabilities")          between probabilities
    Custom(my_function, mean_over="losses")                               my_function(probs, student_logits)
    get(keras.losses.CategoricalCrossentropy(from_logits=True))           the same as Custom(...)

The loss is called with what it takes of teacher and student, and returns a value for each example. Its own
reduction is not used: that of `Custom` is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tf_codistill.losses.base import DistillationLoss, ProbabilityComparison, one_of
from tf_codistill.losses.predictions import SoftCrossEntropy

ExampleLoss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # a keras.losses.Loss is one too

_FORMS = ("probabilities", "logits")


@keras.saving.register_keras_serializable(package="tf_codistill")
class Custom(ProbabilityComparison):
    """Makes a loss between two predictions a distillation loss.

    With a temperature both are of logits / T, and the loss is multiplied by T^2.
    """

    def __init__(
        self,
        loss: ExampleLoss,
        teacher: str = "probabilities",
        student: str = "logits",
        mean_over: str | None = None,
        temperature: float = 1.0,
        binary: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: str | None = None,
    ) -> None:
        """Makes the loss.

        Args:
            loss: A Keras loss, or a function of teacher and student, both [..., C], that returns [...].
            teacher: What it gets of the teacher: ``probabilities`` or ``logits``.
            student: What it gets of the student: ``logits`` or ``probabilities``.
            mean_over: What the mean over teachers is taken of: ``probabilities``, ``logits`` or ``losses``;
                None for what it gets of the teacher, as in Algorithm 1.
            temperature: Divides the logits of teachers and student; finite and greater than 0.
            binary: Whether probabilities are the sigmoids of logistic outputs, not a softmax over classes.
                The loss then gets [..., 1] for each and may return [...] or [..., 1].
            reduction: How `keras.losses.Loss` reduces over examples.
            name: Name of the loss; None for that of the loss it is made of.
            dtype: Type that the loss is computed in; None for float32.

        Raises:
            ValueError: An argument is not what it should be, or does not go with the others.
        """
        if not callable(loss):
            raise ValueError(f"loss is {loss!r}; expected a keras.losses.Loss or a function of two tensors")
        self.teacher = one_of("teacher", teacher, _FORMS)
        self.student = one_of("student", student, _FORMS)
        mean_over = teacher if mean_over is None else mean_over
        if (teacher, mean_over) == ("logits", "probabilities"):
            raise ValueError(
                "mean_over is 'probabilities' but the loss takes the teacher's logits; expected 'logits' or "
                "'losses', or teacher='probabilities'"
            )
        _check_student_form(loss, student)
        name = name or getattr(loss, "name", None) or getattr(loss, "__name__", None)
        super().__init__(temperature, mean_over, reduction=reduction, name=name, dtype=dtype)
        self.loss = loss
        self.binary = binary

    def target(self, teacher_logits: tf.Tensor) -> tf.Tensor:
        """What the loss takes of a teacher: probabilities or logits at this loss's temperature, [..., C]."""
        return self._form(self.teacher, teacher_logits)

    def compare(self, target: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
        """Calls the loss; a `ValueError` if it does not return a value for each example."""
        student = self._form(self.student, student_logits)
        shape = student.shape if self.binary else student.shape[:-1]
        if self.binary:
            target, student = target[..., tf.newaxis], student[..., tf.newaxis]
        loss = self.loss.call if isinstance(self.loss, keras.losses.Loss) else self.loss
        values = tf.convert_to_tensor(loss(target, student))
        if self.binary and values.shape.rank == shape.rank + 1:
            values = tf.squeeze(values, axis=-1)
        if not values.shape.is_compatible_with(shape):
            raise ValueError(
                f"{self.name} returned shape {tuple(values.shape)} for logits {tuple(student_logits.shape)}; "
                f"expected a value for each example, {tuple(shape)}"
            )
        return tf.cast(values, self.dtype) * self.temperature**2

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, for Keras's serialization."""
        own = {"teacher": self.teacher, "student": self.student, "binary": self.binary}
        return {**super().get_config(), **own, "loss": keras.saving.serialize_keras_object(self.loss)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Custom:
        """An equal loss from what `get_config` returned."""
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})

    def _form(self, form: str, logits: tf.Tensor) -> tf.Tensor:
        return self.probabilities(logits) if form == "probabilities" else self.at_temperature(logits)

    def _examples(self, logits: tf.Tensor) -> tf.Tensor:
        uses_softmax = "probabilities" in (self.teacher, self.student)
        if self.binary or uses_softmax:
            return super()._examples(logits)
        # Between logits a single one is as good as many.
        return super(ProbabilityComparison, self)._examples(logits)


def get(loss: ExampleLoss | None) -> DistillationLoss:
    """The distillation loss that an argument stands for.

    Args:
        loss: A distillation loss, or a Keras loss or function for `Custom`, or None for the paper's,
            `SoftCrossEntropy`.

    Returns:
        The distillation loss.

    Raises:
        ValueError: It is something else.
    """
    if loss is None:
        return SoftCrossEntropy()
    return loss if isinstance(loss, DistillationLoss) else Custom(loss)


def _check_student_form(loss: ExampleLoss, student: str) -> None:
    """Keras losses clip logits that they take for probabilities, without a word."""
    from_logits = getattr(loss, "from_logits", None)
    if isinstance(loss, keras.losses.KLDivergence):
        from_logits = False
    if from_logits is not None and from_logits != (student == "logits"):
        raise ValueError(
            f"student is {student!r} but the loss takes {'logits' if from_logits else 'probabilities'}; "
            "change student, or from_logits of the loss"
        )
