"""Rows of a table of clicks in batches, each a function of the step.

    step          0           1           2                         B = 4, two workers with a replica each
    worker 0      r7 r2       r5 r0       ...                       r = rows of the table, in an order of the
    worker 1      r9 r4       r1 r8       ...                           group's own, another one in each visit

    stream = RowStream(table.part("train"), 13, batch_size=4, order=Order.of_group(...))
    stream.dataset(first_step=1370)        Keyed(({"numeric": ..., "categories": ...}, labels_B1), keys_B2)

A batch is one gather from rows that are mapped into memory. Nothing is remembered from step to step, and
nothing grows with the number of rows. Validation has an end: its last batch is filled with rows of weight 0,
and the others weigh so much more that the mean over batches is the mean over rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tf_codistill.batches import Keyed
from tf_codistill.inputs.order import Order
from tf_codistill.tables.shards import TablePart, split_columns

_PREFETCHED_BATCHES = 8

Int64Array = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class RowStream:
    """The batches of one group.

    Attributes:
        part: The rows.
        num_numeric: N: how many values of a row are numbers.
        batch_size: Rows in a batch of the group.
        order: In which rows are visited.
        is_weighted: Whether the stream has an end, and the rows of its last batch weights: validation.

    Raises:
        ValueError: The batch size is below 1, or training has fewer rows than a batch.
    """

    part: TablePart
    num_numeric: int
    batch_size: int
    order: Order
    is_weighted: bool = False

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; expected at least 1")
        if not self.is_weighted and self.order.num_examples < self.batch_size:
            raise ValueError(
                f"batch_size is {self.batch_size}, but there are only {self.order.num_examples} rows for "
                "the group in "
                f"part {self.part.name!r}; use a smaller batch, more rows, or data='same'"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every row has been visited; what is left of a visit of training belongs to the next."""
        if self.is_weighted:
            return -(-self.order.num_examples // self.batch_size)
        return self.order.num_examples // self.batch_size

    @property
    def units_per_step(self) -> int:
        """Rows in a batch."""
        return self.batch_size

    @property
    def units_per_epoch(self) -> int:
        """Rows that are visited."""
        return self.order.num_examples

    def rows(
        self, step: int, first: int, number: int
    ) -> tuple[npt.NDArray[np.int32], Int64Array, npt.NDArray[np.bool_]]:
        """Some rows of a batch.

        Args:
            step: The step.
            first: The first one in the batch.
            number: How many.

        Returns:
            The encoded rows, int32 [R, W]; their keys, int64 [R, 2]; which of them are not there but stand in
            for the rest of the last batch, bool [R].
        """
        if self.is_weighted:
            step %= self.steps_per_epoch
        position = step * self.batch_size + first
        ids, visits = self.order.rows(position, number)
        is_filler = visits > 0 if self.is_weighted else np.zeros(number, np.bool_)
        keys = np.stack([ids, np.zeros_like(visits) if self.is_weighted else visits], axis=1)
        return self.part.take(ids), keys, is_filler

    def dataset(
        self,
        *,
        first_step: int = 0,
        num_steps: int | None = None,
        worker: int = 0,
        num_workers: int = 1,
        num_replicas: int = 1,
    ) -> tf.data.Dataset:
        """The batches of one worker, see `batches.Stream`.

        Args:
            first_step: Step of the first batch.
            num_steps: Steps after which the data set ends; without end by default.
            worker: Index of the worker in its group, from 0.
            num_workers: Number of workers of the group.
            num_replicas: Replicas of each worker, which take the elements in turn.

        Returns:
            Features ``numeric``, float32 [R, N], and ``categories``, int32 [R, C]; labels, float32 [R, 1];
            weights, float32 [R, 1], if there are any; keys, int64 [R, 2].

        Raises:
            ValueError: A number is out of range, or the rows do not divide evenly.
        """
        rows, rest = divmod(self.batch_size, num_workers * num_replicas)
        if rest or not 0 <= worker < num_workers or first_step < 0:
            raise ValueError(
                f"batch_size is {self.batch_size}, worker is {worker} of num_workers={num_workers} with "
                f"num_replicas={num_replicas}, first_step is {first_step}; expected a batch size that is a "
                "multiple "
                "of all replicas, a worker of them, and a step of at least 0"
            )
        weight = self.steps_per_epoch * self.batch_size / self.order.num_examples

        def read(index: np.int64) -> Sequence[np.ndarray]:
            step, replica = divmod(int(index), num_replicas)
            found, keys, is_filler = self.rows(step, (worker * num_replicas + replica) * rows, rows)
            labels, numbers, ids = split_columns(found, self.num_numeric)
            weights = np.where(is_filler, 0.0, weight).astype(np.float32)
            return numbers, ids, labels[:, np.newaxis], weights[:, np.newaxis], keys

        types = (tf.float32, tf.int32, tf.float32, tf.float32, tf.int64)
        num_ids = self.part.shards[0].shape[1] - 1 - self.num_numeric
        widths = (self.num_numeric, num_ids, 1, 1, 2)

        def element(index: tf.Tensor) -> Keyed:
            found = tf.numpy_function(read, [index], types, stateful=False)
            shaped = [tf.ensure_shape(one, (rows, width)) for one, width in zip(found, widths, strict=True)]
            numbers, ids, labels, weights, keys = shaped
            features = {"numeric": numbers, "categories": ids}
            return Keyed((features, labels, weights) if self.is_weighted else (features, labels), keys)

        indices = tf.data.Dataset.counter(first_step * num_replicas)
        if num_steps is not None:
            indices = indices.take(num_steps * num_replicas)
        # Nothing is left to tune, and an iterator that goes waits for its tuning thread, up to half a minute.
        options = tf.data.Options()
        options.autotune.enabled = False
        return indices.map(element).prefetch(_PREFETCHED_BATCHES).with_options(options)
