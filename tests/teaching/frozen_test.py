from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.toy_models import snapshot_of
from tf_codistill import recurrent_state
from tf_codistill.exchange.snapshot import Ref, Snapshot
from tf_codistill.exchange.topology import NO_PEER
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.teaching.base import ModelFn
from tf_codistill.teaching.frozen import NO_SNAPSHOT, FrozenTeachers

LANES, WINDOW, UNITS = 2, 3, 4


def language_model() -> keras.Model:
    return LanguageModel(vocabulary_size=7, embedding_dim=3, num_layers=1, num_units=UNITS, batch_size=LANES)


def classifier() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
        ]
    )


def held(model_fn: ModelFn, number: int, precision: str = "float32") -> FrozenTeachers:
    """Teachers of a student that has been made."""
    teachers = FrozenTeachers(number, precision)
    teachers.make([model_fn()], [model_fn])
    return teachers


def predict(teachers: FrozenTeachers, features: tf.Tensor) -> list[tf.Tensor]:
    (taught,) = teachers.teach([features], [None], tf.constant(0), [None])
    return taught.predictions


def carried(teachers: FrozenTeachers) -> list[np.ndarray]:
    """The recurrent state of the teachers."""
    return teachers.state()[1]


def tokens(seed: int) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).integers(0, 7, (LANES, WINDOW)), tf.int32)


def test_without_a_snapshot_nobody_is_present() -> None:
    teachers = held(classifier, 2)
    assert teachers.taught_by == ((0, 1),)
    assert teachers.steps() == [NO_SNAPSHOT, NO_SNAPSHOT]
    np.testing.assert_array_equal(teachers.present(tf.constant(0)), [0.0, 0.0])
    assert not teachers.any_present(tf.constant(0))
    assert float(teachers.staleness_steps(tf.constant(100, tf.int64))) == 0.0


def test_staleness_is_the_mean_over_those_that_are_present() -> None:
    teachers = held(classifier, 3)
    teachers.refresh(0, snapshot_of(classifier(), 50))
    teachers.refresh(2, snapshot_of(classifier(), 80))
    assert teachers.steps() == [50, NO_SNAPSHOT, 80]
    np.testing.assert_array_equal(teachers.present(tf.constant(0)), [1.0, 0.0, 1.0])
    assert teachers.any_present(tf.constant(0))
    (taught,) = teachers.teach([tf.zeros([5, 4])], [None], tf.constant(0), [None])
    np.testing.assert_array_equal(taught.present_PB, [[1.0] * 5, [0.0] * 5, [1.0] * 5])
    staleness = tf.function(teachers.staleness_steps)
    assert float(staleness(tf.constant(99, tf.int64))) == (50 + 20) / 2
    assert float(staleness(tf.constant(69, tf.int64))) == (20 - 10) / 2
    assert teachers.present(tf.constant(0)).dtype == tf.float32


def test_a_model_alone_has_no_teachers() -> None:
    teachers = held(classifier, 0)
    assert teachers.num_students == 1
    assert teachers.taught_by == ((),)
    assert predict(teachers, tf.zeros([1, 4])) == []
    assert teachers.present(tf.constant(0)).shape == (0,)
    assert not teachers.any_present(tf.constant(0))
    assert float(teachers.staleness_steps(tf.constant(100, tf.int64))) == 0.0
    assert teachers.state() == ([], [])
    teachers.restore([], [])


def test_a_teacher_predicts_as_its_peer_and_passes_no_gradient() -> None:
    peers = [classifier(), classifier()]
    for seed, peer in enumerate(peers):
        source = np.random.default_rng(seed)
        peer.set_weights([source.uniform(0.5, 1.5, weight.shape) for weight in peer.weights])
    teachers = held(classifier, 2)
    for index, peer in enumerate(peers):
        teachers.refresh(index, snapshot_of(peer))
    before = [array for teacher in teachers.frozen for array in teacher.get_weights()]
    features = tf.random.stateless_normal([5, 4], [1, 2])
    with tf.GradientTape() as tape:
        tape.watch(features)
        predictions = predict(teachers, features)
        total = tf.add_n([tf.reduce_sum(prediction) for prediction in predictions])
    for peer, prediction in zip(peers, predictions, strict=True):
        np.testing.assert_allclose(prediction, peer(features, training=False), rtol=1e-6)
    assert tape.gradient(total, features) is None
    after = [array for teacher in teachers.frozen for array in teacher.get_weights()]
    for one, other in zip(after, before, strict=True):
        np.testing.assert_array_equal(one, other, "no moving average moves, no dropout")


def test_teachers_are_invisible_to_keras() -> None:
    class Owner(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.student = classifier()
            self.teachers = held(classifier, 2)

    owner = Owner()
    assert len(owner.weights) == len(owner.student.weights)
    assert len(owner.variables) == len(owner.student.variables)
    assert owner.layers == [owner.student]
    assert not any(model.trainable_variables for model in owner.teachers.frozen)


def test_a_new_teacher_starts_from_the_state_of_its_peer_and_keeps_its_own_once_it_has_read() -> None:
    peer = language_model()
    peer(tokens(1))
    teachers = held(language_model, 1)
    teachers.refresh(0, snapshot_of(peer, 50))
    np.testing.assert_array_equal(
        carried(teachers),
        recurrent_state.values(recurrent_state.variables(peer)),
    )
    peer(tokens(3))
    teachers.refresh(0, snapshot_of(peer, 100))
    np.testing.assert_array_equal(carried(teachers), recurrent_state.values(recurrent_state.variables(peer)))

    for step, restart in ((150, False), (200, True)):
        predict(teachers, tokens(4))
        own = carried(teachers)
        if restart:
            restarted = held(language_model, 1)
            restarted.restore(*teachers.state())
            teachers = restarted
        peer.set_weights([weight + 0.1 for weight in peer.get_weights()])
        peer(tokens(5))
        teachers.refresh(0, snapshot_of(peer, step))
        np.testing.assert_array_equal(carried(teachers), own, "its own lanes' state")
        for one, other in zip(teachers.frozen[0].get_weights(), peer.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)

    peer(tokens(6))
    teachers.refresh(0, snapshot_of(peer, 250))
    np.testing.assert_array_equal(carried(teachers), recurrent_state.values(recurrent_state.variables(peer)))


def test_a_snapshot_whose_recurrent_state_does_not_fit_changes_nothing() -> None:
    teachers = held(language_model, 1)
    wrong = dataclasses.replace(
        snapshot_of(language_model()), states=[np.zeros((LANES, UNITS + 1), "float32")] * 2
    )
    for act in (teachers.stage, teachers.refresh):
        with pytest.raises(ValueError, match="recurrent state of shape"):
            act(0, wrong)
    assert teachers.steps() == [NO_SNAPSHOT]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16", "int8"])
def test_teachers_hold_and_restore_the_precision_that_they_are_given(precision: str) -> None:
    def wide() -> keras.Model:
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(64), keras.layers.Dense(32)])

    peer = wide()
    teachers = held(wide, 2, precision)
    teachers.refresh(1, snapshot_of(peer, 50))
    features = tf.random.stateless_normal([5, 4], [1, 2])
    found = predict(teachers, features)[1]
    np.testing.assert_allclose(found, peer(features), atol=0 if precision == "float32" else 0.05)
    small = {"float32": 4 * 256 + 4 * 2048, "int8": 2 * 256 + 2048 + 4 * 32}.get(
        precision, 2 * 256 + 2 * 2048
    )
    assert teachers.num_bytes() == 2 * (small + 4 * 96)
    again = held(wide, 2, precision)
    again.restore(*teachers.state())
    np.testing.assert_array_equal(predict(again, features)[1], found)
    if precision != "float32":
        with pytest.raises(ValueError, match="has shape"):
            held(wide, 2).restore(*teachers.state())


def test_a_snapshot_that_does_not_fit_leaves_the_teacher_as_it_is() -> None:
    teachers = held(classifier, 1)
    teachers.refresh(0, snapshot_of(classifier(), 50))
    before = teachers.state()[0]
    wrong = [*(array + 1 for array in snapshot_of(classifier()).weights[:-1]), np.zeros(9, "float32")]
    with pytest.raises(ValueError, match=r"array has \(9,\)"):
        teachers.refresh(0, Snapshot(Ref(0), 100, 0.0, wrong, [], 0))
    for one, other in zip(teachers.state()[0], before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert teachers.refreshed == 1, "whoever keeps a copy need not take another"


def test_arrays_restore_steps_weights_and_who_carries() -> None:
    peer = language_model()
    peer(tokens(1))
    teachers = held(language_model, 2)
    teachers.refresh(1, snapshot_of(peer, 2**40))
    again = held(language_model, 2)
    assert (teachers.refreshed, again.refreshed) == (1, 0)
    again.restore(*teachers.state())
    assert again.refreshed == 1
    assert again.steps() == [NO_SNAPSHOT, 2**40]
    for restored, kept in zip(again.state(), teachers.state(), strict=True):
        for one, other in zip(restored, kept, strict=True):
            np.testing.assert_array_equal(one, other)
    predict(again, tokens(2))
    own = carried(again)
    again.refresh(1, snapshot_of(peer, 2**40 + 1))
    np.testing.assert_array_equal(carried(again), own)


def test_every_replica_has_the_snapshot_and_its_own_lanes() -> None:
    strategy = two_replicas()
    peers = [language_model(), language_model()]
    for seed, peer in enumerate(peers):
        peer.set_weights(peers[0].get_weights())
        peer(tokens(seed))
    rows = [recurrent_state.values(recurrent_state.variables(peer)) for peer in peers]
    lanes = [np.concatenate(parts) for parts in zip(*rows, strict=True)]
    with strategy.scope():
        teachers = held(language_model, 1)
        teachers.refresh(0, Snapshot(Ref(0), 50, 0.0, peers[0].get_weights(), lanes, 0))

    @tf.function
    def on_replicas() -> tf.Tensor:
        return strategy.run(
            lambda: (predict(teachers, tokens(9))[0], teachers.staleness_steps(tf.constant(69)))
        )

    logits, staleness = on_replicas()
    for peer, found in zip(peers, strategy.experimental_local_results(logits), strict=True):
        np.testing.assert_allclose(found, peer(tokens(9)), atol=1e-6)
    assert [float(value) for value in strategy.experimental_local_results(staleness)] == [20.0, 20.0]
    assert float(teachers.staleness_steps(tf.constant(69))) == 20.0, "also outside of a replica"


def test_a_teacher_that_comes_to_stand_for_another_peer_takes_its_state_too() -> None:
    first, second = language_model(), language_model()
    first(tokens(1))
    second(tokens(2))
    of_second = dataclasses.replace(snapshot_of(second), ref=Ref(2))
    teachers = held(language_model, 1)
    assert teachers.peers() == [NO_PEER]
    for _ in range(2):
        teachers.refresh(0, snapshot_of(first))
    predict(teachers, tokens(3))
    teachers.refresh(0, of_second)
    assert teachers.peers() == [2]
    np.testing.assert_array_equal(predict(teachers, tokens(4))[0], second(tokens(4)))


def test_age_is_the_mean_over_those_that_hold_a_snapshot_and_survives_a_restart() -> None:
    teachers = held(classifier, 3)
    assert teachers.staleness_secs(1000.0) == 0.0
    for index, (peer, published_at) in enumerate([(4, 940.0), (7, 980.5)]):
        snapshot = dataclasses.replace(snapshot_of(classifier()), ref=Ref(peer), published_at=published_at)
        teachers.refresh(index, snapshot)
    assert teachers.staleness_secs(1000.0) == pytest.approx((60 + 19.5) / 2)
    again = held(classifier, 3)
    again.restore(*teachers.state())
    assert again.peers() == teachers.peers() == [4, 7, NO_PEER]
    assert again.staleness_secs(1000.0) == teachers.staleness_secs(1000.0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_by_statistics_of_the_batch_a_teacher_predicts_as_its_peer_in_training(
    precision: str,
) -> None:
    peer = classifier()
    peer.layers[-1].rate = 0.0
    peer.layers[1].gamma.assign([1.5, 0.5, 2.0])  # which is the same in bfloat16
    peer.layers[0].kernel.assign(np.random.default_rng(0).integers(-4, 5, (4, 3)) / 4)
    features = tf.constant(np.random.default_rng(1).normal(size=(8, 4)), tf.float32)
    outputs = peer.layers[0](features).numpy()
    by_hand = (outputs - outputs.mean(axis=0)) / np.sqrt(outputs.var(axis=0) + peer.layers[1].epsilon)
    by_hand = by_hand * [1.5, 0.5, 2.0]
    predicted = {}
    for statistics in ("moving", "batch"):
        teachers = FrozenTeachers(1, precision, statistics)
        teachers.make([peer], [classifier])
        teachers.refresh(0, snapshot_of(peer, 1, 5))
        before = teachers.frozen[0].get_weights()
        asked = tf.function(lambda teachers=teachers: predict(teachers, features)[0])
        predicted[statistics] = asked()
        for weight, then in zip(teachers.frozen[0].get_weights(), before, strict=True):
            np.testing.assert_array_equal(weight, then)
    np.testing.assert_allclose(predicted["batch"], by_hand, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(predicted["batch"], peer(features, training=True), rtol=1e-4, atol=1e-5)
    assert np.abs(predicted["moving"] - by_hand).max() > 0.1


def test_on_replicas_each_teaches_by_the_statistics_of_its_rows() -> None:
    strategy, features = two_replicas(), tf.constant(np.random.default_rng(1).normal(size=(8, 4)), tf.float32)
    with strategy.scope():
        teachers = FrozenTeachers(1, statistics="batch")
        teachers.make([classifier()], [classifier])

    def of_replica() -> tf.Tensor:
        place = tf.distribute.get_replica_context().replica_id_in_sync_group
        return predict(teachers, features[4 * place : 4 * (place + 1)])[0]

    parts = strategy.experimental_local_results(strategy.run(tf.function(of_replica)))
    outputs = teachers.frozen[0].layers[0](features).numpy()
    for part, rows in zip(parts, (outputs[:4], outputs[4:]), strict=True):
        by_hand = (rows - rows.mean(axis=0)) / np.sqrt(rows.var(axis=0) + 1e-3)
        np.testing.assert_allclose(part, by_hand, rtol=1e-3, atol=1e-4)


def test_statistics_that_make_no_sense_are_named() -> None:
    with pytest.raises(ValueError, match="has no batch normalization; leave statistics of its teacher at"):
        FrozenTeachers(1, statistics="batch").make([language_model()], [language_model])
    with pytest.raises(ValueError, match="statistics is 'mean'; expected one of moving, batch"):
        FrozenTeachers(1, statistics="mean")
