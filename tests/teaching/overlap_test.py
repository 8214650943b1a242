"""Teachers that predict a batch ahead: the same teaching, by the snapshots of a step before."""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.toy_models import (
    BATCH,
    NUM_CLASSES,
    NUM_FEATURES,
    batches,
    compiled,
    examples,
    lstm,
    regression,
)
from tests.training.checkpoint import checkpointing_test
from tests.training.what_is_computed_test import depends, marked
from tests.workers import run_workers
from tf_codistill import recurrent_state, schedules, weights
from tf_codistill.exchange.snapshot import Ref, Snapshot
from tf_codistill.teaching.overlap import OverlappingTeachers
from tf_codistill.teaching.snapshots import PeerExchange
from tf_codistill.training.codistillation import CodistillationModel
from tf_codistill.training.distillation import Distillation

NUM_STEPS, RATE = 6, 0.5


def sequences(seed: int = 0) -> tf.data.Dataset:
    x, y = examples(seed, NUM_STEPS)
    return batches(np.stack([x, 0.5 * x, -x], axis=1), y)


def vectors(seed: int = 0) -> tf.data.Dataset:
    return batches(*examples(seed, NUM_STEPS))


def snapshot(model: keras.Model, seed: int, step: int = 0, number: int = 0) -> Snapshot:
    """Of a peer that has nothing to do with the student."""
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=one.shape).astype("float32") for one in model.weights]
    states = [np.zeros(one.shape, "float32") for one in recurrent_state.variables(model)]
    return Snapshot(Ref(number), step, 0.0, arrays, states, 0)


class Refreshing(keras.callbacks.Callback):
    """Gives the first teacher another snapshot after some steps, and notes the student after each."""

    def __init__(self, after: tuple[int, ...] = ()) -> None:
        super().__init__()
        self._after = after
        self.students: list[np.ndarray] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        step = self.model.step()
        self.students.append(flat(self.model.student))
        if step in self._after and step not in self.model.teachers.steps():  # nor again while passing over
            self.model.teachers.refresh(0, snapshot(self.model.student, seed=step, step=step))


def flat(model: keras.Model) -> np.ndarray:
    return np.concatenate([np.ravel(one) for one in weights.values(model.weights)])


def taught(
    overlap: bool,
    model_fn: Callable[[], keras.Model] = regression,
    strategy: tf.distribute.Strategy | None = None,
    num_teachers: int = 2,
    precision: str = "float32",
    **options: Any,
) -> CodistillationModel:
    """A model whose teachers hold snapshots; built by a forward pass of another size where it can be."""
    keras.utils.set_random_seed(1)
    teachers = OverlappingTeachers(num_teachers, precision, overlap=overlap)
    with (strategy or tf.distribute.get_strategy()).scope():
        model = compiled(teachers, model_fn=model_fn, rate=RATE, **options)
    if model_fn is not lstm:
        model.predict(np.zeros((3, NUM_FEATURES), "float32"), verbose=0)
    else:
        model.build_for_data(sequences().element_spec)
    for number in range(num_teachers):
        teachers.refresh(number, snapshot(model.student, 20 + number, number=number))
    return model


def trained(
    overlap: bool, data: list[tf.data.Dataset], fit: dict[str, Any], **settings: Any
) -> list[np.ndarray]:
    """The student after each execution of each `fit`, and what is logged in the end."""
    model, noting = taught(overlap, **settings), Refreshing()
    for one in data:
        logs = model.fit(one, callbacks=[noting], verbose=0, shuffle=False, **fit).history
    names = ("distillation_loss", "staleness_steps", "teacher_task_loss")
    return [*noting.students, np.array([logs[name][-1] for name in names])]


ENDLESS = {"epochs": 3, "steps_per_epoch": 4}
CASES: dict[str, tuple[list[Any], dict[str, Any], dict[str, Any]]] = {
    "plain": ([vectors], {"epochs": 2}, {}),
    "endless": ([lambda: vectors().repeat()], ENDLESS, {}),
    "other data": ([lambda: vectors().repeat(), lambda: vectors(5)], {"steps_per_epoch": 4}, {}),
    "a memory": ([sequences], {"epochs": 2}, {"model_fn": lstm}),
    "a memory, endless": ([lambda: sequences().repeat()], ENDLESS, {"model_fn": lstm}),
    "a memory and some steps": (
        [lambda: sequences().repeat()],
        ENDLESS,
        {"model_fn": lstm, "teaching_share": 0.5},
    ),
    "by XLA": ([sequences], {"epochs": 2}, {"model_fn": lstm, "jit_compile": True}),
    "eager": ([vectors], {}, {"run_eagerly": True}),
    "two at once": ([vectors], {"epochs": 2}, {"steps_per_execution": 2}),
    "int8": ([vectors], {}, {"precision": "int8"}),
    "replicas": ([vectors], {"epochs": 2}, {"strategy": two_replicas}),
    "replicas by XLA": ([vectors], {}, {"strategy": two_replicas, "jit_compile": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_without_new_snapshots_it_is_the_same_teaching_in_each_step(case: str) -> None:
    data, fit, settings = CASES[case]
    made = {**settings, "strategy": settings["strategy"]()} if "strategy" in settings else settings
    one, other = (trained(overlap, [make() for make in data], fit, **made) for overlap in (False, True))
    assert len(one) == len(other) > 3
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6)
    assert one[-1][0] > 0.1, "psi has to matter"


def test_where_gradients_of_several_batches_accumulate_none_is_taken_for_another() -> None:
    def end(overlap: bool) -> np.ndarray:
        teachers = OverlappingTeachers(1, overlap=overlap)
        keras.utils.set_random_seed(1)
        model = CodistillationModel(regression, teachers)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(RATE, gradient_accumulation_steps=2), loss, jit_compile=False)
        model.build_for_data(vectors().element_spec)
        teachers.refresh(0, snapshot(model.student, 20))
        model.fit(vectors().take(3), epochs=4, shuffle=False, verbose=0)
        return flat(model.student)

    np.testing.assert_allclose(end(True), end(False), rtol=1e-5, atol=1e-6)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("overlap", [False, True])
def test_each_batch_is_taught_by_the_snapshot_of_the_step_before_and_staleness_says_so(overlap: bool) -> None:
    swaps = (2, 3, 5)
    model = taught(overlap, num_teachers=1)
    teachers_at = {-1: (snapshot(model.student, 20).weights, 0)}
    teachers_at |= {step: (snapshot(model.student, step).weights, step) for step in swaps}
    kernel, bias = (one.astype("float64") for one in weights.values(model.student.weights))
    noting = Refreshing(after=swaps)
    data = vectors().repeat()
    logs = model.fit(
        data, epochs=NUM_STEPS, steps_per_epoch=1, callbacks=[noting], shuffle=False, verbose=0
    ).history
    x, y = examples(0, NUM_STEPS)
    for step in range(NUM_STEPS):
        rows, labels = (part[step * BATCH : (step + 1) * BATCH] for part in (x, y))
        asked_after = step - 1 if overlap and step else step
        (of_kernel, of_bias), of_step = teachers_at[max(at for at in teachers_at if at <= asked_after)]
        own, theirs = softmax(rows @ kernel + bias), softmax(rows @ of_kernel + of_bias)
        slope = (2 * own - np.eye(NUM_CLASSES)[labels] - theirs) / BATCH
        kernel, bias = kernel - RATE * rows.T @ slope, bias - RATE * slope.sum(axis=0)
        expected = np.concatenate([kernel.ravel(), bias])
        np.testing.assert_allclose(noting.students[step], expected, rtol=1e-4, atol=1e-5)
        assert logs["staleness_steps"][step] == step + 1 - of_step


def test_a_recurrent_teacher_is_one_batch_ahead_and_reads_each_once() -> None:
    model = taught(True, model_fn=lstm, num_teachers=1)
    data = sequences().repeat()
    model.fit(data, steps_per_epoch=4, shuffle=False, verbose=0)
    alone = lstm()
    alone.set_weights(snapshot(model.student, 20).weights)
    for features, _ in data.take(5):
        alone(features)
    for ours, theirs in zip(
        recurrent_state.values(recurrent_state.variables(model.teachers.frozen[0])),
        recurrent_state.values(recurrent_state.variables(alone)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("burn_in", "expected"), [(0, NUM_STEPS), (4, NUM_STEPS - 4), (NUM_STEPS, 0)])
def test_each_taught_batch_is_predicted_once_and_none_in_the_burn_in(
    burn_in: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    ask = OverlappingTeachers.ask

    def counted(self: Any, *args: Any) -> Any:
        tf.py_function(lambda: asked.append(1), [], [])
        return ask(self, *args)

    monkeypatch.setattr(OverlappingTeachers, "ask", counted)
    model = taught(True, num_teachers=1, weight=schedules.BurnIn(burn_in))
    counts: list[int] = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: counts.append(len(asked)),
    )
    model.fit(vectors(), shuffle=False, verbose=0, callbacks=[note])
    assert counts[:burn_in] == [0] * burn_in
    assert counts[-1] == expected


def test_who_had_no_snapshot_or_has_left_has_no_share() -> None:
    teachers = OverlappingTeachers(2, overlap=True)
    teachers.make([regression()], [regression])
    data = teachers.feed(vectors())
    teachers.hold(data.element_spec.following.features)
    (batch,) = data.take(1)
    for number in (0, 1):
        if number:  # the first was there when the batch was predicted, the second comes after
            teachers.teach_next(batch.following.features, tf.constant(1), tf.constant(True))
        teachers.refresh(number, snapshot(regression(), number, step=10 * number, number=number))
    present = lambda step: teachers.present(tf.constant(step)).numpy().tolist()  # noqa: E731
    assert present(1) == [1.0, 0.0]
    assert float(teachers.staleness_steps(tf.constant(1))) == 2.0
    assert present(2) == [1.0, 1.0]
    teachers.retire(0)
    assert present(1) == [0.0, 0.0]
    assert not teachers.any_present(tf.constant(1))
    assert not teachers.teaches_rows()


def test_predicting_ahead_waits_for_nothing_of_the_student() -> None:
    model = compiled(OverlappingTeachers(1, overlap=True), model_fn=marked)
    specs = model.teachers.feed(vectors()).element_spec
    model.build_for_data(specs)
    graph = tf.function(model.train_step, input_signature=[specs]).get_concrete_function().graph
    definition = graph.as_graph_def()
    asking = {
        function.signature.name
        for function in definition.library.function
        if any("forward_pass" in node.name for node in function.node_def)
    }
    ahead = [node for node in definition.node if node.attr["then_branch"].func.name in asking][-1]
    students = {node.name for node in definition.node if node.name.endswith("forward_pass")}
    assert len(students) == 1
    assert not depends(definition.node, ahead) & students
    update = [node for node in definition.node if node.op.startswith("AssignSub")]
    assert update
    assert not any(ahead.name in depends(definition.node, node) for node in update)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_it_is_traced_once(jit_compile: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[int] = []
    has_weight = Distillation.has_weight

    def noted(self: Any, step: Any) -> Any:
        traced.append(1)
        return has_weight(self, step)

    monkeypatch.setattr(Distillation, "has_weight", noted)
    model = taught(True, jit_compile=jit_compile)
    model.fit(vectors(), epochs=3, shuffle=False, verbose=0)
    assert len(traced) == 2, "of this step and of the next"


@pytest.mark.parametrize("model_fn", [regression, lstm])
def test_a_run_that_is_killed_ends_with_the_same_bits(tmp_path: pathlib.Path, model_fn: Any) -> None:
    make = functools.partial(taught, True, model_fn=model_fn, num_teachers=1)
    data = sequences if model_fn is lstm else vectors
    fit = {"x": lambda: data().repeat(), "epochs": 2, "steps_per_epoch": NUM_STEPS}
    whole = make()
    after = tuple(range(1, 12))
    checkpointing_test.fit(whole, tmp_path / "whole", Refreshing(after), **fit)
    for step in (5, 10):
        died = checkpointing_test.At(step, checkpointing_test.die)
        with pytest.raises(checkpointing_test.DiedError):
            checkpointing_test.fit(make(), tmp_path / "killed", Refreshing(after), died, **fit)
    resumed = make()
    checkpointing_test.fit(resumed, tmp_path / "killed", Refreshing(after), **fit)
    assert resumed.step() == 2 * NUM_STEPS
    checkpointing_test.assert_same(whole, resumed)


def test_what_is_held_is_restored_where_it_fits_and_left_where_not() -> None:
    def holding(overlap: bool, rows: int = BATCH) -> OverlappingTeachers:
        teachers = OverlappingTeachers(1, overlap=overlap)
        teachers.make([regression()], [regression])
        teachers.refresh(0, snapshot(regression(), 1))
        x, y = examples(0, NUM_STEPS)
        data = teachers.feed(tf.data.Dataset.from_tensor_slices((x, y)).batch(rows, drop_remainder=True))
        if overlap:
            (batch,) = data.take(1)
            teachers.hold(batch.following.features)
            teachers.teach_next(batch.following.features, tf.constant(7), tf.constant(True))
        return teachers

    held = holding(True)
    again = holding(True)
    again.end()
    np.testing.assert_array_equal(again.state()[1][0], [-1] * BATCH)
    again.restore(*held.state())
    for one, other in zip(again.state()[1], held.state()[1], strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.state()[1][0].tolist() == [7] * BATCH
    for other in (holding(False), holding(True, BATCH // 2)):
        again.restore(*other.state())
        np.testing.assert_array_equal(again.state()[1][0], [-1] * BATCH)
    holding(False).restore(*held.state())


def test_each_fit_may_read_batches_of_another_size() -> None:
    models = [taught(overlap) for overlap in (True, False)]
    for rows in (8, 16, 4):
        data = tf.data.Dataset.from_tensor_slices(examples(0, NUM_STEPS)).batch(rows, drop_remainder=True)
        for one in models:
            one.fit(data, verbose=0)
    for ours, expected in zip(*(one.student.get_weights() for one in models), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: np.zeros((8, NUM_FEATURES), "float32"), "was given a ndarray; give it a tf.data.Dataset"),
        (lambda: iter([]), "was given a list_iterator"),
        (lambda: tf.data.Dataset.from_tensor_slices(examples(0, 2)).batch(BATCH), "drop_remainder=True"),
    ],
)
def test_data_that_cannot_be_read_ahead_are_refused(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        taught(True).fit(data(), verbose=0)


def test_batches_that_replicas_cannot_share_and_class_weights_are_refused() -> None:
    odd = tf.data.Dataset.from_tensor_slices(examples(0, 2)).batch(3, drop_remainder=True)
    with pytest.raises(ValueError, match="have 3 rows; expected a multiple of the 2 replicas"):
        taught(True, strategy=two_replicas()).fit(odd, verbose=0)
    with pytest.raises(ValueError, match="class_weight does not go with overlap=True"):
        taught(True).fit(vectors(), class_weight={0: 2.0}, verbose=0)


def test_without_teachers_nothing_is_read_ahead() -> None:
    peers = PeerExchange("directory", overlap=True)
    assert not peers.overlap
    assert PeerExchange("directory", num_groups=2, overlap=True).overlap
    data = vectors()
    assert peers.feed(data) is data


_WORKER = """
from tf_codistill import distribution
strategy = distribution.create_strategy()
import json
from tests.teaching import overlap_test
print(json.dumps(overlap_test.of_worker(strategy)))
"""


def of_worker(strategy: tf.distribute.Strategy) -> list[list[float]]:
    """The student after each step, of finite data and then of endless ones that Keras shares out."""
    found = []
    for data, fit, by_xla in ((vectors(), {"epochs": 2}, True), (vectors().repeat(), ENDLESS, False)):
        found += trained(True, [data], fit, strategy=strategy, jit_compile=by_xla)
    return [one.tolist() for one in found]


def test_two_workers_equal_one() -> None:
    expected = of_worker(tf.distribute.get_strategy())
    for output in run_workers(_WORKER, 2):
        found = json.loads(output.splitlines()[-1])
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
