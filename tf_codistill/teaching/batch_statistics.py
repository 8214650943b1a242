"""A frozen model whose batch normalization works with the rows that it is asked about.

    use_batch_statistics(model)
    model(features, training=False)      dropout is off; means and variances are those of the features

A student in training normalises by its batch. A copy of it in inference mode uses moving means and variances,
which lag behind its weights for as long as these move fast: at a high learning rate such a teacher is worse
than the peer that it stands for. The moving ones stay as they are.
"""

from __future__ import annotations

import functools
from typing import Any

import keras

from tf_codistill import keras_private


def use_batch_statistics(model: keras.Model) -> None:
    """Lets a model normalise by means and variances of what it is given, also in inference mode.

    Args:
        model: A model that is no longer trained.

    Raises:
        ValueError: It has no batch normalization, or one with ``renorm``, which uses both kinds.
    """
    layers = keras_private.layers(model)
    found = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    if not found or any(layer.renorm for layer in found):
        what = "batch normalization with renorm" if found else "no batch normalization"
        raise ValueError(f"model {model.name!r} has {what}; leave statistics of its teacher at 'moving'")
    for layer in found:
        layer.call = functools.partial(_normalized, layer)


def _normalized(layer: Any, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
    """What the layer's own method does when training, but that moving means and variances do not move."""
    del training
    x = keras.ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
    mean, variance = keras_private.moments(layer, x, mask)
    gamma, beta = (
        None if weight is None else keras.ops.cast(weight, x.dtype)
        for weight in (layer.gamma if layer.scale else None, layer.beta if layer.center else None)
    )
    outputs = keras.ops.batch_normalization(x, mean, variance, layer.axis, beta, gamma, layer.epsilon)
    return keras.ops.cast(outputs, layer.compute_dtype)
