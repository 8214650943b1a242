"""Weights in fewer bits: how a teacher's arrays look in a snapshot's files and in memory.

    quantize(kernel, "int8")     ->  [int8 [192, 768], float32 [768]]    integers of -127 to 127, their scales
    quantize(kernel, "bfloat16") ->  [bfloat16 [192, 768]]
    quantize(bias, any)          ->  [bias]                              vectors are small: left as they are
    dequantize(parts, "float32") ->  kernel, nearly

A teacher is only ever asked for predictions, so it needs less precision than a student that adds up small
updates (Anil et al. 2018, sections 2.1 and 4). Quantizing what has been dequantized changes nothing more, so
that weights lose precision once, however many hands they go through.

A value that is not finite never becomes one that is, so that a broken teacher is seen to be broken.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_codistill import weights

PRECISIONS = ("float32", "bfloat16", "float16", "int8")

# With fewer values than this to each scale, int8 would save little over bfloat16.
MIN_VALUES_PER_CHANNEL = 16

_HIGHEST = 127
_LOW_BITS = np.uint32(0x7F)


def check(precision: str) -> str:
    """Returns a precision as it is; a `ValueError` if it is none of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    return precision


def of_states(precision: str) -> str:
    """The precision of the recurrent states that travel with weights of a precision.

    A scale that lanes share would let one lane spoil the others, so that int8 is for weights only.
    """
    return "bfloat16" if precision == "int8" else precision


def layout(shape: Sequence[int], dtype: str, precision: str) -> list[tuple[tuple[int, ...], str]]:
    """Shape and type of each part that `quantize` makes of an array of a shape and type.

    They are the values, and for int8 the scale of each channel. float32 leaves every array as it is.
    """
    shape = tuple(shape)
    if precision == "float32" or len(shape) < 2 or dtype not in ("float64", "float32", "float16", "bfloat16"):
        return [(shape, dtype)]
    axis = _channel_axis(shape)
    channels = int(np.prod(shape[axis:]))
    if precision == "int8" and np.prod(shape[:axis]) >= MIN_VALUES_PER_CHANNEL and channels:
        return [(shape, "int8"), (shape[axis:], "float32")]
    if dtype in ("float16", "bfloat16"):
        return [(shape, dtype)]
    return [(shape, "bfloat16" if precision == "int8" else precision)]


def quantize(array: np.ndarray, precision: str) -> list[np.ndarray]:
    """The parts of weights in a precision, as `layout` says; the array itself where it stays as it is."""
    parts = layout(array.shape, str(array.dtype), precision)
    if len(parts) == 2:
        return _integers(array.astype(np.float32, copy=False), _channel_axis(array.shape))
    dtype = tf.as_dtype(parts[0][1])
    if dtype == array.dtype:
        return [array]
    nearest = np.clip(array, -float(dtype.max), float(dtype.max))
    return [np.where(np.isfinite(array), nearest, array).astype(dtype.as_numpy_dtype)]


def dequantize(parts: Sequence[np.ndarray], dtype: str) -> np.ndarray:
    """Takes back what `quantize` did with an array of a type, but for the precision that is lost."""
    if len(parts) == 1:
        return parts[0].astype(dtype, copy=False)
    values, scale = parts
    return (values.astype(np.float32) * scale).astype(dtype, copy=False)


def quantized_description(model: weights.Description, precision: str) -> weights.Description:
    """Describes the arrays that `quantize_all` makes of those that a description describes."""
    return [
        {"name": row["name"], "shape": list(shape), "dtype": dtype}
        for row in model
        for shape, dtype in layout(row["shape"], row["dtype"], precision)
    ]


def quantize_all(arrays: Sequence[np.ndarray], precision: str) -> list[np.ndarray]:
    """The parts of all arrays, one after another."""
    return [part for array in arrays for part in quantize(array, precision)]


def dequantize_all(
    parts: Sequence[np.ndarray], model: weights.Description, precision: str
) -> list[np.ndarray]:
    """Takes back what `quantize_all` did with arrays that `model` describes."""
    remaining = iter(parts)
    return [
        dequantize([next(remaining) for _ in layout(row["shape"], row["dtype"], precision)], row["dtype"])
        for row in model
    ]


def _channel_axis(shape: tuple[int, ...]) -> int:
    """The last axis along which there is more than one value."""
    return max((axis for axis, size in enumerate(shape) if size != 1), default=0)


def _integers(array: np.ndarray, axis: int) -> list[np.ndarray]:
    highest = np.max(np.abs(array), axis=tuple(range(axis)))
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.where(np.isfinite(highest), highest / np.float32(_HIGHEST), np.float32(np.nan))
        # Without its last 7 bits the scale times 127 is exact, whoever multiplies, and quantizing again finds
        # the same scale. TensorFlow takes numbers below the smallest normal one for 0.
        scale = (scale.view(np.uint32) & ~_LOW_BITS).view(np.float32)
        scale = np.where(scale < np.finfo(np.float32).tiny, np.float32(0), scale)
        values = np.nan_to_num(array / scale, nan=0.0, posinf=0.0, neginf=0.0)
    return [np.clip(np.rint(values), -_HIGHEST, _HIGHEST).astype(np.int8), scale]
