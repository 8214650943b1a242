"""A frozen model that keeps its weights quantized in memory and dequantizes each when a layer reads it.

    quantize(model, "int8")                  [192, 768] float32  ->  590 KB become 151 KB
    staged(model, parts, "int8", "int8")     weights of a snapshot, as `stored(model)` holds them
    model(features, training=False)          every layer reads float32 tensors that live for one step

Layers know nothing of it: a quantized weight is the Keras variable that it was, with another way to find its
value. So it works wherever the model does: in ``tf.function``, ``tf.cond``, loops, XLA and on each replica.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_codistill import distribution, keras_private, weights
from tf_codistill.exchange import precision as precisions

_WORD = 8  # bytes


class QuantizedVariable(keras.Variable):
    """A weight that is dequantized whenever it is read. `quantize` makes it of a plain one.

    Attributes:
        words: The bits of its parts, one after another, int64. Several workers can only create variables of
            types that their first one can broadcast, and the small types are not among them.
        parts: What `precision.layout` says of them.
    """

    words: keras.Variable
    parts: list[tuple[tuple[int, ...], str]]

    def _dequantized(self, shape: Any, dtype: Any) -> tf.Tensor:
        words = tf.convert_to_tensor(self.words.value)
        parts = []
        for part_shape, part_dtype in self.parts:
            parts.append(_from_words(words, part_shape, part_dtype))
            words = words[_num_words(part_shape, part_dtype) :]
        if len(parts) == 2:
            values, scale = parts
            return tf.ensure_shape(tf.cast(tf.cast(values, tf.float32) * scale, dtype), shape)
        return tf.ensure_shape(tf.cast(parts[0], dtype), shape)

    def _direct_assign(self, value: Any) -> None:
        del value
        raise ValueError(f"weight {self.path!r} of a teacher is quantized; only a snapshot can replace it")


def quantize(model: keras.Model, precision: str) -> None:
    """Quantizes what is left to quantize of a frozen model; called in the scope of the strategy."""
    for weight in model.weights:
        layout = precisions.layout(weight.shape, weight.dtype, precision)
        if isinstance(weight, QuantizedVariable) or layout == [(tuple(weight.shape), weight.dtype)]:
            continue
        (array,) = weights.values([weight])
        words = keras.Variable(
            _to_words(precisions.quantize(array, precision)), dtype="int64", trainable=False, name=weight.name
        )
        weight.__class__ = QuantizedVariable  # layers hold this very object, under names of their own
        weight.words, weight.parts = words, layout
        keras_private.read_by(weight, weight._dequantized)


def staged(
    model: keras.Model, parts: Sequence[np.ndarray], precision: str, to_precision: str
) -> list[np.ndarray]:
    """What `stored` variables shall hold, made on the host; touches no variable.

    Args:
        model: The model.
        parts: What `precision.quantize_all` made of an array for each of ``model.weights``.
        precision: The precision that it was given.
        to_precision: The precision that `quantize` was given. Where it is the same nothing is dequantized.

    Returns:
        An array for each of ``stored(model)``.

    Raises:
        ValueError: The number of arrays or a shape does not fit.
    """
    arrays, remaining = [], list(parts)
    for weight in model.weights:
        layout = precisions.layout(weight.shape, weight.dtype, precision)
        own, remaining = remaining[: len(layout)], remaining[len(layout) :]
        if len(own) < len(layout) or tuple(weight.shape) != own[0].shape:
            shape = own[0].shape if own else "none"
            raise ValueError(f"variable {weight.path!r} has shape {tuple(weight.shape)}, array has {shape}")
        if precision != to_precision or str(own[0].dtype) != layout[0][1]:
            own = precisions.quantize(precisions.dequantize(own, weight.dtype), to_precision)
        arrays.append(_to_words(own) if isinstance(weight, QuantizedVariable) else own[0])
    if remaining:
        raise ValueError(f"{len(parts)} arrays do not fit {len(arrays)} variables")
    return arrays


def stored(model: keras.Model) -> list[keras.Variable]:
    """What takes up memory: for each of ``model.weights`` the variable itself, or its words."""
    return [getattr(weight, "words", weight) for weight in model.weights]


def num_bytes(model: keras.Model) -> int:
    """Memory that a model's weights take up on each replica, in bytes."""
    return sum(int(np.prod(one.shape)) * tf.as_dtype(one.dtype).size for one in stored(model))


def _to_words(parts: Sequence[np.ndarray]) -> np.ndarray:
    sizes = [_WORD * _num_words(part.shape, str(part.dtype)) for part in parts]
    words = weights.Pool().array([sum(sizes)], np.uint8)
    start = 0
    for part, size in zip(parts, sizes, strict=True):
        words[start : start + part.nbytes] = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
        words[start + part.nbytes : start + size] = 0
        start += size
    return words.view(np.int64)


def _from_words(words: tf.Tensor, shape: tuple[int, ...], dtype: str) -> tf.Tensor:
    words = words[: _num_words(shape, dtype)]
    values = tf.reshape(tf.bitcast(_halves(words) if distribution.is_on_tpus() else words, dtype), [-1])
    return tf.reshape(values[: int(np.prod(shape))], shape)


def _halves(words: tf.Tensor) -> tf.Tensor:
    """The same bits, uint32 [N, 2]: TPUs have no 64-bit numbers, and so no bitcast of them."""
    return tf.stack([tf.cast(one, tf.uint32) for one in (words, tf.bitwise.right_shift(words, 32))], axis=-1)


def _num_words(shape: tuple[int, ...], dtype: str) -> int:
    return -(-int(np.prod(shape)) * tf.as_dtype(dtype).size // _WORD)
