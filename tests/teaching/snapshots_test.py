"""PeerExchange: snapshots come and go on time, and nothing that a peer does stops this group."""

from __future__ import annotations

import json
import pathlib

import keras
import numpy as np
import pytest
from absl import logging

from tests.toy_models import BATCH, batches, compiled, deep, examples, lstm, publish, regression
from tf_codistill import recurrent_state, weights
from tf_codistill.exchange.snapshot import Snapshot
from tf_codistill.exchange.store import Store
from tf_codistill.exchange.topology import NO_PEER, RandomPeers, teachers_of
from tf_codistill.teaching.base import ModelFn, Place
from tf_codistill.teaching.snapshots import PeerExchange
from tf_codistill.training.codistillation import CodistillationModel


def train(model: CodistillationModel, num_steps: int = 4) -> None:
    model.fit(batches(*examples(0, num_steps)), verbose=0, shuffle=False)


def waiting(directory: object, group: int = 0, num_groups: int = 2, **settings: object) -> PeerExchange:
    """One that waits, so that its steps are known."""
    return PeerExchange(str(directory), group, num_groups, **{"wait": True, **settings})


def manifests(directory: pathlib.Path, group: int) -> list[dict[str, object]]:
    """What lies in the exchange, in order."""
    paths = sorted((directory / f"group_{group}").glob("snapshot_*/manifest.json"))
    return [json.loads(path.read_text()) for path in paths]


def published_steps(directory: pathlib.Path, group: int = 0) -> list[object]:
    return [manifest["step"] for manifest in manifests(directory, group)]


def everything(directory: object, group: int, model: keras.Model) -> list[Snapshot]:
    """All snapshots of a group."""
    store = Store(str(directory), group)
    return [store.read(ref, weights.description(model)) for ref in store._refs(group)]


def carried(model: CodistillationModel) -> list[np.ndarray]:
    """The recurrent state of the teachers."""
    return model.teachers.state()[1]


def test_publishes_every_so_many_steps_and_at_the_end(tmp_path) -> None:
    model = compiled(waiting(tmp_path, 0, 2, every_steps=3, keep=9))
    train(model, num_steps=8)
    assert published_steps(tmp_path) == [3, 6, 8]
    (*_, last) = everything(tmp_path, 0, model.student)
    for published, weight in zip(last.weights, model.student.get_weights(), strict=True):
        np.testing.assert_array_equal(published, weight)


def test_steps_are_counted_across_executions_and_epochs(tmp_path) -> None:
    teachers = waiting(tmp_path, 0, 2, every_steps=4, keep=9)
    model = compiled(teachers, steps_per_execution=2)
    data = batches(*examples(0, 3)).repeat()
    model.fit(data, epochs=3, steps_per_epoch=4, verbose=0, shuffle=False)
    assert published_steps(tmp_path) == [4, 8, 12]


def test_the_freshest_committed_snapshot_becomes_the_teacher(tmp_path) -> None:
    old, new, half_written = regression(), regression(), regression()
    publish(str(tmp_path), 1, 5, old)
    publish(str(tmp_path), 1, 10, new)
    publish(str(tmp_path), 1, 15, half_written)
    (*_, newest) = sorted((tmp_path / "group_1").glob("snapshot_*"))
    (newest / "manifest.json").unlink()
    model = compiled(waiting(tmp_path, 0, 2, every_steps=2))
    train(model)
    assert model.teachers.steps() == [10]
    np.testing.assert_array_equal(model.teachers.frozen[0].get_weights()[0], new.get_weights()[0])


def test_a_corrupt_snapshot_is_passed_over_and_training_goes_on(tmp_path) -> None:
    publish(str(tmp_path), 1, 5, regression())
    (data,) = (tmp_path / "group_1").glob("snapshot_*/*.data*")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(bytes(content))
    teachers = waiting(tmp_path, 0, 2, every_steps=2)
    model = compiled(teachers)
    train(model)
    assert model.step() == 4
    assert model.teachers.steps() == [-1]
    assert teachers.costs.failed_reads == 3  # when training begins, and at each of two exchanges


def test_a_peer_that_never_comes_does_not_matter(tmp_path) -> None:
    model = compiled(waiting(tmp_path, 0, 2, every_steps=1))
    train(model)
    assert model.step() == 4
    assert model.teachers.steps() == [-1]


def test_another_model_is_refused_before_training(tmp_path) -> None:
    wider = keras.Sequential([keras.Input((7,)), keras.layers.Dense(4)])
    Store(str(tmp_path), 1).announce(weights.description(wider), step=0)
    model = compiled(waiting(tmp_path, 0, 2))
    with pytest.raises(ValueError, match=r"group 0 and group 1 train different models.*\[5, 4\].*\[7, 4\]"):
        train(model)
    assert model.step() == 0


@pytest.mark.parametrize(
    ("arguments", "number", "peers"),
    [
        ({"num_groups": 3}, 2, {0, 2}),
        ({"num_groups": 3, "topology": "ring"}, 1, {0}),
        ({"num_groups": 4, "topology": RandomPeers(2)}, 2, {0, 2, 3}),
        ({"num_groups": 2, "topology": {0: [1], 1: []}}, 0, set()),
    ],
    ids=str,
)
def test_there_are_as_many_teachers_as_the_topology_says(
    tmp_path, arguments: dict[str, object], number: int, peers: set[int]
) -> None:
    for group in (0, 2, 3):
        publish(str(tmp_path), group, 1, regression())
    teachers = waiting(tmp_path, 1, **arguments)
    model = compiled(teachers)
    assert len(teachers.frozen) == number
    assert teachers.taught_by == (tuple(range(number)),)
    assert teachers.learners() == ["group 1"]
    train(model)
    assert len(set(teachers.peers())) == number
    assert set(teachers.peers()) <= peers
    assert teachers.names() == [f"group {peer}" for peer in teachers.peers()]


def test_without_a_directory_nothing_is_trained() -> None:
    model = compiled(PeerExchange())
    with pytest.raises(ValueError, match="PeerExchange has no directory; name the one through which"):
        train(model)
    assert model.step() == 0


def place(directory: str, group: int, num_groups: int, own: dict[int, ModelFn]) -> Place:
    return Place(directory, group, num_groups, lambda peer: own.get(peer, regression))


def test_an_experiment_says_where_in_a_run_it_stands(tmp_path) -> None:
    teachers = PeerExchange(every_steps=2)
    teachers.join(place(str(tmp_path / "run"), 1, 3, {2: deep}))
    model = compiled(teachers)
    train(model)
    assert teachers.learners() == ["group 1"]
    assert [len(teacher.weights) for teacher in teachers.frozen] == [2, 4]
    assert published_steps(tmp_path / "run", 1)[-1] == 4


def test_what_has_been_given_is_not_overruled_by_the_place(tmp_path) -> None:
    teachers = waiting(tmp_path / "own", peer_model_fns={0: deep})
    teachers.join(place(str(tmp_path / "run"), 1, 2, {}))
    train(compiled(teachers))
    assert published_steps(tmp_path / "own", 1)[-1] == 4
    assert not (tmp_path / "run").exists()
    assert len(teachers.frozen[0].weights) == 4


def test_a_topology_that_needs_more_groups_waits_for_the_place(tmp_path) -> None:
    for topology, number in (("pairs", 4), (RandomPeers(2), 3)):
        teachers = PeerExchange(topology=topology)
        teachers.join(place(str(tmp_path), 1, number, {}))
        assert len(compiled(teachers).teachers.frozen) == (1 if topology == "pairs" else 2)
    with pytest.raises(ValueError, match="'pairs' needs an even number of groups; num_groups is 3"):
        PeerExchange(topology="pairs").join(place("", 0, 3, {}))
    with pytest.raises(ValueError, match="'pairs' needs an even number of groups; num_groups is 3"):
        waiting(tmp_path, 0, 3, topology="pairs")
    for arguments in ({"group": 1}, {"topology": "pairs"}):
        with pytest.raises(ValueError, match="group is 1; expected|num_groups is 1"):
            compiled(PeerExchange(str(tmp_path), **arguments))


def test_a_peer_that_begins_anew_takes_its_teacher_back(tmp_path) -> None:
    publish(str(tmp_path), 1, 900, regression())
    model = compiled(waiting(tmp_path, 0, 2, every_steps=2))
    train(model)
    assert model.teachers.steps() == [900]
    publish(str(tmp_path), 1, 5, regression())
    train(model)
    assert model.teachers.steps() == [5]


def test_a_full_disk_does_not_stop_training(tmp_path, monkeypatch) -> None:
    def full(*args: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Store, "publish", full)
    teachers = waiting(tmp_path, 0, 2, every_steps=2)
    model = compiled(teachers)
    train(model)
    assert model.step() == 4
    assert teachers.costs.failed_publications == 3


def test_a_group_that_is_refused_leaves_no_trace(tmp_path, monkeypatch) -> None:
    wider = keras.Sequential([keras.Input((7,)), keras.layers.Dense(4)])
    peer = Store(str(tmp_path), 1)
    teachers = waiting(tmp_path, 0, 2)
    announce = Store.announce

    def at_the_same_time(store: Store, *args: object) -> None:
        announce(peer, weights.description(wider), 0)
        announce(store, *args)

    monkeypatch.setattr(Store, "announce", at_the_same_time)
    with pytest.raises(ValueError, match="train different models"):
        train(compiled(teachers))
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
    model = compiled(waiting(tmp_path, 0, 2), rate=0.01, model_fn=lstm)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3 * BATCH, 3, 5)).astype("float32")
    data = batches(x, rng.integers(0, 4, 3 * BATCH))
    model.fit(data, shuffle=False, verbose=0)
    for start in range(0, 3 * BATCH, BATCH):
        peer(x[start : start + BATCH])
    own = carried(model)
    np.testing.assert_allclose(own, recurrent_state.values(states), atol=1e-6)

    recurrent_state.assign(states, [np.full((BATCH, 6), 0.9, "float32")] * 2)
    publish(str(tmp_path), 1, 2, peer)
    model.teachers.begin(model)
    model.teachers.end()
    assert model.teachers.steps() == [2]
    np.testing.assert_array_equal(carried(model), own)


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

    def group_0() -> CodistillationModel:
        return compiled(waiting(tmp_path, 0, 5, every_steps=2, topology=topology))

    def run(num_steps: int, model: CodistillationModel) -> list[list[int]]:
        drawn = Drawn()
        model.fit(batches(*examples(0, num_steps)), verbose=0, shuffle=False, callbacks=[drawn])
        return drawn.peers

    straight = run(12, group_0())
    expected = [teachers_of(0, 5, topology, exchange) for exchange in (0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6)]
    assert [sorted(held) for held in straight] == expected
    assert len({tuple(held) for held in expected}) > 2
    for before, after in zip(straight, straight[1:], strict=False):
        for peer in set(before) & set(after):
            assert before.index(peer) == after.index(peer), "who is drawn again keeps its teacher"

    begun = group_0()
    first = run(5, begun)
    resumed = group_0()
    resumed.build_for_data(batches(*examples(0, 1)).element_spec)
    resumed.optimizer.iterations.assign(5)
    resumed.teachers.restore(*begun.teachers.state())
    assert [*first, *run(7, resumed)] == straight
    for held, teacher in zip(resumed.teachers.peers(), resumed.teachers.frozen, strict=True):
        np.testing.assert_array_equal(teacher.get_weights()[0], peers[held].get_weights()[0])


def test_a_teacher_stays_until_the_peer_that_was_drawn_has_published(tmp_path) -> None:
    topology = RandomPeers(1, seed=1)
    (first,), (second,) = (teachers_of(0, 3, topology, exchange) for exchange in (0, 2))
    assert first != second
    publish(str(tmp_path), first, 1, regression())
    model = compiled(waiting(tmp_path, 0, 3, every_steps=2, topology=topology))
    train(model)
    assert model.teachers.peers() == [first]
    publish(str(tmp_path), second, 1, regression())
    rare = compiled(waiting(tmp_path, 0, 3, every_steps=100, topology=topology))
    rare.teachers.restore(*model.teachers.state())
    train(rare)
    assert rare.teachers.peers() == [first], "step 4 of 100 is exchange 0"
    train(model, num_steps=1)
    assert model.teachers.peers() == [second]


def one_of_two_architectures(directory, group: int) -> CodistillationModel:
    model_fns = [regression, deep]
    peer_model_fns = {1 - group: model_fns[1 - group]}
    teachers = waiting(directory, group, 2, every_steps=2, peer_model_fns=peer_model_fns)
    return compiled(teachers, rate=0.3, model_fn=model_fns[group])


def test_groups_of_two_architectures_learn_from_each_other(tmp_path) -> None:
    models = [one_of_two_architectures(tmp_path, group) for group in (0, 1)]
    for _ in range(2):
        for model in models:
            train(model)
    for model, peer, step in zip(models, models[::-1], (4, 8), strict=True):
        assert model.teachers.steps() == [step]
        (taught_by,) = [
            one for one in everything(tmp_path, model.teachers.peers()[0], peer.student) if one.step == step
        ]
        for one, other in zip(model.teachers.frozen[0].get_weights(), taught_by.weights, strict=True):
            np.testing.assert_array_equal(one, other)
        assert model.history.history["distillation_loss"][0] > 0


def test_an_architecture_that_is_not_that_of_the_teacher_is_refused(tmp_path) -> None:
    train(one_of_two_architectures(tmp_path, 0))
    with pytest.raises(ValueError, match="group 1 and group 0 train different models"):
        train(compiled(waiting(tmp_path, 1, 2, peer_model_fns={0: deep})))
    train(one_of_two_architectures(tmp_path, 1))


def test_random_peers_have_one_architecture(tmp_path) -> None:
    Store(str(tmp_path), 2).announce(weights.description(deep()), step=0)
    with pytest.raises(ValueError, match="group 0 and group 2 train different models"):
        train(compiled(waiting(tmp_path, 0, 3, topology=RandomPeers(1))))


def test_what_the_exchange_costs_is_in_the_logs_of_the_users_callbacks(tmp_path) -> None:
    now = [1000.0]
    peer = regression()
    publish(str(tmp_path), 1, 1, peer, clock=lambda: 970.0)
    teachers = waiting(tmp_path, 0, 2, every_steps=2, clock=lambda: now[0])
    model = compiled(teachers)
    table = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    data = batches(*examples(0, 4)).repeat()
    logs = model.fit(data, epochs=2, steps_per_epoch=4, verbose=0, shuffle=False, callbacks=[table]).history
    (size,) = [one.num_bytes for one in everything(tmp_path, 1, peer)]
    assert logs["read_bytes"] == [size, 0.0], "at the beginning, and never again"
    assert logs["published_bytes"][0] == logs["published_bytes"][1] > 0
    assert sum(logs["published_bytes"]) == teachers.costs.published_bytes
    assert 0 < logs["exchange_secs"][1] < sum(logs["exchange_secs"]) < 60
    assert logs["staleness_secs"] == [30.0, 30.0]
    assert logs["failed_reads"] == logs["failed_publications"] == [0.0, 0.0]
    written = np.genfromtxt(tmp_path / "log.csv", delimiter=",", names=True)
    for name in (
        "read_bytes",
        "published_bytes",
        "skipped_publications",
        "exchange_secs",
        "staleness_secs",
        "teacher_task_loss",
    ):
        np.testing.assert_allclose(written[name], logs[name], rtol=1e-6)


def test_failures_are_logged_and_bad_teachers_warned_of_by_the_group_that_published(
    tmp_path, monkeypatch
) -> None:
    peer = regression()
    peer.set_weights([50 * weight for weight in peer.get_weights()])
    publish(str(tmp_path), 2, 1, peer)
    publish(str(tmp_path), 0, 1, regression())
    (data,) = (tmp_path / "group_0").glob("snapshot_*/*.data*")
    data.write_bytes(b"")
    monkeypatch.setattr(Store, "publish", _full)
    said: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: said.append(text % args))
    model = compiled(waiting(tmp_path, 1, 3, every_steps=4), rate=0.0)
    train(model)
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
        model = compiled(waiting(tmp_path, group, 2), model_fn=BuiltByItsFirstBatch)
        train(model)
    assert model.teachers.steps() == [4]
