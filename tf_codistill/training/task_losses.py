"""The task's losses on one replica: of the student, of its teachers, of chance.

task = TaskLosses.of_batch(compile_loss, batch, prediction, fractions)
task.loss(prediction of a teacher)          without a trace in Keras's own averages
task.loss(task.by_chance(prediction))       log C for C classes
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tf_codistill import keras_private
from tf_codistill.batches import Batch
from tf_codistill.teaching.base import rows_of
from tf_codistill.training.outputs import by_name, masked_like, structured, weighed
from tf_codistill.training.whole_batch import ReplicaFractions, is_mean, of_whole_batch


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

    @classmethod
    def of_batch(
        cls,
        losses: Any,
        batch: Batch,
        prediction: Any,
        fractions: ReplicaFractions,
        share: tf.Tensor | None = None,
    ) -> TaskLosses:
        """Those of a replica's batch, or of a share of its rows, as its part of the whole batch's."""
        sums = {name for name, loss in keras_private.losses(losses).items() if not is_mean(loss)}
        factors = {name: factor for name, factor in fractions.items() if name not in sums}
        if share is not None:
            factors |= dict.fromkeys(sums, 1 / share)
        return cls(losses, batch.targets, weighed(batch.sample_weight, prediction, factors))

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
        """A prediction without knowledge: where the loss is a cross-entropy, all classes are as probable."""
        parts, classifying = by_name(prediction), self.classifying()
        equal = {name: _equal(loss, parts[name]) for name, loss in classifying.items() if name in parts}
        return structured({**parts, **equal}, prediction)

    def classifying(self) -> dict[str, keras.losses.Loss]:
        """The cross-entropies among the losses, by output: those that ask whether they get logits."""
        every = keras_private.losses(self.losses)
        return {name: loss for name, loss in every.items() if _takes_logits(loss) is not None}


class StudentStep(NamedTuple):
    """What one student does in a step on one replica, before anybody teaches it.

    Attributes:
        batch: What it learns from.
        prediction: What it predicts.
        fractions: This replica's fractions of the positions of the whole batch, by output.
        task: The task's losses of the batch.
        task_loss: phi, with what `add_loss` and regularisers add; the sum over replicas is that of the batch.
        share: Which share of the replica's rows all this is of, but for `task_loss`; None for all of them.
    """

    batch: Batch
    prediction: Any
    fractions: ReplicaFractions
    task: TaskLosses
    task_loss: tf.Tensor
    share: tf.Tensor | None = None

    def num_rows(self) -> tf.Tensor:
        """How many rows the replica's batch has, those that are not drawn too, float32."""
        rows = tf.cast(rows_of(self.prediction), tf.float32)
        return rows if self.share is None else rows / self.share


def _takes_logits(loss: keras.losses.Loss) -> bool | None:
    """Whether a cross-entropy gets logits, not probabilities; None for a loss that is no cross-entropy."""
    function = getattr(loss, "fn", None)
    parameter = inspect.signature(function).parameters.get("from_logits") if function else None
    return None if parameter is None else bool(getattr(loss, "from_logits", parameter.default))


def is_binary(loss: keras.losses.Loss) -> bool:
    """Whether a cross-entropy is one of logistic outputs."""
    function = getattr(loss.fn, "func", loss.fn)  # of a functools.partial
    return getattr(function, "__name__", "").startswith("binary")


def _equal(loss: keras.losses.Loss, prediction: tf.Tensor) -> tf.Tensor:
    if _takes_logits(loss):
        return masked_like(prediction, tf.zeros_like(prediction))
    num_classes = 2 if is_binary(loss) else prediction.shape[-1]
    return masked_like(prediction, tf.ones_like(prediction) / num_classes)
