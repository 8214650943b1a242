"""Outputs of a model by name, and the sample weights that belong to each.

    tensor                {"": tensor}                      the only output
    {"kind": k, ...}      {"kind": k, ...}                  a mapping
    [first, second]       {"0": first, "1": second}         a sequence

Keras takes sample weights for all outputs at once, by name or in sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_codistill import keras_private

Outputs = dict[str, tf.Tensor]


def by_name(prediction: Any) -> Outputs:
    """The outputs of a prediction, which is a tensor, or a mapping or sequence of tensors."""
    if isinstance(prediction, Mapping):
        return dict(prediction)
    if isinstance(prediction, (list, tuple)):
        return {str(number): output for number, output in enumerate(prediction)}
    return {"": prediction}


def structured(outputs: Outputs, like: Any) -> Any:
    """Takes back what `by_name` did: outputs by name, or something for each, structured like a prediction."""
    if isinstance(like, Mapping):
        return dict(outputs)
    return list(outputs.values()) if isinstance(like, (list, tuple)) else outputs[""]


def weight_of(sample_weight: Any, name: str) -> Any:
    """The sample weights of an output, of those for all outputs or by output; None if there are none."""
    if isinstance(sample_weight, Mapping):
        return sample_weight.get(name)
    return sample_weight[int(name or 0)] if isinstance(sample_weight, (list, tuple)) else sample_weight


def weighed(sample_weight: Any, prediction: Any, factors: Mapping[str, tf.Tensor]) -> Any:
    """Multiplies sample weights.

    Args:
        sample_weight: Weights of the examples, for all outputs or by output, or None.
        prediction: A model's outputs, [B, ...] each.
        factors: Factors by name of the output, scalars or [B]; an output without one keeps its weights.

    Returns:
        Sample weights structured like the outputs; the argument itself if there are no factors.
    """
    if not factors:
        return sample_weight
    outputs = by_name(prediction)
    weights = {name: weight_of(sample_weight, name) for name in outputs}
    for name, factor in factors.items():
        given = tf.ones([tf.shape(outputs[name])[0]]) if weights[name] is None else weights[name]
        num_axes = max(_num_axes(outputs[name]), len(given.shape))
        weights[name] = aligned(given, num_axes) * aligned(factor, num_axes)
    return structured(weights, prediction)


def aligned(factor: tf.Tensor, num_axes: int) -> tf.Tensor:
    """Lines factors of rows, or of the leading axes of the examples, up with examples of so many axes.

    Args:
        factor: A scalar, [B], [B, T], ...
        num_axes: Number of axes of the examples.

    Returns:
        The same in float32, with axes of length 1 behind; a scalar as it is.
    """
    factor = tf.cast(factor, tf.float32)
    missing = num_axes - len(factor.shape) if len(factor.shape) else 0
    for _ in range(missing):
        factor = factor[..., tf.newaxis]
    return factor


def mean_of(predictions: Sequence[Any]) -> Any:
    """The mean of predictions of the same positions, with their masks; of one prediction that one."""

    def mean(*outputs: tf.Tensor) -> tf.Tensor:
        value = keras.ops.mean(keras.ops.stack(outputs), axis=0)
        return keras_private.set_mask(value, keras_private.mask(outputs[0]))

    return predictions[0] if len(predictions) == 1 else keras.tree.map_structure(mean, *predictions)


def masked_like(student: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
    """A prediction with the student's Keras mask, so that its loss is taken of the same positions."""
    return keras_private.set_mask(tf.identity(prediction), keras_private.mask(student))


def _num_axes(output: tf.Tensor) -> int:
    """How many axes weights need to fit the losses of an output: it has one more, or as many."""
    mask = keras_private.mask(output)
    if mask is not None:
        return len(mask.shape)
    return max(2, len(output.shape) - 1)  # Keras fits [B, 1] to losses [B] as well as to [B, C]
