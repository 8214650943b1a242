"""PeerExchange: snapshots come and go on time, and nothing that a peer does stops this group."""

from __future__ import annotations

import os

import keras
import numpy as np
import pytest
from absl import logging

from tests.training.codistillation_test import (
    BATCH,
    NUM_CLASSES,
    NUM_FEATURES,
    batches,
    compiled,
    examples,
    lstm,
    regression,
)
from tf_codistill import recurrent_state, weights
from tf_codistill.peers.exchange import Exchange
from tf_codistill.peers.topology import NO_PEER, RandomPeers, teachers_of
from tf_codistill.training.codistillation import CodistillationModel
from tf_codistill.training.peer_exchange import PeerExchange


def train(model: CodistillationModel, callback: PeerExchange, num_steps: int = 4) -> None:
    model.fit(batches(*examples(0, num_steps)), verbose=0, shuffle=False, callbacks=[callback])


def publish(directory: str, group: int, step: int, model: keras.Model) -> None:
    Exchange(directory, group).publish(
        step,
        weights.description(model),
        model.get_weights(),
        recurrent_state.values(recurrent_state.variables(model)),
    )


def test_publishes_every_so_many_steps_and_at_the_end(tmp_path) -> None:
    model = compiled(1, 1.0)
    train(model, PeerExchange(str(tmp_path), 0, 2, every_steps=3, keep=9), num_steps=8)
    snapshots = sorted(name for name in os.listdir(tmp_path / "group_0") if name.startswith("snapshot"))
    assert snapshots == ["snapshot_00000003", "snapshot_00000006", "snapshot_00000008"]
    last = Exchange(str(tmp_path), 1).read(0, 8, weights.description(model.student))
    for published, weight in zip(last.weights, model.student.get_weights(), strict=True):
        np.testing.assert_array_equal(published, weight)


def test_steps_are_counted_across_executions_and_epochs(tmp_path) -> None:
    model = compiled(1, 1.0, steps_per_execution=2)
    data = batches(*examples(0, 3)).repeat()
    callback = PeerExchange(str(tmp_path), 0, 2, every_steps=4, keep=9)
    model.fit(data, epochs=3, steps_per_epoch=4, verbose=0, shuffle=False, callbacks=[callback])
    steps = [int(name[-8:]) for name in os.listdir(tmp_path / "group_0") if name.startswith("snapshot")]
    assert sorted(steps) == [4, 8, 12]


def test_the_freshest_committed_snapshot_becomes_the_teacher(tmp_path) -> None:
    old, new, half_written = regression(), regression(), regression()
    publish(str(tmp_path), 1, 5, old)
    publish(str(tmp_path), 1, 10, new)
    publish(str(tmp_path), 1, 15, half_written)
    os.remove(tmp_path / "group_1" / "snapshot_00000015" / "manifest.json")
    model = compiled(1, 1.0)
    train(model, PeerExchange(str(tmp_path), 0, 2, every_steps=2))
    assert model.teachers.steps() == [10]
    np.testing.assert_array_equal(model.teachers.models[0].get_weights()[0], new.get_weights()[0])


def test_a_corrupt_snapshot_is_passed_over_and_training_goes_on(tmp_path) -> None:
    publish(str(tmp_path), 1, 5, regression())
    (data,) = (tmp_path / "group_1" / "snapshot_00000005").glob("*.data*")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(bytes(content))
    model = compiled(1, 1.0)
    callback = PeerExchange(str(tmp_path), 0, 2, every_steps=2)
    train(model, callback)
    assert model.step() == 4
    assert model.teachers.steps() == [-1]
    assert callback.failed_reads == 3  # when training begins, and at each of two exchanges


def test_a_peer_that_never_comes_does_not_matter(tmp_path) -> None:
    model = compiled(1, 1.0)
    train(model, PeerExchange(str(tmp_path), 0, 2, every_steps=1))
    assert model.step() == 4
    assert model.teachers.steps() == [-1]


def test_another_model_is_refused_before_training(tmp_path) -> None:
    wider = keras.Sequential([keras.Input((7,)), keras.layers.Dense(4)])
    Exchange(str(tmp_path), 1).announce(weights.description(wider), step=0)
    model = compiled(1, 1.0)
    with pytest.raises(ValueError, match=r"group 0 and group 1 train different models.*\[5, 4\].*\[7, 4\]"):
        train(model, PeerExchange(str(tmp_path), 0, 2))
    assert model.step() == 0


def test_the_number_of_teachers_must_be_the_topologys(tmp_path) -> None:
    with pytest.raises(ValueError, match="num_teachers is 1, but groups \\[0, 2\\] teach group 1"):
        train(compiled(1, 1.0), PeerExchange(str(tmp_path), 1, 3))
    train(compiled(1, 1.0), PeerExchange(str(tmp_path), 1, 3, topology="ring"))
    with pytest.raises(
        ValueError, match=r"num_teachers is 1, but groups \[0, 2, 3\] teach group 1, 2 at a time"
    ):
        train(compiled(1, 1.0), PeerExchange(str(tmp_path), 1, 4, topology=RandomPeers(2)))


def test_other_models_are_refused(tmp_path) -> None:
    model = regression()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="CodistillationModel; the model is a Sequential"):
        model.fit(
            np.zeros((8, 5)), np.zeros((8, 4)), verbose=0, callbacks=[PeerExchange(str(tmp_path), 0, 2)]
        )


def test_a_peer_that_begins_anew_takes_its_teacher_back(tmp_path) -> None:
    publish(str(tmp_path), 1, 900, regression())
    model = compiled(1, 1.0)
    train(model, PeerExchange(str(tmp_path), 0, 2, every_steps=2))
    assert model.teachers.steps() == [900]
    peer = regression()
    Exchange(str(tmp_path), 1).announce(weights.description(peer), step=0)
    publish(str(tmp_path), 1, 5, peer)
    train(model, PeerExchange(str(tmp_path), 0, 2, every_steps=2))
    assert model.teachers.steps() == [5]


def test_a_full_disk_does_not_stop_training(tmp_path, monkeypatch) -> None:
    def full(*args: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Exchange, "publish", full)
    model = compiled(1, 1.0)
    callback = PeerExchange(str(tmp_path), 0, 2, every_steps=2)
    train(model, callback)
    assert model.step() == 4
    assert callback.failed_publications == 3


def test_a_group_that_is_refused_leaves_no_trace(tmp_path) -> None:
    wider = keras.Sequential([keras.Input((7,)), keras.layers.Dense(4)])
    peer = Exchange(str(tmp_path), 1)
    model = compiled(1, 1.0)
    callback = PeerExchange(str(tmp_path), 0, 2)
    announce = Exchange.announce

    def at_the_same_time(exchange: Exchange, *args: object) -> None:
        announce(peer, weights.description(wider), 0)
        announce(exchange, *args)

    callback._exchange.announce = at_the_same_time.__get__(callback._exchange)
    with pytest.raises(ValueError, match="train different models"):
        train(model, callback)
    assert peer.difference(0, weights.description(wider)) is None


@pytest.mark.parametrize("every_steps", [0, -1])
def test_every_steps_is_positive(every_steps: int) -> None:
    with pytest.raises(ValueError, match=str(every_steps)):
        PeerExchange("/nowhere", 0, 2, every_steps=every_steps)


def test_a_new_recurrent_teacher_starts_from_its_peers_state_and_keeps_its_own_later(tmp_path) -> None:
    peer = lstm()
    states = recurrent_state.variables(peer)
    recurrent_state.assign(states, [np.full((BATCH, 6), 0.25, "float32")] * 2)
    publish(str(tmp_path), 1, 1, peer)
    model = CodistillationModel(lstm, 1)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3 * BATCH, 3, 5)).astype("float32")
    data = batches(x, rng.integers(0, 4, 3 * BATCH))
    model.fit(data, shuffle=False, verbose=0, callbacks=[PeerExchange(str(tmp_path), 0, 2)])
    for start in range(0, 3 * BATCH, BATCH):
        peer(x[start : start + BATCH])
    carried = recurrent_state.values(model.teachers.recurrent_states())
    np.testing.assert_allclose(carried, recurrent_state.values(states), atol=1e-6)

    recurrent_state.assign(states, [np.full((BATCH, 6), 0.9, "float32")] * 2)
    publish(str(tmp_path), 1, 2, peer)
    callback = PeerExchange(str(tmp_path), 0, 2)
    callback.set_model(model)
    callback.on_train_begin()
    assert model.teachers.steps() == [2]
    np.testing.assert_array_equal(recurrent_state.values(model.teachers.recurrent_states()), carried)


class Drawn(keras.callbacks.Callback):
    """Notes after each step which peers teach."""

    def __init__(self) -> None:
        super().__init__()
        self.peers: list[list[int]] = []

    def on_train_batch_end(self, batch, logs=None) -> None:
        self.peers.append(self.model.teachers.peers())


def test_random_peers_are_drawn_anew_at_every_exchange_as_the_step_says(tmp_path) -> None:
    peers = {group: regression() for group in range(1, 5)}
    for group, peer in peers.items():
        publish(str(tmp_path), group, 1, peer)
    topology = RandomPeers(2, seed=3)

    def run(num_steps: int, model: CodistillationModel) -> list[list[int]]:
        drawn = Drawn()
        exchange = PeerExchange(str(tmp_path), 0, 5, every_steps=2, topology=topology)
        data = batches(*examples(0, num_steps))
        model.fit(data, verbose=0, shuffle=False, callbacks=[exchange, drawn])
        return drawn.peers

    straight = run(12, compiled(2, 1.0))
    expected = [teachers_of(0, 5, topology, exchange) for exchange in (0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6)]
    assert [sorted(held) for held in straight] == expected
    assert len({tuple(held) for held in expected}) > 2
    for before, after in zip(straight, straight[1:], strict=False):
        for peer in set(before) & set(after):
            assert before.index(peer) == after.index(peer), "who is drawn again keeps its teacher"

    begun = compiled(2, 1.0)
    first = run(5, begun)
    resumed = compiled(2, 1.0)
    resumed.build_for_data(batches(*examples(0, 1)).element_spec)
    resumed.optimizer.iterations.assign(5)
    resumed.teachers.restore(begun.teachers.arrays())
    assert [*first, *run(7, resumed)] == straight
    for held, teacher in zip(resumed.teachers.peers(), resumed.teachers.models, strict=True):
        np.testing.assert_array_equal(teacher.get_weights()[0], peers[held].get_weights()[0])


def test_a_teacher_stays_until_the_peer_that_was_drawn_has_published(tmp_path) -> None:
    topology = RandomPeers(1, seed=1)
    (first,), (second,) = (teachers_of(0, 3, topology, exchange) for exchange in (0, 2))
    assert first != second
    publish(str(tmp_path), first, 1, regression())
    model = compiled(1, 1.0)
    train(model, PeerExchange(str(tmp_path), 0, 3, every_steps=2, topology=topology))
    assert model.teachers.peers() == [first]
    publish(str(tmp_path), second, 1, regression())
    train(model, PeerExchange(str(tmp_path), 0, 3, every_steps=100, topology=RandomPeers(1, seed=1)))
    assert model.teachers.peers() == [first], "step 4 of 100 is exchange 0"
    model.optimizer.iterations.assign(4)
    train(model, PeerExchange(str(tmp_path), 0, 3, every_steps=2, topology=topology), num_steps=1)
    assert model.teachers.peers() == [second]


def deep() -> keras.Model:
    return keras.Sequential(
        [keras.Input((NUM_FEATURES,)), keras.layers.Dense(7, "relu"), keras.layers.Dense(NUM_CLASSES)]
    )


def two_architectures() -> list[CodistillationModel]:
    model_fns = [regression, deep]
    models = []
    for group in (0, 1):
        model = CodistillationModel(model_fns[group], 1, teacher_fns=[model_fns[1 - group]])
        model.compile(keras.optimizers.SGD(0.3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        models.append(model)
    return models


def test_groups_of_two_architectures_learn_from_each_other(tmp_path) -> None:
    models = two_architectures()
    for _ in range(2):
        for group, model in enumerate(models):
            train(model, PeerExchange(str(tmp_path), group, 2, every_steps=2))
    for model, peer, step in zip(models, models[::-1], (4, 8), strict=True):
        assert model.teachers.steps() == [step]
        taught_by = Exchange(str(tmp_path), 9).read(
            model.teachers.peers()[0], step, weights.description(peer.student)
        )
        for one, other in zip(model.teachers.models[0].get_weights(), taught_by.weights, strict=True):
            np.testing.assert_array_equal(one, other)
        assert model.history.history["distillation_loss"][0] > 0


def test_an_architecture_that_is_not_that_of_the_teacher_is_refused(tmp_path) -> None:
    first, second = two_architectures()
    train(first, PeerExchange(str(tmp_path), 0, 2))
    with pytest.raises(ValueError, match="group 1 and group 0 train different models"):
        train(compiled(1, 1.0, teacher_fns=[deep]), PeerExchange(str(tmp_path), 1, 2))
    train(second, PeerExchange(str(tmp_path), 1, 2))


def test_random_peers_have_one_architecture(tmp_path) -> None:
    Exchange(str(tmp_path), 2).announce(weights.description(deep()), step=0)
    with pytest.raises(ValueError, match="group 0 and group 2 train different models"):
        train(compiled(1, 1.0), PeerExchange(str(tmp_path), 0, 3, topology=RandomPeers(1)))


def test_what_the_exchange_costs_is_in_the_logs_of_callbacks_behind_it(tmp_path) -> None:
    now = [1000.0]
    peer = regression()
    Exchange(str(tmp_path), 1, clock=lambda: 970.0).publish(1, weights.description(peer), peer.get_weights())
    model = compiled(1, 1.0)
    callback = PeerExchange(str(tmp_path), 0, 2, every_steps=2, clock=lambda: now[0])
    table = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    data = batches(*examples(0, 4)).repeat()
    logs = model.fit(
        data, epochs=2, steps_per_epoch=4, verbose=0, shuffle=False, callbacks=[callback, table]
    ).history
    size = Exchange(str(tmp_path), 1).read(1, 1, weights.description(peer)).num_bytes
    assert logs["read_bytes"] == [size, 0.0], "at the beginning, and never again"
    assert logs["published_bytes"][0] == logs["published_bytes"][1] > 0
    assert sum(logs["published_bytes"]) == callback.published_bytes
    assert 0 < logs["exchange_secs"][1] < sum(logs["exchange_secs"]) < 60
    assert logs["staleness_secs"] == [30.0, 30.0]
    assert logs["failed_reads"] == logs["failed_publications"] == [0.0, 0.0]
    written = np.genfromtxt(tmp_path / "log.csv", delimiter=",", names=True)
    for name in ("read_bytes", "published_bytes", "exchange_secs", "staleness_secs", "teacher_task_loss"):
        np.testing.assert_allclose(written[name], logs[name], rtol=1e-6)


def test_failures_are_logged_and_bad_teachers_warned_of_by_the_group_that_published(
    tmp_path, monkeypatch
) -> None:
    peer = regression()
    peer.set_weights([50 * weight for weight in peer.get_weights()])
    publish(str(tmp_path), 2, 1, peer)
    publish(str(tmp_path), 0, 1, regression())
    (data,) = (tmp_path / "group_0" / "snapshot_00000001").glob("*.data*")
    data.write_bytes(b"")
    monkeypatch.setattr(Exchange, "publish", _full)
    said: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: said.append(text % args))
    model = compiled(2, 1.0, rate=0.0)
    train(model, PeerExchange(str(tmp_path), 1, 3, every_steps=4))
    logs = model.history.history
    assert (logs["failed_reads"], logs["failed_publications"]) == ([2.0], [1.0])
    assert model.teachers.peers() == [NO_PEER, 2]
    assert [text for text in said if "worse than chance" in text][0].startswith(
        "group 1: the teacher from group 2"
    )


def _full(*args: object) -> None:
    raise OSError("no space left on device")


class BuiltByItsFirstBatch(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.body = keras.Sequential([keras.layers.Dense(6), keras.layers.Dense(4)])

    def call(self, features):
        return self.body(features)


def test_groups_of_a_subclassed_model_know_each_others_weights(tmp_path) -> None:
    for group in (0, 1):
        model = CodistillationModel(BuiltByItsFirstBatch, 1)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        train(model, PeerExchange(str(tmp_path), group, 2))
    assert model.teachers.steps() == [4]
