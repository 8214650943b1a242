"""What a file is by its bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf

from tests.toy_images import grey_jpeg, jpeg, pixels, png
from tf_codistill.image_files import formats


def test_kinds() -> None:
    assert formats.kind_of(jpeg(1)) == "jpeg"
    assert formats.kind_of(grey_jpeg(1)) == "grey_jpeg"
    assert formats.kind_of(png(1)) == "png"
    assert formats.kind_of(b"BM...") == "bmp"
    assert formats.kind_of(b"GIF89a") == "gif"
    assert formats.kind_of(b"RIFF1234WEBPVP8 ") == "webp"
    for other in (b"", b"\xff", b"\xff\xd8", b"<html>", png(1)[:7]):
        assert formats.kind_of(other) is None


def test_cmyk() -> None:
    image = pytest.importorskip("PIL.Image")
    content = io.BytesIO()
    image.fromarray(pixels(1)).convert("CMYK").save(content, "JPEG")
    assert formats.kind_of(content.getvalue()) == "cmyk_jpeg"


@pytest.mark.parametrize("progressive", [False, True])
def test_shape_of_jpeg_is_that_of_the_decoder(progressive: bool) -> None:
    content = tf.io.encode_jpeg(
        pixels(3, 1, 17, 41), progressive=progressive, xmp_metadata="x" * 3000
    ).numpy()
    assert formats.shape_of_jpeg(content) == (17, 41)
    assert formats.shape_of_jpeg(content) == tuple(tf.io.extract_jpeg_shape(content).numpy()[:2])


def test_a_header_that_cannot_be_followed_has_no_shape() -> None:
    content = jpeg(1)
    for broken in (b"", content[:2], content[:40], b"\xff\xd8\xff" + bytes(100), b"\xff" * 1000, png(1)):
        assert formats.shape_of_jpeg(broken) == (0, 0)
    rng = np.random.default_rng(0)
    for _ in range(200):  # never an error, never without an end
        damaged = bytearray(content)
        damaged[rng.integers(0, 200)] = rng.integers(0, 256)
        assert len(formats.shape_of_jpeg(bytes(damaged[: rng.integers(0, len(damaged))]))) == 2
