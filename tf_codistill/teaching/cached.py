"""Predictions of teachers that never change, kept by example: each example is asked about once.

    cache = Cache(max_bytes=2e9)
    predictions = cache.predictions(ask, features, keys, like)     `ask` is told of those that are not there

    keys [B, 2]   ids that are there ------------------------------+--> predictions of B rows
                  ids that are not --> ask(their features) --> kept --^

An example is known by its id, whatever its visit, and by a checksum of its features: where these have changed
since, it is asked about again, so that what is returned is always about the features that are given.
Predictions are kept, and returned from the first time on, in float16. They are in the memory of one process,
for all its replicas: another worker has what it has read itself, and whoever starts again begins anew.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from tf_codistill.teaching.base import equal_logits

_ROW_BYTES = 160  # what an id, its place and its checksum take up, most of it as Python objects


class Cache:
    """Rows of predictions by the id of their example; any number of threads may ask.

    Attributes:
        num_asked: How many examples teachers have been asked about.
    """

    def __init__(self, max_bytes: float) -> None:
        """Keeps nothing yet.

        Args:
            max_bytes: How much memory it may take up. When that is full, what else is read is asked about
                each time.
        """
        self._max_bytes, self._lock = max_bytes, threading.Lock()
        self.num_asked = 0
        self.clear()

    def clear(self) -> None:
        """Forgets all, as for other teachers."""
        self._places: dict[int, int] = {}  # by id
        self._sums, self._kept = np.empty(0, np.int64), list[np.ndarray]()

    def __len__(self) -> int:
        """How many examples are kept."""
        return len(self._places)

    def predictions(
        self, ask: Callable[[Any], list[Any]], features: Any, keys: tf.Tensor, like: Sequence[Any]
    ) -> list[Any]:
        """What teachers predict for some examples; called on a replica, and not from a step by XLA.

        Args:
            ask: Returns what each teacher predicts for features, any number of rows.
            features: Those of B examples.
            keys: Their keys, int64 [B, 2].
            like: A prediction of B rows for each teacher: for structure, dtypes and shapes behind the first.

        Returns:
            What each teacher predicts for the examples, rounded to float16.
        """
        parts, ids = keras.tree.flatten(features), keys[:, 0]
        sums = tf.ensure_shape(tf.numpy_function(_checksums, parts, tf.int64), [ids.shape[0]])
        missing = tf.ensure_shape(tf.numpy_function(self._missing, [ids, sums], tf.int64), [None])
        found = tf.cond(
            tf.size(missing) > 0,
            lambda: ask(keras.tree.map_structure(lambda part: tf.gather(part, missing), features)),
            lambda: [keras.tree.map_structure(lambda part: equal_logits(part, 0)[:0], one) for one in like],
        )
        asked = keras.tree.flatten(found)
        rounded = [tf.cast(part, tf.float16) for part in asked]
        kept = tf.numpy_function(self._merge, [ids, sums, missing, *rounded], [tf.float16] * len(asked))
        rows = [
            tf.cast(tf.ensure_shape(one, [ids.shape[0], *part.shape[1:]]), part.dtype)
            for one, part in zip(keras.tree.flatten(kept), asked, strict=True)  # eagerly, one comes alone
        ]
        return keras.tree.pack_sequence_as(found, rows)

    def _missing(self, ids_B: np.ndarray, sums_B: np.ndarray) -> np.ndarray:
        """Which rows have to be asked about."""
        with self._lock:
            places = [self._places.get(id_) for id_ in ids_B.tolist()]
            missing = [row for row, at in enumerate(places) if at is None or self._sums[at] != sums_B[row]]
            self.num_asked += len(missing)
        return np.array(missing, np.int64)

    def _merge(
        self,
        ids_B: np.ndarray,
        sums_B: np.ndarray,
        missing: np.ndarray,
        *asked: np.ndarray,
    ) -> list[np.ndarray]:
        """All rows of each output, those that were asked about and those that are kept; keeps the former."""
        with self._lock:
            shapes = [part.shape[1:] for part in asked]
            if self._kept and shapes != (known := [part.shape[1:] for part in self._kept]):
                raise ValueError(_OTHER_SHAPES.format(shapes, known))
            rows = [np.empty([len(ids_B), *shape], np.float16) for shape in shapes]
            is_known = np.ones(len(ids_B), bool)
            is_known[missing] = False
            if is_known.any():
                places = [self._places[id_] for id_ in ids_B[is_known].tolist()]
                for part, kept in zip(rows, self._kept, strict=True):
                    part[is_known] = kept[places]
            for part, new in zip(rows, asked, strict=True):
                part[missing] = new
            for row in missing.tolist():
                self._keep(int(ids_B[row]), int(sums_B[row]), [part[row] for part in rows])
        return rows

    def _keep(self, id_: int, checksum: int, row: Sequence[np.ndarray]) -> None:
        if not self._kept:  # pages are taken as they are written to
            most = int(self._max_bytes // (_ROW_BYTES + sum(part.nbytes for part in row)))
            self._sums = np.empty(most, np.int64)
            self._kept = [np.empty([most, *part.shape], np.float16) for part in row]
        place = self._places.get(id_, len(self))
        if place == len(self._sums):
            logging.log_first_n(logging.WARNING, _FULL, 1, len(self), self._max_bytes)
            return
        if id_ in self._places and self._sums[place] != checksum:
            logging.log_first_n(logging.WARNING, _CHANGED, 1, id_)
        self._places[id_], self._sums[place] = place, checksum
        for kept, part in zip(self._kept, row, strict=True):
            kept[place] = part


_CHANGED = (
    "example %d has other features than when its teachers' predictions were kept, so that they are computed "
    "again; leave cache_bytes of SavedTeachers out if features are augmented, or ids name several examples"
)
_OTHER_SHAPES = (
    "the teachers' predictions of an example have the shapes {}, those that are kept have {}; pad all "
    "examples to one length, or leave cache_bytes of SavedTeachers out"
)
_FULL = (
    "teachers' predictions of %d examples take up the %.3g bytes of cache_bytes; those of others are "
    "computed at each visit"
)


def _checksums(*parts: np.ndarray) -> np.ndarray:
    """One of the features of each row, int64 [B]."""
    sums = np.zeros(len(parts[0]), np.int64)
    for part in parts:
        for row in range(len(part)):
            values = np.ravel(part[row])
            content = b"\0".join(values) if part.dtype == object else values.tobytes()
            sums[row] = zlib.crc32(content, int(sums[row]))
    return sums
