"""PeerExchange: snapshots come and go on time, and nothing that a peer does stops this group."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import threading
import time

import keras
import numpy as np
import pytest
from absl import logging

from tests.faults import failing_storage
from tests.toy_models import BATCH, batches, compiled, deep, examples, lstm, publish, regression, snapshots_in
from tests.workers import run_workers
from tf_codistill import recurrent_state, weights
from tf_codistill.exchange.snapshot import Swap
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


def carried(model: CodistillationModel) -> list[np.ndarray]:
    """The recurrent state of the teachers."""
    return model.teachers.state()[1]


def test_publishes_every_so_many_steps_and_at_the_end(tmp_path) -> None:
    model = compiled(waiting(tmp_path, 0, 2, every_steps=3, keep=9))
    train(model, num_steps=8)
    assert published_steps(tmp_path) == [3, 6, 8]
    (*_, last) = snapshots_in(str(tmp_path), 0, model.student)
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


def test_a_peer_that_has_diverged_does_not_take_its_teacher_along(tmp_path) -> None:
    peer = regression()
    store = publish(str(tmp_path), 1, 5, peer)
    teachers = waiting(tmp_path, 0, 2, every_steps=2)
    model = compiled(teachers)
    train(model)
    held = model.teachers.frozen[0].get_weights()
    broken = [np.full_like(array, np.nan) for array in peer.get_weights()]
    store.publish(10, weights.description(peer), broken)
    train(model)
    assert model.step() == 8
    assert model.teachers.steps() == [5]
    for one, other in zip(model.teachers.frozen[0].get_weights(), held, strict=True):
        np.testing.assert_array_equal(one, other)
    assert teachers.costs.failed_reads == 3  # when training begins again, and at each of two exchanges


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


def test_a_peer_of_another_tokenizer_is_refused_before_training(tmp_path) -> None:
    described = weights.description(regression())
    Store(str(tmp_path), 1, run_id="run").announce(described, step=0, classes="tokenizer 123")
    for classes, refusal in [("tokenizer 456", "'tokenizer 456', the other for 'tokenizer 123'"), ("", None)]:
        teachers = waiting(tmp_path, 0, 2)
        teachers.join(Place("", 0, 2, lambda group: regression, run_id="run", classes=lambda: classes))  # noqa: B023
        model = compiled(teachers)
        with pytest.raises(ValueError, match=refusal) if refusal else contextlib.nullcontext():
            train(model)
        assert model.step() == (0 if refusal else 4)


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
    with pytest.raises(ValueError, match="group is 1; expected"):
        compiled(PeerExchange(str(tmp_path), group=1))


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
    (exchanging,) = model.teachers.callbacks()
    exchanging.set_model(model)
    exchanging.on_train_batch_begin(0)
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
    resumed.batches_seen.number.assign(5)
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
            one
            for one in snapshots_in(str(tmp_path), model.teachers.peers()[0], peer.student)
            if one.step == step
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
    (size,) = [one.num_bytes for one in snapshots_in(str(tmp_path), 1, peer)]
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
    messages: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: messages.append(text % args))
    model = compiled(waiting(tmp_path, 1, 3, every_steps=4), rate=0.0)
    train(model)
    logs = model.history.history
    assert (logs["failed_reads"], logs["failed_publications"]) == ([2.0], [1.0])
    assert model.teachers.peers() == [NO_PEER, 2]
    assert [text for text in messages if "worse than chance" in text][0].startswith(
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


def test_exchange_follows_the_optimizers_steps_under_gradient_accumulation(tmp_path) -> None:
    model = compiled(waiting(tmp_path, every_steps=4, keep=99))
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=4), model.loss)
    train(model, num_steps=32)
    assert model.step() == 8
    assert published_steps(tmp_path) == [4, 8]


def test_exchange_happens_whenever_a_multiple_has_been_passed_at_the_end_of_an_execution(tmp_path) -> None:
    model = compiled(waiting(tmp_path, every_steps=5, keep=99), steps_per_execution=2)
    data = batches(*examples(0, 5))
    model.fit(data, epochs=4, verbose=0, shuffle=False)
    assert published_steps(tmp_path) == [5, 10, 15, 20]
    wide = compiled(waiting(tmp_path / "wide", every_steps=3, keep=99), steps_per_execution=4)
    wide.fit(data.repeat(), steps_per_epoch=16, verbose=0, shuffle=False)
    assert published_steps(tmp_path / "wide") == [4, 8, 12, 16]


def test_the_order_of_callbacks_does_not_matter(tmp_path) -> None:
    """`BackupAndRestore` brings the step back when training begins; no snapshot is withdrawn."""

    def run(num_epochs: int) -> CodistillationModel:
        model = compiled(waiting(tmp_path / "exchange", every_steps=10, keep=99, run_id="one"))
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"), delete_checkpoint=False)
        data = batches(*examples(0, 6)).repeat()
        model.fit(data, epochs=num_epochs, steps_per_epoch=6, verbose=0, shuffle=False, callbacks=[backup])
        return model

    run(4)
    before = published_steps(tmp_path / "exchange")
    model = run(8)
    assert model.step() == 48
    after = published_steps(tmp_path / "exchange")
    assert after[: len(before)] == before, "none has been withdrawn"
    assert after[len(before) :] == [30, 40, 48], "and the phase has not shifted"


def test_a_group_from_which_nobody_learns_keeps_no_snapshots(tmp_path) -> None:
    train(compiled(waiting(tmp_path / "lone", 0, 1, every_steps=1)))
    assert published_steps(tmp_path / "lone") == []
    train(compiled(waiting(tmp_path / "table", 0, 2, every_steps=1, topology={0: [1], 1: []})))
    assert published_steps(tmp_path / "table") == []
    train(compiled(waiting(tmp_path / "always", 0, 1, every_steps=2, publish="always")))
    assert published_steps(tmp_path / "always") == [2, 4]
    Store(str(tmp_path / "asked"), 7).announce_reader(0)
    train(compiled(waiting(tmp_path / "asked", 0, 1, every_steps=2)))
    assert published_steps(tmp_path / "asked") == [2, 4]
    with pytest.raises(ValueError, match="publish is 'sometimes'; expected one of when_read, always"):
        waiting(tmp_path, publish="sometimes")


def test_another_runs_snapshots_are_not_taken_and_this_ones_are_again(tmp_path) -> None:
    publish(str(tmp_path), 1, 900, regression(), run_id="yesterday")
    model = compiled(waiting(tmp_path, every_steps=2, run_id="today"))
    train(model)
    assert model.teachers.steps() == [-1]
    publish(str(tmp_path), 1, 5, regression(), run_id="today")
    train(model)
    first = model.teachers.swaps[-1]
    assert model.teachers.steps() == [5]
    publish(str(tmp_path), 1, 5, regression(), run_id="today")  # started again at the same step
    train(model)
    assert len(model.teachers.swaps) == 2
    assert model.teachers.swaps[-1].incarnation > first.incarnation


def test_storage_may_fail_at_every_call_and_training_goes_on(tmp_path, monkeypatch) -> None:
    model = compiled(waiting(tmp_path / "0", every_steps=2))
    train(model)  # traced
    step, number, swapped = model.step(), 0, 0
    while True:
        number += 1
        directory = tmp_path / str(number)
        publish(str(directory), 1, 1, regression(), clock=lambda: 1000.0 + number)  # noqa: B023
        model.teachers._directory = str(directory)
        failed = dataclasses.replace(model.teachers.costs)
        with failing_storage(lambda call: call == number) as calls:  # noqa: B023
            train(model)
        step += 4
        assert model.step() == step
        costs = model.teachers.costs
        assert published_steps(directory)[-1] == step, calls[number - 1]
        assert (
            costs.failed_reads + costs.failed_publications
            <= failed.failed_reads + failed.failed_publications + 1
        )
        swapped += model.teachers.swaps[-1].step >= step - 4
        if len(calls) < number:
            break
    assert number > 40
    assert swapped == number, "a snapshot is read again"
    with failing_storage(lambda call: True):
        train(model)
    assert model.step() == step + 4


def test_a_courier_of_its_own_thread_brings_and_takes_while_training_goes_on(tmp_path) -> None:
    publish(str(tmp_path), 1, 1, regression())
    model = compiled(PeerExchange(str(tmp_path), 0, 2, every_steps=5, keep=99))

    class Until(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None) -> None:
            time.sleep(0.01)
            self.model.stop_training = len(self.model.teachers.swaps) == 2
            if len(self.model.teachers.swaps) == 1 and not hasattr(self, "peer"):
                self.peer = publish(str(tmp_path), 1, 7, regression())

    data = batches(*examples(0, 10)).repeat()
    model.fit(data, steps_per_epoch=3000, verbose=0, shuffle=False, callbacks=[Until()])
    assert model.teachers.steps() == [7]
    assert published_steps(tmp_path)[-1] == model.step(), "the last one before `fit` returns"
    assert not [thread for thread in threading.enumerate() if thread.name == "courier"]
    assert model.teachers.costs.failed_reads == model.teachers.costs.failed_publications == 0


def test_the_courier_ends_with_training_that_is_broken_off(tmp_path) -> None:
    class Break(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None) -> None:
            raise KeyboardInterrupt

    model = compiled(PeerExchange(str(tmp_path), 0, 2, every_steps=5))
    with pytest.raises(KeyboardInterrupt):
        model.fit(batches(*examples(0, 10)), verbose=0, shuffle=False, callbacks=[Break()])
    assert not [thread for thread in threading.enumerate() if thread.name == "courier"]


def test_swaps_are_logged_and_can_be_repeated(tmp_path, caplog) -> None:
    """A run whose courier took what it found when it found it is repeated to the bit."""

    def model_of(teachers: PeerExchange) -> CodistillationModel:
        keras.utils.set_random_seed(3)
        return compiled(teachers, rate=0.05)

    class Peer(keras.callbacks.Callback):
        """Publishes when the one before was taken; the run ends some steps after the third."""

        published = 0

        def on_train_batch_end(self, batch, logs=None) -> None:
            time.sleep(0.01)
            swaps = self.model.teachers.swaps
            if self.published < len(swaps) < 3:
                self.published += 1
                peer.publish(batch, weights.description(own), [array + batch for array in own.get_weights()])
            self.model.stop_training = len(swaps) == 3 and batch > swaps[-1].step + 10

    own = regression()
    peer = publish(str(tmp_path), 1, 0, own, keep=99)
    data = batches(*examples(0, 200)).repeat()
    first = model_of(PeerExchange(str(tmp_path), 0, 2, every_steps=10, run_id=None))
    logging.set_verbosity(logging.INFO)
    with caplog.at_level("INFO"):
        first.fit(data, steps_per_epoch=5000, verbose=0, shuffle=False, callbacks=[Peer()])
    swaps = first.teachers.swaps
    assert len(swaps) == 3
    logged = [record.args for record in caplog.records if "swap at step" in record.getMessage()]
    assert [Swap(*args) for args in logged] == swaps
    again = model_of(PeerExchange(str(tmp_path), 0, 2, every_steps=10, replay=swaps))
    again.fit(data, steps_per_epoch=first.step(), verbose=0, shuffle=False)
    assert again.teachers.swaps == swaps
    for one, other in zip(again.student.get_weights(), first.student.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    absent = [Swap(3, 0, 1, 1, 1)]
    with pytest.raises(ValueError, match=r"Swap\(step=3.* cannot be taken again: the snapshot is not there"):
        train(model_of(PeerExchange(str(tmp_path), 0, 2, replay=absent)))


_TWO_WORKERS = """
from tf_codistill import distribution
strategy = distribution.create_strategy("auto")
import json, sys, time
import keras, numpy as np, tensorflow as tf
from tests.faults import failing_storage, spared
from tests.toy_models import BATCH, NUM_FEATURES, NUM_CLASSES, publish, regression
from tf_codistill import weights
from tf_codistill.teaching.snapshots import PeerExchange
from tf_codistill.training.codistillation import CodistillationModel

worker, fails, wait = distribution.worker_index(strategy), {fails}, {wait}

class Peer(keras.callbacks.Callback):
    "Publishes another when the first was taken; the run ends when that was."
    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.01)
        swaps = self.model.teachers.swaps
        if worker == 0 and len(swaps) == 1 and batch == swaps[0].step + 5:
            with spared():
                peer.publish(60, weights.description(own), [array + 60 for array in own.get_weights()])
        self.model.stop_training = len(swaps) == 2

keras.utils.set_random_seed(1)
with strategy.scope():
    teachers = PeerExchange({directory!r}, 0, 2, every_steps=10, wait=wait, run_id="run")
    model = CodistillationModel(regression, teachers=teachers)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
def part(context):
    rng = np.random.default_rng(worker)
    x = rng.normal(size=(150, BATCH, NUM_FEATURES)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, rng.integers(0, NUM_CLASSES, (150, BATCH)))).repeat()
data = strategy.distribute_datasets_from_function(part)
own = keras.Sequential([keras.Input((NUM_FEATURES,)), keras.layers.Dense(NUM_CLASSES)])
if worker == 0:
    peer = publish({directory!r}, 1, 0, own, keep=99, run_id="run")
with failing_storage(lambda call: worker in fails and call % fails[worker] == 0):
    model.fit(data, steps_per_epoch={steps}, verbose=0, shuffle=False, callbacks=[Peer()])
print(json.dumps([model.step(), weights.checksum(model.student), teachers.swaps, teachers.steps(),
                  teachers.costs.failed_reads + teachers.costs.failed_publications]))
"""


@pytest.mark.parametrize(
    ("fails", "wait", "most"),
    [
        pytest.param({}, True, 5000, marks=pytest.mark.slow),
        ({0: 31, 1: 13}, False, 5000),
        ({1: 1}, False, 150),
        ({0: 1}, True, 150),
    ],
    ids=str,
)
def test_two_workers_take_the_same_at_the_same_step_whatever_storage_does(
    tmp_path, fails, wait, most
) -> None:
    script = _TWO_WORKERS.format(directory=str(tmp_path / "exchange"), fails=fails, wait=wait, steps=most)
    results = [json.loads(output.splitlines()[-1]) for output in run_workers(script, 2)]
    (step, checksum, swaps, steps, failed), other = results
    assert other[:4] == [step, checksum, swaps, steps]
    for worker, every in fails.items():
        assert results[worker][4] > 0, (worker, every)
    if 1 in fails.values():
        assert swaps == []
        assert step == most
    else:
        assert steps == [60]
        assert len(swaps) == 2
        assert step < most
        assert failed == 0 or fails
