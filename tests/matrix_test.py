"""The matrix: strategy x kind of model x psi x dtype policy x teachers' precision x topology.

    mirrored-recurrent-KLDivergence-mixed_float16-bfloat16-ring        a cell, and the id of its test

Every kind of model meets every psi, and the other axes take turns, so that every pair of values of any two
axes is in some cell. Each cell makes the same promises, those of `check`. A few cells with every value among
them run in CI, all with ``pytest -m matrix``; `docs/results.md` tells what became of them.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import pathlib
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.workers import run_workers
from tf_codistill import distribution, losses, recurrent_state, schedules, weights
from tf_codistill.exchange.store import Store
from tf_codistill.exchange.topology import RandomPeers, Topology, teachers_of
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.teaching.snapshots import PeerExchange
from tf_codistill.training.codistillation import CodistillationModel

NUM_FEATURES, NUM_CLASSES, WIDTH = 6, 5, 16  # int8 needs 16 values for each unit
BATCH, WINDOW = 8, 4
NUM_STEPS, BURN_IN_STEPS, EXCHANGE_STEPS, PEER_STEP = 8, 2, 5, 3
RATE, WEIGHT = 0.05, 2.0

LOGS = {
    *("loss", "total_loss", "distillation_loss", "distillation_weight", "staleness_steps"),
    *("dropped_teachers", "teacher_agreement", "teacher_kl", "teacher_task_loss", "chance_task_loss"),
    *(
        "published_bytes",
        "read_bytes",
        "exchange_secs",
        "skipped_publications",
        "failed_publications",
        "failed_reads",
    ),
    "staleness_secs",
    "outdated_teachers",
}


class Cell(NamedTuple):
    strategy: str
    model: str
    psi: str
    policy: str
    precision: str
    topology: str

    def __str__(self) -> str:
        return "-".join(self)


@keras.saving.register_keras_serializable(package="matrix")
class Subclassed(keras.Model):
    """Has no weights before it has seen a batch."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden, self.head = keras.layers.Dense(WIDTH, "tanh"), keras.layers.Dense(NUM_CLASSES)

    def call(self, features: tf.Tensor) -> tf.Tensor:
        return self.head(self.hidden(features))


def functional(rows: int) -> keras.Model:
    features = keras.Input((NUM_FEATURES,))
    hidden = keras.layers.Dense(WIDTH, "tanh")(features)
    return keras.Model(features, keras.layers.Dense(NUM_CLASSES)(hidden))


def sequential(rows: int) -> keras.Model:
    layers = [keras.layers.Dense(WIDTH, "tanh"), keras.layers.Dense(NUM_CLASSES)]
    return keras.Sequential([keras.Input((NUM_FEATURES,)), *layers])


def subclassed(rows: int) -> keras.Model:
    return Subclassed()


def two_inputs_two_outputs(rows: int) -> keras.Model:
    inputs = {name: keras.Input((NUM_FEATURES,), name=name) for name in ("left", "right")}
    hidden = keras.layers.Dense(WIDTH, "tanh")(keras.layers.Concatenate()(list(inputs.values())))
    outputs = {name: keras.layers.Dense(NUM_CLASSES, name=name)(hidden) for name in ("kind", "place")}
    return keras.Model(inputs, outputs)


def normalised(rows: int) -> keras.Model:
    layers = [keras.layers.BatchNormalization(), keras.layers.ReLU(), keras.layers.Dropout(0.2)]
    head = keras.layers.Dense(NUM_CLASSES)
    return keras.Sequential([keras.Input((NUM_FEATURES,)), keras.layers.Dense(WIDTH), *layers, head])


def recurrent(rows: int) -> keras.Model:
    return LanguageModel(NUM_CLASSES, WIDTH, 1, WIDTH, batch_size=rows)


def soft_cross_entropy_of_logits(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    return tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(teacher), student)


STRATEGIES = ("none", "mirrored", "xla", "multi_worker")
MODELS: dict[str, Callable[[int], keras.Model]] = {
    make.__name__: make
    for make in (functional, sequential, subclassed, two_inputs_two_outputs, normalised, recurrent)
}
PSIS: dict[str, Callable[[], Any]] = {
    "SoftCrossEntropy": losses.SoftCrossEntropy,
    "temperature": lambda: losses.SoftCrossEntropy(temperature=2.0),
    "KLDivergence": losses.KLDivergence,
    "SquaredProbabilities": losses.SquaredProbabilities,
    "SquaredLogits": losses.SquaredLogits,
    "BinarySoftCrossEntropy": losses.BinarySoftCrossEntropy,
    "BinaryKLDivergence": losses.BinaryKLDivergence,
    "BinarySquaredProbabilities": losses.BinarySquaredProbabilities,
    "UniformSmoothing": losses.UniformSmoothing,
    "UnigramSmoothing": lambda: losses.UnigramSmoothing(np.arange(1, NUM_CLASSES + 1)),
    "Custom": lambda: losses.Custom(keras.losses.Huber(), teacher="logits"),
    "keras_loss": lambda: keras.losses.CategoricalCrossentropy(from_logits=True),
    "callable": lambda: soft_cross_entropy_of_logits,
}
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
PRECISIONS = ("float32", "bfloat16", "float16", "int8")
TOPOLOGIES: dict[str, tuple[Topology, int]] = {
    "fully_connected": ("fully_connected", 3),
    "ring": ("ring", 3),
    "pairs": ("pairs", 4),
    "star": ("star", 3),
    "table": ({0: [2], 1: [0, 2], 2: []}, 3),
    "random_peers": (RandomPeers(2), 4),
}
AXES = (STRATEGIES, tuple(MODELS), tuple(PSIS), POLICIES, PRECISIONS, tuple(TOPOLOGIES))


def all_cells() -> Iterator[Cell]:
    """Every kind of model with every psi; the others take turns, each at a pace of its own."""
    axes = (STRATEGIES, POLICIES, PRECISIONS, tuple(TOPOLOGIES))
    for (kind, model), (number, psi) in itertools.product(enumerate(MODELS), enumerate(PSIS)):
        turn = kind + number
        turns = (turn, turn, turn + number // 2, 2 * number + number // 2 - kind)
        strategy, *others = (axis[at % len(axis)] for axis, at in zip(axes, turns, strict=True))
        yield Cell(strategy, model, psi, *others)


def cells_in_ci() -> list[Cell]:
    """A few cheap cells that have every value of every axis among them."""
    cost = {"none": 1, "mirrored": 2, "xla": 3, "multi_worker": 2}
    missing = {(axis, value) for cell in CELLS for axis, value in enumerate(cell)}
    chosen = []
    while missing:
        chosen.append(max(CELLS, key=lambda cell: len(missing & set(enumerate(cell))) / cost[cell.strategy]))
        missing -= set(enumerate(chosen[-1]))
    return chosen


CELLS = list(all_cells())
CELLS_IN_CI = cells_in_ci()


def train(
    cell: Cell, strategy: tf.distribute.Strategy, directory: pathlib.Path | None, weight: float = WEIGHT
) -> tuple[CodistillationModel, dict[str, float]]:
    """Fits the cell's model, with the peers' snapshots, or alone if there is no directory for them."""
    rows = BATCH // strategy.num_replicas_in_sync
    keras.utils.set_random_seed(7)
    with strategy.scope():
        model = CodistillationModel(
            lambda: MODELS[cell.model](rows),
            exchange(cell, str(directory)) if directory else None,
            distillation_loss=psis(cell),
            distillation_weight=schedules.BurnIn(BURN_IN_STEPS, weight),
        )
        task = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        per_output = {"kind": task, "place": task} if cell.model == "two_inputs_two_outputs" else task
        model.compile(keras.optimizers.SGD(RATE), per_output, jit_compile=cell.strategy == "xla")
    data = strategy.distribute_datasets_from_function(functools.partial(batches, cell.model, rows))
    model.build_for_data(data.element_spec)
    if directory and distribution.is_chief(strategy):
        publish_peers(cell, model, str(directory))
    history = model.fit(data, shuffle=False, verbose=0).history
    return model, {name: values[0] for name, values in history.items()}


def psis(cell: Cell) -> Any:
    psi = PSIS[cell.psi]()
    return {"kind": psi, "place": psi} if cell.model == "two_inputs_two_outputs" else psi


def exchange(cell: Cell, directory: str) -> PeerExchange:
    topology, num_groups = TOPOLOGIES[cell.topology]
    return PeerExchange(
        directory, 0, num_groups, EXCHANGE_STEPS, topology, precision=cell.precision, wait=True
    )


def publish_peers(cell: Cell, model: CodistillationModel, directory: str) -> None:
    """What the other groups have to say: weights far from the student's, each its own."""
    description = weights.description(model.student)
    for peer in range(1, TOPOLOGIES[cell.topology][1]):
        source = np.random.default_rng(peer)
        arrays = [
            (array + source.uniform(-0.7, 0.7, array.shape)).astype(array.dtype)
            for array in weights.values(model.student.weights)
        ]
        states = recurrent_state.values(recurrent_state.variables(model.student))
        writer = Store(directory, peer, precision=cell.precision)
        writer.announce(description, PEER_STEP)
        writer.publish(PEER_STEP, description, arrays, states)


def examples(kind: str) -> tuple[Any, Any]:
    """Features and targets, [steps, lanes, ...] each."""
    rng = np.random.default_rng(0)
    if kind == "recurrent":
        ids = rng.integers(0, NUM_CLASSES, (NUM_STEPS, BATCH, WINDOW + 1)).astype("int32")
        return ids[..., :-1], ids[..., 1:]
    left, right = rng.normal(size=(2, NUM_STEPS, BATCH, NUM_FEATURES)).astype("float32")
    one, other = rng.integers(0, NUM_CLASSES, (2, NUM_STEPS, BATCH)).astype("int32")
    if kind == "two_inputs_two_outputs":
        return {"left": left, "right": right}, {"kind": one, "place": other}
    return left, one


def batches(kind: str, rows: int, context: tf.distribute.InputContext) -> tf.data.Dataset:
    """A worker's part of every batch, cut into those of its replicas."""
    replicas = context.num_replicas_in_sync // context.num_input_pipelines
    first = context.input_pipeline_id * replicas * rows

    def part(array: np.ndarray) -> np.ndarray:
        mine = array[:, first : first + replicas * rows]
        return mine.reshape(NUM_STEPS * replicas, rows, *array.shape[2:])

    return tf.data.Dataset.from_tensor_slices(keras.tree.map_structure(part, examples(kind)))


@functools.cache
def alone(
    strategy: tf.distribute.Strategy, name: str, kind: str, policy: str
) -> tuple[Any, list[np.ndarray]]:
    """Predictions and weights of the student that nobody teaches, and so of weight 0, whatever psi is."""
    cell = Cell(name, kind, "SoftCrossEntropy", policy, "float32", "pairs")
    model, _ = train(cell, strategy, None)
    return answer(model.student, strategy, kind), weights.values(model.student.weights)


def answer(model: keras.Model, strategy: tf.distribute.Strategy, kind: str) -> Any:
    """Predictions of the first rows, from a state of zero."""
    rows = BATCH // strategy.num_replicas_in_sync
    states = recurrent_state.variables(model)
    recurrent_state.assign(states, [np.zeros(state.shape, "float32") for state in states])
    features = keras.tree.map_structure(lambda array: array[0, :rows], examples(kind)[0])
    return keras.tree.map_structure(np.array, model(features, training=False))


def check(cell: Cell, strategy: tf.distribute.Strategy, directory: pathlib.Path) -> None:
    """The promises of a cell."""
    keras.config.set_dtype_policy(cell.policy)
    try:
        expected = alone(strategy, *cell[:2], cell.policy)
        model, logs = train(cell, strategy, directory / "exchange")
        check_logs(cell, logs, model.step())
        check_teachers(cell, model, str(directory / "exchange"))
        check_student(cell, model, strategy, expected)
        check_saved(cell, model.student, strategy, directory)
    finally:
        keras.config.set_dtype_policy("float32")


def check_logs(cell: Cell, logs: dict[str, float], num_steps: int) -> None:
    names = psis(cell) if cell.model == "two_inputs_two_outputs" else ()
    parts = {f"{name}_distillation_{part}" for name in names for part in ("loss", "weight")}
    assert not (LOGS | parts) - logs.keys(), f"logs lack {(LOGS | parts) - logs.keys()}"
    assert all(math.isfinite(value) for value in logs.values()), logs
    # A step whose gradients overflow in half precision changes nothing, but counts.
    assert num_steps == NUM_STEPS
    on_share = (NUM_STEPS - BURN_IN_STEPS) / NUM_STEPS
    for name in ["distillation_weight", *(part for part in parts if part.endswith("weight"))]:
        assert math.isclose(logs[name], WEIGHT * on_share, rel_tol=1e-6), (name, logs)
    assert logs["distillation_loss"] > 1e-3, logs
    total = logs["loss"] + logs["distillation_weight"] * logs["distillation_loss"]
    assert math.isclose(logs["total_loss"], total, rel_tol=1e-3), logs
    steps_behind = np.mean(np.arange(BURN_IN_STEPS + 1, NUM_STEPS + 1) - PEER_STEP)
    assert abs(logs["staleness_steps"] - steps_behind) <= 1e-5, logs
    assert logs["failed_reads"] == logs["failed_publications"] == logs["dropped_teachers"] == 0
    assert logs["read_bytes"] > 0


def check_teachers(cell: Cell, model: CodistillationModel, directory: str) -> None:
    topology, num_groups = TOPOLOGIES[cell.topology]
    # The last exchange, which draws random peers, is after EXCHANGE_STEPS batches.
    exchanges = (model.step() - (NUM_STEPS - EXCHANGE_STEPS)) // EXCHANGE_STEPS
    peers = teachers_of(0, num_groups, topology, exchanges)
    assert sorted(model.teachers.peers()) == peers, (model.teachers.peers(), peers)
    held = [array for teacher in model.teachers.frozen for array in teacher.get_weights()]
    for index, peer in enumerate(model.teachers.peers()):
        description = weights.description(model.teachers.frozen[index])
        (ref,) = Store(directory, 0)._refs(peer)
        model.teachers.refresh(index, Store(directory, 0).read(ref, description))
    after = [array for teacher in model.teachers.frozen for array in teacher.get_weights()]
    for one, other in zip(held, after, strict=True):
        np.testing.assert_array_equal(one, other, "training has changed a teacher")
    size = model.teachers.num_bytes() / sum(array.nbytes for array in weights.values(model.student.weights))
    assert (size < len(model.teachers.frozen)) == (cell.precision != "float32"), size


def check_student(
    cell: Cell, model: CodistillationModel, strategy: tf.distribute.Strategy, expected: Any
) -> None:
    untaught, untaught_weights = expected
    moved = max(
        np.abs(own - other).max()
        for own, other in zip(weights.values(model.student.weights), untaught_weights, strict=True)
    )
    assert moved > 1e-3, f"the distillation loss has moved no weight by more than {moved}"
    said = [answer(teacher, strategy, cell.model) for teacher in model.teachers.frozen]
    taught = distance(model, said, answer(model.student, strategy, cell.model))
    # By a difference, not a ratio: no student can bring a cross-entropy below that of the targets themselves.
    assert taught < distance(model, said, untaught) - 1e-4, (taught, distance(model, said, untaught))


def distance(model: CodistillationModel, teachers: list[Any], student: Any) -> float:
    """psi of predictions, over all outputs."""
    outputs = model.distillation.outputs
    total = 0.0
    for name, logits in outputs(student).items():
        psi = model.distillation.psi(name)
        said = [outputs(one)[name] for one in teachers]
        total += float(psi(psi.aggregate(said) if psi.needs_teachers else None, logits))
    return total


def check_saved(
    cell: Cell, student: keras.Model, strategy: tf.distribute.Strategy, directory: pathlib.Path
) -> None:
    path = directory / f"student_{distribution.worker_index(strategy)}.keras"
    student.save(path)
    loaded = keras.saving.load_model(path)
    answers = [keras.tree.flatten(answer(one, strategy, cell.model)) for one in (student, loaded)]
    for own, other in zip(*answers, strict=True):
        np.testing.assert_allclose(own.astype("float32"), other.astype("float32"), atol=1e-6)


def outcomes(cells: list[list[str]], strategy: tf.distribute.Strategy, directory: str) -> dict[str, str]:
    """What became of each cell in one of two workers: nothing to say, or a traceback."""
    found = {}
    for cell in itertools.starmap(Cell, cells):
        print(cell, file=sys.stderr, flush=True)  # the last one in the log is to blame if a worker hangs
        try:
            check(cell, strategy, pathlib.Path(directory, str(cell)))
            found[str(cell)] = ""
        except Exception:
            found[str(cell)] = traceback.format_exc()
    return found


_WORKER = """
from tf_codistill import distribution
strategy = distribution.create_strategy()
import json
from tests import matrix_test
print(json.dumps(matrix_test.outcomes({cells}, strategy, {directory!r})))
"""


@pytest.fixture(scope="module")
def in_two_workers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, str]]:
    """What became of all cells of several workers that this run of pytest has chosen, in one pair of them."""
    named = [
        getattr(item, "callspec", None) for item in request.session.items if item.fspath == request.fspath
    ]
    chosen = [callspec.params["cell"] for callspec in named if callspec]
    cells = [list(cell) for cell in chosen if cell.strategy == "multi_worker"]
    directory = str(tmp_path_factory.mktemp("multi_worker"))
    for cell in itertools.starmap(Cell, cells):
        pathlib.Path(directory, str(cell)).mkdir()
    script = _WORKER.format(cells=cells, directory=directory)
    outputs = run_workers(script, num_workers=2, timeout_secs=60 + 30 * len(cells))
    return [json.loads(output.splitlines()[-1]) for output in outputs]


@pytest.mark.timeout(3600)  # in_two_workers has a limit of its own
@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(
            cell, marks=[pytest.mark.matrix] + [pytest.mark.slow] * (cell not in CELLS_IN_CI), id=str(cell)
        )
        for cell in CELLS
    ],
)
def test_cell(cell: Cell, tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> None:
    if cell.strategy == "multi_worker":
        for worker, outcome in enumerate(request.getfixturevalue("in_two_workers")):
            assert not outcome[str(cell)], f"worker {worker}: {outcome[str(cell)]}"
    else:
        check(cell, two_replicas() if cell.strategy == "mirrored" else tf.distribute.get_strategy(), tmp_path)


def test_every_pair_of_values_is_in_a_cell() -> None:
    for (one, values), (other, others) in itertools.combinations(enumerate(AXES), 2):
        assert {(cell[one], cell[other]) for cell in CELLS} == set(itertools.product(values, others))
    for axis, values in enumerate(AXES):
        assert {cell[axis] for cell in CELLS_IN_CI} == set(values)


def test_without_weight_teachers_move_nothing(tmp_path: pathlib.Path) -> None:
    cell = next(cell for cell in CELLS if (cell.model, cell.strategy) == ("normalised", "none"))
    strategy = tf.distribute.get_strategy()
    model, _ = train(cell, strategy, tmp_path, weight=0.0)
    untaught, _ = train(cell, strategy, None)
    for one, other in zip(model.student.get_weights(), untaught.student.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
