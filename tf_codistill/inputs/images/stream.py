"""Batches of images by step: which images, with which augmentation, is computed from the step alone.

    stream = ImageStream(part, size=224, batch_size=256, order=Order.of_group(len, group, ...), seed=(1,
    group)) stream.dataset(first_step=1370)       Keyed((uint8 [B, H, W, 3], int32 [B]), int64 [B, 2])

    held_out = HeldOutImages(part, size=224, batch_size=256, share=0.875)
    held_out.dataset()                    Keyed((images, labels, weights [B]), keys)

    position -> order -> id, visit -> bytes --+--> decoded, augmented by (seed, id, visit) --> batch
                64 at a time, one after another   `num_threads` at a time, in order

What cannot be decoded becomes a grey image with its label, and is told by name: once for each image. Training
does not stop for it, as long as it is a small share; batches stay a function of the step. A file that is gone
or cannot be read stops training, since next time it may be there.
"""

from __future__ import annotations

import abc
import dataclasses
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from absl import logging

from tf_codistill.batches import Keyed
from tf_codistill.image_files import formats
from tf_codistill.inputs.images import decoding
from tf_codistill.inputs.images.sources import ImagePart
from tf_codistill.inputs.order import Order

_READ_AT_ONCE = 64
_READERS = 2
_PREFETCHED_BATCHES = 2
_MOST_THREADS = 64
_NUM_TOLD = 20

Int64Array = npt.NDArray[np.int64]


class Damages:
    """Images that could not be decoded, told of once each.

    Args:
        part: Where they are.
        max_share: The largest share of its images that may be so; a single one always may.
    """

    def __init__(self, part: ImagePart, max_share: float) -> None:
        self._part = part
        self._most = max(1, int(max_share * part.num_images))
        self._max_share = max_share
        self._found: set[int] = set()
        self._lock = threading.Lock()

    @property
    def number(self) -> int:
        """How many are known by now."""
        return len(self._found)

    def note(self, images: Int64Array) -> None:
        """Takes note of some.

        Args:
            images: Their numbers.

        Raises:
            ValueError: There are too many by now.
        """
        with self._lock:
            for image in {int(image) for image in images} - self._found:
                self._found.add(image)
                if self.number <= _NUM_TOLD:
                    logging.warning(
                        "image %s cannot be decoded: a grey one takes its place (%d so far)",
                        self._part.name(image),
                        self.number,
                    )
            if self.number > self._most:
                raise ValueError(
                    f"{self.number} of {self._part.num_images} images cannot be decoded, the last is "
                    f"{self._part.name(image)}; take them out, as prepare_images does, or allow a larger "
                    f"max_damaged_share, which is {self._max_share}"
                )


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class _Images(abc.ABC):
    """What training and evaluation share."""

    part: ImagePart
    size: int
    batch_size: int
    max_damaged_share: float = 0.01
    num_threads: int | None = None

    @property
    def units_per_step(self) -> int:
        """Images in a batch of the whole group."""
        return self.batch_size

    @abc.abstractmethod
    def rows(self, first: int, number: int) -> tuple[Int64Array, Int64Array, npt.NDArray[np.float32]]:
        """Number, earlier visits and weight of the images at some positions."""

    def seeds(self, images: Int64Array, visits: Int64Array) -> Int64Array:
        """What the augmentation of each image depends on, int64 [N, 2]."""
        return np.stack([images, visits], axis=1)

    @abc.abstractmethod
    def pixels(self, content: tf.Tensor, shape: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Decodes an image, see `decoding`."""

    @abc.abstractmethod
    def batch(self, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tuple[Any, ...]:
        """What Keras takes."""

    def dataset(
        self,
        *,
        first_step: int = 0,
        num_steps: int | None = None,
        worker: int = 0,
        num_workers: int = 1,
        num_replicas: int = 1,
    ) -> tf.data.Dataset:
        """Batches of one worker, see `batches.Stream`.

        Args:
            first_step: Step of the first batch.
            num_steps: Steps after which the data set ends; without end by default.
            worker: Index of the worker in its group, from 0.
            num_workers: Number of workers of the group.
            num_replicas: Replicas of each worker, which take the elements in turn.

        Returns:
            `Keyed` elements of ``batch_size / (num_workers * num_replicas)`` images.

        Raises:
            ValueError: The batch cannot be shared out evenly.
        """
        rows, rest = divmod(self.batch_size, num_workers * num_replicas)
        if rest or not 0 <= worker < num_workers:
            raise ValueError(
                f"batch_size is {self.batch_size}; expected a multiple of num_workers * num_replicas = "
                f"{num_workers} * {num_replicas}, and a worker below num_workers, not {worker}"
            )
        places = tf.data.Dataset.counter(first_step * num_replicas * rows)
        if num_steps is not None:
            places = places.take(num_steps * num_replicas * rows)
        return self._batches(
            places, rows, lambda each: _positions(each, rows, self.batch_size, worker, num_replicas)
        )

    def _batches(
        self, places: tf.data.Dataset, rows: int, positions: Callable[[Int64Array], Int64Array]
    ) -> tf.data.Dataset:
        """Batches of the images at some places in the sequence of a worker."""
        damages = Damages(self.part, self.max_damaged_share)

        @tf.autograph.experimental.do_not_convert
        def read(places: tf.Tensor) -> tuple[tf.Tensor, ...]:
            types = (tf.string, tf.int32, tf.int64, tf.int64, tf.int32, tf.float32)
            found = tf.numpy_function(
                lambda places: self._read(positions(places)), [places], types, stateful=False
            )
            shapes = ([None], [None, 2], [None, 2], [None, 2], [None], [None])
            return tuple(tf.ensure_shape(one, shape) for one, shape in zip(found, shapes, strict=True))

        @tf.autograph.experimental.do_not_convert
        def decode(content: tf.Tensor, shape: tf.Tensor, seed: tf.Tensor, *row: tf.Tensor) -> tuple[Any, ...]:
            return *self.pixels(content, shape, seed), *row

        @tf.autograph.experimental.do_not_convert
        def batch(images: tf.Tensor, is_grey: tf.Tensor, keys: tf.Tensor, *row: tf.Tensor) -> Keyed:
            return Keyed(self.batch(images, *row), _noting(damages, keys, is_grey))

        options = tf.data.Options()
        options.autotune.enabled = False  # a fixed pipeline: tuning takes memory without a bound
        options.deterministic = True
        num_threads = self.num_threads or min(2 * (os.cpu_count() or 1), _MOST_THREADS)
        contents = places.batch(_READ_AT_ONCE).map(read, num_parallel_calls=_READERS).unbatch()
        images = contents.map(decode, num_parallel_calls=num_threads).batch(rows, drop_remainder=True)
        return images.map(batch).prefetch(_PREFETCHED_BATCHES).with_options(options)

    def _read(self, positions: Int64Array) -> tuple[Any, ...]:
        """Bytes, shape, seed, key, label and weight of the images at some positions."""
        runs = np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1)  # without a gap
        found = [self.rows(int(run[0]), len(run)) for run in runs]
        images, visits, weights = (np.concatenate(column) for column in zip(*found, strict=True))
        contents = np.empty(len(images), object)
        contents[:] = self.part.read(images)
        shapes = np.array([formats.shape_of_jpeg(content) for content in contents], np.int32)
        keys = np.stack([images, visits], axis=1)
        return contents, shapes, self.seeds(images, visits), keys, self.part.labels[images], weights


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ImageStream(_Images):
    """Batches to train on.

    Attributes:
        part: The images.
        size: Height and width in pixels.
        batch_size: Images in a batch of the whole group.
        order: Which image is at which position.
        seed: With the image and its visit it fixes the augmentation: seed and group, or the seed alone where
            groups are given the same batches.
        augmentation: See `decoding`.
        max_damaged_share: Training stops if a larger share of the images cannot be decoded.
        num_threads: How many images are decoded at a time; by default two for each CPU core.
    """

    order: Order
    seed: tuple[int, ...] = (0,)
    augmentation: str = "inception"

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every image has been visited, but for a rest."""
        return max(1, self.order.num_examples // self.batch_size)

    @property
    def units_per_epoch(self) -> int:
        """Images that are visited."""
        return self.order.num_examples

    def rows(self, first: int, number: int) -> tuple[Int64Array, Int64Array, npt.NDArray[np.float32]]:
        """Number and earlier visits of the images at some positions; all weights are 1."""
        images, visits = self.order.rows(first, number)
        return images, visits, np.ones(number, np.float32)

    def seeds(self, images: Int64Array, visits: Int64Array) -> Int64Array:
        """One number of seed and visit, one of seed and image."""
        own = np.random.SeedSequence(self.seed).generate_state(2, np.uint64).astype(np.int64)
        return np.stack([own[0] ^ images, own[1] ^ visits], axis=1)

    def pixels(self, content: tf.Tensor, shape: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Decodes and augments an image."""
        return decoding.training_image(content, shape, seed, self.size, self.augmentation)

    def batch(self, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tuple[Any, ...]:
        """Images and labels."""
        del weights
        return images, labels


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class HeldOutImages(_Images):
    """Batches to evaluate on: every image once, in the order of storage.

    The last batch is filled up with images of weight 0, and all others have the weight that makes the mean
    over batches the mean over images.

    Attributes:
        part: The images.
        size: Height and width in pixels.
        batch_size: Images in a batch of the whole group.
        share: Share of the short side that the centre crop has.
        max_damaged_share: Evaluation stops if a larger share of the images cannot be decoded.
        num_threads: How many images are decoded at a time; by default two for each CPU core.
    """

    share: float = 1.0

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every image has been evaluated."""
        return -(-self.part.num_images // self.batch_size)

    @property
    def units_per_epoch(self) -> int:
        """Images that are evaluated."""
        return self.part.num_images

    def rows(self, first: int, number: int) -> tuple[Int64Array, Int64Array, npt.NDArray[np.float32]]:
        """Number, earlier evaluations and weight of the images at some positions."""
        num_rows = self.steps_per_epoch * self.batch_size
        visits, places = np.divmod(np.arange(first, first + number, dtype=np.int64), num_rows)
        weight = num_rows / self.part.num_images
        weights = np.where(places < self.part.num_images, weight, 0.0).astype(np.float32)
        return np.minimum(places, self.part.num_images - 1), visits, weights

    def pixels(self, content: tf.Tensor, shape: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Decodes the centre of an image."""
        del seed
        return decoding.evaluation_image(content, shape, self.size, self.share)

    def batch(self, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tuple[Any, ...]:
        """Images, labels and weights."""
        return images, labels, weights


def _positions(places: Int64Array, rows: int, batch_size: int, worker: int, num_replicas: int) -> Int64Array:
    """Positions in the sequence of the group of what a worker reads one after another."""
    elements, row = np.divmod(places, rows)
    steps, replicas = np.divmod(elements, num_replicas)
    return steps * batch_size + (worker * num_replicas + replicas) * rows + row


def _noting(damages: Damages, keys: tf.Tensor, is_grey: tf.Tensor) -> tf.Tensor:
    """The keys, after a note of what is grey."""

    def note(keys: Int64Array, is_grey: npt.NDArray[np.bool_]) -> Int64Array:
        damages.note(keys[is_grey, 0])
        return keys

    noted = tf.cond(
        tf.reduce_any(is_grey), lambda: tf.numpy_function(note, [keys, is_grey], tf.int64), lambda: keys
    )
    return tf.ensure_shape(noted, keys.shape)
