"""PeerExchange: snapshots come and go on time, and nothing that a peer does stops this group."""

from __future__ import annotations

import os

import keras
import numpy as np
import pytest

from tests.training.codistillation_test import BATCH, batches, compiled, examples, lstm, regression
from tf_codistill import recurrent_state, weights
from tf_codistill.peers.exchange import Exchange
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
