"""Images for the examples: drawn here, or JPEGs that you have.

    draw(num_images=800, seed=0)        -> Drawings(images [800, 32, 32, 3], kinds [800], sizes [800, 1])
    read("photos", image_size=32)       -> images [N, 32, 32, 3] uint8, labels [N], names of the classes

A folder or a zip file holds an image of class c as ``.../c/<anything>.jpg``. Nothing is downloaded.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import pathlib
import zipfile
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

IMAGE_SIZE = 32
KINDS = ("disc", "square", "diamond", "cross")


@dataclasses.dataclass(frozen=True)
class Drawings:
    """Drawn shapes of random place, size and colour.

    Attributes:
        images: Pixels, uint8 [N, 32, 32, 3].
        kinds: Index of the shape in `KINDS`, int32 [N].
        sizes: Radius of the shape over that of the largest, float32 [N, 1].
    """

    images: np.ndarray
    kinds: np.ndarray
    sizes: np.ndarray


def draw(num_images: int, seed: int) -> Drawings:
    """Draws shapes on noise.

    Args:
        num_images: How many.
        seed: Other seeds give other images.

    Returns:
        The images with what is on them.
    """
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, len(KINDS), num_images).astype("int32")
    radius = rng.uniform(5, 12, (num_images, 1, 1))
    center = rng.uniform(12, 20, (2, num_images, 1, 1))
    y, x = np.abs(np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE][:, None] - center)
    inside = [
        np.hypot(x, y),
        np.maximum(x, y) * 1.13,
        (x + y) * 0.8,
        np.maximum(np.minimum(x, y) * 3, (x + y) / 1.2),
    ]
    shape = np.take_along_axis(np.stack(inside), kinds[None, :, None, None], 0)[0] < radius
    ground = rng.uniform(20, 130, (num_images, 1, 1, 3))
    colour = ground + rng.uniform(40, 100, (num_images, 1, 1, 3))
    pixels = np.where(shape[..., None], colour, ground) + rng.normal(0, 20, (*shape.shape, 3))
    sizes = (radius[:, :, 0] / 12).astype("float32")
    return Drawings(np.clip(pixels, 0, 255).astype("uint8"), kinds, sizes)


def read(path: str, image_size: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Reads the JPEGs of a folder or of a zip file; the folder that an image lies in is its class.

    Args:
        path: The folder or zip file.
        image_size: Height and width in pixels that all images are brought to.

    Returns:
        Images, uint8 [N, image_size, image_size, 3], shuffled; labels, int32 [N]; names of the classes.

    Raises:
        ValueError: There are no JPEGs.
    """
    files = sorted(_jpegs(path))
    if not files:
        raise ValueError(
            f"{path} holds no .jpg or .jpeg; expected <class>/<name>.jpg, in a folder or a zip file"
        )
    classes = sorted({pathlib.PurePath(name).parent.name for name, _ in files})
    labels = np.array([classes.index(pathlib.PurePath(name).parent.name) for name, _ in files], "int32")
    size = [image_size, image_size]
    images = np.stack([tf.image.resize(tf.io.decode_jpeg(data, 3), size).numpy() for _, data in files])
    order = np.random.default_rng(0).permutation(len(files))
    return images.astype("uint8")[order], labels[order], classes


def load(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """What the small examples train on.

    Args:
        seed: Other seeds give other drawings, or another half of the JPEGs.

    Returns:
        Images, uint8 [N, 32, 32, 3]; labels, int32 [N]; and the number of classes. Images are those of the
        zip file in ``$TF_CODISTILL_REAL_DATA/images``, if there is one, else drawings.
    """
    found = sorted(glob.glob(os.path.join(os.environ.get("TF_CODISTILL_REAL_DATA", ""), "images", "*.zip")))
    if os.environ.get("TF_CODISTILL_REAL_DATA") and found:
        images, labels, classes = read(found[0], IMAGE_SIZE)
        return images[seed % 2 :: 2], labels[seed % 2 :: 2], len(classes)
    drawings = draw(1600, seed)
    return drawings.images, drawings.kinds, len(KINDS)


def _jpegs(path: str) -> Iterator[tuple[str, bytes]]:
    if os.path.isdir(path):
        for file in pathlib.Path(path).rglob("*"):
            if file.suffix.lower() in (".jpg", ".jpeg"):
                yield str(file.relative_to(path)), file.read_bytes()
        return
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.lower().endswith((".jpg", ".jpeg")):
                yield name, archive.read(name)
