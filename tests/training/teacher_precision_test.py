"""Training with teachers of fewer bits: nearly as with float32, in any strategy, through every hand."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.toy_experiments import (
    VOCABULARY_SIZE,
    toy_experiment,
    toy_peers,
    toy_task,
    write_language_corpus,
)
from tests.toy_models import publish, snapshots_in
from tests.workers import run_workers
from tf_codistill import recurrent_state, runs, weights
from tf_codistill.exchange import precision as precisions
from tf_codistill.exchange.snapshot import Ref, Snapshot
from tf_codistill.exchange.store import Store
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.teaching import quantized_model
from tf_codistill.teaching.base import Teaching
from tf_codistill.teaching.frozen import FrozenTeachers
from tf_codistill.teaching.snapshots import PeerExchange
from tf_codistill.training.codistillation import CodistillationModel

LANES, WINDOW, NUM_STEPS = 4, 6, 8


def language_model(vocabulary_size: int = VOCABULARY_SIZE, batch_size: int | None = LANES) -> keras.Model:
    return LanguageModel(vocabulary_size, 20, 1, 24, batch_size)


def taught(
    precision: str, rows: int = LANES, teachers: Teaching | None = None, **options: Any
) -> CodistillationModel:
    """A model whose teacher's numbers are large, so that a coarse copy of them shows."""
    keras.utils.set_random_seed(5)
    make = lambda: language_model(batch_size=rows)  # noqa: E731
    model = CodistillationModel(make, teachers or FrozenTeachers(1, precision), distillation_weight=2.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.3), loss, jit_compile=options.get("jit_compile", False))
    source = np.random.default_rng(2)
    arrays = [weight + 0.3 * source.normal(size=weight.shape) for weight in model.student.get_weights()]
    states = [source.normal(size=(LANES, 24)).astype("float32") for _ in range(2)]
    model.teachers.refresh(
        0, Snapshot(Ref(1), 3, 0.0, [array.astype("float32") for array in arrays], states, 0)
    )
    return model


def lanes(rows: slice = slice(None)) -> tf.data.Dataset:
    ids = np.random.default_rng(3).integers(0, VOCABULARY_SIZE, (NUM_STEPS, LANES, WINDOW + 1))[:, rows]
    return tf.data.Dataset.from_tensor_slices((ids[..., :-1].astype("int32"), ids[..., 1:].astype("int32")))


def fit(model: CodistillationModel, data: Any) -> dict[str, float]:
    history = model.fit(data, steps_per_epoch=NUM_STEPS, shuffle=False, verbose=0).history
    return {name: values[0] for name, values in history.items()}


@pytest.fixture(scope="module")
def of_float32() -> tuple[dict[str, float], list[np.ndarray]]:
    model = taught("float32")
    return fit(model, lanes()), model.student.get_weights()


@pytest.mark.parametrize(
    ("precision", "jit_compile", "tolerance"),
    [
        ("bfloat16", False, 5e-3),
        ("float16", False, 1e-3),
        ("int8", False, 5e-3),
        pytest.param("int8", True, 5e-3, marks=pytest.mark.slow),
    ],
)
def test_training_is_close_to_that_with_a_float32_teacher(
    of_float32: tuple[dict[str, float], list[np.ndarray]], precision: str, jit_compile: bool, tolerance: float
) -> None:
    model = taught(precision, jit_compile=jit_compile)
    logs = fit(model, lanes())
    expected, expected_weights = of_float32
    assert logs["distillation_loss"] == pytest.approx(expected["distillation_loss"], rel=tolerance)
    assert logs["loss"] == pytest.approx(expected["loss"], rel=tolerance)
    assert logs["teacher_agreement"] == pytest.approx(expected["teacher_agreement"], abs=0.05)
    for one, other in zip(model.student.get_weights(), expected_weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=10 * tolerance)
    assert (model.student.get_weights()[0] != expected_weights[0]).any()


def test_two_replicas_train_as_one() -> None:
    one = taught("int8")
    fit(one, lanes())
    strategy = two_replicas()
    with strategy.scope():
        two = taught("int8", rows=LANES // 2)
    fit(two, strategy.experimental_distribute_dataset(lanes()))
    for mine, other in zip(weights.values(two.student.weights), one.student.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)
    states = [model.teachers.state()[1] for model in (one, two)]
    for mine, other in zip(*states, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)


_WORKER = """
from tf_codistill import distribution, weights
strategy = distribution.create_strategy()
import json
import tests.training.teacher_precision_test as test
with strategy.scope():
    model = test.taught("int8", rows=test.LANES // 2)
worker = distribution.worker_index(strategy)
lanes = slice(2 * worker, 2 * worker + 2)
shared, _ = model.teachers.state()
_, own = test.taught("float32").teachers.state()
model.teachers.restore(shared, [rows[lanes] for rows in own])
logs = test.fit(model, strategy.distribute_datasets_from_function(lambda context: test.lanes(lanes)))
sums = [float(abs(array).sum()) for array in weights.values(model.student.weights)]
print(json.dumps([logs["distillation_loss"], model.teachers.num_bytes(), *sums]))
"""


@pytest.mark.slow
def test_two_processes_train_as_one() -> None:
    found = [json.loads(out.splitlines()[-1]) for out in run_workers(_WORKER, 2)]
    assert found[0] == found[1]
    model = taught("int8")
    logs = fit(model, lanes())
    sums = [float(np.abs(array).sum()) for array in model.student.get_weights()]
    assert found[0][1] == model.teachers.num_bytes()
    assert [found[0][0], *found[0][2:]] == pytest.approx([logs["distillation_loss"], *sums], rel=1e-5)


@pytest.mark.parametrize(("published", "held"), [("int8", "float32"), ("float32", "int8"), ("int8", "int8")])
def test_groups_may_differ_in_precision(tmp_path, published: str, held: str) -> None:
    peer = language_model()
    arrays = peer.get_weights()
    publish(str(tmp_path), 1, 4, peer, precision=published)
    exchange = PeerExchange(str(tmp_path), 0, 2, every_steps=4, precision=held, wait=True)
    model = taught(held, teachers=exchange)
    fit(model, lanes())
    assert exchange.steps() == [4]
    assert (exchange.costs.failed_reads, exchange.costs.failed_publications) == (0, 0)
    for found, array in zip(exchange.frozen[0].get_weights(), arrays, strict=True):
        np.testing.assert_array_equal(
            found, precisions.dequantize(precisions.quantize(array, "int8"), "float32")
        )
    *_, back = snapshots_in(str(tmp_path), 0, peer)
    assert (back.step, back.precision) == (NUM_STEPS, held)
    for found, part in zip(
        back.weights, precisions.quantize_all(model.student.get_weights(), held), strict=True
    ):
        np.testing.assert_array_equal(found, part)


def test_a_language_models_int8_is_a_quarter_in_files_and_in_memory(tmp_path) -> None:
    sizes = {}
    for precision in ("float32", "int8"):
        teachers = FrozenTeachers(1, precision)
        model = CodistillationModel(lambda: LanguageModel(1006, 192, 2, 192, batch_size=64), teachers)
        states = recurrent_state.values(recurrent_state.variables(model.student))
        num_bytes = Store(str(tmp_path / precision), 0, precision=precision).publish(
            1, weights.description(model.student), model.student.get_weights(), states
        )
        sizes[precision] = (num_bytes, model.teachers.num_bytes())
    assert sizes["float32"][1] == 3_930_040
    for large, small in zip(*(sizes[precision] for precision in ("float32", "int8")), strict=True):
        assert large / small >= 3.5


class Lazy(keras.Model):
    """A subclassed model that has no weights before it has seen a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = keras.layers.Dense(32, activation="tanh"), keras.layers.Dense(3)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.head(self.hidden(inputs))


def test_a_model_that_is_built_by_its_first_batch_is_quantized_then() -> None:
    model = CodistillationModel(Lazy, FrozenTeachers(1, "int8"))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert model.teachers.num_bytes() == 0
    x, y = np.random.default_rng(0).normal(size=(8, 16)).astype("float32"), np.arange(8) % 3
    for _ in range(2):
        model.fit(x, y, batch_size=4, verbose=0)
        assert model.teachers.num_bytes() == (16 * 32 + 4 * 32 + 4 * 32) + (32 * 3 + 16 + 4 * 3)
    arrays = [np.full(weight.shape, 0.5, "float32") for weight in model.student.weights]
    model.teachers.refresh(0, Snapshot(Ref(1), 1, 0.0, arrays, [], 0))
    assert model.fit(x, y, batch_size=4, verbose=0).history["distillation_loss"][0] > 0


def test_a_broken_teacher_is_dropped_although_its_numbers_are_whole() -> None:
    model = taught("int8")
    arrays = model.student.get_weights()
    arrays[0][0, 0] = np.inf
    model.teachers.refresh(0, Snapshot(Ref(1), 9, 0.0, arrays, [], 0))
    logs = fit(model, lanes())
    assert logs["dropped_teachers"] == 1.0
    assert np.isfinite(logs["loss"])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_language_corpus(str(tmp_path_factory.mktemp("corpus")))


def test_an_experiment_resumes_with_quantized_teachers_to_the_bit(corpus: str, tmp_path) -> None:
    def experiment(workdir: str, precision: str = "int8", num_steps: int = 20) -> CodistillationModel:
        task, teaching = toy_task(corpus, model_fn=language_model), toy_peers(precision=precision)
        one = toy_experiment(task, teaching=teaching, num_steps=num_steps)
        return one.train(str(tmp_path / workdir), 0, 2)

    keras.utils.set_random_seed(77)
    peer = language_model()
    states = [np.full((4, 24), 0.1, "float32")] * 2
    exchange = runs.exchange_dir(str(tmp_path / "straight"))
    publish(exchange, 1, 3, peer, states, precision="int8")
    straight = experiment("straight")
    assert straight.teachers.steps() == [3]
    assert straight.teachers.num_bytes() < quantized_model.num_bytes(straight.student) / 2
    assert snapshots_in(exchange, 0, peer)[-1].step == 20

    resumed_exchange = tmp_path / "resumed" / "exchange"
    shutil.copytree(os.path.join(exchange, "group_1"), resumed_exchange / "group_1")
    shutil.copy(os.path.join(exchange, "run.json"), resumed_exchange)
    experiment("resumed", num_steps=10)
    with pytest.raises(ValueError, match="checkpoint of step 10 holds another model .* use the settings"):
        experiment("resumed", precision="float32")
    resumed = experiment("resumed")
    arrays = [
        [weights.values(model.student.weights), *model.teachers.state()] for model in (straight, resumed)
    ]
    for one, other in zip(*map(keras.tree.flatten, arrays), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_precision_that_does_not_exist_is_named() -> None:
    for make in (
        lambda: FrozenTeachers(1, precision="int4"),
        lambda: PeerExchange("/nowhere", 0, 2, precision="int4"),
    ):
        with pytest.raises(ValueError, match="precision is 'int4'; expected one of float32"):
            make()
