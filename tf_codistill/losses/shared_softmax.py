"""Cross-entropies of the same logits that share their softmax: the task loss and psi.

    phi = -log p_y          psi = -sum_c q_c log p_c          p = softmax(x)
    gradient of phi + w psi                                   (1 + w) p - y - w q

log p_c is x_c less the highest logit, plus the logarithm of the highest probability. What belongs to the
highest class is a number for each example, and p stands behind it: whoever has worked it out leaves it at
the logits, as Keras leaves its masks, and whoever needs it next adds to its gradient. So p is computed once,
and multiplied once, whatever weights, masks and averages come between the two.

TensorFlow's own two operations, which know nothing of each other, take more than twice as long on a CPU.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_codistill import keras_private


class SharedCrossEntropy(keras.losses.SparseCategoricalCrossentropy):
    """Keras's cross-entropy of logits, which leaves its softmax to whom else it may concern."""

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """The cross-entropy of each example.

        Args:
            y_true: Ids of classes, [...] or [..., 1].
            y_pred: Logits, [..., C].

        Returns:
            Nats, [...].
        """
        if len(y_true.shape) == len(y_pred.shape) and y_true.shape[-1] == 1:
            y_true = tf.squeeze(y_true, axis=-1)
        if not y_true.shape.is_compatible_with(y_pred.shape[:-1]):
            return super().call(y_true, y_pred)
        return hard_cross_entropy(tf.cast(y_true, tf.int64), y_pred)


def sharing(loss: Any) -> Any:
    """Puts `SharedCrossEntropy` in the place of equal losses of Keras.

    Args:
        loss: A loss, or a structure of losses, as `compile` takes it.

    Returns:
        The same; what is no plain cross-entropy of logits is left as it is.
    """
    return keras.tree.map_structure(_sharing, loss)


def hard_cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The cross-entropy under labels; leaves its softmax at the logits for `soft_cross_entropy`.

    Args:
        labels: Ids of classes, integers [...]; of what is no class the loss is NaN, or an
            error, as in TensorFlow.
        logits: Logits, [..., C].

    Returns:
        Nats, [...].
    """
    highest, log_probability = logits._highest_class = _highest_class(logits)
    own = tf.gather(logits, labels, batch_dims=len(labels.shape))
    is_class = (labels >= 0) & (labels < tf.shape(logits, labels.dtype)[-1])
    return tf.where(is_class, tf.squeeze(highest, -1) - own - log_probability, float("nan"))


def soft_cross_entropy(probabilities: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The cross-entropy under soft targets; shares the softmax of a `hard_cross_entropy` that came before.

    Args:
        probabilities: Probabilities of the classes, which sum to 1, [..., C].
        logits: Logits, [..., C].

    Returns:
        Nats, [...].
    """
    highest, log_probability = _left_at(logits) or _highest_class(logits)
    return -tf.reduce_sum(probabilities * (logits - highest), axis=-1) - log_probability


def _sharing(loss: Any) -> Any:
    # A subclass may compute something else.
    plain = type(loss) is keras.losses.SparseCategoricalCrossentropy
    plain = plain and keras_private.arguments(loss).get("axis", -1) == -1
    if not plain or not loss.from_logits or loss.ignore_class is not None:
        return loss
    return SharedCrossEntropy(from_logits=True, reduction=loss.reduction, name=loss.name, dtype=loss.dtype)


@tf.custom_gradient
def _highest_class(logits: tf.Tensor) -> Any:
    """The highest logit, [..., 1], and the logarithm of its probability, [...].

    The gradient of the difference of both, minus p, is that of the second; the first is treated as constant.
    """
    probabilities = tf.nn.softmax(logits)

    def gradient(_: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
        return -upstream[..., tf.newaxis] * probabilities

    highest = tf.reduce_max(logits, axis=-1, keepdims=True)
    return (highest, tf.math.log(tf.reduce_max(probabilities, axis=-1))), gradient


def _left_at(logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor] | None:
    """What `hard_cross_entropy` has left, unless that was in a branch that cannot be reached from here."""
    left = getattr(logits, "_highest_class", None)
    return left if left is not None and _graph(left[0]) is _graph(logits) else None


def _graph(tensor: tf.Tensor) -> Any:
    return getattr(tensor, "graph", None)  # tensors of an eager step have none
