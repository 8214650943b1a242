"""However many replicas or processes share a batch, weights become those of one replica with all of it.

The parts are as unlike as they get: the first replica has long rows and heavy sample weights, later ones
short rows and light weights, and in some steps the last has nothing but masked positions.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.workers import run_workers
from tf_codistill import losses, weights
from tf_codistill.exchange.snapshot import Ref, Snapshot
from tf_codistill.teaching.fellows import FellowStudents
from tf_codistill.teaching.frozen import FrozenTeachers
from tf_codistill.training.codistillation import CodistillationModel

NUM_STEPS, ROWS, WINDOW, VOCABULARY, NUM_CLASSES = 20, 12, 5, 7, 3
SCALARS = ("loss", "total_loss", "distillation_loss", "teacher_task_loss", "accuracy", "val_loss")

# Adam divides by the size of a gradient. With an epsilon far above the rounding errors of gradients, 1e-8 to
# 1e-7, those move a weight by at most rate / epsilon = 1 times as much in a step; with Keras's, by anything.
OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.02, epsilon=0.02),
    "clipped_adamw": lambda: keras.optimizers.AdamW(
        0.02, weight_decay=0.1, epsilon=0.02, global_clipnorm=0.1
    ),
}


def _every_psi() -> dict[str, Callable[[], losses.DistillationLoss]]:
    found: dict[str, Callable[[], losses.DistillationLoss]] = {
        "UniformSmoothing": losses.UniformSmoothing,
        "UnigramSmoothing": lambda: losses.UnigramSmoothing([0.5, 0.3, 0.2]),
    }
    for name in losses.__all__:
        kind = getattr(losses, name)
        means = getattr(kind, "MEANS", ()) if not inspect.isabstract(kind) else ()
        for mean in means:
            if kind is losses.Custom:
                own = keras.losses.CategoricalCrossentropy(from_logits=True)
                found[f"{name}-{mean}"] = functools.partial(losses.Custom, own, mean_over=mean)
            else:
                found[f"{name}-{mean}"] = functools.partial(kind, mean_over=mean)
    return found


EVERY_PSI = _every_psi()
EVERY_CASE = [(psi, optimizer) for psi in EVERY_PSI for optimizer in OPTIMIZERS]
SOME_CASES = [("SoftCrossEntropy-probabilities", "adam"), ("BinaryKLDivergence-losses", "clipped_adamw")]
LONG = [pytest.mark.slow, pytest.mark.timeout(3600)]  # all cases in one launch of the processes


@keras.saving.register_keras_serializable(package="equality_test")
class Penalised(keras.layers.Layer):
    """Adds a loss that is a mean over the examples, as a loss has to be that replicas share."""

    def __init__(self) -> None:
        super().__init__()
        self.supports_masking = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        self.add_loss(0.1 * keras.ops.mean(keras.ops.square(inputs)))
        return inputs


def sequence_model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((WINDOW,), dtype="int32"),
            keras.layers.Embedding(VOCABULARY, 4, mask_zero=True),
            keras.layers.Dense(6, "tanh", kernel_regularizer=keras.regularizers.L2(0.02)),
            Penalised(),
            keras.layers.Dense(NUM_CLASSES),
        ]
    )


def arrays(seed: int = 0) -> list[np.ndarray]:
    """Ids, targets and sample weights of every step: [steps, rows, ...]."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, VOCABULARY, (NUM_STEPS, ROWS, WINDOW))
    lengths = np.array([5, 5, 4, 5, 3, 4, 2, 1, 2, 1, 1, 2]) * np.ones((NUM_STEPS, 1), int)
    lengths[::4, ROWS // 2 :] = 0
    ids[np.arange(WINDOW) >= lengths[..., np.newaxis]] = 0
    heavy = np.linspace(3.0, 0.2, ROWS) * rng.uniform(0.5, 1.5, (NUM_STEPS, ROWS))
    targets = rng.integers(0, NUM_CLASSES, ids.shape)
    return [ids.astype("int32"), targets.astype("int32"), heavy[..., np.newaxis].astype("float32")]


def shared(strategy: tf.distribute.Strategy, whole: Sequence[np.ndarray]) -> Any:
    """Batches of which each replica gets its rows, in order, whatever process it lives in."""
    num_replicas = strategy.num_replicas_in_sync

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        parts = []
        for array in whole:
            shape = (NUM_STEPS, context.num_input_pipelines, -1, ROWS // num_replicas, *array.shape[2:])
            mine = array.reshape(shape)[:, context.input_pipeline_id]
            parts.append(mine.reshape(-1, *shape[3:]))
        return tf.data.Dataset.from_tensor_slices(tuple(parts))

    return strategy.distribute_datasets_from_function(of_worker)


def train(
    strategy: tf.distribute.Strategy, psi: str, optimizer: str, weight: float = 1.5, **options: Any
) -> dict[str, Any]:
    """Trains for NUM_STEPS steps; run by the tests and by each of their worker processes.

    Returns:
        The weights before and after, and what was logged.
    """
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = CodistillationModel(sequence_model, FrozenTeachers(2), EVERY_PSI[psi](), weight)
        model.compile(
            OPTIMIZERS[optimizer](),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=False,
            **options,
        )
    model.build_for_data(shared(strategy, arrays()).element_spec)
    rng = np.random.default_rng(7)
    before = [np.array(array) for array in weights.values(model.student.weights)]
    for number in range(2):
        of_peer = [rng.normal(size=array.shape).astype("float32") for array in before]
        model.teachers.refresh(number, Snapshot(Ref(1 + number), 0, 0.0, of_peer, [], 0))
    logs = model.fit(shared(strategy, arrays()), steps_per_epoch=NUM_STEPS, shuffle=False, verbose=0).history
    if (psi, optimizer) in SOME_CASES:
        logs["val_loss"] = [model.evaluate(shared(strategy, arrays(1)), steps=NUM_STEPS, verbose=0)[0]]
    return {
        "before": [array.tolist() for array in before],
        "after": [array.tolist() for array in weights.values(model.student.weights)],
        "logs": [logs[name][0] for name in SCALARS if name in logs],
    }


@functools.cache
def on_one_replica(psi: str, optimizer: str, weight: float = 1.5) -> dict[str, Any]:
    return train(tf.distribute.get_strategy(), psi, optimizer, weight)


def flat(arrays_of_any_shape: Sequence[Any]) -> np.ndarray:
    return np.concatenate([np.ravel(array) for array in arrays_of_any_shape])


def check(found: dict[str, Any], psi: str, optimizer: str) -> None:
    expected = on_one_replica(psi, optimizer)
    np.testing.assert_allclose(flat(found["after"]), flat(expected["after"]), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["logs"], expected["logs"], rtol=1e-4)
    np.testing.assert_allclose(flat(found["before"]), flat(expected["before"]), rtol=0, atol=0)
    moved = [
        np.abs(np.subtract(*both)).max() for both in zip(expected["after"], expected["before"], strict=True)
    ]
    assert min(moved) > 1e-3, "training has to move all weights"
    assert max(moved) > 1e-2
    without = on_one_replica("SoftCrossEntropy-probabilities", optimizer, weight=0.0)
    assert np.abs(flat(without["after"]) - flat(expected["after"])).max() > 1e-3, "psi has to matter"


_WORKER = """
from tf_codistill import distribution
strategy = distribution.create_strategy()
import json
from tests.training import equality_test
print(json.dumps([equality_test.train(strategy, *case) for case in {cases}]))
"""


@functools.cache
def students_on(strategy: tf.distribute.Strategy, batches: str) -> list[Any]:
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = CodistillationModel(sequence_model, FellowStudents(2, batches))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(OPTIMIZERS["adam"](), loss, metrics=["accuracy"], jit_compile=False)
    data, other = (shared(strategy, arrays(seed)) for seed in (0, 1))
    lengths = {"steps_per_epoch": NUM_STEPS, "validation_steps": NUM_STEPS}
    logs = model.fit(data, validation_data=other, shuffle=False, verbose=0, **lengths).history
    arrays_after = [array for student in model.students for array in weights.values(student.weights)]
    return [flat(arrays_after), [logs[name][0] for name in (*SCALARS, "val_ensemble_task_loss")]]


def test_every_public_psi_is_among_the_cases() -> None:
    kinds = {
        name
        for name in losses.__all__
        if inspect.isclass(getattr(losses, name)) and not inspect.isabstract(getattr(losses, name))
    }
    assert {name.split("-")[0] for name in EVERY_PSI} == kinds


@pytest.mark.parametrize(
    ("psi", "optimizer"),
    [pytest.param(*case, marks=[] if case in SOME_CASES else pytest.mark.slow) for case in EVERY_CASE],
)
def test_two_replicas_equal_one(psi: str, optimizer: str) -> None:
    check(train(two_replicas(), psi, optimizer), psi, optimizer)


@pytest.mark.parametrize(
    ("num_workers", "cases"),
    [
        pytest.param(2, SOME_CASES, id="two, some"),
        pytest.param(2, EVERY_CASE, id="two, all", marks=LONG),
        pytest.param(3, EVERY_CASE, id="three, all", marks=LONG),
    ],
)
def test_several_processes_equal_one(num_workers: int, cases: list[tuple[str, str]]) -> None:
    outputs = run_workers(_WORKER.format(cases=cases), num_workers, timeout_secs=3000)
    for output in outputs:
        for found, case in zip(json.loads(output.splitlines()[-1]), cases, strict=True):
            check(found, *case)


@pytest.mark.parametrize("batches", ["same", pytest.param("different", marks=pytest.mark.slow)])
def test_students_of_one_process_on_two_replicas_equal_those_on_one(batches: str) -> None:
    one, two = (students_on(strategy, batches) for strategy in (tf.distribute.get_strategy(), two_replicas()))
    np.testing.assert_allclose(two[0], one[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(two[1], one[1], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"run_eagerly": True}, {"steps_per_execution": 7}], ids=str)
def test_every_way_to_run_a_step_on_two_replicas_equals_one(options: dict[str, Any]) -> None:
    check(train(two_replicas(), *SOME_CASES[0], **options), *SOME_CASES[0])
