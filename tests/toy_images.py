"""Images that take milliseconds: each class has a colour, each image a pattern; and a model for them."""

from __future__ import annotations

import pathlib
import zipfile
from collections.abc import Mapping

import gin
import keras
import numpy as np
import tensorflow as tf

CLASSES = ("ant", "bee", "cow")

EXPERIMENT = """
import tests.toy_images
Experiment.task = @ImageTask()
ImageTask.model_fn = @small
ImageTask.image_size = 8
ImageTask.batch_size = 8
ImageTask.label_smoothing = 0.1
Experiment.optimizer = @keras.optimizers.SGD
keras.optimizers.SGD.learning_rate = 0.2
Experiment.teaching = @PeerExchange
PeerExchange.every_steps = 2
Experiment.num_steps = 12
Experiment.log_every_steps = 2
Experiment.validate_every_steps = 6
Experiment.checkpoint_every_steps = 6
"""
"""A gin file, but for where the images are."""


def pixels(number: int, label: int = 0, height: int = 24, width: int = 30) -> np.ndarray:
    """A smooth image, uint8 [H, W, 3], of another colour for each label."""
    y, x = np.mgrid[:height, :width].astype(float)
    waves = np.sin(x / (3 + number % 5) + y / (4 + number % 7) + number)[..., np.newaxis]
    tints = 80 + 60 * np.eye(3)[label % 3]
    return np.clip(tints + 50 * waves * np.array([1.0, 0.5, -0.7]), 0, 255).astype(np.uint8)


def jpeg(number: int, label: int = 0, height: int = 24, width: int = 30) -> bytes:
    """The same as JPEG."""
    return tf.io.encode_jpeg(pixels(number, label, height, width), quality=90).numpy()


def grey_jpeg(number: int) -> bytes:
    """A JPEG of one component."""
    return tf.io.encode_jpeg(pixels(number)[..., :1], format="grayscale").numpy()


def png(number: int, label: int = 0) -> bytes:
    """A PNG."""
    return tf.io.encode_png(pixels(number, label)).numpy()


def contents(num_images: int = 8, parts: Mapping[str, int] | None = None) -> dict[str, bytes]:
    """Files by path: so many images of each class and part, 8 to train on and 4 held out by default."""
    parts = {"train": num_images, "validation": num_images // 2} if parts is None else parts
    return {
        f"{part}/{name}/{number}.jpg".removeprefix("/"): jpeg(100 * index + number, label)
        for index, (part, number_of) in enumerate(parts.items())
        for label, name in enumerate(CLASSES)
        for number in range(number_of)
    }


def write_folders(directory: pathlib.Path, files: Mapping[str, bytes] | None = None) -> str:
    """Writes files as class folders; those of `contents` by default."""
    for name, content in (contents() if files is None else files).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(directory)


def write_zip(path: pathlib.Path, files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> str:
    """Writes files as a zip file."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return str(path)


def example(**features: bytes | int | str) -> bytes:
    """A serialised tf.train.Example; ``__`` in a name stands for ``/``."""
    found = {}
    for name, value in features.items():
        if isinstance(value, int):
            feature = tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        else:
            content = value.encode() if isinstance(value, str) else value
            feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))
        found[name.replace("__", "/")] = feature
    return tf.train.Example(features=tf.train.Features(feature=found)).SerializeToString()


def write_records(path: pathlib.Path, examples: list[bytes]) -> str:
    """Writes a TFRecord file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for one in examples:
            writer.write(one)
    return str(path)


def fuzzed(content: bytes, number: int) -> bytes:
    """A damaged copy: some bytes others, cut off, or both."""
    rng = np.random.default_rng(number)
    damaged = bytearray(content)
    if number % 3 != 1:
        for place in rng.integers(0, len(damaged), rng.integers(1, 12)):
            damaged[place] = rng.integers(0, 256)
    if number % 3 != 0:
        damaged = damaged[: rng.integers(0, len(damaged))]
    return bytes(damaged)


@gin.configurable(module="toy_images")
def small(
    num_classes: int, input_shape: tuple[int, int, int], batch_size: int | None, width: int = 4
) -> keras.Model:
    """A layer of convolutions."""
    inputs = keras.Input(input_shape, batch_size=batch_size, dtype="uint8")
    outputs = keras.layers.Rescaling(1 / 127.5, -1.0)(inputs)
    outputs = keras.layers.Conv2D(width, 3, strides=2, activation="relu")(outputs)
    outputs = keras.layers.GlobalAveragePooling2D()(outputs)
    return keras.Model(inputs, keras.layers.Dense(num_classes)(outputs))
