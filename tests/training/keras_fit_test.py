"""Keras's `fit` in several real processes, where stock Keras fails.

What one process does with whole batches is what two and three do with parts of them.
"""

from __future__ import annotations

import csv
import json
import math
import pathlib
import tempfile
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.codistillation_test import NUM_CLASSES, NUM_FEATURES, regression
from tests.workers import run_workers
from tf_codistill.exchange.snapshot import Ref, Snapshot
from tf_codistill.teaching.frozen import FrozenTeachers
from tf_codistill.training.codistillation import CodistillationModel
from tf_codistill.training.whole_batch import total

GLOBAL_BATCH = 12
NUM_EPOCHS, STEPS_PER_EPOCH, STEPS_PER_EXECUTION, NUM_VALIDATION_STEPS = 6, 5, 2, 3

_WORKER = """
from tf_codistill import distribution
strategy = distribution.create_strategy()
import json, keras, numpy as np, tensorflow as tf
from tests.training.keras_fit_test import train

class BuiltBefore(keras.Sequential):
    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        with strategy.scope():
            self._symbolic_build(data_batch=(tf.TensorSpec([4, 5]), tf.TensorSpec([4], tf.int32)))

def error_of_fit(kind):
    with strategy.scope():
        model = kind([keras.Input((5,)), keras.layers.Dense(2)])
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    try:
        model.fit(np.zeros((16, 5), "float32"), np.zeros(16, "int32"), batch_size=8, verbose=0)
    except ValueError as error:
        return str(error)

ours = train(strategy)
print(json.dumps([ours, error_of_fit(keras.Sequential), error_of_fit(BuiltBefore)]))
"""


@pytest.mark.parametrize("needed", [(), (0,), (0, 1)])
def test_a_total_does_not_depend_on_who_else_needs_its_terms(needed: tuple[int, ...]) -> None:
    """1 + 1e8 - 1e8 is 0 in float32; AddN begins with a term that only it needs, and -1e8 + 1e8 + 1 is 1."""

    @tf.function
    def graph(one: tf.Tensor, much: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        terms = [tf.math.exp(one), tf.math.exp(much), -tf.math.exp(much)]
        return total(terms), [terms[number] for number in needed]

    value, _ = graph(tf.constant(0.0), tf.constant(18.4))
    assert float(value) == 0


def arrays(seed: int, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_steps, GLOBAL_BATCH, NUM_FEATURES)).astype("float32")
    return x, rng.integers(0, NUM_CLASSES, (num_steps, GLOBAL_BATCH)).astype("int32")


def train(strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """All that a Keras user does with a model; run by the test and by each of its worker processes."""
    rows = GLOBAL_BATCH // strategy.num_replicas_in_sync

    def feed(x: np.ndarray, y: np.ndarray) -> Any:
        def part(context: tf.distribute.InputContext) -> tf.data.Dataset:
            mine = slice(context.input_pipeline_id * rows, (context.input_pipeline_id + 1) * rows)
            return tf.data.Dataset.from_tensor_slices((x[:, mine], y[:, mine]))

        return strategy.distribute_datasets_from_function(part)

    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = CodistillationModel(regression, FrozenTeachers(1))
        model.compile(
            keras.optimizers.SGD(momentum=0.9),  # a quotient of gradients would let rounding grow
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            steps_per_execution=STEPS_PER_EXECUTION,
        )
    training, validation = arrays(0, STEPS_PER_EPOCH), arrays(1, NUM_VALIDATION_STEPS)
    model.build_for_data(feed(*training).element_spec)
    rng = np.random.default_rng(2)
    taught = [
        rng.normal(size=shape).astype("float32") for shape in ((NUM_FEATURES, NUM_CLASSES), NUM_CLASSES)
    ]
    model.teachers.refresh(0, Snapshot(Ref(1), 0, 0.0, taught, [], 0))
    with tempfile.TemporaryDirectory() as directory:
        history = model.fit(
            feed(*training),
            validation_data=feed(*validation),
            epochs=NUM_EPOCHS,
            shuffle=False,
            callbacks=[
                keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (1 + epoch)),
                keras.callbacks.TerminateOnNaN(),
                keras.callbacks.EarlyStopping("val_loss", min_delta=10.0, patience=2),
                keras.callbacks.ModelCheckpoint(f"{directory}/epoch_{{epoch}}.keras"),
                keras.callbacks.CSVLogger(f"{directory}/log.csv"),
                keras.callbacks.TensorBoard(f"{directory}/tensorboard"),
            ],
            verbose=0,
        ).history
        result = {"history": history, "step": model.step(), **files(pathlib.Path(directory))}
    result["evaluated"] = model.evaluate(feed(*validation), verbose=0, return_dict=True)
    flat = validation[0].reshape(-1, NUM_FEATURES)
    result["predicted"] = model.predict(feed(*validation), verbose=0).tolist()
    result["expected"] = np.asarray(model.student(flat)).tolist()
    training[0][STEPS_PER_EXECUTION, 0, 0] = math.nan  # on the first worker alone
    model.fit(
        feed(*training), epochs=3, shuffle=False, verbose=0, callbacks=[keras.callbacks.TerminateOnNaN()]
    )
    return {**result, "steps_with_nan": model.step() - result["step"]}


def files(directory: pathlib.Path) -> dict[str, Any]:
    with open(directory / "log.csv", encoding="utf-8") as file:
        logged = [float(row["val_loss"]) for row in csv.DictReader(file)]
    saved = [keras.saving.load_model(path) for path in sorted(directory.glob("epoch_*.keras"))]
    return {
        "logged": logged,
        "saved": [[weight.tolist() for weight in model.get_weights()] for model in saved],
        "events": sorted({path.parent.name for path in directory.rglob("events.*")}),
    }


def flattened(result: Any) -> list[float]:
    return [float(leaf) for leaf in keras.tree.flatten(result) if not isinstance(leaf, str)]


def check(results: list[dict[str, Any]]) -> None:
    expected = train(tf.distribute.get_strategy())
    assert expected["history"]["distillation_loss"][0] > 0.1
    assert len(expected["logged"]) == len(expected["saved"]) == 3, "stopped early, after the third epoch"
    assert expected["step"] == 3 * STEPS_PER_EPOCH
    assert expected["steps_with_nan"] == 2 * STEPS_PER_EXECUTION
    for result in results:
        assert result.keys() == expected.keys()
        assert result["history"].keys() == expected["history"].keys()
        assert result["events"] == ["train", "validation"]
        # Predictions come from all workers: step by step, and within a step worker by worker.
        np.testing.assert_allclose(result["predicted"], result["expected"], atol=1e-6)
        np.testing.assert_allclose(flattened(result), flattened(expected), atol=1e-5)
        assert result["logged"] == pytest.approx(result["history"]["val_loss"])


@pytest.mark.parametrize("num_workers", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_everything_of_keras_works_under_several_processes_and_stock_fit_does_not(num_workers: int) -> None:
    outputs = run_workers(_WORKER, num_workers, timeout_secs=280)
    results = [json.loads(output.splitlines()[-1]) for output in outputs]
    for _, building, reducing in results:
        assert building.startswith("Attempt to convert a value (PerReplica:")
        assert reducing.startswith("Invalid reduction dimension 0 for input with 0 dimensions")
    check([ours for ours, _, _ in results])


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_an_execution_may_find_fewer_batches_than_it_takes(run_eagerly: bool) -> None:
    x, y = arrays(0, 5)
    results = []
    for steps_per_execution in (1, 2, 7):
        keras.utils.set_random_seed(1)
        model = CodistillationModel(regression)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, steps_per_execution=steps_per_execution, run_eagerly=run_eagerly)
        data = tf.data.Dataset.from_tensor_slices((x, y))
        logs = model.fit(data, epochs=2, verbose=0, shuffle=False, validation_data=data.take(3)).history
        assert model.step() == 10
        results.append([*logs["loss"], *logs["val_loss"], *model.student.get_weights()[1]])
    np.testing.assert_allclose(results[1], results[0], rtol=1e-6)
    np.testing.assert_allclose(results[2], results[0], rtol=1e-6)
