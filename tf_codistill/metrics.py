"""What is measured besides losses.

Perplexity and churn are Keras metrics, the others are functions:

    model.compile(..., metrics=[Perplexity()])   exp(mean negative log-likelihood per token, in nats)
    Churn("flip_rate")(old_BC, new_BC)           how far two predictions of the same examples are apart
    agreement(teacher_BTC, student_BTC)          fraction of positions where both have the same favourite
    divergence(teacher_BTC, student_BTC)         mean KL(teacher || student), in nats

Positions that the Keras mask of the student's prediction hides, and those of sample weight 0, count nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_codistill import keras_private

# What a probability counts as in the logarithms of churn at least, as in `reproducibility.measures`.
_FLOOR = 2.0**-52


@keras.saving.register_keras_serializable(package="tf_codistill")
class Perplexity(keras.metrics.Metric):
    """Exponential of the mean negative log-likelihood of all tokens seen since the last reset."""

    def __init__(self, name: str = "perplexity", dtype: str | None = None) -> None:
        """Makes the metric.

        Args:
            name: Its name in the logs.
            dtype: Type of the two sums; None for Keras's default, float32.
        """
        super().__init__(name=name, dtype=dtype)
        # Sums, not means: added over replicas they give the mean over all tokens of all replicas.
        self._nats = self.add_variable((), "zeros", name="nats")
        self._tokens = self.add_variable((), "zeros", name="tokens")

    def update_state(
        self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> None:
        """Counts a batch.

        Args:
            y_true: Integer ids of the true tokens, [...].
            y_pred: Logits, [..., V].
            sample_weight: Weight of each token, or of the leading axes of [...]; None for 1.
        """
        logits = tf.cast(y_pred, self.dtype)
        nats = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(y_true, tf.int64), logits)
        weights = _weights(nats, y_pred, sample_weight)
        self._nats.assign_add(tf.reduce_sum(nats * weights))
        self._tokens.assign_add(tf.reduce_sum(weights))

    def result(self) -> tf.Tensor:
        """The perplexity of the tokens seen so far.

        Returns:
            A scalar tensor; 1 before the first token.
        """
        nats, tokens = tf.convert_to_tensor(self._nats), tf.convert_to_tensor(self._tokens)
        return tf.exp(tf.math.divide_no_nan(nats, tokens))


@keras.saving.register_keras_serializable(package="tf_codistill")
class Churn(keras.metrics.Metric):
    """How far two predictions of the same examples are apart, over all examples since the last reset.

    ``reproducibility.measures`` defines the figures, and has more of them, with intervals.
    """

    def __init__(
        self,
        measure: str = "mean_absolute_difference",
        from_logits: bool = False,
        threshold: float = 0.5,
        name: str = "churn",
        dtype: str | None = None,
    ) -> None:
        """Makes the metric.

        Args:
            measure: ``mean_absolute_difference``, ``relative_difference``, ``flip_rate``, ``kl`` or ``jsd``,
                the last two in nats.
            from_logits: Whether predictions are logits and not probabilities.
            threshold: From which probability on class 1 of two is chosen, where there is one output for both.
            name: Its name in the logs.
            dtype: Type of the two sums; None for Keras's default, float32.

        Raises:
            ValueError: The measure is none of these, or the threshold is no probability.
        """
        if measure not in _CHURN:
            raise ValueError(f"measure is {measure!r}; expected one of {', '.join(_CHURN)}")
        if not 0 < threshold < 1:
            raise ValueError(f"threshold is {threshold}; expected a probability between 0 and 1")
        super().__init__(name=name, dtype=dtype)
        self._measure, self._from_logits, self._threshold = measure, from_logits, threshold
        self._sum = self.add_variable((), "zeros", self.dtype, name="sum")
        self._count = self.add_variable((), "zeros", self.dtype, name="count")

    def update_state(
        self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> None:
        """Counts a batch.

        Args:
            y_true: What the first model predicts, [B] or [..., 1] for class 1 of two, or [..., C].
            y_pred: What the second predicts of the same examples, of the same shape.
            sample_weight: Weight of each position, or of the leading axes of [...]; None for 1.
        """
        first, second = (self._probabilities(prediction) for prediction in (y_true, y_pred))
        is_binary = len(y_pred.shape) == 1 or y_pred.shape[-1] == 1
        values = _CHURN[self._measure](first, second, self._threshold if is_binary else None)
        weights = _weights(values, y_pred, sample_weight)
        self._sum.assign_add(tf.reduce_sum(tf.math.multiply_no_nan(values, weights)))
        self._count.assign_add(tf.reduce_sum(weights))

    def result(self) -> tf.Tensor:
        """The figure of what has been seen so far.

        Returns:
            A scalar tensor; 0 before the first example.
        """
        total, count = tf.convert_to_tensor(self._sum), tf.convert_to_tensor(self._count)
        return tf.math.divide_no_nan(total, count)

    def get_config(self) -> dict[str, Any]:
        """What makes it again."""
        own = {"measure": self._measure, "from_logits": self._from_logits, "threshold": self._threshold}
        return {"name": self.name, "dtype": self.dtype, **own}

    def _probabilities(self, prediction: tf.Tensor) -> tf.Tensor:
        """Of every class, [..., C] with C >= 2."""
        values = tf.cast(prediction, self.dtype)
        if len(values.shape) == 1:
            values = values[:, tf.newaxis]
        if self._from_logits:
            return tf.cast(tf.nn.softmax(_two_classes(values)), self.dtype)
        return tf.concat([1 - values, values], axis=-1) if values.shape[-1] == 1 else values


def agreement(
    teacher: tf.Tensor | Sequence[tf.Tensor],
    student: tf.Tensor,
    sample_weight: tf.Tensor | None = None,
    teacher_weights: tf.Tensor | None = None,
) -> tf.Tensor:
    """How often teacher and student have the same most likely class.

    Args:
        teacher: Logits or probabilities of the teacher, [..., C], or a list of those of P teachers. Logistic
            outputs, C = 1, must be logits, of teacher and student: their favourite is the sign.
        student: Logits or probabilities of the student, [..., C].
        sample_weight: Weight of each position, or of the leading axes of [...]; None for 1.
        teacher_weights: Weight of each teacher in the mean, float32 [P], or for each row [P, B], 0 to leave
            it out; None for equal weights.

    Returns:
        A scalar float32 tensor between 0 and 1: the mean over teachers and positions; 0 if nothing counts.
    """
    favourite = _favourite(student)
    same = [tf.cast(tf.equal(_favourite(one), favourite), tf.float32) for one in _each(teacher)]
    return _mean_over_teachers(same, student, sample_weight, teacher_weights)


def divergence(
    teacher: tf.Tensor | Sequence[tf.Tensor],
    student: tf.Tensor,
    sample_weight: tf.Tensor | None = None,
    teacher_weights: tf.Tensor | None = None,
) -> tf.Tensor:
    """How far the student's prediction is from the teacher's, KL(teacher || student) at temperature 1.

    Args:
        teacher: Logits of the teacher, [..., C], or a list of those of P teachers; C = 1 for a logistic
            output.
        student: Logits of the student, [..., C].
        sample_weight: Weight of each position, or of the leading axes of [...]; None for 1.
        teacher_weights: Weight of each teacher in the mean, float32 [P], or for each row [P, B], 0 to leave
            it out; None for equal weights.

    Returns:
        A scalar float32 tensor in nats: the mean over teachers and positions; 0 if nothing counts.
    """
    log_q = tf.nn.log_softmax(_two_classes(student))
    values = []
    for one in _each(teacher):
        log_p = tf.nn.log_softmax(_two_classes(one))
        values.append(tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1))
    return _mean_over_teachers(values, student, sample_weight, teacher_weights)


def _absolute_difference(p: tf.Tensor, q: tf.Tensor, threshold: float | None) -> tf.Tensor:
    return tf.reduce_sum(tf.abs(p - q), axis=-1) / 2


def _relative_difference(p: tf.Tensor, q: tf.Tensor, threshold: float | None) -> tf.Tensor:
    if threshold is None:
        index = tf.argmax(p + q, axis=-1)[..., tf.newaxis]
        p, q = (tf.gather(one, index, batch_dims=len(one.shape) - 1) for one in (p, q))
    return tf.math.divide_no_nan(2 * tf.abs(p - q), p + q)[..., -1]


def _flips(p: tf.Tensor, q: tf.Tensor, threshold: float | None) -> tf.Tensor:
    if threshold is None:
        return tf.cast(tf.argmax(p, axis=-1) != tf.argmax(q, axis=-1), p.dtype)
    return tf.cast((p[..., 1] >= threshold) != (q[..., 1] >= threshold), p.dtype)


def _kl(p: tf.Tensor, q: tf.Tensor, threshold: float | None = None) -> tf.Tensor:
    floor = tf.constant(_FLOOR, p.dtype)
    return tf.reduce_sum(p * (tf.math.log(tf.maximum(p, floor)) - tf.math.log(tf.maximum(q, floor))), axis=-1)


def _jsd(p: tf.Tensor, q: tf.Tensor, threshold: float | None) -> tf.Tensor:
    mean = (p + q) / 2
    return (_kl(p, mean) + _kl(q, mean)) / 2


_CHURN = {
    "mean_absolute_difference": _absolute_difference,
    "relative_difference": _relative_difference,
    "flip_rate": _flips,
    "kl": _kl,
    "jsd": _jsd,
}


def _each(teacher: tf.Tensor | Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]


def _favourite(prediction: tf.Tensor) -> tf.Tensor:
    if prediction.shape[-1] == 1:
        return tf.cast(tf.squeeze(tf.convert_to_tensor(prediction), axis=-1) > 0, tf.int64)
    return tf.argmax(prediction, axis=-1)


def _two_classes(logits: tf.Tensor) -> tf.Tensor:
    """A logistic output is a softmax over two classes, the negative one with logit 0."""
    logits = tf.cast(logits, tf.float32)
    return tf.concat([tf.zeros_like(logits), logits], axis=-1) if logits.shape[-1] == 1 else logits


def _mean_over_teachers(
    values: list[tf.Tensor],
    student: tf.Tensor,
    sample_weight: tf.Tensor | None,
    teacher_weights: tf.Tensor | None,
) -> tf.Tensor:
    positions = [_weights(one, student, sample_weight) for one in values]
    if teacher_weights is None:
        teacher_weights = tf.ones([len(values)])
    weights_P = teacher_weights = tf.cast(teacher_weights, tf.float32)
    if len(teacher_weights.shape) == 2:
        weights_P = tf.reduce_mean(teacher_weights, axis=1)
        rows = tf.unstack(teacher_weights, num=len(values))
        positions = [one * _with_axes(row, len(one.shape)) for one, row in zip(positions, rows, strict=True)]
    values_P = tf.stack([_mean(one, at) for one, at in zip(values, positions, strict=True)])
    return _mean(values_P, weights_P)


def _mean(values: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    total = tf.reduce_sum(tf.math.multiply_no_nan(values, weights))
    return tf.math.divide_no_nan(total, tf.reduce_sum(weights))


def _weights(values: tf.Tensor, prediction: tf.Tensor, sample_weight: tf.Tensor | None) -> tf.Tensor:
    """Weights like the values: 1, by sample weight, and 0 where the Keras mask of the prediction hides."""
    weights = tf.ones_like(values)
    for factor in (sample_weight, keras_private.mask(prediction)):
        if factor is not None:
            weights *= _with_axes(tf.cast(factor, values.dtype), len(values.shape))
    return weights


def _with_axes(factor: tf.Tensor, num_axes: int) -> tf.Tensor:
    # Weights belong to the leading axes; broadcasting would take them for those of the last.
    for _ in range(num_axes - len(factor.shape)):
        factor = factor[..., tf.newaxis]
    if len(factor.shape) == num_axes + 1 and factor.shape[-1] == 1:
        return tf.squeeze(factor, axis=-1)  # Keras takes weights [B, 1] for [B], too
    return factor
