"""What replicas hold apart: means for whoever is served, each its own for training to go on with."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.toy_models import BATCH, NUM_CLASSES, NUM_FEATURES, batches, examples
from tf_codistill import checkpoints, weights
from tf_codistill.exchange.store import Store
from tf_codistill.teaching.base import Teaching
from tf_codistill.teaching.snapshots import PeerExchange
from tf_codistill.training.checkpoint.checkpointing import Checkpointing
from tf_codistill.training.checkpoint.replica_statistics import ReplicaStatistics
from tf_codistill.training.codistillation import CodistillationModel


def normalised(synchronized: bool = False) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((NUM_FEATURES,)),
            keras.layers.BatchNormalization(momentum=0.5, synchronized=synchronized),
            keras.layers.Dense(NUM_CLASSES),
        ]
    )


def compiled(synchronized: bool = False, teachers: Teaching | None = None) -> CodistillationModel:
    keras.utils.set_random_seed(3)
    with two_replicas().scope():
        model = CodistillationModel(lambda: normalised(synchronized), teachers)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=False)
    return model


def moving(model: CodistillationModel) -> list[list[np.ndarray]]:
    """Mean and variance, as each replica has them."""
    return [weights.replica_values(one) for one in model.student.weights if "moving" in one.path]


def by_numpy(x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and variance on each replica, which reads one half of each batch."""
    found = []
    for replica in range(2):
        mean, variance = np.zeros(NUM_FEATURES), np.ones(NUM_FEATURES)
        for batch in x.reshape(-1, 2, BATCH // 2, NUM_FEATURES)[:, replica]:
            mean, variance = 0.5 * mean + 0.5 * batch.mean(0), 0.5 * variance + 0.5 * batch.var(0)
        found.append((mean, variance))
    return found


class Looks(keras.callbacks.Callback):
    """What replicas hold when an epoch begins, in validation, and behind it; and what is saved then."""

    def __init__(self, directory: pathlib.Path) -> None:
        super().__init__()
        self.path = str(directory / "student.keras")
        self.seen: dict[str, Any] = {}

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen["training"] = moving(self.model)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen["validation"] = moving(self.model)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen["behind it"] = moving(self.model)
        self.model.save(self.path)
        saved = keras.saving.load_model(self.path)
        self.seen["saved"] = [one.numpy() for one in saved.weights if "moving" in one.path]


def test_means_are_validated_saved_and_left_in_the_end_and_each_trains_on_with_its_own(
    tmp_path: pathlib.Path,
) -> None:
    x, y = examples(0, 4)
    model, looks = compiled(), Looks(tmp_path)
    data = batches(x, y)
    checkpointing = Checkpointing(str(tmp_path / "checkpoints"), every_steps=None)
    model.fit(data, validation_data=data, verbose=0, callbacks=[looks, checkpointing])
    expected = by_numpy(x)
    means = [np.mean([own[part] for own in expected], axis=0) for part in (0, 1)]
    for own_of_replicas, behind, part in zip(
        looks.seen["training"], looks.seen["behind it"], (0, 1), strict=True
    ):
        for replica in (0, 1):
            np.testing.assert_allclose(own_of_replicas[replica], expected[replica][part], rtol=1e-4)
            np.testing.assert_array_equal(behind[replica], own_of_replicas[replica])
        assert (own_of_replicas[0] != own_of_replicas[1]).any()
    _, shared, (own,) = checkpoints.read_latest(str(tmp_path / "checkpoints"))
    kept = [copies for copies in own["replicas"] if copies.shape == (2, NUM_FEATURES)]
    for part in (0, 1):
        mean = looks.seen["saved"][part]
        np.testing.assert_allclose(mean, means[part], rtol=1e-4)
        for replica in (0, 1):
            np.testing.assert_array_equal(looks.seen["validation"][part][replica], mean)
            np.testing.assert_array_equal(moving(model)[part][replica], mean)
        assert any((array == mean).all() for array in shared["weights"] if array.shape == mean.shape)
        np.testing.assert_array_equal(kept[part], np.stack(looks.seen["training"][part]))


def test_a_synchronized_layer_is_left_as_it_is(tmp_path: pathlib.Path) -> None:
    model, looks = compiled(synchronized=True), Looks(tmp_path)
    data = batches(*examples(0, 4))
    model.fit(data, validation_data=data, verbose=0, callbacks=[looks])
    for part in (0, 1):
        (one, other), last = looks.seen["training"][part], moving(model)[part]
        np.testing.assert_array_equal(one, other)
        for found in (*looks.seen["validation"][part], *last, looks.seen["saved"][part]):
            np.testing.assert_array_equal(found, one)


def test_snapshots_have_the_means(tmp_path: pathlib.Path) -> None:
    exchange = PeerExchange(str(tmp_path), group=0, num_groups=2, publish="always")
    model = compiled(teachers=exchange)
    model.fit(batches(*examples(0, 4)), verbose=0)
    store = Store(str(tmp_path), group=1)
    ref = store.newest(0)
    assert ref is not None
    snapshot = store.read(ref, weights.description(model.student))
    for found, left in zip(snapshot.weights, weights.values(model.student.weights), strict=True):
        np.testing.assert_array_equal(found, left, err_msg="each replica has the means in the end")


def variables() -> list[keras.Variable]:
    with two_replicas().scope():
        layer = keras.layers.BatchNormalization()
        layer.build((None, 3))
    return [layer.moving_mean, layer.moving_variance]


def test_values_that_agree_are_left_alone_to_the_bit() -> None:
    (mean, variance), rng = variables(), np.random.default_rng(0)
    for value in (rng.normal(size=3).astype("float32"), np.array([3.4e38, 1.2e-38, -0.0], "float32")):
        weights.assign([mean, variance], [value, value])
        statistics = ReplicaStatistics(two_replicas(), [mean, variance])
        statistics.settle()
        for one in (mean, variance):
            for copy in weights.replica_values(one):
                assert copy.tobytes() == value.tobytes()


def test_means_are_those_of_what_is_there_now() -> None:
    """Somebody may set weights between two steps, as EarlyStopping does in the end."""
    mean, variance = variables()
    statistics = ReplicaStatistics(two_replicas(), [mean, variance])

    def give(first: float, second: float) -> None:
        copies = [np.full(3, first, "float32"), np.full(3, second, "float32")]
        weights.assign_replicas([mean, variance], [copies, copies])

    give(1, 2)
    assert statistics.average()[id(mean)].tolist() == [1.5] * 3
    give(5, 7)
    with statistics.in_use():
        assert [copy.tolist() for copy in weights.replica_values(mean)] == [[6.0] * 3] * 2
        assert [copy.tolist() for copy in statistics.own(mean)] == [[5.0] * 3, [7.0] * 3]
        assert statistics.average()[id(mean)].tolist() == [6.0] * 3
        with statistics.in_use():
            assert weights.replica_values(mean)[0].tolist() == [6.0] * 3
    assert [copy.tolist() for copy in weights.replica_values(mean)] == [[5.0] * 3, [7.0] * 3]
    give(1, 3)
    statistics.settle()
    assert [copy.tolist() for copy in weights.replica_values(mean)] == [[2.0] * 3] * 2


def test_a_worker_alone_uses_means_that_have_been_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ModelCheckpoint` of the chief alone: others are not there to take means with."""
    mean, variance = variables()
    statistics = ReplicaStatistics(two_replicas(), [mean, variance])
    monkeypatch.setattr("tf_codistill.distribution.num_workers", lambda strategy: 2)
    copies = [np.full(3, 1, "float32"), np.full(3, 2, "float32")]
    weights.assign_replicas([mean, variance], [copies, copies])
    for taken, expected in ((False, 1.0), (True, 1.5)):
        if taken:
            statistics.average()
        monkeypatch.setattr(statistics, "_mean", None)
        with statistics.in_use(alone=True):
            assert weights.replica_values(mean)[0].tolist() == [expected] * 3
        monkeypatch.undo()
        monkeypatch.setattr("tf_codistill.distribution.num_workers", lambda strategy: 2)
    weights.assign([mean], [np.full(3, 9, "float32")])
    with statistics.in_use(alone=True):
        assert weights.replica_values(mean)[0].tolist() == [9.0] * 3


def test_one_replica_has_nothing_to_average() -> None:
    mean = keras.Variable(np.ones(3, "float32"), trainable=False)
    statistics = ReplicaStatistics(tf.distribute.get_strategy(), [mean])
    assert statistics.average() == {}
    statistics.settle()
    with statistics.in_use():
        assert weights.replica_values(mean)[0].tolist() == [1.0] * 3
