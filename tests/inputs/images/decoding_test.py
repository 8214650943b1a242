"""Decoding and augmentation, against TensorFlow's plain ops and against the definitions."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import tensorflow as tf

from tests.toy_images import fuzzed, grey_jpeg, jpeg, pixels, png
from tf_codistill.image_files import formats
from tf_codistill.inputs.images import decoding

CONTENT = tf.TensorSpec([], tf.string)
SHAPE = tf.TensorSpec([2], tf.int32)
SEED = tf.TensorSpec([2], tf.int64)
SIZE = 16


@tf.function(input_signature=[CONTENT, SHAPE, SEED])
def inception(content: tf.Tensor, shape: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return decoding.training_image(content, shape, seed, SIZE, "inception")


@tf.function(input_signature=[CONTENT, SHAPE, SEED])
def pad_crop(content: tf.Tensor, shape: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return decoding.training_image(content, shape, seed, SIZE, "pad_crop")


@tf.function(input_signature=[CONTENT, SHAPE])
def centre(content: tf.Tensor, shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return decoding.evaluation_image(content, shape, SIZE, share=0.875)


def shape_of(content: bytes) -> np.ndarray:
    return np.array(formats.shape_of_jpeg(content), np.int32)


def whole(content: bytes) -> np.ndarray:
    return tf.io.decode_jpeg(content, channels=3, fancy_upscaling=False).numpy()


def resized(image: np.ndarray) -> np.ndarray:
    return np.round(tf.image.resize(image, [SIZE, SIZE]).numpy()).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(24, 30), (33, 21), (16, 16), (1, 40)])
def test_the_centre_is_that_of_the_whole_image(height: int, width: int) -> None:
    content = jpeg(5, 1, height, width)
    side = max(1, round(0.875 * min(height, width)))
    top, left = (height - side) // 2, (width - side) // 2
    expected = resized(whole(content)[top : top + side, left : left + side])
    found, is_grey = centre(content, shape_of(content))
    assert not is_grey
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(decoding.served_image(tf.constant(content), SIZE, 0.875), expected)


def test_a_window_of_a_training_image_is_one_of_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    content, places = jpeg(5, 1, 60, 80), []
    inner = decoding._of_jpeg

    def noting(content: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
        tf.numpy_function(lambda place: places.append(place) or np.int64(0), [place], tf.int64)
        return inner(content, place)

    monkeypatch.setattr(decoding, "_of_jpeg", noting)
    shape = shape_of(content)
    draw = tf.function(lambda seed: decoding.training_image(content, shape, seed, SIZE, "inception"))
    mirrored, areas, aspects = 0, [], []
    for number in range(60):
        found, is_grey = draw(tf.constant([7, number], tf.int64))
        top, left, height, width = places[-1]
        assert not is_grey
        assert 0 <= top <= 60 - height
        assert 0 <= left <= 80 - width
        expected = resized(whole(content)[top : top + height, left : left + width])
        is_mirrored = not np.array_equal(found, expected)
        np.testing.assert_array_equal(found, expected[:, ::-1] if is_mirrored else expected)
        mirrored += is_mirrored
        areas.append(height * width / 4800)
        aspects.append(math.log(width / height))
    assert len(places) == 60
    assert 15 <= mirrored <= 45
    assert 0.06 < min(areas) < 0.25 < 0.7 < max(areas) <= 1
    assert -0.4 < min(aspects) < -0.15 < 0.15 < max(aspects) < 0.4  # log 4/3 is 0.29, and sizes are rounded
    assert abs(np.mean(areas) - 0.5) < 5 * 0.27 / math.sqrt(60)  # large windows often do not fit


@pytest.mark.parametrize(("height", "width"), [(10, 200), (200, 10), (1, 1)])
def test_an_image_that_no_window_fits_gives_its_centre(height: int, width: int) -> None:
    content = jpeg(1, 0, height, width)
    for number in range(5):
        found, is_grey = inception(content, shape_of(content), [0, number])
        assert found.shape == (SIZE, SIZE, 3)
        assert not is_grey


def test_small_images_are_padded_and_cropped() -> None:
    content = jpeg(5, 1, SIZE, SIZE)
    padded = np.pad(whole(content), ((4, 4), (4, 4), (0, 0)))
    windows = {
        image.tobytes(): (top, left, is_mirrored)
        for top in range(9)
        for left in range(9)
        for window in [padded[top : top + SIZE, left : left + SIZE]]
        for is_mirrored, image in ((False, window), (True, window[:, ::-1]))
    }
    found = [
        windows[pad_crop(content, shape_of(content), [3, number])[0].numpy().tobytes()]
        for number in range(80)
    ]
    assert {top for top, _, _ in found} == {left for _, left, _ in found} == set(range(9))
    assert 20 < sum(is_mirrored for _, _, is_mirrored in found) < 60


def test_augmentation_is_a_function_of_the_seed() -> None:
    content = jpeg(5, 1, 60, 80)
    for augment in (inception, pad_crop):
        one, again, other, third = (
            augment(content, shape_of(content), seed)[0].numpy() for seed in ([1, 2], [1, 2], [1, 3], [2, 2])
        )
        np.testing.assert_array_equal(one, again)
        assert not np.array_equal(one, other)
        assert not np.array_equal(one, third)


def test_grey_and_other_formats_become_rgb() -> None:
    grey, is_grey = centre(grey_jpeg(1), shape_of(grey_jpeg(1)))
    assert not is_grey
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
    side, top, left = 21, 1, 4
    for content in (png(3, 1), tf.io.encode_png(np.dstack([pixels(3, 1), pixels(3)[..., :1]])).numpy()):
        found, is_grey = centre(content, shape_of(content))
        assert not is_grey
        np.testing.assert_array_equal(found, resized(pixels(3, 1)[top : top + side, left : left + side]))


def test_cmyk_becomes_rgb() -> None:
    image = pytest.importorskip("PIL.Image")
    content = io.BytesIO()
    image.fromarray(pixels(1)).convert("CMYK").save(content, "JPEG", quality=95)
    found, is_grey = centre(content.getvalue(), shape_of(content.getvalue()))
    assert not is_grey
    expected = resized(pixels(1)[1:22, 4:25]).astype(int)
    assert np.abs(found.numpy().astype(int) - expected).mean() < 6


def test_three_hundred_fuzzed_files_give_pixels_or_grey() -> None:
    num_grey = 0
    for number in range(300):
        content = fuzzed(jpeg(number % 7) if number % 10 else png(number % 7), number)
        found, is_grey = inception(content, shape_of(content), [0, number])
        assert found.shape == (SIZE, SIZE, 3)
        if is_grey:
            assert set(np.unique(found)) == {decoding.GREY}
        num_grey += int(is_grey)
    assert 150 < num_grey < 300  # some have only other colours


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"no image"])
def test_what_is_no_image_is_grey(content: bytes) -> None:
    for found, is_grey in (
        inception(content, [0, 0], [0, 0]),
        centre(content, [0, 0]),
        centre(content, [9, 9]),
    ):
        assert is_grey
        assert set(np.unique(found)) == {decoding.GREY}
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoding.served_image(tf.constant(content), SIZE, 1.0)


def test_a_header_that_lies_about_the_size_is_grey() -> None:
    content = jpeg(1, 0, 20, 20)
    assert inception(content, [2000, 2000], [0, 1])[1]
