"""A task and a kind of teaching that the package has never heard of.

    import tests.toy_house                                       in a gin file
    Experiment.task = @Points()                                  regression: heights of points on a plane
    Experiment.teaching = @Recollection                          what was believed before teaches

`Points` has no tokens, no classes and no memory. `Recollection` asks two teachers that are no peers: an
average of the student's own weights (Tarvainen & Valpola 2017), and what was predicted for the same example
at an earlier visit (Laine & Aila 2017), which each worker remembers of the rows that it has read itself.
"""

from __future__ import annotations

import dataclasses
import math
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gin
import keras
import numpy as np
import tensorflow as tf

from tf_codistill import distribution, files, recurrent_state, weights
from tf_codistill.batches import Keyed, Stream
from tf_codistill.redealing import Redealing
from tf_codistill.tasks.base import Part, Task
from tf_codistill.teaching.base import Arrays, ModelFn, Taught, Teaching

_NEVER = -1


def points(number: int, source: int) -> tuple[np.ndarray, np.ndarray]:
    """Places on a plane and how high it is there, float32 [N, 2] and [N, 1]."""
    places = np.random.default_rng(source).uniform(-1, 1, (number, 2)).astype("float32")
    return places, np.sin(3 * places[:, :1]) + places[:, 1:] ** 2


@dataclasses.dataclass(frozen=True)
class PointStream:
    """Batches of points, each a function of the step; an epoch visits each point once, in its own order.

    Attributes:
        places: Places on a plane, [N, 2].
        heights: How high it is there, [N, 1].
        batch_size: Points in a batch of the group, a divisor of N.
        seed: Fixes the orders; None for the order in which they are given.
    """

    places: np.ndarray
    heights: np.ndarray
    batch_size: int
    seed: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every point has been visited."""
        return len(self.places) // self.batch_size

    @property
    def units_per_step(self) -> int:
        """Points in a batch."""
        return self.batch_size

    @property
    def units_per_epoch(self) -> int:
        """Points."""
        return len(self.places)

    def dataset(
        self,
        *,
        first_step: int = 0,
        num_steps: int | None = None,
        worker: int = 0,
        num_workers: int = 1,
        num_replicas: int = 1,
    ) -> tf.data.Dataset:
        """Rows of the batches, see `batches.Stream`."""
        rows = self.batch_size // (num_workers * num_replicas)

        def element(index: tf.Tensor) -> Keyed:
            step, replica = index // num_replicas, index % num_replicas
            visit = step // self.steps_per_epoch
            order = tf.range(len(self.places), dtype=tf.int64)
            if self.seed is not None:
                order = tf.random.experimental.stateless_shuffle(order, tf.stack([self.seed, visit]))
            first = (step % self.steps_per_epoch) * self.batch_size + (worker * num_replicas + replica) * rows
            ids = tf.ensure_shape(order[first : first + rows], [rows])
            keys = tf.stack([ids, tf.fill([rows], visit)], axis=1)
            return Keyed((tf.gather(self.places, ids), tf.gather(self.heights, ids)), keys)

        indices = tf.data.Dataset.counter(first_step * num_replicas)
        return (indices if num_steps is None else indices.take(num_steps * num_replicas)).map(element)


@gin.configurable(module="toy_house")
@dataclasses.dataclass(kw_only=True)
class Points(Task):
    """How high a plane is at a point.

    Attributes:
        num_points: How many are known.
        batch_size: How many a group reads in a step.
    """

    units: ClassVar[str] = "points"

    num_points: int = 32
    batch_size: int = 8

    def training(self, part: Part) -> Stream:
        """The known points, in an order of the group's own."""
        return PointStream(*points(self.num_points, 0), self.batch_size, seed=100 * part.seed + part.index)

    def validation(self) -> Stream:
        """Other points."""
        return PointStream(*points(2 * self.batch_size, 1), self.batch_size)

    def make_model(self, rows: int | None = None, group: int | None = None) -> keras.Model:
        """Two layers."""
        del group
        layers = [keras.layers.Dense(6, "tanh"), keras.layers.Dense(1)]
        return keras.Sequential([keras.Input((2,), batch_size=rows), *layers])

    def loss(self) -> keras.losses.Loss:
        """The squared error."""
        return keras.losses.MeanSquaredError()

    def metrics(self) -> list[keras.metrics.Metric]:
        """The error."""
        return [keras.metrics.MeanAbsoluteError(name="error")]

    def derived(self, averages: Mapping[str, float]) -> dict[str, float]:
        """The error in the units of the heights."""
        return {"deviation": math.sqrt(averages["loss"])}

    def mean_prediction(self, predictions: Sequence[Any]) -> tf.Tensor:
        """The mean height."""
        return tf.reduce_mean(tf.stack(list(predictions)), axis=0)

    def keep_beside_model(self, directory: str, is_writer: bool = True) -> None:
        """Notes which points the model knows."""
        self.check_beside_model(directory)
        if is_writer:
            files.write_json(files.join(directory, "points.json"), {"num_points": self.num_points})

    def check_beside_model(self, directory: str) -> None:
        """Compares the points with those that the model knows."""
        path = files.join(directory, "points.json")
        if files.exists(path) and (found := files.read_json(path)["num_points"]) != self.num_points:
            raise ValueError(f"{path!r} is of a model of {found} points, not of {self.num_points}")


KILLED_AFTER_STEP = "TOY_HOUSE_KILLED_AFTER_STEP"
"""Names the variable that says when a process dies, as if the machine had."""


@gin.configurable(module="toy_house")
class Recollection(Teaching):
    """A student is taught by an average of itself, and by what it predicted at an earlier visit."""

    taught_by = ((0, 1),)

    def __init__(self, num_examples: int, every_steps: int = 4) -> None:
        """Takes note of the arguments.

        Args:
            num_examples: Ids of examples are below that.
            every_steps: Steps from one refresh of the average to the next.
        """
        self._num_examples, self._every_steps = num_examples, every_steps

    def names(self) -> list[str]:
        """Both teachers."""
        return ["average", "memory"]

    def make(self, students: Sequence[keras.Model], model_fns: Sequence[ModelFn]) -> None:
        """Makes the average and the memory."""
        (self._student,) = students
        self._average = model_fns[0]()
        self._average.trainable = False
        self._refreshed_at = keras.Variable(np.int64(_NEVER), dtype="int64", trainable=False)
        self._said = self._of_each_example(0.0, "float32")
        self._said_at = self._of_each_example(_NEVER, "int64")

    def models(self) -> dict[str, keras.Model]:
        """The average."""
        return {"the average": self._average}

    def before_step(self, step: tf.Tensor) -> None:
        """Moves the average half of the way to the student, at steps 0, k, 2k, ..."""
        step = tf.cast(step, tf.int64)
        tf.cond(step % self._every_steps == 0, lambda: self._refresh(step), lambda: None)

    def any_present(self, step: tf.Tensor) -> tf.Tensor:
        """From the first refresh on."""
        return self._refreshed_at.value > _NEVER

    def teach(
        self, features: Sequence[Any], keys: Sequence[Any], step: tf.Tensor, predictions: Sequence[Any]
    ) -> list[Taught]:
        """The average has a say of every other example; the memory the less, the longer ago a visit was."""
        ids, visits = tf.unstack(keys[0], axis=1)
        said_B, said_at_B = tf.gather(self._said.value, ids), tf.gather(self._said_at.value, ids)
        of_average = tf.stop_gradient(self._average(features[0], training=False))
        is_known_B = (said_at_B > _NEVER) & (said_at_B < visits)
        present_B = tf.where(is_known_B, 1 / tf.cast(tf.maximum(visits - said_at_B, 1), tf.float32), 0.0)
        new_B = tf.stop_gradient(predictions[0])[:, 0]
        for table, value in ((self._said, new_B), (self._said_at, visits)):
            table.assign(tf.tensor_scatter_nd_update(table.value, ids[:, tf.newaxis], value))
        asked_B = tf.cast((ids + visits) % 2 == 0, tf.float32)
        return [Taught([of_average, said_B[:, tf.newaxis]], tf.stack([asked_B, present_B]))]

    def staleness_steps(self, step: tf.Tensor) -> tf.Tensor:
        """Steps since the last refresh."""
        return tf.cast(tf.cast(step, tf.int64) - self._refreshed_at.value, tf.float32)

    def state(self) -> tuple[Arrays, Arrays]:
        """The average, which all workers hold alike, and the memory of this worker."""
        return weights.values(self._shared()), recurrent_state.values([self._said, self._said_at])

    def restore(self, shared: Arrays, own: Arrays) -> None:
        """Takes back what `state` returned."""
        weights.assign(self._shared(), shared)
        recurrent_state.restore([self._said, self._said_at], own)

    def redeal(self, owns: Sequence[Arrays], redealing: Redealing) -> Arrays:
        """For every replica what was said last of each example, whoever has read it."""
        tables = (np.concatenate(parts).reshape(-1, self._num_examples) for parts in zip(*owns, strict=True))
        said, said_at = tables
        newest = said_at.argmax(axis=0), np.arange(self._num_examples)
        return [np.tile(table[newest], redealing.now.num_replicas) for table in (said, said_at)]

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """What kills the last worker, if it shall be."""
        step = os.environ.get(KILLED_AFTER_STEP)
        return [] if step is None else [_Death(int(step))]

    def _shared(self) -> list[keras.Variable]:
        return [self._refreshed_at, *self._average.weights]

    def _of_each_example(self, value: float, dtype: str) -> keras.Variable:
        initial = np.full(self._num_examples, value, dtype)
        return keras.Variable(
            initial, dtype=dtype, trainable=False, autocast=False, synchronization="on_read"
        )

    def _refresh(self, step: tf.Tensor) -> None:
        (refreshed_at, *_) = weights.local_copies(self._refreshed_at)
        share = tf.where(refreshed_at == _NEVER, 1.0, 0.5)
        for own, theirs in zip(self._average.weights, self._student.weights, strict=True):
            for average, weight in zip(weights.local_copies(own), weights.local_copies(theirs), strict=True):
                average.assign(average + share * (weight - average))
        for copy in weights.local_copies(self._refreshed_at):
            copy.assign(step)


class _Death(keras.callbacks.Callback):
    def __init__(self, step: int) -> None:
        super().__init__()
        self._step = step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        del batch, logs
        strategy = self.model.distribute_strategy
        is_last = distribution.worker_index(strategy) == distribution.num_workers(strategy) - 1
        if is_last and self.model.step() == self._step:
            os.kill(os.getpid(), signal.SIGKILL)
