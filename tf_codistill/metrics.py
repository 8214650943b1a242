"""What is measured besides losses.

Perplexity is a Keras metric, agreement a function:

    model.compile(..., metrics=[Perplexity()])   exp(mean negative log-likelihood per token, in nats)
    agreement(teacher_probs_BTV, logits_BTV)     share of positions where both have the same favourite
"""

from __future__ import annotations

import keras
import tensorflow as tf


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
            sample_weight: Weight of each token, broadcast to [...]; None for 1.
        """
        logits = tf.cast(y_pred, self.dtype)
        nats = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(y_true, tf.int64), logits)
        weights = tf.ones_like(nats)
        if sample_weight is not None:
            weights *= tf.cast(sample_weight, nats.dtype)
        self._nats.assign_add(tf.reduce_sum(nats * weights))
        self._tokens.assign_add(tf.reduce_sum(weights))

    def result(self) -> tf.Tensor:
        """The perplexity of the tokens seen so far.

        Returns:
            A scalar tensor; 1 before the first token.
        """
        nats, tokens = tf.convert_to_tensor(self._nats), tf.convert_to_tensor(self._tokens)
        return tf.exp(tf.math.divide_no_nan(nats, tokens))


def agreement(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """How often teacher and student have the same most likely class.

    Args:
        teacher: Logits or probabilities of the teacher, [..., C].
        student: Logits or probabilities of the student, [..., C].

    Returns:
        A scalar float32 tensor between 0 and 1: the mean over all positions.
    """
    same = tf.equal(tf.argmax(teacher, axis=-1), tf.argmax(student, axis=-1))
    return tf.reduce_mean(tf.cast(same, tf.float32))
