"""Real images that come with a package: handwritten digits, enlarged to 32 x 32 pixels.

    write("runs/digits/source")

    runs/digits/source/
        digits.zip            train/0/0000.jpg ... validation/9/1795.jpg, for `prepare_images`
        manifest.json         images by part

scikit-learn holds 1,797 images of 8 x 8 pixels (Alpaydin & Kaynak 1998, the test part of the UCI collection,
CC BY 4.0). Those of one writer stand together, so that parts in their order are mostly of other hands.
"""

from __future__ import annotations

import collections
import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tf_codistill import files
from tf_codistill.example_tables import writing

NUM_IMAGES = 1797
ENLARGED = 4
"""Pixels that one becomes, along each side."""

_PARTS = {"train": 297, "validation": 750, "test": 750}
_DARKEST = 16
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same bytes, whenever they are written


def write(output_dir: str) -> dict[str, Any]:
    """Writes the archive; where it is already nothing is done.

    Args:
        output_dir: Directory of the archive.

    Returns:
        The manifest.

    Raises:
        ValueError: scikit-learn is not installed, or has other images than are known; or the directory holds
            something else.
    """
    if (manifest := writing.there(output_dir, "digits")) is not None:
        return manifest
    images, labels = _digits()
    places = [(part, number) for part, size in _PARTS.items() for number in range(size)]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for number, (part, _) in enumerate(places):
            name = f"{part}/{labels[number]}/{number:04}.jpg"
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), _jpeg(images[number]))
    files.make_directory(output_dir)
    files.write(files.join(output_dir, "digits.zip"), content.getvalue())
    counts = collections.Counter(part for part, _ in places)
    return files.commit(output_dir, {"kind": "digits", "images": dict(counts)})


def summary(manifest: Mapping[str, Any], directory: str) -> str:
    """What has been written, in a sentence."""
    counts = ", ".join(f"{number:,} for {part}" for part, number in manifest["images"].items())
    return f"{directory}: {NUM_IMAGES:,} images of handwritten digits: {counts}"


def _digits() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ValueError(f"scikit-learn is not installed ({error}); install tf_codistill[digits]") from error
    images, labels = datasets.load_digits(return_X_y=True)
    if len(images) != NUM_IMAGES or images.max() != _DARKEST:
        raise ValueError(
            f"scikit-learn holds {len(images)} digits up to {images.max():g}; expected {NUM_IMAGES} up to "
            f"{_DARKEST}; install tf_codistill[digits] anew"
        )
    return images.reshape(-1, 8, 8), labels


def _jpeg(image: npt.NDArray[np.float64]) -> bytes:
    pixels = np.round(255 * image / _DARKEST).astype(np.uint8)
    large = np.kron(pixels, np.ones((ENLARGED, ENLARGED), np.uint8))[..., np.newaxis]
    return bytes(tf.io.encode_jpeg(large, quality=95).numpy())
