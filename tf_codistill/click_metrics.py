"""How good predictions of clicks are, from logits: Keras metrics.

    model.compile(..., weighted_metrics=[LogLoss(), NormalizedEntropy(), AreaUnderROC(), Calibration()])

    log_loss             mean negative log-likelihood of a row, in nats
    normalized_entropy   log loss / that of who predicts the click rate for all rows (He et al. 2014)
    auc                  how often a clicked row has a larger logit than one that was not
    calibration          mean prediction / click rate; above 1 promises too much

Each is a quotient of sums over rows, so that batches, replicas and workers add up to what all rows together
give. Probabilities of clicks are small and crowded: `keras.metrics.AUC` divides 0 to 1 into 200 equal parts,
into a few of which most rows of an advertiser fall; here 4096 bins divide the logits. Functions on arrays and
the reliability diagram are in `calibration`.
"""

from __future__ import annotations

import abc
from typing import Any

import keras
import numpy as np
import tensorflow as tf

NUM_BINS = 4096
MAX_LOGIT = 12.0
"""Logits beyond, probabilities below 6e-6, fall into the outermost bins."""


class ClickMetric(keras.metrics.Metric, abc.ABC):
    """Sums over rows, and what follows from them."""

    num_sums: int
    """How many sums there are."""

    def __init__(self, from_logits: bool = True, name: str | None = None, dtype: Any = None) -> None:
        """Makes the metric.

        Args:
            from_logits: Whether predictions are logits and not probabilities.
            name: Its name in the logs.
            dtype: Type of the sums; None for Keras's default, float32.
        """
        super().__init__(name=name, dtype=dtype)
        self.from_logits = from_logits
        self._sums = self.add_variable((self.num_sums,), "zeros", name="sums")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Counts a batch.

        Args:
            y_true: 1 for a click and 0 for none, [B] or [B, 1].
            y_pred: Predictions, [B] or [B, 1].
            sample_weight: Weight of each row, [B] or [B, 1]; None for 1.
        """
        labels, predictions = (tf.reshape(tf.cast(one, self.dtype), [-1]) for one in (y_true, y_pred))
        weights = tf.ones_like(labels)
        if sample_weight is not None:
            weights *= tf.reshape(tf.cast(sample_weight, self.dtype), [-1])
        if not self.from_logits:
            smallest = np.finfo("float32").tiny
            odds = tf.maximum(predictions, smallest), tf.maximum(1 - predictions, smallest)
            predictions = tf.math.log(odds[0]) - tf.math.log(odds[1])
        self._sums.assign_add(self.sums(labels, predictions, weights))

    def result(self) -> tf.Tensor:
        """The figure for all rows since the last reset."""
        return self.of_sums(tf.convert_to_tensor(self._sums))

    @abc.abstractmethod
    def sums(self, labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """What a batch adds.

        Args:
            labels: 0 or 1, [B].
            logits: Logits, [B].
            weights: Weights, [B].

        Returns:
            The sums, [`num_sums`].
        """

    @abc.abstractmethod
    def of_sums(self, sums: tf.Tensor) -> tf.Tensor:
        """What follows from the sums of all batches, a scalar."""

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, for Keras's serialization."""
        return {**super().get_config(), "from_logits": self.from_logits}


@keras.saving.register_keras_serializable(package="tf_codistill")
class LogLoss(ClickMetric):
    """Mean negative log-likelihood in nats; 0 before the first row."""

    num_sums = 2

    def __init__(self, from_logits: bool = True, name: str = "log_loss", dtype: Any = None) -> None:
        """See `ClickMetric`."""
        super().__init__(from_logits, name, dtype)

    def sums(self, labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """Nats and rows."""
        return tf.stack([tf.reduce_sum(_nats(labels, logits) * weights), tf.reduce_sum(weights)])

    def of_sums(self, sums: tf.Tensor) -> tf.Tensor:
        """Nats per row."""
        return tf.math.divide_no_nan(sums[0], sums[1])


@keras.saving.register_keras_serializable(package="tf_codistill")
class NormalizedEntropy(ClickMetric):
    """Log loss divided by the entropy of the click rate (He et al. 2014); 0 if all labels are equal."""

    num_sums = 3

    def __init__(self, from_logits: bool = True, name: str = "normalized_entropy", dtype: Any = None) -> None:
        """See `ClickMetric`."""
        super().__init__(from_logits, name, dtype)

    def sums(self, labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """Nats, clicks and rows."""
        each = [_nats(labels, logits) * weights, labels * weights, weights]
        return tf.stack([tf.reduce_sum(one) for one in each])

    def of_sums(self, sums: tf.Tensor) -> tf.Tensor:
        """Nats per row, in units of those of the click rate."""
        nats, clicks, rows = tf.unstack(sums)
        rate = tf.math.divide_no_nan(clicks, rows)
        entropy = -tf.math.xlogy(rate, rate) - tf.math.xlogy(1 - rate, 1 - rate)
        return tf.math.divide_no_nan(tf.math.divide_no_nan(nats, rows), entropy)


@keras.saving.register_keras_serializable(package="tf_codistill")
class Calibration(ClickMetric):
    """Mean prediction divided by the click rate; 0 if nothing was clicked."""

    num_sums = 2

    def __init__(self, from_logits: bool = True, name: str = "calibration", dtype: Any = None) -> None:
        """See `ClickMetric`."""
        super().__init__(from_logits, name, dtype)

    def sums(self, labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """Clicks that are expected, and those that came."""
        return tf.stack([tf.reduce_sum(tf.sigmoid(logits) * weights), tf.reduce_sum(labels * weights)])

    def of_sums(self, sums: tf.Tensor) -> tf.Tensor:
        """Their quotient."""
        return tf.math.divide_no_nan(sums[0], sums[1])


@keras.saving.register_keras_serializable(package="tf_codistill")
class AreaUnderROC(ClickMetric):
    """Probability that a clicked row has the larger logit, equal ones by halves; 0.5 if all labels are equal.

    Rows of a bin count as equal. The exact figure is no farther away than half the probability that a clicked
    row and another fall into the same bin, which `error` returns: 0.001 where logits are spread over 2 or 3.
    """

    num_sums = 2 * NUM_BINS

    def __init__(self, from_logits: bool = True, name: str = "auc", dtype: Any = None) -> None:
        """See `ClickMetric`."""
        super().__init__(from_logits, name, dtype)

    def sums(self, labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """Rows without and with a click in each bin."""
        places = tf.cast((logits + MAX_LOGIT) * (NUM_BINS / (2 * MAX_LOGIT)), tf.int32)
        places = tf.clip_by_value(places, 0, NUM_BINS - 1)
        both = ((1 - labels) * weights, labels * weights)
        return tf.concat([tf.math.unsorted_segment_sum(one, places, NUM_BINS) for one in both], axis=0)

    def of_sums(self, sums: tf.Tensor) -> tf.Tensor:
        """The area."""
        others, clicks = _shares(sums)
        below = tf.cumsum(others, exclusive=True)
        area = tf.reduce_sum(clicks * (below + others / 2))
        return tf.cast(tf.where(_is_one_sided(sums), tf.constant(0.5, area.dtype), area), self.dtype)

    def error(self) -> tf.Tensor:
        """How far the exact figure can be away, a scalar."""
        others, clicks = _shares(tf.convert_to_tensor(self._sums))
        return tf.reduce_sum(others * clicks) / 2


def _nats(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)


def _shares(sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Shares of the rows without and with a click that fall into each bin, float64 [`NUM_BINS`]."""
    others, clicks = tf.split(tf.cast(sums, tf.float64), 2)
    first, second = (tf.math.divide_no_nan(one, tf.reduce_sum(one)) for one in (others, clicks))
    return first, second


def _is_one_sided(sums: tf.Tensor) -> tf.Tensor:
    others, clicks = tf.split(sums, 2)
    return tf.minimum(tf.reduce_sum(others), tf.reduce_sum(clicks)) <= 0
