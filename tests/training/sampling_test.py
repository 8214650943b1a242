"""Teaching of a share of rows or steps: in expectation the gradient is that of all, for less work."""

from __future__ import annotations

import functools
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
    snapshot_of,
)
from tests.training.distillation_test import sequence_model, xent
from tf_codistill import losses, recurrent_state
from tf_codistill.teaching.base import Teaching
from tf_codistill.teaching.fellows import FellowStudents
from tf_codistill.teaching.frozen import FrozenTeachers
from tf_codistill.training.checkpoint.checkpointing import Checkpointing
from tf_codistill.training.codistillation import CodistillationModel
from tf_codistill.training.sampling import Sampling

SHARE, DRAWS, DEVIATIONS = 0.25, 200, 4.5


def rows_of(shape: tuple[int, ...], ids: bool = False) -> Any:
    rng = np.random.default_rng(2)
    if not ids:
        return rng.normal(size=shape).astype("float32")
    lengths = rng.integers(0, shape[1] + 1, (shape[0], 1))
    return np.where(np.arange(shape[1]) < lengths, rng.integers(1, 9, shape), 0)


Y = np.random.default_rng(3).integers(0, NUM_CLASSES, BATCH)
SEQUENCES = rows_of((BATCH, 6), ids=True), np.tile(Y[:, None], 6)  # some rows are masked more than others
CASES: dict[str, tuple[Callable[[], keras.Model], tuple[Any, ...], str]] = {
    "mean": (regression, (rows_of((BATCH, NUM_FEATURES)), Y), "sum_over_batch_size"),
    "weighted sum": (
        regression,
        (rows_of((BATCH, NUM_FEATURES)), Y, np.linspace(0, 2, BATCH, dtype="float32")),
        "sum",
    ),
    "masked": (sequence_model, SEQUENCES, "sum_over_batch_size"),
    "recurrent": (lstm, (rows_of((BATCH, 3, NUM_FEATURES)), Y), "sum_over_batch_size"),
}


def gradients_of(case: str, share: float, steps: int, jit_compile: bool = False) -> np.ndarray:
    """The gradient in each of some steps, all from the same state and batch: [steps, parameters]."""
    model_fn, data, reduction = CASES[case]
    strategy = tf.distribute.get_strategy()
    keras.utils.set_random_seed(1)
    model = CodistillationModel(
        model_fn, FrozenTeachers(1), losses.SquaredLogits(reduction=reduction), 5.0, teaching_share=share
    )
    task = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    model.compile(keras.optimizers.SGD(0.0), task, jit_compile=jit_compile)
    model.build_for_data(tf.data.Dataset.from_tensors(data).element_spec)
    model.teachers.refresh(0, snapshot_of(model_fn()))
    states = [
        state for one in (model.student, *model.teachers.frozen) for state in recurrent_state.variables(one)
    ]
    parts = [tf.stack(tf.split(tf.constant(part), strategy.num_replicas_in_sync)) for part in data]

    @tf.function(jit_compile=jit_compile)
    def of_replica() -> tf.Tensor:
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        found = model.gradients(tuple(part[number] for part in parts))
        return tf.concat([tf.reshape(tf.convert_to_tensor(one), [-1]) for one in found], 0)

    of_batch = tf.function(lambda: strategy.reduce("SUM", strategy.run(of_replica), axis=None))
    found = []
    for step in range(steps):
        model.count_from(step)
        for state in states:
            state.assign(tf.ones_like(state))
        found.append(of_batch().numpy())
    return np.array(found)


def check_mean(drawn: np.ndarray, full: np.ndarray) -> None:
    error = drawn.std(0) / np.sqrt(len(drawn))
    assert error.max() > 1e-3, "draws should differ"
    assert np.abs(full).max() > 5 * error.max(), "or nothing is shown"
    np.testing.assert_array_less(np.abs(drawn.mean(0) - full), DEVIATIONS * error + 1e-5)


@pytest.mark.parametrize("case", CASES)
def test_the_mean_gradient_over_draws_is_the_full_one(case: str) -> None:
    check_mean(gradients_of(case, SHARE, DRAWS), gradients_of(case, 1.0, 1)[0])


@pytest.mark.parametrize("case", ["mean", "recurrent"])
def test_so_it_is_by_xla(case: str) -> None:
    check_mean(gradients_of(case, SHARE, DRAWS, jit_compile=True), gradients_of(case, 1.0, 1)[0])


@pytest.mark.parametrize("case", ["mean", "masked"])
def test_so_it_is_on_two_replicas(case: str) -> None:
    with two_replicas().scope():
        drawn = gradients_of(case, SHARE, DRAWS)
    check_mean(drawn, gradients_of(case, 1.0, 1)[0])


@pytest.mark.parametrize("share", [0.25, 0.3, 0.75])
def test_in_every_stretch_one_step_is_drawn(share: float) -> None:
    times = tf.function(lambda: tf.map_fn(Sampling(share, seed=4).times, tf.range(200)))().numpy()
    drawn = np.concatenate([[0], np.cumsum(times)])
    assert np.abs(drawn - share * np.arange(201)).max() <= 1
    gaps = np.diff(np.flatnonzero(times))
    assert len(set(gaps)) > 1, "at random within"
    seeds = [int(Sampling(share, seed).times(tf.constant(5))) for seed in range(100)]
    assert np.mean(seeds) == pytest.approx(share, abs=DEVIATIONS * np.std(seeds) / 10)


class Rows(keras.layers.Layer):
    """Notes how many rows it is traced with where nothing is learned."""

    seen: set[int | None] = set()

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training and isinstance(inputs, tf.Tensor):
            self.seen.add(inputs.shape[0])
        return inputs


@pytest.mark.parametrize("rows", [BATCH, None])
def test_teachers_are_computed_on_the_drawn_rows_alone(rows: int | None) -> None:
    def noting() -> keras.Model:
        return keras.Sequential([keras.Input((NUM_FEATURES,)), Rows(), keras.layers.Dense(NUM_CLASSES)])

    model = compiled(FrozenTeachers(1), model_fn=noting, teaching_share=SHARE)
    data = tf.data.Dataset.from_tensor_slices(examples(0, 2)).batch(BATCH, drop_remainder=rows is not None)
    model.build_for_data(data.element_spec)
    model.teachers.refresh(0, snapshot_of(noting()))
    Rows.seen.clear()
    logs = model.fit(data, verbose=0).history
    assert Rows.seen == {None if rows is None else 2}
    assert logs["distillation_loss"][0] > 0


def test_recurrent_teachers_read_in_the_drawn_steps_alone() -> None:
    model = compiled(FrozenTeachers(1), weight=0.5, rate=0.0, model_fn=lstm, teaching_share=SHARE)
    x = rows_of((8 * BATCH, 3, NUM_FEATURES))
    data = tf.data.Dataset.from_tensor_slices((x, np.tile(Y, 8))).batch(BATCH, drop_remainder=True)
    model.build_for_data(data.element_spec)
    teacher = lstm()
    model.teachers.refresh(0, snapshot_of(teacher))
    times = [int(model.sampling.times(tf.constant(step))) for step in range(8)]
    psis = []
    for (features, _), drawn in zip(data, times, strict=True):
        own = model.student(features)
        if drawn:
            psis.append(float(losses.SoftCrossEntropy()(tf.nn.softmax(teacher(features)), own)))
    for state in recurrent_state.variables(model.student):
        state.assign(tf.zeros_like(state))
    logs = model.fit(data, verbose=0).history
    assert sum(times) == 2
    assert logs["distillation_loss"][0] == pytest.approx(np.mean(psis), rel=1e-4)
    assert logs["distillation_weight"][0] == pytest.approx(0.5)
    assert logs["total_loss"][0] == pytest.approx(logs["loss"][0] + 0.5 * np.mean(psis), rel=1e-4)
    for ours, theirs in zip(
        *map(recurrent_state.variables, (model.teachers.frozen[0], teacher)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_logs_estimate_what_those_of_all_rows_are() -> None:
    x, y = examples(0, 60)
    found = []
    for share in (1.0, SHARE):
        keras.utils.set_random_seed(1)
        model = compiled(FrozenTeachers(1), 0.5, 0.0, teaching_share=share, measure_every_steps=1)
        model.build_for_data(batches(x, y).element_spec)
        model.teachers.refresh(0, snapshot_of(regression()))
        found.append({name: one[0] for name, one in model.fit(batches(x, y), verbose=0).history.items()})
    full, drawn = found
    for name in ("loss", "chance_task_loss", "distillation_weight", "staleness_steps", "dropped_teachers"):
        assert drawn[name] == pytest.approx(full[name], rel=1e-5), name
    for name in ("distillation_loss", "total_loss", "teacher_agreement", "teacher_kl", "teacher_task_loss"):
        assert drawn[name] == pytest.approx(full[name], rel=0.25), name
        assert drawn[name] != full[name], name


@pytest.mark.parametrize("form", ["same", "different"])
def test_fellow_students_are_compared_on_the_same_rows(form: str) -> None:
    model = CodistillationModel(
        regression, FellowStudents(2, form), losses.SquaredLogits(), teaching_share=0.5, measure_every_steps=1
    )
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    model.students[1].set_weights(model.students[0].get_weights())
    data = tf.data.Dataset.from_tensors(
        (rows_of((2 * BATCH, NUM_FEATURES)), rows_of((2 * BATCH, NUM_CLASSES)))
    )
    logs = model.fit(data, verbose=0).history
    assert logs["distillation_weight"] == [1.0]
    assert logs["distillation_loss"][0] == pytest.approx(0.0, abs=1e-10)


FREE_OF_STATE = {
    "frozen": (FrozenTeachers(1), regression, True),
    "by statistics of the batch": (FrozenTeachers(1, statistics="batch"), regression, False),
    "recurrent": (FrozenTeachers(1), lstm, False),
    "recurrent, predictions serve twice": (FellowStudents(2), lstm, True),
    "recurrent, on other rows": (FellowStudents(2, "different"), lstm, False),
    "recurrent, stale": (FellowStudents(2, refresh_every_steps=2), lstm, False),
    "nobody": (Teaching(), lstm, True),
}


@pytest.mark.parametrize("case", FREE_OF_STATE)
def test_who_can_be_asked_about_some_rows(case: str) -> None:
    teachers, model_fn, expected = FREE_OF_STATE[case]
    if "statistics" in case:
        layers = [keras.Input((3,)), keras.layers.BatchNormalization()]
        model_fn = functools.partial(keras.Sequential, layers)
    teachers.make([model_fn() for _ in range(teachers.num_students)], [model_fn] * teachers.num_students)
    assert teachers.teaches_rows() == expected


def fellows(directory: str, epochs: int, refresh: int) -> CodistillationModel:
    """Recurrent students after some epochs of four steps; goes on where an earlier call has stopped."""
    keras.utils.set_random_seed(1)
    model = CodistillationModel(lstm, FellowStudents(2, refresh_every_steps=refresh), teaching_share=0.5)
    model.compile(keras.optimizers.SGD(0.5), xent(), jit_compile=False)
    x = rows_of((4 * BATCH, 3, NUM_FEATURES))
    data = tf.data.Dataset.from_tensor_slices((x, np.tile(Y, 4))).batch(BATCH, drop_remainder=True)
    model.fit(data, epochs=epochs, verbose=0, callbacks=[Checkpointing(directory, every_steps=4)])
    return model


@pytest.mark.parametrize("refresh", [1, 3], ids=["rows", "steps"])
def test_a_resumed_run_draws_what_the_straight_one_drew(tmp_path, refresh: int) -> None:
    straight = fellows(str(tmp_path / "straight"), 3, refresh)
    half = fellows(str(tmp_path / "resumed"), 1, refresh)
    resumed = fellows(str(tmp_path / "resumed"), 3, refresh)
    assert straight.teachers.teaches_rows() == (refresh == 1)
    assert (half.step(), resumed.step()) == (4, 12)
    for one, other in zip(straight.students, resumed.students, strict=True):
        for ours, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_replica_that_has_no_row_of_the_last_batch_leaves_no_nan(share: float) -> None:
    x, y = examples(0, 2)
    rows = BATCH + 1
    with two_replicas().scope():
        model = compiled(FrozenTeachers(1), teaching_share=share)
        model.build_for_data(batches(x, y).element_spec)
        model.teachers.refresh(0, snapshot_of(regression()))
    logs = model.fit(x[:rows], y[:rows], batch_size=BATCH, verbose=0).history
    assert all(np.isfinite(values).all() for values in logs.values()), logs
    assert logs["distillation_loss"][0] > 0
    assert logs["dropped_teachers"] == [0.0]


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"teaching_share is {share}; expected more than 0 and at most 1"):
        CodistillationModel(regression, FrozenTeachers(1), teaching_share=share)
