"""Groups that join and leave while others train."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.toy_models import BATCH, batches, compiled, deep, examples, lstm, publish, regression
from tests.workers import run_workers
from tf_codistill import files, recurrent_state, weights
from tf_codistill.exchange.courier import Costs, Courier
from tf_codistill.exchange.snapshot import Swap
from tf_codistill.exchange.store import Store
from tf_codistill.exchange.topology import NO_PEER
from tf_codistill.teaching.base import PEER, ModelFn, Place
from tf_codistill.teaching.frozen import NO_SNAPSHOT
from tf_codistill.teaching.snapshots import PeerExchange
from tf_codistill.training.codistillation import CodistillationModel


def elastic(directory: object, group: int = 0, **settings: Any) -> PeerExchange:
    defaults: dict[str, Any] = {"max_teachers": 2, "every_steps": 2, "wait": True, "run_id": "run"}
    return PeerExchange(str(directory), group, 1, **defaults | settings)


def train(model: CodistillationModel, num_steps: int, *callbacks: Any, seed: int = 0) -> None:
    model.fit(batches(*examples(seed, num_steps)), verbose=0, shuffle=False, callbacks=list(callbacks))


class At(keras.callbacks.Callback):
    """Does something after some steps, and notes who teaches after each."""

    def __init__(self, **done: Any) -> None:
        super().__init__()
        self._done = {int(name.removeprefix("step_")): do for name, do in done.items()}
        self.present: list[list[float]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._done.get(self.model.step(), lambda: None)()
        self.present.append(self.model.teachers.present(self.model.step()).numpy().tolist())


def test_teachers_follow_who_comes_and_goes(tmp_path: pathlib.Path) -> None:
    stores: dict[int, Store] = {}

    def join(group: int) -> None:
        stores[group] = publish(str(tmp_path), group, 10 * group, regression(), run_id="run")

    def leave(group: int) -> None:
        stores[group].leave()

    model = compiled(elastic(tmp_path))
    at = At(step_3=lambda: join(4), step_5=lambda: join(2), step_9=lambda: leave(4), step_19=lambda: join(4))
    train(model, 22, at)
    nobody, one, both, other = [0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]
    # Exchanges are after steps 2, 4, ...; who is not there in three of them running has left.
    assert at.present == [*3 * [nobody], *2 * [one], *8 * [both], *6 * [other], *3 * [both]]
    assert model.teachers.peers() == [4, 2]
    assert model.teachers.steps() == [40, 20]
    swaps = [(swap.step, swap.seat, swap.peer) for swap in model.teachers.swaps]
    assert swaps == [(4, 0, 4), (6, 1, 2), (14, 0, NO_PEER), (20, 0, 4)]


def test_a_repeated_run_puts_the_same_teachers_out_at_the_same_steps(tmp_path: pathlib.Path) -> None:
    store = publish(str(tmp_path), 1, 10, regression(), run_id="run")
    first = compiled(elastic(tmp_path))
    train(first, 12, At(step_3=store.leave))
    assert [swap.peer for swap in first.teachers.swaps] == [1, NO_PEER]
    keras.utils.set_random_seed(0)
    again = compiled(elastic(tmp_path, replay=first.teachers.swaps))
    at = At()
    train(again, 12, at)
    assert again.teachers.swaps == first.teachers.swaps
    assert at.present == [*7 * [[1.0, 0.0]], *5 * [[0.0, 0.0]]]


def test_a_group_that_is_stopped_leaves_and_one_that_has_ended_stays(tmp_path: pathlib.Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    ended, stopped = compiled(elastic(tmp_path, 1)), compiled(elastic(tmp_path, 2))
    train(ended, 4)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, 6, At(step_3=stop))
    store = Store(str(tmp_path), 0, run_id="run")
    assert store.members() == {1}
    assert store.newest(2) is not None, "its snapshots stay, for when it comes back"
    train(stopped, 2)
    assert store.members() == {1, 2}
    model = compiled(elastic(tmp_path))
    train(model, 1)
    assert model.teachers.peers() == [1, 2]


def test_nobody_leaves_in_the_name_of_who_came_after(tmp_path: pathlib.Path) -> None:
    zombie = publish(str(tmp_path), 1, 10, regression(), run_id="run", clock=lambda: 100.0)
    publish(str(tmp_path), 1, 20, regression(), run_id="run", clock=lambda: 200.0)
    zombie.leave()
    Store(str(tmp_path), 2, run_id="run").leave()  # has never come
    assert zombie.members() == {1}


def test_only_groups_of_this_run_that_have_published_are_members(tmp_path: pathlib.Path) -> None:
    store = publish(str(tmp_path), 1, 10, regression(), run_id="run")
    Store(str(tmp_path), 2, run_id="run").announce(weights.description(regression()), 0)
    publish(str(tmp_path), 3, 10, regression(), run_id="run")
    content = json.loads((tmp_path / "group_3/model.json").read_text())
    (tmp_path / "group_3/model.json").write_text(json.dumps(content | {"run_id": "another"}))
    publish(str(tmp_path), 4, 10, regression(), run_id="run")
    (tmp_path / "group_4/model.json").write_text("[" * 100_000)
    (tmp_path / "group_x").mkdir()
    (tmp_path / "group_5").symlink_to(tmp_path / "group_1")
    assert store.members() == {1}


def test_a_listing_may_lose_a_group_for_a_moment(tmp_path: pathlib.Path) -> None:
    class Listing:
        group = 0
        found = [{1, 2}, {1}, {1}, {1, 2}, {1}, OSError("503"), {1}, {1}, {2}]

        def members(self) -> frozenset[int]:
            one = self.found.pop(0)
            if isinstance(one, OSError):
                raise one
            return frozenset(one)

    costs = Costs()
    courier = Courier(Listing(), [], None, None, costs, looks_for_members=True)  # type: ignore[arg-type]
    seen = []
    for _ in range(9):
        courier.look_for_members()
        seen.append(set(courier.members or ()))
    assert seen == [*7 * [{1, 2}], {1}, {1, 2}]
    assert costs.failed_reads == 1


def test_another_model_cannot_join(tmp_path: pathlib.Path) -> None:
    publish(str(tmp_path), 3, 10, deep(), run_id="run")
    with pytest.raises(ValueError, match="group 0 and group 3 train different models"):
        train(compiled(elastic(tmp_path)), 1)
    with pytest.raises(ValueError, match="peer_model_fns gives different models"):
        compiled(elastic(tmp_path, peer_model_fns={0: regression, 1: deep}))


def joining(directory: pathlib.Path, model_fn: ModelFn = regression) -> CodistillationModel:
    """A model of group 5, which is to start from a peer."""
    teachers = elastic("")
    teachers.join(Place(str(directory), 5, 1, lambda peer: model_fn, "run", PEER))
    model = compiled(teachers, model_fn=model_fn)
    inputs = np.zeros((BATCH, 3, 5) if model_fn is lstm else (BATCH, 5), "float32")
    model.build_for_data(batches(inputs, np.zeros(BATCH, int)).element_spec)
    return model


def test_a_late_group_starts_from_the_most_advanced_peer_that_can_be_read(tmp_path: pathlib.Path) -> None:
    behind, ahead, broken = regression(), regression(), regression()
    publish(str(tmp_path), 1, 300, behind, run_id="run")
    publish(str(tmp_path), 2, 400, ahead, run_id="run", precision="bfloat16")
    publish(str(tmp_path), 3, 900, broken, run_id="run")
    publish(str(tmp_path), 5, 999, regression(), run_id="run")  # its own, of which it has no checkpoint
    (data,) = (tmp_path / "group_3").glob("snapshot_*/*.data*")
    data.write_bytes(b"")
    model = joining(tmp_path)
    assert model.teachers.first_step(model) == 400
    for own, others in zip(model.student.get_weights(), ahead.get_weights(), strict=True):
        np.testing.assert_allclose(own, others, rtol=2**-8)
    model.count_from(400)
    assert (model.step(), int(model.optimizer.iterations)) == (400, 400)


def test_the_recurrent_state_of_the_peers_lanes_comes_with_it(tmp_path: pathlib.Path) -> None:
    peer = lstm()
    recurrent_state.assign(recurrent_state.variables(peer), [np.full((BATCH, 6), 0.25, "float32")] * 2)
    publish(str(tmp_path), 1, 30, peer, run_id="run")
    model = joining(tmp_path, lstm)
    assert model.teachers.first_step(model) == 30
    for state in recurrent_state.values(recurrent_state.variables(model.student)):
        np.testing.assert_array_equal(state, 0.25)


def test_where_there_is_nothing_to_start_from_that_is_said(tmp_path: pathlib.Path) -> None:
    model = joining(tmp_path)
    with pytest.raises(ValueError, match="there is no snapshot of a peer that this group could start from"):
        model.teachers.first_step(model)


TWO_WORKERS = """
import json

import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()

from tests.teaching import elastic_test

print(json.dumps(elastic_test.of_two_workers(strategy, {directory!r})))
"""


def of_two_workers(strategy: tf.distribute.Strategy, directory: str) -> list[Any]:
    """A group starts from a peer, which leaves: what each of its workers has in the end."""
    with strategy.scope():
        model = joining(pathlib.Path(directory))
    step = model.teachers.first_step(model)
    started = weights.checksum(model.student)
    data = strategy.distribute_datasets_from_function(lambda context: batches(*examples(0, 24)))
    leaving = At(step_10=lambda: files.remove(f"{directory}/group_1/model.json"))
    model.fit(data, steps_per_epoch=24, verbose=0, shuffle=False, callbacks=[leaving])
    return [step, started, weights.checksum(model.student), model.teachers.swaps, model.teachers.steps()]


def test_two_workers_start_alike_and_put_out_alike(tmp_path: pathlib.Path) -> None:
    publish(str(tmp_path), 1, 70, regression(), run_id="run")
    script = TWO_WORKERS.format(directory=str(tmp_path))
    one, other = (json.loads(output.splitlines()[-1]) for output in run_workers(script, 2))
    assert one == other
    step, started, ended, swaps, steps = one
    assert step == 70
    assert started != ended
    assert [Swap(*swap)[:3] for swap in swaps] == [(0, 0, 1), (16, 0, NO_PEER)]
    assert steps == [NO_SNAPSHOT, NO_SNAPSHOT]
