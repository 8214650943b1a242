"""From the bytes of an image file to pixels: decoded where cropped, augmented by a seed, never a failure.

    training_image(content, shape, seed, 224, "inception")     uint8 [224, 224, 3], False
    evaluation_image(content, shape, 224, share=0.875)         uint8 [224, 224, 3], False
                                                               grey pixels and True, if it cannot be decoded
    served_image(content, 224, share=0.875)                    uint8 [224, 224, 3], or an error

    inception   a window of 8 to 100 % of the area and an aspect of 3/4 to 4/3, both drawn evenly (the aspect
    on
                a logarithmic scale), brought to size, in half of the cases mirrored: Szegedy et al. 2015, as
                Goyal et al. 2017 use it
    pad_crop    four black pixels around an image of the size, of which a window of the size is taken, in half
    of
                the cases mirrored: for small images (He et al. 2016, section 4.2)
    none        as for evaluation

All are TensorFlow ops for the graph of a data set. Of a JPEG only the window is decoded. Colours are RGB
whatever the file has: grey and CMYK are converted.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TypeAlias

import tensorflow as tf

AUGMENTATIONS = ("inception", "pad_crop", "none")
"""What `training_image` knows."""

GREY = 128
"""The value of all pixels of an image that cannot be decoded."""

CENTRE_SHARE = 0.875
"""Of the short side of an image, what the centre crop of an evaluation shows after `inception`."""

_AREAS = (0.08, 1.0)
_LOG_ASPECTS = (math.log(3 / 4), math.log(4 / 3))
_TRIES = 10
_PADDING = 4

Place: TypeAlias = tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]  # top, left, height, width
Window: TypeAlias = Callable[[tf.Tensor, tf.Tensor], Place]  # from height and width of an image


def training_image(
    content: tf.Tensor, shape: tf.Tensor, seed: tf.Tensor, size: int, augmentation: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """An image as it is trained on.

    Args:
        content: Bytes of an image file, string [].
        shape: Height and width that the header of a JPEG says, int32 [2]; zeros for other files.
        seed: What chance depends on, int64 [2].
        size: Height and width of the result in pixels.
        augmentation: One of `AUGMENTATIONS`.

    Returns:
        Pixels, uint8 ``[size, size, 3]``; and whether they are grey ones in the place of an image.
    """
    if augmentation == "none":
        return evaluation_image(content, shape, size, share=1.0)
    # Whether to mirror, where the window is, ten areas and ten aspects.
    chances = tf.random.stateless_uniform([2 * _TRIES + 3], seed, alg="philox")
    if augmentation == "inception":
        window: Window = functools.partial(inception_window, chances=chances)
        pixels, is_grey = _contained(content, shape, window, size)
        return _mirrored(_resized(pixels, size), chances[0]), is_grey
    pixels, is_grey = _contained(content, shape, _whole, size)
    pixels = tf.pad(_resized(pixels, size), [[_PADDING, _PADDING], [_PADDING, _PADDING], [0, 0]])
    top, left = tf.unstack(tf.cast(chances[1:3] * (2 * _PADDING + 1), tf.int32))
    pixels = tf.ensure_shape(pixels[top : top + size, left : left + size], [size, size, 3])
    return _mirrored(pixels, chances[0]), is_grey


def evaluation_image(
    content: tf.Tensor, shape: tf.Tensor, size: int, share: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """An image as it is evaluated: the square in its centre.

    Args:
        content: Bytes of an image file, string [].
        shape: Height and width that the header of a JPEG says, int32 [2]; zeros for other files.
        size: Height and width of the result in pixels.
        share: Share of the short side that the square has.

    Returns:
        Pixels, uint8 ``[size, size, 3]``; and whether they are grey ones in the place of an image.
    """
    pixels, is_grey = _contained(content, shape, functools.partial(_centre, share=share), size)
    return _resized(pixels, size), is_grey


def served_image(content: tf.Tensor, size: int, share: float) -> tf.Tensor:
    """An image as `evaluation_image` has it, where a file that cannot be decoded is an error.

    Args:
        content: Bytes of an image file, string [].
        size: Height and width of the result in pixels.
        share: Share of the short side that the square has.

    Returns:
        Pixels, uint8 ``[size, size, 3]``.
    """
    window = functools.partial(_centre, share=share)

    def of_jpeg() -> tf.Tensor:
        shape = tf.io.extract_jpeg_shape(content)
        return _of_jpeg(content, window(shape[0], shape[1]))

    pixels = tf.cond(tf.io.is_jpeg(content), of_jpeg, lambda: _of_other(content, window))
    return _resized(pixels, size)


def _contained(
    content: tf.Tensor, shape: tf.Tensor, window: Window, size: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes a window of an image so that a failure stays with it.

    A graph has no exceptions, but a data set can leave out an element that fails: here one of a single
    element, with grey pixels after it. As it is made anew for each image, there is as little as possible in
    it.
    """
    grey = tf.fill([size, size, 3], tf.constant(GREY, tf.uint8)), tf.constant(True)

    def first_of(decode: Callable[[tf.Tensor], tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        images = tf.data.Dataset.from_tensors(content).map(lambda one: (decode(one), False)).ignore_errors()
        return images.concatenate(tf.data.Dataset.from_tensors(grey)).take(1).get_single_element()

    def of_jpeg() -> tuple[tf.Tensor, tf.Tensor]:
        place = tf.stack(window(shape[0], shape[1]))
        return first_of(lambda one: _of_jpeg(one, place))

    is_jpeg = (shape[0] > 0) & (shape[1] > 0)
    return tf.cond(is_jpeg, of_jpeg, lambda: first_of(lambda one: _of_other(one, window)))


def _of_jpeg(content: tf.Tensor, place: tf.Tensor | Place) -> tf.Tensor:
    # Smooth colours would come out otherwise along the edges of a window than inside an image.
    return tf.io.decode_and_crop_jpeg(content, place, channels=3, fancy_upscaling=False)


def _of_other(content: tf.Tensor, window: Window) -> tf.Tensor:
    pixels = tf.io.decode_image(content, channels=3, expand_animations=False)
    shape = tf.shape(pixels)
    top, left, height, width = window(shape[0], shape[1])
    return pixels[top : top + height, left : left + width]


def _centre(height: tf.Tensor, width: tf.Tensor, share: float) -> Place:
    side = tf.cast(tf.round(share * tf.cast(tf.minimum(height, width), tf.float32)), tf.int32)
    side = tf.maximum(side, 1)
    return (height - side) // 2, (width - side) // 2, side, side


def _whole(height: tf.Tensor, width: tf.Tensor) -> Place:
    return tf.constant(0), tf.constant(0), height, width


def inception_window(height: tf.Tensor, width: tf.Tensor, chances: tf.Tensor) -> Place:
    """The first of ten windows that fits; if none does, the largest in the centre of an allowed aspect.

    Args:
        height: That of the image in pixels, int32 [].
        width: The same.
        chances: Numbers from 0 to 1, float32 [23]: the first does not matter here, two say where the window
            is, ten its area, ten its aspect.

    Returns:
        Top, left, height and width of the window, int32 [] each.
    """
    full_height, full_width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    areas = full_height * full_width * _between(_AREAS, chances[3 : 3 + _TRIES])
    aspects = tf.exp(_between(_LOG_ASPECTS, chances[3 + _TRIES :]))
    nearest = tf.clip_by_value(full_width / full_height, 3 / 4, 4 / 3)
    widths = tf.concat([tf.sqrt(areas * aspects), [tf.minimum(full_width, full_height * nearest)]], 0)
    heights = tf.concat([tf.sqrt(areas / aspects), [tf.minimum(full_height, full_width / nearest)]], 0)
    widths, heights = tf.maximum(tf.round(widths), 1), tf.maximum(tf.round(heights), 1)
    first = tf.argmax((widths <= full_width) & (heights <= full_height))  # of the last this is always so
    own_height, own_width = tf.cast(heights[first], tf.int32), tf.cast(widths[first], tf.int32)
    down, right = tf.unstack(tf.where(first == _TRIES, 0.5, chances[1:3]))
    top = tf.cast(down * tf.cast(height - own_height + 1, tf.float32), tf.int32)
    left = tf.cast(right * tf.cast(width - own_width + 1, tf.float32), tf.int32)
    # Rounding may bring a number just below 1 to 1.
    return tf.minimum(top, height - own_height), tf.minimum(left, width - own_width), own_height, own_width


def _between(limits: tuple[float, float], chances: tf.Tensor) -> tf.Tensor:
    low, high = limits
    return low + (high - low) * chances


def _resized(pixels: tf.Tensor, size: int) -> tf.Tensor:
    resized = tf.image.resize(pixels, [size, size])
    return tf.ensure_shape(tf.cast(tf.round(resized), tf.uint8), [size, size, 3])


def _mirrored(pixels: tf.Tensor, chance: tf.Tensor) -> tf.Tensor:
    # A slice with a negative stride would take thirty times as long.
    return tf.cond(chance < 0.5, lambda: tf.reverse(pixels, [1]), lambda: pixels)
