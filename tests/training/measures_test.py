"""What is measured of teachers, against NumPy."""

from __future__ import annotations

import functools
import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.training.codistillation_test import (
    BATCH,
    NUM_CLASSES,
    NUM_FEATURES,
    batches,
    examples,
    regression,
    softmax,
)
from tests.training.distillation_test import features_and_targets, snapshot_of, two_headed, xent
from tf_codistill import losses, schedules
from tf_codistill.teaching.frozen import FrozenTeachers
from tf_codistill.training.codistillation import CodistillationModel

Arrays = np.ndarray

LOGITS = keras.losses.BinaryCrossentropy(from_logits=True)


def trained(
    model_fn,
    teachers: list[keras.Model],
    data: tf.data.Dataset,
    loss: object,
    strategy: tf.distribute.Strategy | None = None,
    jit_compile: bool = False,
    **options: object,
) -> tuple[CodistillationModel, dict[str, float]]:
    """The model and the logs of an epoch in which nothing is learned."""
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        model = CodistillationModel(
            model_fn, FrozenTeachers(len(teachers)), **{"measure_every_steps": 1, **options}
        )
        model.compile(keras.optimizers.SGD(0.0), loss, jit_compile=jit_compile)
    model.build_for_data(data.element_spec)
    for index, teacher in enumerate(teachers):
        model.teachers.refresh(index, snapshot_of(teacher))
    logs = model.fit(data, verbose=0, shuffle=False).history
    return model, {name: values[0] for name, values in logs.items()}


def kl(teacher: Arrays, student: Arrays) -> Arrays:
    p, q = softmax(teacher), softmax(student)
    return (p * (np.log(p) - np.log(q))).sum(-1)


def nll(logits: Arrays, y: Arrays) -> Arrays:
    return -np.log(np.take_along_axis(softmax(logits), y[..., None], -1)[..., 0])


def same(teacher: Arrays, student: Arrays) -> Arrays:
    return np.argmax(teacher, -1) == np.argmax(student, -1)


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"strategy": two_replicas}])
def test_numbers_of_two_teachers(options) -> None:
    if "strategy" in options:
        options = {"strategy": two_replicas()}
    x, y = examples(0, 2)
    teachers = [regression(), regression()]
    model, logs = trained(regression, teachers, batches(x, y), xent(), **options)
    own = np.array(model.student(x))
    theirs = [np.array(teacher(x)) for teacher in teachers]
    assert logs["teacher_agreement"] == pytest.approx(np.mean([same(one, own) for one in theirs]))
    assert logs["teacher_kl"] == pytest.approx(np.mean([kl(one, own) for one in theirs]), rel=1e-5)
    each = [nll(one, y).mean() for one in theirs]
    assert logs["teacher_0_task_loss"] == pytest.approx(each[0], rel=1e-5)
    assert logs["teacher_1_task_loss"] == pytest.approx(each[1], rel=1e-5)
    assert logs["teacher_task_loss"] == pytest.approx(np.mean(each), rel=1e-5)
    assert logs["chance_task_loss"] == pytest.approx(math.log(NUM_CLASSES), rel=1e-5)
    assert logs["loss"] == pytest.approx(nll(own, y).mean(), rel=1e-5)


def test_sample_weights_and_masks_count_as_in_the_tasks_loss() -> None:
    def sequence_model() -> keras.Model:
        return keras.Sequential(
            [keras.Input((6,)), keras.layers.Embedding(9, 5, mask_zero=True), keras.layers.Dense(NUM_CLASSES)]
        )

    rng = np.random.default_rng(0)
    ids = rng.integers(1, 9, (BATCH, 6))
    ids[:, 4:] = 0
    y = rng.integers(0, NUM_CLASSES, (BATCH, 6))
    weight = np.array([1, 0, 2, 0.5, 0, 1, 1, 3], "float32")[:, None] * np.ones((1, 6), "float32")
    teacher = sequence_model()
    teacher.set_weights([10 * w for w in teacher.get_weights()])  # a divergence that is more than rounding
    model, logs = trained(sequence_model, [teacher], tf.data.Dataset.from_tensors((ids, y, weight)), xent())
    own, theirs, kept = np.array(model.student(ids)), np.array(teacher(ids)), weight[:, :4]
    assert logs["teacher_agreement"] == pytest.approx(np.average(same(theirs, own)[:, :4], weights=kept))
    assert logs["teacher_kl"] == pytest.approx(np.average(kl(theirs, own)[:, :4], weights=kept), rel=1e-4)
    # Keras divides weighted losses by the number of positions that are not masked.
    assert logs["teacher_task_loss"] == pytest.approx((nll(theirs, y)[:, :4] * kept).mean(), rel=1e-4)
    assert logs["chance_task_loss"] == pytest.approx(math.log(NUM_CLASSES) * kept.mean(), rel=1e-4)


def test_several_outputs_and_keras_own_losses_are_the_students() -> None:
    x, y = features_and_targets()
    data = tf.data.Dataset.from_tensors((x, y))
    teacher = two_headed()
    model, logs = trained(two_headed, [teacher], data, {"kind": xent(), "place": xent()})
    own, theirs = ({k: np.array(v) for k, v in m(x).items()} for m in (model.student, teacher))
    kls = [kl(theirs[name], own[name]).mean() for name in own]
    assert logs["teacher_kl"] == pytest.approx(np.mean(kls), rel=1e-5)
    expected = sum(nll(theirs[name], y[name]).mean() for name in own)
    assert logs["teacher_task_loss"] == pytest.approx(expected, rel=1e-5)
    assert logs["chance_task_loss"] == pytest.approx(math.log(NUM_CLASSES) + math.log(3), rel=1e-5)
    for name in own:
        assert logs[f"{name}_loss"] == pytest.approx(nll(own[name], y[name]).mean(), rel=1e-5)


def test_an_output_that_is_no_class_has_no_chance() -> None:
    x, y = features_and_targets()
    y["place"] = np.random.default_rng(1).normal(size=(BATCH, 3)).astype("float32")
    teacher = two_headed()
    psi = {"kind": losses.SoftCrossEntropy(), "place": losses.SquaredLogits()}
    data = tf.data.Dataset.from_tensors((x, y))
    model, logs = trained(
        two_headed, [teacher], data, {"kind": xent(), "place": "mse"}, distillation_loss=psi
    )
    own, theirs = ({k: np.array(v) for k, v in m(x).items()} for m in (model.student, teacher))
    mse = ((theirs["place"] - y["place"]) ** 2).mean()
    assert logs["teacher_kl"] == pytest.approx(kl(theirs["kind"], own["kind"]).mean(), rel=1e-5)
    assert logs["teacher_task_loss"] == pytest.approx(nll(theirs["kind"], y["kind"]).mean() + mse, rel=1e-5)
    assert logs["chance_task_loss"] == pytest.approx(math.log(NUM_CLASSES) + mse, rel=1e-5)


def test_regression_alone_is_measured_by_its_loss_alone() -> None:
    x, _ = features_and_targets()
    y = np.random.default_rng(1).normal(size=(BATCH, NUM_CLASSES)).astype("float32")
    teacher = regression()
    data = tf.data.Dataset.from_tensors((x, y))
    _, logs = trained(regression, [teacher], data, "mse", distillation_loss=losses.SquaredLogits())
    assert logs["teacher_task_loss"] == pytest.approx(((np.array(teacher(x)) - y) ** 2).mean(), rel=1e-5)
    assert (logs["teacher_kl"], logs["teacher_agreement"], logs["chance_task_loss"]) == (0, 0, 0)


@pytest.mark.parametrize("width", [1, 3])
def test_logistic_outputs_are_classes_of_their_own(width: int) -> None:
    def logistic() -> keras.Model:
        return keras.Sequential([keras.Input((NUM_FEATURES,)), keras.layers.Dense(width)])

    x, _ = features_and_targets()
    y = np.random.default_rng(1).integers(0, 2, (BATCH, width)).astype("float32")
    teacher = logistic()
    psi = losses.BinarySoftCrossEntropy()
    data = tf.data.Dataset.from_tensors((x, y))
    model, logs = trained(logistic, [teacher], data, LOGITS, distillation_loss=psi)
    own, theirs = (np.stack([np.zeros((BATCH, width)), np.array(m(x))], -1) for m in (model.student, teacher))
    assert logs["teacher_agreement"] == pytest.approx(same(theirs, own).mean())
    assert logs["teacher_kl"] == pytest.approx(kl(theirs, own).mean(), rel=1e-4)
    assert logs["teacher_task_loss"] == pytest.approx(nll(theirs, y.astype(int)).mean(), rel=1e-5)
    assert logs["chance_task_loss"] == pytest.approx(math.log(2), rel=1e-5)


@pytest.mark.parametrize(
    ("activation", "loss", "one_hot", "chance"),
    [
        ("softmax", "sparse_categorical_crossentropy", False, math.log(NUM_CLASSES)),
        ("softmax", keras.losses.CategoricalCrossentropy(), True, math.log(NUM_CLASSES)),
        ("sigmoid", "binary_crossentropy", True, math.log(2)),
        (None, keras.losses.CategoricalCrossentropy(from_logits=True), True, math.log(NUM_CLASSES)),
        (None, functools.partial(keras.losses.binary_crossentropy, from_logits=True), True, math.log(2)),
        (None, lambda y, p: tf.reduce_mean((y - p) ** 2, -1), True, 0.0),
    ],
)
def test_chance_of_every_kind_of_cross_entropy(activation, loss, one_hot: bool, chance: float) -> None:
    def model_fn() -> keras.Model:
        return keras.Sequential([keras.Input((NUM_FEATURES,)), keras.layers.Dense(NUM_CLASSES, activation)])

    x, y = features_and_targets()
    y = np.eye(NUM_CLASSES, dtype="float32")[y["kind"]] if one_hot else y["kind"]
    _, logs = trained(model_fn, [model_fn()], tf.data.Dataset.from_tensors((x, y)), loss)
    assert logs["chance_task_loss"] == pytest.approx(chance, rel=1e-4)
    assert logs["teacher_task_loss"] > 0


def test_measured_now_and_then_and_at_the_first_teaching_of_each_epoch() -> None:
    x, y = examples(0, 12)
    teacher = regression()
    model, logs = trained(
        regression,
        [teacher],
        batches(x, y),
        xent(),
        measure_every_steps=5,
        distillation_weight=schedules.BurnIn(3),
    )
    own, theirs = np.array(model.student(x)), np.array(teacher(x))
    each = kl(theirs, own).reshape(12, BATCH).mean(-1)
    measured = [3, 4, 9]  # the first in which the teacher is heard; then those that complete 5 and 10 steps
    assert logs["teacher_kl"] == pytest.approx(each[measured].mean(), rel=1e-5)
    again = model.fit(batches(x, y), verbose=0, shuffle=False).history
    assert again["teacher_kl"][0] == pytest.approx(each[[0, 2, 7]].mean(), rel=1e-5)


def test_a_teacher_that_is_dropped_is_measured_nowhere() -> None:
    x, y = examples(0, 2)
    good, broken = regression(), regression()
    broken.set_weights([np.full_like(weight, np.nan) for weight in broken.get_weights()])
    model, logs = trained(regression, [broken, good], batches(x, y), xent())
    own, theirs = np.array(model.student(x)), np.array(good(x))
    assert logs["teacher_kl"] == pytest.approx(kl(theirs, own).mean(), rel=1e-5)
    assert logs["teacher_task_loss"] == pytest.approx(nll(theirs, y).mean(), rel=1e-5)
    assert logs["teacher_1_task_loss"] == pytest.approx(nll(theirs, y).mean(), rel=1e-5)
    assert logs["teacher_0_task_loss"] == 0.0
    assert logs["dropped_teachers"] == 1.0


def test_nothing_is_measured_without_teachers() -> None:
    x, y = examples(0, 2)
    _, logs = trained(regression, [], batches(x, y), xent())
    assert [logs[name] for name in ("teacher_kl", "teacher_agreement", "teacher_task_loss")] == [0, 0, 0]


@pytest.mark.parametrize("every", [0, -1])
def test_the_period_is_positive(every: int) -> None:
    with pytest.raises(ValueError, match=f"measure_every_steps is {every}"):
        CodistillationModel(regression, FrozenTeachers(1), measure_every_steps=every)


def test_comparing_leaves_the_training_as_it_is() -> None:
    x, y = examples(0, 6)
    peer, start = snapshot_of(regression()), regression().get_weights()
    results = []
    for every in (1, 1000):
        model = CodistillationModel(regression, FrozenTeachers(1), measure_every_steps=every)
        model.compile(keras.optimizers.SGD(0.5), xent(), jit_compile=False)
        model.student.set_weights(start)
        model.build_for_data(batches(x, y).element_spec)
        model.teachers.refresh(0, peer)
        model.fit(batches(x, y), verbose=0, shuffle=False)
        results.append(model.student.get_weights())
    for one, other in itertools.zip_longest(*results):
        np.testing.assert_array_equal(one, other)
