"""FellowStudents against Algorithm 1 in NumPy, and what Keras users may rely on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.training.algorithm_1_test import CASES, IN_CI, Gradient, cross_entropy
from tests.training.codistillation_test import NUM_CLASSES, NUM_FEATURES, regression, softmax
from tests.workers import run_workers
from tf_codistill import losses, recurrent_state
from tf_codistill.exchange.topology import RandomPeers, Topology, teachers_of
from tf_codistill.schedules import BurnIn, Piecewise, WeightDecay
from tf_codistill.teaching.fellows import FellowStudents
from tf_codistill.training.codistillation import CodistillationModel

N, ROWS, NUM_STEPS, BURN_IN, RATE = 3, 12, 50, 10, 0.3

Arrays = list[np.ndarray]


def xent() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(
    compile_options: dict[str, object] | None = None,
    num_students: int = N,
    batches: str = "same",
    topology: Topology = "fully_connected",
    refresh_every_steps: int = 1,
    **options: object,
) -> CodistillationModel:
    keras.utils.set_random_seed(3)
    fellows = FellowStudents(num_students, batches, topology, refresh_every_steps)
    model = CodistillationModel(regression, fellows, **{"distillation_weight": 0.7, **options})
    model.compile(keras.optimizers.SGD(RATE), xent(), **{"jit_compile": False, **(compile_options or {})})
    return model


def examples(num_steps: int = NUM_STEPS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_steps * ROWS, NUM_FEATURES)).astype("float32")
    return x, rng.integers(0, NUM_CLASSES, num_steps * ROWS).astype("int32")


def batches(x: np.ndarray, y: np.ndarray) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(ROWS, drop_remainder=True)


def weights_of(model: CodistillationModel) -> list[Arrays]:
    return [[np.array(w) for w in student.get_weights()] for student in model.students]


def assert_close(found: list[Arrays], expected: list[Arrays], atol: float = 1e-5) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        for weight, array in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(weight, array, atol=atol)


def algorithm_1(
    start: list[Arrays],
    d_psi: Gradient,
    every: int = 1,
    different: bool = False,
    teachers: Sequence[Sequence[int]] | Callable[[int], list[list[int]]] = ((1, 2), (0, 2), (0, 1)),
    num_steps: int = NUM_STEPS,
) -> list[Arrays]:
    """Softmax regression by SGD; all groups step together, taught by copies taken every so many steps."""
    theta = [[a.astype("float64") for a in arrays] for arrays in start]
    x, y = examples(num_steps)
    for step in range(num_steps):
        if step % every == 0:
            copies = [[a.copy() for a in arrays] for arrays in theta]
        taught_by = teachers(step) if callable(teachers) else teachers
        rows = slice(step * ROWS, (step + 1) * ROWS)
        for i, (kernel, bias) in enumerate(theta):
            x_i, y_i = (part[rows][i::N] if different else part[rows] for part in (x, y))
            z = x_i @ kernel + bias
            d_z = softmax(z) - np.eye(NUM_CLASSES)[y_i]
            if step >= BURN_IN and taught_by[i]:
                d_z += 0.7 * d_psi(z, [x_i @ copies[j][0] + copies[j][1] for j in taught_by[i]])
            kernel -= RATE * x_i.T @ d_z / len(x_i)
            bias -= RATE * d_z.mean(0)
    return theta


FORMS = [
    {"batches": batch, "refresh_every_steps": every} for batch in ("same", "different") for every in (1, 5)
]


SAME_LIVE, SAME_STALE, DIFFERENT_LIVE, DIFFERENT_STALE = FORMS
# What runs in CI: every form, and every kind of psi.
QUICK = [*zip(IN_CI, FORMS, strict=False), (IN_CI[0], DIFFERENT_STALE)]


def slow_unless(quick: bool, *values: object) -> object:
    return pytest.param(*values, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(
    ("case", "form"),
    [slow_unless((case, form) in QUICK, case, form) for case in CASES for form in FORMS],
    ids=str,
)
def test_weights_equal_algorithm_1(case: str, form: dict[str, object]) -> None:
    psi, d_psi = CASES[case]
    model = compiled(distillation_loss=psi, distillation_weight=BurnIn(BURN_IN, 0.7), **form)
    start = weights_of(model)
    model.fit(batches(*examples()), verbose=0)
    different = form["batches"] == "different"
    expected = algorithm_1(start, d_psi, form["refresh_every_steps"], different)
    assert_close(weights_of(model), expected)


@pytest.mark.parametrize(
    ("topology", "form"),
    [
        slow_unless(isinstance(topology, str) == (form == SAME_LIVE), topology, form)
        for topology in ("ring", {0: [1, 2], 1: [0], 2: []})
        for form in (SAME_LIVE, DIFFERENT_STALE)
    ],
    ids=str,
)
def test_topologies(topology: object, form: dict[str, object]) -> None:
    model = compiled(topology=topology, distillation_weight=BurnIn(BURN_IN, 0.7), **form)
    start = weights_of(model)
    model.fit(batches(*examples()), verbose=0)
    teachers = [teachers_of(i, N, topology) for i in range(N)]
    every, different = form["refresh_every_steps"], form["batches"] == "different"
    expected = algorithm_1(start, cross_entropy("probabilities"), every, different, teachers)
    assert_close(weights_of(model), expected)


def test_random_peers_are_drawn_anew_at_every_refresh() -> None:
    model = compiled(num_students=4, topology=RandomPeers(2, seed=1), refresh_every_steps=3)
    draws = [[tuple(model.teachers.present(i, step).numpy()) for step in range(30)] for i in range(4)]
    for drawn in draws:
        assert {sum(one) for one in drawn} == {2.0}
        assert len(set(drawn)) > 2
        assert all(len(set(drawn[first : first + 3])) == 1 for first in range(0, 30, 3))
    assert len(set(map(tuple, draws))) == 4
    logs = model.fit(batches(*examples(4)), verbose=0).history
    assert logs["dropped_teachers"] == [0.0]


class Counted(keras.layers.Layer):
    """Counts the calls in which nothing is learned."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training:
            self.calls.assign_add(1.0)
        return inputs


def counted() -> keras.Model:
    return keras.Sequential([keras.Input((NUM_FEATURES,)), Counted(), keras.layers.Dense(NUM_CLASSES)])


@pytest.mark.parametrize(
    ("topology", "steps_taught", "passes"),
    [(RandomPeers(1, seed=1), 6, 6 * N), ("fully_connected", 6, 6 * N * (N - 1)), (RandomPeers(1), 0, 0)],
    ids=str,
)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_nobody_is_asked_who_is_not_present(topology, steps_taught: int, passes: int, jit_compile) -> None:
    keras.utils.set_random_seed(3)
    weight = BurnIn(8 - steps_taught, 0.7)
    model = CodistillationModel(
        counted, FellowStudents(N, "different", topology), None, weight, measure_every_steps=99
    )
    model.compile(keras.optimizers.SGD(RATE), xent(), jit_compile=jit_compile)
    model.fit(batches(*examples(8)), verbose=0)
    assert sum(float(student.layers[0].calls) for student in model.students) == passes


@pytest.mark.parametrize("form", [slow_unless(form == DIFFERENT_STALE, form) for form in FORMS], ids=str)
def test_random_peers_equal_algorithm_1_with_those_who_were_drawn(form: dict[str, object]) -> None:
    num_steps, options = BURN_IN + 8, {"distillation_weight": BurnIn(BURN_IN, 0.7), **form}
    model = compiled(topology=RandomPeers(1, seed=2), **options)
    start = weights_of(model)
    model.fit(batches(*examples(num_steps)), verbose=0)

    def drawn(step: int) -> list[list[int]]:
        indices = [int(np.argmax(model.teachers.present(i, step))) for i in range(N)]
        return [[peers[index]] for peers, index in zip(model.teachers.taught_by, indices, strict=True)]

    d_psi, different = cross_entropy("probabilities"), form["batches"] == "different"
    expected = algorithm_1(start, d_psi, form["refresh_every_steps"], different, drawn, num_steps)
    assert_close(weights_of(model), expected)


@pytest.mark.parametrize(
    ("options", "form"),
    [
        slow_unless(form == DIFFERENT_STALE, options, form)
        for options in ({"jit_compile": True}, {"run_eagerly": True}, {"steps_per_execution": 4})
        for form in FORMS
    ],
    ids=str,
)
def test_every_way_to_run_a_step_gives_the_same_weights(
    options: dict[str, object], form: dict[str, object]
) -> None:
    found = []
    for compile_options in ({}, options):
        model = compiled(compile_options, num_students=2, distillation_weight=BurnIn(2, 0.7), **form)
        model.fit(batches(*examples(8)), verbose=0)
        assert model.step() == 8
        found.append(weights_of(model))
    assert_close(found[1], found[0], atol=1e-6)


@pytest.mark.parametrize("form", [slow_unless(form == DIFFERENT_STALE, form) for form in FORMS], ids=str)
def test_two_replicas_equal_one(form: dict[str, object]) -> None:
    keras.utils.set_random_seed(3)
    found, logs = [], []
    for strategy in (tf.distribute.get_strategy(), two_replicas()):
        with strategy.scope():
            model = compiled(num_students=2, distillation_weight=BurnIn(2, 0.7), **form)
        results = model.fit(batches(*examples(8)), verbose=0, validation_data=batches(*examples(2, seed=1)))
        found.append(weights_of(model))
        logs.append({name: value[0] for name, value in results.history.items()})
    assert_close(found[1], found[0])
    assert logs[1] == pytest.approx(logs[0], rel=1e-3, abs=1e-4)


_WORKER = """
from tf_codistill import distribution
strategy = distribution.create_strategy()
import json
from tests.teaching.fellows_test import in_parts
print(json.dumps(in_parts(strategy)))
"""


def in_parts(strategy: tf.distribute.Strategy) -> dict[str, float]:
    """Trains on this worker's part of every batch; run by the test and by each of its worker processes."""
    rows = ROWS // strategy.num_replicas_in_sync

    def feed(x: np.ndarray, y: np.ndarray) -> object:
        def part(context: tf.distribute.InputContext) -> tf.data.Dataset:
            mine = slice(context.input_pipeline_id * rows, (context.input_pipeline_id + 1) * rows)
            whole = (array.reshape(-1, ROWS, *array.shape[1:])[:, mine] for array in (x, y))
            return tf.data.Dataset.from_tensor_slices(tuple(whole))

        return strategy.distribute_datasets_from_function(part)

    with strategy.scope():
        model = compiled(num_students=2, **DIFFERENT_STALE)
    data = {"x": feed(*examples(8)), "validation_data": feed(*examples(2, seed=1))}
    logs = {name: value[0] for name, value in model.fit(**data, verbose=0).history.items()}
    kernels = [student.get_weights()[0].ravel() for student in model.students]
    return logs | {f"weight {i}": float(value) for i, value in enumerate(np.concatenate(kernels))}


@pytest.mark.slow
def test_two_workers_equal_one() -> None:
    expected = in_parts(tf.distribute.get_strategy())
    for output in run_workers(_WORKER, num_workers=2):
        assert json.loads(output.splitlines()[-1]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("num_students", [1, 2], ids=["codistillation", "one_process"])
def test_weight_decay_follows_its_schedule(num_students: int) -> None:
    decay = WeightDecay(Piecewise([3], [0.2, 0.05]))
    if num_students == 2:
        model = compiled(num_students=2, distillation_weight=0.0, weight_decay=decay)
    else:
        keras.utils.set_random_seed(3)
        model = CodistillationModel(regression, weight_decay=decay)
        model.compile(keras.optimizers.SGD(RATE), xent(), jit_compile=False)
    theta = [[np.array(w, "float64") for w in student.get_weights()] for student in model.students]
    x, y = examples(6)
    logs = model.fit(batches(x, y), verbose=0).history
    penalties = []
    for step in range(6):
        factor, rows = (0.2 if step < 3 else 0.05), slice(step * ROWS, (step + 1) * ROWS)
        penalties += [factor / 2 * (kernel**2).sum() for kernel, _ in theta]
        for kernel, bias in theta:
            d_z = softmax(x[rows] @ kernel + bias) - np.eye(NUM_CLASSES)[y[rows]]
            kernel -= RATE * (x[rows].T @ d_z / ROWS + factor * kernel)
            bias -= RATE * d_z.mean(0)
    assert_close([student.get_weights() for student in model.students], theta)
    assert logs["total_loss"][0] == pytest.approx(logs["loss"][0] + np.mean(penalties), rel=1e-5)


def test_logs_keep_students_and_parts_apart() -> None:
    model = compiled(num_students=2, distillation_weight=0.5, measure_every_steps=1)
    model.optimizer.learning_rate = 0.0
    x, y = examples(2)
    logs = {name: values[0] for name, values in model.fit(batches(x, y), verbose=0).history.items()}
    z = [student(x).numpy() for student in model.students]
    task = [float(xent()(y, one)) for one in z]
    psi = [float(losses.SoftCrossEntropy()(softmax(z[1 - i]), z[i])) for i in range(2)]
    agreement = np.mean(z[0].argmax(-1) == z[1].argmax(-1))
    for i in range(2):
        assert logs[f"student_{i}_task_loss"] == pytest.approx(task[i], rel=1e-5)
        assert logs[f"student_{i}_distillation_loss"] == pytest.approx(psi[i], rel=1e-5)
        assert logs[f"student_{i}_teacher_agreement"] == pytest.approx(agreement)
    assert logs["loss"] == pytest.approx(np.mean(task), rel=1e-5)
    assert logs["distillation_loss"] == pytest.approx(np.mean(psi), rel=1e-5)
    assert logs["distillation_weight"] == pytest.approx(0.5)
    assert logs["teacher_agreement"] == pytest.approx(agreement)
    assert logs["teacher_task_loss"] == pytest.approx(np.mean(task), rel=1e-5)
    assert logs["total_loss"] == pytest.approx(np.mean(task) + 0.5 * np.mean(psi), rel=1e-5)
    assert "ensemble_task_loss" not in logs


def test_staleness_is_that_of_the_copies() -> None:
    model = compiled(refresh_every_steps=3)
    logs = model.fit(batches(*examples(6)), verbose=0).history
    assert logs["staleness_steps"] == [1.0]
    assert len(model.trainable_weights) == 2 * N


def test_evaluate_and_predict_tell_of_each_student_and_of_their_mean() -> None:
    model = compiled({"metrics": ["accuracy"]}, batches="different")
    x, y = examples(3)
    results = model.evaluate(x, y, batch_size=ROWS, return_dict=True, verbose=0)
    z = [student(x).numpy() for student in model.students]
    task = [float(xent()(y, one)) for one in z]
    assert results == pytest.approx(
        {
            "loss": np.mean(task),
            **{f"student_{i}_task_loss": task[i] for i in range(N)},
            "ensemble_task_loss": float(xent()(y, np.mean(z, axis=0))),
            "accuracy": np.mean([one.argmax(-1) == y for one in z]),
        },
        rel=1e-5,
    )
    np.testing.assert_allclose(model.predict(x, verbose=0), np.mean(z, axis=0), atol=1e-6)


def two_headed() -> keras.Model:
    features = keras.Input((NUM_FEATURES,))
    hidden = keras.layers.Dense(6, kernel_regularizer=keras.regularizers.L2(0.1))(features)
    hidden = keras.layers.BatchNormalization()(hidden)
    return keras.Model(
        features, {name: keras.layers.Dense(4, name=name)(hidden) for name in ("kind", "place")}
    )


def test_logs_of_uneven_batches_are_means_over_rows() -> None:
    x, y = (part[: ROWS + 1] for part in examples(2))
    model = compiled(num_students=2, distillation_weight=0.5)
    model.optimizer.learning_rate = 0.0
    logs = {name: values[0] for name, values in model.fit(x, y, batch_size=ROWS, verbose=0).history.items()}
    assert logs["total_loss"] == pytest.approx(logs["loss"] + 0.5 * logs["distillation_loss"], rel=1e-5)
    found = model.evaluate(x, y, batch_size=ROWS, verbose=0, return_dict=True)
    for number, student in enumerate(model.students):
        expected = pytest.approx(float(xent()(y, student(x))), rel=1e-5)
        assert logs[f"student_{number}_task_loss"] == expected
        assert found[f"student_{number}_task_loss"] == expected
    mean = sum(student(x) for student in model.students) / 2
    assert found["ensemble_task_loss"] == pytest.approx(float(xent()(y, mean)), rel=1e-5)


def test_outputs_and_regularisers_are_those_of_each_student() -> None:
    fellows = FellowStudents(2, refresh_every_steps=2)
    model = CodistillationModel(two_headed, fellows, {"kind": losses.SquaredLogits()})
    model.compile(keras.optimizers.SGD(0.0), {"kind": xent(), "place": xent()}, jit_compile=False)
    x, y = examples(2)
    results = model.evaluate(batches(x, {"kind": y, "place": y}), return_dict=True, verbose=0)
    of_each = []
    for number, student in enumerate(model.students):
        predictions = student(x)
        kind, place, penalty = (
            float(value)
            for value in (xent()(y, predictions["kind"]), xent()(y, predictions["place"]), student.losses[0])
        )
        assert results[f"student_{number}_task_loss"] == pytest.approx(kind + place + penalty, rel=1e-5)
        of_each.append(kind)
    assert results["kind_loss"] == pytest.approx(np.mean(of_each), rel=1e-5)
    logs = model.fit(batches(x, {"kind": y, "place": y}), verbose=0).history
    assert logs["kind_distillation_loss"][0] > 0
    assert logs["total_loss"][0] == pytest.approx(logs["loss"][0] + logs["distillation_loss"][0], rel=1e-5)


def test_a_student_that_yields_nan_teaches_nobody() -> None:
    model = compiled(distillation_weight=1.0)
    kernel, bias = model.students[0].get_weights()
    model.students[0].set_weights([kernel * np.nan, bias])
    start = weights_of(model)
    logs = model.fit(batches(*examples(4)), verbose=0).history
    teachers = [[1, 2], [2], [1]]
    expected = _without_burn_in(start, teachers)
    assert_close(weights_of(model)[1:], expected[1:])
    assert logs["dropped_teachers"][0] == pytest.approx(2 / 3)


def _without_burn_in(start: list[Arrays], teachers: list[list[int]]) -> list[Arrays]:
    theta = [[a.astype("float64") for a in arrays] for arrays in start]
    x, y = examples(4)
    for step in range(4):
        rows = slice(step * ROWS, (step + 1) * ROWS)
        z = [x[rows] @ kernel + bias for kernel, bias in theta]
        for i, (kernel, bias) in enumerate(theta):
            d_z = (
                2 * softmax(z[i])
                - np.eye(NUM_CLASSES)[y[rows]]
                - np.mean([softmax(z[j]) for j in teachers[i]], 0)
            )
            kernel -= RATE * x[rows].T @ d_z / ROWS
            bias -= RATE * d_z.mean(0)
    return theta


LANES = 2


def lstm() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(batch_shape=(LANES, 3, NUM_FEATURES)),
            keras.layers.LSTM(5, stateful=True, return_sequences=True),
            keras.layers.Dense(NUM_CLASSES),
        ]
    )


def windows(num_lanes: int, num_steps: int, seed: int = 0) -> tf.data.Dataset:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_steps * num_lanes, 3, NUM_FEATURES)).astype("float32")
    y = rng.integers(0, NUM_CLASSES, (num_steps * num_lanes, 3))
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(num_lanes, drop_remainder=True)


@pytest.mark.parametrize("form", [slow_unless(form == DIFFERENT_STALE, form) for form in FORMS], ids=str)
def test_validation_within_fit_changes_nothing(form: dict[str, object]) -> None:
    found = []
    for validation in (None, windows(LANES, 3, seed=1)):
        keras.utils.set_random_seed(1)
        model = CodistillationModel(lstm, FellowStudents(2, **form), distillation_weight=BurnIn(2))
        model.compile("adam", xent(), jit_compile=False)
        data = windows(LANES if form["batches"] == "same" else 2 * LANES, 4)
        model.fit(data, epochs=2, verbose=0, validation_data=validation)
        states = [recurrent_state.values(recurrent_state.variables(student)) for student in model.students]
        found.append([[*w, *s] for w, s in zip(weights_of(model), states, strict=True)])
    assert np.abs(found[0][0][-1]).max() > 0
    assert_close(found[1], found[0], atol=0)


def test_a_teacher_reads_the_lanes_of_its_student_with_a_state_of_its_own() -> None:
    """With the same weights for all, teacher and student differ by their states alone."""
    keras.utils.set_random_seed(1)
    model = CodistillationModel(lstm, FellowStudents(2, "different"), losses.SquaredLogits())
    model.compile(keras.optimizers.SGD(0.0), xent(), jit_compile=False)
    model.students[1].set_weights(model.students[0].get_weights())
    logs = model.fit(windows(2 * LANES, 4), epochs=1, verbose=0).history
    assert logs["distillation_loss"][0] == pytest.approx(0.0, abs=1e-10)


def test_a_teacher_that_is_not_asked_keeps_the_state_of_its_own_lanes() -> None:
    model = CodistillationModel(lstm, FellowStudents(2, refresh_every_steps=2), distillation_weight=BurnIn(9))
    model.compile("sgd", xent(), jit_compile=False)
    model.fit(windows(LANES, 4), verbose=0)
    waiting = model.teachers._states[1, 0].states
    lanes = recurrent_state.variables(model.students[1])
    assert np.abs(lanes[0].numpy()).max() > 0
    for ours, theirs in zip(waiting, lanes, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_students_start_apart_and_are_plain_models(tmp_path) -> None:
    model = compiled()
    kernels = [arrays[0] for arrays in weights_of(model)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-2
    model.fit(batches(*examples(2)), verbose=0)
    model.save(tmp_path / "model.keras")
    x, _ = examples(1)
    for number, student in enumerate(model.students):
        loaded = keras.saving.load_model(tmp_path / f"model.student_{number}.keras")
        np.testing.assert_array_equal(loaded(x), student(x))


def test_students_of_two_architectures() -> None:
    def wider() -> keras.Model:
        dense = keras.layers.Dense
        return keras.Sequential([keras.Input((NUM_FEATURES,)), dense(7, "relu"), dense(NUM_CLASSES)])

    model = CodistillationModel([regression, wider], FellowStudents(2))
    model.compile("sgd", xent(), jit_compile=False)
    model.fit(batches(*examples(2)), verbose=0)
    assert [len(student.weights) for student in model.students] == [2, 4]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_students": 0}, "num_students is 0"),
        ({"refresh_every_steps": 0}, "refresh_every_steps is 0"),
        ({"refresh_every_steps": 2.5}, "refresh_every_steps is 2.5"),
        ({"batches": "equal"}, "batches is 'equal'.*'same' or 'different'"),
        ({"topology": "chain"}, "topology is 'chain'"),
        ({"topology": "pairs"}, "even number"),
        ({"distillation_weight": -1.0}, "-1.0"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compiled(**options)


def test_each_student_needs_a_model_fn() -> None:
    with pytest.raises(ValueError, match="there are 3 students, but 1 model_fns; give one for each"):
        CodistillationModel([regression], FellowStudents(3))


def test_students_whose_outputs_differ_are_refused() -> None:
    def other() -> keras.Model:
        return keras.Sequential([keras.Input((NUM_FEATURES,)), keras.layers.Dense(9)])

    model = CodistillationModel([regression, other], FellowStudents(2))
    model.compile("sgd", xent())
    with pytest.raises(ValueError, match=r"student 1 has outputs of shapes .*\(9,\).*student 0 of .*\(4,\)"):
        model.fit(batches(*examples(1)), verbose=0)


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_last_batch_of_fewer_rows_than_students_leaves_no_nan(run_eagerly: bool) -> None:
    def model_fn() -> keras.Model:
        layers = [keras.layers.BatchNormalization(), keras.layers.Dense(NUM_CLASSES)]
        return keras.Sequential([keras.Input((NUM_FEATURES,)), *layers])

    x, y = (part[: ROWS + 1] for part in examples(2))
    model = CodistillationModel(model_fn, FellowStudents(2, batches="different"))
    model.compile("sgd", xent(), run_eagerly=run_eagerly, jit_compile=False)
    logs = model.fit(x, y, batch_size=ROWS, verbose=0).history
    assert all(np.isfinite(values).all() for values in logs.values()), logs
    assert all(np.isfinite(array).all() for arrays in weights_of(model) for array in arrays)


def test_a_batch_that_cannot_be_dealt_out_is_refused() -> None:
    x, y = examples(1)
    with pytest.raises(ValueError, match="11 rows .* 3 students"):
        compiled(batches="different").fit(tf.data.Dataset.from_tensors((x[:11], y[:11])), verbose=0)
