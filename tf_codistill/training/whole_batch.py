"""One replica's part in the loss and in the gradient of a batch that several share.

    replica 0   the cat sat on the mat    6 of all 8 positions    its mean x 2 replicas x 6 / 8
    replica 1   so  be  .   .  .   .      2                       its mean x 2 replicas x 2 / 8

Keras divides a replica's sum of losses by the number of positions that the mask leaves on that replica, and
the sum over replicas by their number: a mean of means, in which a position counts the more, the fewer others
its replica has. With these factors it is the mean over the positions of the whole batch. Optimizers
clip what a replica adds to the gradient, not the gradient; here it is clipped once it has been summed.

One replica with the whole batch and several with parts of it so take the same step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf
from absl import logging

from tf_codistill import keras_private
from tf_codistill.training.outputs import by_name

ReplicaFractions: TypeAlias = dict[str, tf.Tensor]

_CLIPPING = ("clipnorm", "global_clipnorm", "clipvalue")
_XLA_AND_MASKS = (
    "with jit_compile=True each replica takes the mean over the positions that masks leave it: if they are "
    "not as many on every replica, compile with jit_compile=False for the mean over the whole batch"
)


def replica_fractions(predictions: Sequence[Any], can_meet: bool = True) -> list[ReplicaFractions]:
    """What to multiply a replica's mean over unmasked positions by, to add up to the whole batch's mean.

    Replicas meet here to add up their numbers of positions. TensorFlow traces one after the other until they
    meet, and Keras keeps what `add_loss` got in the layers: read `keras.Model.losses` before.

    Args:
        predictions: Outputs of models on this replica, each a tensor or a mapping or sequence of tensors.
        can_meet: Whether replicas can meet: not from a step that XLA compiles.

    Returns:
        For each of them factors by name of the output, for those that have a Keras mask; none at all on a
        single replica, or where they cannot meet.
    """
    strategy = tf.distribute.get_strategy()
    masks = [
        (number, name, keras_private.mask(part))
        for number, prediction in enumerate(predictions)
        for name, part in by_name(prediction).items()
        if keras_private.mask(part) is not None
    ]
    found: list[ReplicaFractions] = [{} for _ in predictions]
    if not masks or strategy.num_replicas_in_sync == 1:
        return found
    if not can_meet:
        logging.log_first_n(logging.WARNING, _XLA_AND_MASKS, 1)
        return found
    counts = tf.stack([tf.reduce_sum(tf.cast(mask, tf.float32)) for _, _, mask in masks])
    totals = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, counts)
    factors = tf.math.divide_no_nan(counts, totals) * strategy.num_replicas_in_sync
    for (number, name, _), factor in zip(masks, tf.unstack(factors, num=len(masks)), strict=True):
        found[number][name] = factor
    return found


def is_mean(loss: keras.losses.Loss) -> bool:
    """Whether a loss is a mean over positions. A sum over them is one over those of all replicas, too."""
    return loss.reduction in ("sum_over_batch_size", "mean")


def check_optimizer(optimizer: keras.optimizers.Optimizer | None, num_replicas: int) -> None:
    """Refuses by a `ValueError` what Keras's optimizers cannot do with several replicas."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    for name in ("gradient_accumulation_steps", "ema_overwrite_frequency"):
        value = getattr(inner, name, None)
        if value and num_replicas > 1:
            raise ValueError(
                f"{name} of the optimizer is {value} and there are {num_replicas} replicas; expected None, "
                "as Keras does this in a branch of the graph in which replicas cannot meet; give each "
                "replica a larger batch, or train on a single one"
            )


def clipped(gradients: list[Any], optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """This replica's part of the gradient of the whole batch, clipped as its optimizer says.

    Args:
        gradients: What this replica adds to the gradient of each variable, scaled as the optimizer scales
            the loss; None for a variable without one.
        optimizer: The optimizer; it sums over replicas.

    Returns:
        Gradients whose sum over replicas is the clipped gradient; if the optimizer does not clip, or on a
        single replica, those that came.
    """
    num_replicas = tf.distribute.get_strategy().num_replicas_in_sync
    clipping = getattr(optimizer, "inner_optimizer", optimizer)
    if num_replicas == 1 or not any(getattr(clipping, name, None) for name in _CLIPPING):
        return gradients
    present = [gradient for gradient in gradients if gradient is not None]
    summed = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, present)
    scale = optimizer.scale_loss(tf.constant(1.0))
    # The optimizer clips these parts again, which leaves them as they are: they are smaller by num_replicas.
    clipped_ones = keras_private.clip(clipping, [_times(gradient, 1 / scale) for gradient in summed])
    parts = iter([_times(gradient, scale / num_replicas) for gradient in clipped_ones])
    return [None if gradient is None else next(parts) for gradient in gradients]


def _times(gradient: Any, factor: Any) -> Any:
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values * tf.cast(factor, gradient.values.dtype)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return gradient * tf.cast(factor, gradient.dtype)


def of_whole_batch(loss: tf.Tensor) -> tf.Tensor:
    """Undoes Keras's scaling of a replica's loss by 1 / replicas, done because gradients are summed."""
    return loss * tf.cast(tf.distribute.get_strategy().num_replicas_in_sync, loss.dtype)


def total(terms: Sequence[tf.Tensor]) -> tf.Tensor:
    """The sum of scalars, to the last bit the same in every run.

    In a graph both ``+`` and ``tf.add_n`` become AddN, which starts with a term that nobody else needs any
    more: with three terms or more the order depends on what else has been computed by then.

    Args:
        terms: At least one scalar; all have the same dtype.

    Returns:
        The sum, of their dtype.
    """
    return keras.ops.sum(keras.ops.stack(terms))


def reduced(
    strategy: tf.distribute.Strategy, operation: tf.distribute.ReduceOp, variables: Sequence[keras.Variable]
) -> list[tf.Tensor]:
    """Sums or means of variables over replicas, by one collective, in float64, exact for equal ones."""

    def flat() -> tf.Tensor:
        return tf.concat([tf.reshape(tf.cast(one.value, tf.float64), [-1]) for one in variables], 0)

    values = strategy.reduce(operation, strategy.run(flat), axis=None)
    parts = tf.split(values, [math.prod(one.shape) for one in variables])
    return [tf.reshape(part, one.shape) for part, one in zip(parts, variables, strict=True)]
