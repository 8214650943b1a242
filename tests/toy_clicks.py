"""A task of two classes whose validation does not fill its last batch, in a file that gin may import.

import tests.toy_clicks
Experiment.task = @Clicks()
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import gin
import keras
import numpy as np
import tensorflow as tf

from tf_codistill import checkpoints, files, runs, weights
from tf_codistill.batches import Keyed, Stream
from tf_codistill.tasks.base import Part, Task

WIDTH = 3


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows in their order, the last batch filled up with rows of weight 0."""

    num_rows: int
    batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_rows // self.batch_size)

    @property
    def units_per_step(self) -> int:
        return self.batch_size

    @property
    def units_per_epoch(self) -> int:
        return self.num_rows

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, with what fills the last batch."""
        number = self.steps_per_epoch * self.batch_size
        rng = np.random.default_rng(5)
        numeric = rng.normal(size=(number, WIDTH)).astype("float32")
        labels = (rng.uniform(size=number) < 1 / (1 + np.exp(-numeric.sum(axis=1)))).astype("int32")
        weight = np.where(np.arange(number) < self.num_rows, number / self.num_rows, 0).astype("float32")
        keys = np.stack([1000 + np.arange(number), np.zeros(number)], axis=1).astype("int64")
        side = rng.integers(0, 2, (number, 1)).astype("int32")
        return {"numeric": numeric, "side": side, "labels": labels, "weight": weight, "keys": keys}

    def dataset(self, *, num_steps: int | None = None, **where: Any) -> tf.data.Dataset:
        del where
        dataset = tf.data.Dataset.from_tensor_slices(self.arrays()).batch(
            self.batch_size, drop_remainder=True
        )
        dataset = dataset if num_steps is None else dataset.take(num_steps)
        return dataset.map(
            lambda rows: Keyed(
                (
                    {"numeric": rows["numeric"], "side": rows["side"]},
                    rows["labels"][:, tf.newaxis],
                    rows["weight"],
                ),
                rows["keys"],
            )
        )


@gin.configurable(module="toy_clicks")
@dataclasses.dataclass(kw_only=True)
class Clicks(Task):
    """Two classes, one logit."""

    units: ClassVar[str] = "rows"

    num_rows: int = 50
    batch_size: int = 16

    def training(self, part: Part) -> Stream:
        return Rows(self.num_rows, self.batch_size)

    def validation(self) -> Stream:
        return Rows(self.num_rows, self.batch_size)

    def make_model(self, rows: int | None = None, group: int | None = None) -> keras.Model:
        numeric = keras.Input((WIDTH,), batch_size=rows, name="numeric")
        side = keras.Input((1,), batch_size=rows, name="side", dtype="int32")
        return keras.Model({"numeric": numeric, "side": side}, keras.layers.Dense(1)(numeric))

    def loss(self) -> keras.losses.Loss:
        return keras.losses.BinaryCrossentropy(from_logits=True)

    def mean_prediction(self, predictions: Sequence[Any]) -> tf.Tensor:
        mean = tf.reduce_mean(tf.nn.sigmoid(tf.stack(list(predictions))), axis=0)
        return tf.math.log(mean) - tf.math.log1p(-mean)

    def probabilities(self, predictions: Any) -> tf.Tensor:
        return tf.nn.sigmoid(predictions)[:, 0]


GIN = """
import tests.toy_clicks
Experiment.task = @Clicks()
Experiment.num_steps = 50
Experiment.optimizer = @keras.optimizers.SGD
keras.optimizers.SGD.learning_rate = 0.1
"""


def model_of(kernel: Sequence[float]) -> keras.Model:
    """The model with these weights."""
    model = Clicks().make_model(16)
    model.set_weights([np.array(kernel, "float32")[:, np.newaxis], np.zeros(1, "float32")])
    return model


def expected(kernel: Sequence[float], task: Clicks | None = None) -> np.ndarray:
    """What that model says of each row."""
    task = task or Clicks()
    logits = task.validation().arrays()["numeric"][: task.num_rows] @ np.array(kernel, "float32")
    return 1 / (1 + np.exp(-logits))


def write_run(workdir: str, *kernels: Sequence[float]) -> str:
    """A run as training leaves it behind, a group for each model."""
    for group, kernel in enumerate(kernels):
        directory = files.make_directory(runs.group_dir(workdir, group))
        files.write(runs.config_path(workdir, group), GIN.encode())
        runs.append_metrics(runs.metrics_path(workdir, group), "validation", 10, loss=1.0)
        model = model_of(kernel)
        shared = {"weights": weights.values(model.weights)}
        checkpoints.Checkpoints(runs.checkpoints_dir(workdir, group)).save(10, shared, {"lanes": []}, {})
        model.save(files.join(directory, "student.keras"))
    return workdir
