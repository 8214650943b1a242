"""A replica's part in loss and gradient: masks, sums, several outputs, clipping, what is refused."""

from __future__ import annotations

import logging as standard_logging
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.training.codistillation_test import BATCH, NUM_CLASSES, batches, compiled, examples
from tests.training.distillation_test import sequence_model, snapshot_of, xent
from tf_codistill import losses, weights
from tf_codistill.teaching.fellows import FellowStudents
from tf_codistill.teaching.frozen import FrozenTeachers
from tf_codistill.training import whole_batch
from tf_codistill.training.codistillation import CodistillationModel
from tf_codistill.training.outputs import weighed

KEEP = np.array(
    [[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]], bool
)  # 5 positions on one replica, 1 on the other
VALUES = np.arange(1.0, 13.0, dtype="float32").reshape(4, 3)


class Identity(keras.losses.Loss):
    def call(self, _: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
        return prediction


def masked(values: tf.Tensor, keep: tf.Tensor | None) -> tf.Tensor:
    values = tf.identity(values)
    if keep is not None:
        values._keras_mask = tf.identity(keep)
    return values


def on_two_replicas(function: Callable[..., tf.Tensor], *arrays: np.ndarray) -> tf.Tensor:
    """The sum over replicas of what a function makes of their halves of arrays."""
    strategy = two_replicas()

    @tf.function
    def total() -> tf.Tensor:
        def of_replica() -> tf.Tensor:
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            return function(*(tf.reshape(array, [2, -1, *array.shape[1:]])[number] for array in arrays))

        return strategy.reduce("SUM", strategy.run(of_replica), axis=None)

    return total()


def structured(kind: str, first: tf.Tensor, second: tf.Tensor) -> Any:
    return {"dict": {"a": first, "b": second}, "list": [first, second]}[kind]


@pytest.mark.parametrize("kind", ["dict", "list"])
@pytest.mark.parametrize("weighted", [False, True])
def test_each_masked_output_gets_the_mean_over_the_whole_batch(kind: str, weighted: bool) -> None:
    given = np.array([[3.0], [1.0], [0.5], [2.0]], "float32")
    identity = Identity()

    def parts(values: tf.Tensor, keep: tf.Tensor, sample_weight: tf.Tensor) -> tf.Tensor:
        prediction = structured(kind, masked(values, keep), masked(values, None))
        (factors,) = whole_batch.replica_fractions([prediction])
        assert set(factors) == {{"dict": "a", "list": "0"}[kind]}
        found = weighed(sample_weight if weighted else None, prediction, factors)
        each = zip(keras.tree.flatten(prediction), found.values() if kind == "dict" else found, strict=True)
        return tf.stack([identity(part, part, weight) for part, weight in each])

    scaled = VALUES * given if weighted else VALUES
    expected = [scaled[KEEP].sum() / KEEP.sum(), scaled.mean()]
    np.testing.assert_allclose(on_two_replicas(parts, VALUES, KEEP, given), expected, rtol=1e-6)


def test_fractions_of_several_models_and_of_a_replica_without_positions() -> None:
    def parts(values: tf.Tensor, keep: tf.Tensor, nowhere: tf.Tensor) -> tf.Tensor:
        found = whole_batch.replica_fractions([masked(values, keep), values, masked(values, nowhere)])
        assert found[1] == {}
        number = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.float32)
        return tf.stack([found[0][""], found[2][""]]) * tf.stack([1 - number, number])[:, tf.newaxis]

    fractions = on_two_replicas(parts, VALUES, KEEP, np.zeros_like(KEEP))
    np.testing.assert_allclose(fractions, [[2 * 5 / 6, 0], [2 / 6, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("psi_reduction", "reduction"),
    [("sum", "sum"), ("sum_over_batch_size", "mean_with_sample_weight")],
)
def test_other_reductions_are_left_as_keras_does_them(psi_reduction: str, reduction: str) -> None:
    """A sum is the sum over all replicas; only a weighted mean is still a mean of the replicas' means."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 9, (BATCH, 6))
    ids[BATCH // 2 :, 1:] = 0
    y = rng.integers(0, NUM_CLASSES, (BATCH, 6))
    results = []
    for strategy in (tf.distribute.get_strategy(), two_replicas()):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            psi = losses.SoftCrossEntropy(reduction=psi_reduction)
            model = CodistillationModel(sequence_model, FrozenTeachers(1), psi)
            task = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
            model.compile(keras.optimizers.SGD(0.01), task, jit_compile=False)
        data = tf.data.Dataset.from_tensors((ids, y)).repeat(3)
        model.build_for_data(data.element_spec)
        model.teachers.refresh(0, snapshot_of(sequence_model()))
        model.fit(strategy.experimental_distribute_dataset(data), steps_per_epoch=3, verbose=0)
        results.append(np.concatenate([np.ravel(array) for array in weights.values(model.student.weights)]))
    difference = np.abs(results[1] - results[0]).max()
    assert difference > 1e-5 if reduction == "mean_with_sample_weight" else difference < 1e-6


@pytest.mark.parametrize(
    "clipping",
    ["global_clipnorm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("clipnorm", "clipvalue"))],
)
def test_gradients_are_clipped_once_they_have_been_summed(clipping: str) -> None:
    x, y = examples(0, 5)
    results = []
    for strategy, limit in (
        (tf.distribute.get_strategy(), 0.05),
        (two_replicas(), 0.05),
        (two_replicas(), None),
    ):
        keras.utils.set_random_seed(1)
        with strategy.scope():
            model = compiled()
            optimizer = keras.optimizers.SGD(0.5, **{clipping: limit})
            model.compile(optimizer, xent(), jit_compile=False)
        model.fit(batches(x, y), shuffle=False, verbose=0)
        results.append(weights.values(model.student.weights))
    for one, two, unclipped in zip(*results, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-6)
        assert np.abs(unclipped - one).max() > 1e-3


def test_a_scaled_gradient_is_clipped_as_if_it_were_not() -> None:
    inner = keras.optimizers.SGD(1.0, clipnorm=2.0)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    gradient = np.array([[3.0, 0.0], [0.0, 4.0]], "float32")  # of norm 5, one component from each replica

    def of_replica(part: tf.Tensor) -> tf.Tensor:
        return whole_batch.clipped([8.0 * part[0], None], optimizer)[0]

    np.testing.assert_allclose(on_two_replicas(of_replica, gradient), [8 * 1.2, 8 * 1.6], rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"gradient_accumulation_steps": 3}, {"use_ema": True, "ema_overwrite_frequency": 4}],
    ids=lambda options: str(list(options)[-1]),
)
def test_what_keras_cannot_do_on_several_replicas_is_refused(options: dict[str, Any]) -> None:
    name, value = list(options.items())[-1]
    with two_replicas().scope():
        model = compiled()
        model.compile(keras.optimizers.SGD(0.1, **options), xent(), jit_compile=False)
    with pytest.raises(ValueError, match=f"{name} of the optimizer is {value} and there are 2 replicas"):
        model.fit(batches(*examples(0, 2)), verbose=0)
    model = compiled()
    model.compile(keras.optimizers.SGD(0.1, **options), xent(), jit_compile=False)
    model.fit(batches(*examples(0, 4)), verbose=0)


def test_xla_on_several_replicas_says_what_it_does_with_masks(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(standard_logging.WARNING, logger="absl"), two_replicas().scope():
        assert whole_batch.replica_fractions([tf.constant(VALUES)], can_meet=False) == [{}]
        assert not caplog.text
        prediction = masked(tf.constant(VALUES), tf.constant(KEEP))
        assert whole_batch.replica_fractions([prediction], can_meet=False) == [{}]
    assert "jit_compile=False" in caplog.text


def test_replicas_meet_unless_xla_compiles_their_step(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bool] = []

    def replica_fractions(predictions: list[Any], can_meet: bool) -> list[dict[str, Any]]:
        found.append(can_meet)
        return [{} for _ in predictions]

    monkeypatch.setattr(whole_batch, "replica_fractions", replica_fractions)
    data = (np.ones((BATCH, 6), "int32"), np.zeros((BATCH, 6), "int32"))
    for jit_compile in (True, False):
        model = CodistillationModel(sequence_model)
        model.compile("sgd", xent(), jit_compile=jit_compile)
        model.build_for_data(tf.data.Dataset.from_tensors(data).element_spec)
        model.test_step(data)
    assert found == [False, True]


def test_the_mean_of_students_has_their_mask() -> None:
    keras.utils.set_random_seed(0)
    model = CodistillationModel(sequence_model, FellowStudents(2))
    model.compile("sgd", xent(), jit_compile=False)
    ids = np.array([[3, 4, 1, 0, 0, 0], [5, 0, 0, 0, 0, 0]])
    y = np.array([[0, 1, 2, 3, 3, 3], [1, 0, 0, 0, 0, 0]])
    found = model.evaluate(ids, y, verbose=0, return_dict=True)["ensemble_task_loss"]
    logits = sum(np.array(student(ids)) for student in model.students) / 2
    each = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True).numpy()
    np.testing.assert_allclose(found, each[ids > 0].mean(), rtol=1e-5)
