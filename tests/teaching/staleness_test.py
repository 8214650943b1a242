"""Teachers whose snapshots are too old: without a share, on every replica and worker, until fresher come."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from tests.replicas import two_replicas
from tests.toy_models import BATCH, batches, compiled, examples, publish, regression, snapshot_of
from tests.workers import run_workers
from tf_codistill import weights
from tf_codistill.exchange.snapshot import Ref, Swap
from tf_codistill.exchange.topology import NO_PEER
from tf_codistill.teaching.frozen import NO_SNAPSHOT, FrozenTeachers
from tf_codistill.teaching.snapshots import PeerExchange
from tf_codistill.training.codistillation import CodistillationModel

HELD = (NO_SNAPSHOT, 0, 5, 7, 30)


def held_at(steps: Sequence[int], limit: int | None) -> FrozenTeachers:
    teachers = FrozenTeachers(len(steps), max_staleness_steps=limit)
    teachers.make([regression()], [regression])
    for index, step in enumerate(steps):
        if step != NO_SNAPSHOT:
            teachers.refresh(index, snapshot_of(regression(), step, group=index))
    return teachers


@pytest.mark.parametrize("limit", [None, 1, 3, 8])
def test_who_has_a_share_is_what_numpy_says(limit: int | None) -> None:
    steps_P = np.array(HELD)
    teachers = held_at(HELD, limit)
    asked = tf.function(lambda step: teachers.teach([tf.zeros([2, 5])], [None], step, [None])[0].present_PB)
    for step in range(14):
        behind_P = step + 1 - steps_P
        present_P = (steps_P >= 0) & (behind_P <= (np.inf if limit is None else limit))
        now = tf.constant(step, tf.int64)
        np.testing.assert_array_equal(teachers.present(now), present_P)
        assert bool(teachers.any_present(now)) == present_P.any()
        np.testing.assert_array_equal(asked(now), np.repeat(present_P[:, np.newaxis], 2, axis=1))
        mean = behind_P[present_P].mean() if present_P.any() else 0.0
        assert float(teachers.staleness_steps(now)) == pytest.approx(mean)
        assert teachers.out_of_date(step) == list(np.flatnonzero((steps_P >= 0) & ~present_P))


def test_on_replicas_all_see_the_same() -> None:
    strategy = two_replicas()
    with strategy.scope():
        teachers = held_at([4, 6], 3)

    @tf.function
    def on_replicas(step: tf.Tensor) -> tf.Tensor:
        return strategy.run(lambda: teachers.present(step))

    for step, expected in ((6, [1.0, 1.0]), (7, [0.0, 1.0]), (8, [0.0, 1.0]), (9, [0.0, 0.0])):
        for found in strategy.experimental_local_results(on_replicas(tf.constant(step, tf.int64))):
            np.testing.assert_array_equal(found, expected)


class Weighed(keras.callbacks.Callback):
    """Notes after each step whether anything was taught in it, and how old it was."""

    def __init__(self) -> None:
        super().__init__()
        self.taught: list[bool] = []
        self._sums = 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        meters = self.model.meters
        counts = float(meters._sums.value[1, meters.names.index("staleness_steps")])
        self.taught.append(counts > self._sums)
        self._sums = counts


def train(model: CodistillationModel, num_steps: int, seed: int = 0, *others: Any) -> list[bool]:
    weighed = Weighed()
    data = batches(*examples(seed, num_steps))
    model.fit(data, verbose=0, shuffle=False, callbacks=[weighed, *others])
    return weighed.taught


def waiting(directory: pathlib.Path, group: int, **settings: Any) -> PeerExchange:
    return PeerExchange(str(directory), group, 2, every_steps=4, wait=True, run_id="run", **settings)


@pytest.mark.parametrize("replicas", [1, 2])
def test_of_two_groups_one_stops_publishing(tmp_path: pathlib.Path, monkeypatch, replicas: int) -> None:
    """The other learns from it for so many steps, then alone, and again when it is back."""
    messages: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: messages.append(text % args))
    scope = two_replicas().scope() if replicas == 2 else tf.distribute.get_strategy().scope()
    peer = compiled(waiting(tmp_path, 1))
    train(peer, 4)
    with scope:
        model = compiled(waiting(tmp_path, 0, max_staleness_steps=6))
    taught = train(model, 14)
    assert model.teachers.steps() == [4]
    assert taught == [True] * 10 + [False] * 4, "the snapshot of step 4 is 6 steps old after the tenth"
    logs = {name: values[-1] for name, values in model.history.history.items()}
    assert logs["outdated_teachers"] == 1.0
    assert logs["staleness_steps"] == pytest.approx(np.mean([step + 1 - 4 for step in range(10)]))
    assert logs["dropped_teachers"] == 0.0
    told = [text for text in messages if "out of date" in text]
    assert told == [
        "group 0: the teacher from group 1 is out of date at step 10; it has no share until something "
        "fresher comes"
    ]
    train(peer, 8)
    assert train(model, 2) == [True] * 2
    assert model.teachers.steps() == [12]
    assert model.history.history["outdated_teachers"] == [0.0]


def test_within_an_execution_of_several_steps_each_counts(tmp_path: pathlib.Path) -> None:
    publish(str(tmp_path), 1, 0, regression(), run_id="run")
    model = compiled(waiting(tmp_path, 0, max_staleness_steps=5), steps_per_execution=4)
    data = batches(*examples(0, 8))
    model.fit(data, verbose=0, shuffle=False)
    counts = float(model.meters._sums.value[1, model.meters.names.index("staleness_steps")])
    assert counts == 5.0 * BATCH, "rows of four steps of the first execution, and of one of the second"


def test_a_teacher_without_a_share_changes_nothing(tmp_path: pathlib.Path) -> None:
    publish(str(tmp_path), 1, 0, regression(), run_id="run")
    found = []
    for name, limit in (("", 3), ("empty", None)):
        keras.utils.set_random_seed(7)
        model = compiled(waiting(tmp_path / name, 0, max_staleness_steps=limit), rate=0.1)
        model.batches_seen.number.assign(3)
        train(model, 5)
        found.append(weights.checksum(model.student))
    assert found[0] == found[1]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Ticks(keras.callbacks.Callback):
    """A second for each step."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._clock.now += 1.0


def test_by_the_clock_a_teacher_is_out_and_back_and_a_repeated_run_needs_none(
    tmp_path: pathlib.Path, caplog
) -> None:
    clock, own = Clock(), regression()
    peer = publish(str(tmp_path), 1, 0, own, keep=99, run_id="run", clock=clock)

    class Peer(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 9:
                peer.publish(9, weights.description(own), [array + 1 for array in own.get_weights()])

    def of(**settings: Any) -> CodistillationModel:
        keras.utils.set_random_seed(5)
        return compiled(waiting(tmp_path, 0, **settings), rate=0.05)

    model = of(max_staleness_secs=4.5, clock=clock)
    with caplog.at_level("INFO"):
        taught = train(model, 20, 0, Ticks(clock), Peer())
    (first, second) = (Ref(1, 1000, 1), Ref(1, 1000, 2))
    swaps = [Swap(0, 0, *first), Swap(5, 0, NO_PEER, 0, 0), Swap(12, 0, *second), Swap(15, 0, NO_PEER, 0, 0)]
    assert model.teachers.swaps == swaps
    assert taught == [True] * 5 + [False] * 7 + [True] * 3 + [False] * 5
    assert model.history.history["outdated_teachers"] == [1.0]
    assert len([one for one in caplog.records if "out of date" in one.getMessage()]) == 2
    assert model.teachers.held == [second], "it is not read once more"
    again = of(replay=swaps)
    assert train(again, 20) == taught
    assert again.teachers.swaps == swaps
    assert weights.checksum(again.student) == weights.checksum(model.student)


def test_what_a_checkpoint_keeps_goes_on_exactly(tmp_path: pathlib.Path) -> None:
    """Whoever is out is out after a restart, by steps and by the clock, and does not read the same again."""
    publish(str(tmp_path), 1, 0, regression(), run_id="run", clock=lambda: 1000.0)

    def of(now: float, **limit: Any) -> CodistillationModel:
        keras.utils.set_random_seed(5)
        return compiled(waiting(tmp_path, 0, clock=lambda: now, **limit), rate=0.05)

    for limit, now in (({"max_staleness_steps": 6}, 1000.0), ({"max_staleness_secs": 5.0}, 1006.0)):
        straight, begun, resumed = of(now, **limit), of(now, **limit), of(now, **limit)
        taught = train(straight, 12)
        data = batches(*examples(0, 12))
        begun.fit(data.take(7), verbose=0, shuffle=False)
        resumed.build_for_data(data.element_spec)
        resumed.batches_seen.number.assign(7)
        resumed.student.set_weights(begun.student.get_weights())
        resumed.teachers.restore(*begun.teachers.state())
        weighed = Weighed()
        resumed.fit(data.skip(7), verbose=0, shuffle=False, callbacks=[weighed])
        assert weighed.taught == taught[7:]
        assert not all(taught)
        assert resumed.teachers.swaps == []
        assert weights.checksum(resumed.student) == weights.checksum(straight.student)


def test_limits_out_of_range_are_named() -> None:
    for limit in (0, -3):
        with pytest.raises(ValueError, match=f"max_staleness_steps is {limit}; expected at least 1, or None"):
            PeerExchange(max_staleness_steps=limit)
    for secs in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"max_staleness_secs is {secs}; expected more than 0, or None"):
            PeerExchange(max_staleness_secs=secs)


def test_a_gin_file_can_bind_both() -> None:
    with gin.unlock_config():
        gin.parse_config("PeerExchange.max_staleness_steps = 7\nPeerExchange.max_staleness_secs = 90.0")
        try:
            teachers = PeerExchange()
        finally:
            gin.clear_config()
    assert (teachers._max_staleness_steps, teachers.max_staleness_secs) == (7, 90.0)


def test_age_is_that_of_what_is_held() -> None:
    teachers = held_at([NO_SNAPSHOT, 5], None)
    old = dataclasses.replace(snapshot_of(regression(), 5, group=1), published_at=940.0)
    teachers.refresh(1, old)
    assert teachers.ages_secs(1000.0) == {1: 60.0}
    teachers.retire(1)
    assert teachers.steps() == [NO_SNAPSHOT, NO_SNAPSHOT]
    assert teachers.peers()[1] == 1
    assert teachers.out_of_date(5) == [1]
    teachers.refresh(1, old)
    assert teachers.steps() == [NO_SNAPSHOT, 5]


_TWO_WORKERS = """
from tf_codistill import distribution
strategy = distribution.create_strategy("auto")
import json
import keras, numpy as np, tensorflow as tf
from tests.toy_models import BATCH, NUM_FEATURES, NUM_CLASSES, publish, regression
from tf_codistill import weights
from tf_codistill.teaching.snapshots import PeerExchange
from tf_codistill.training.codistillation import CodistillationModel

worker = distribution.worker_index(strategy)
now = [1000.0 + 500.0 * worker]

class Ticks(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        now[0] += 1.0

keras.utils.set_random_seed(1)
with strategy.scope():
    teachers = PeerExchange({directory!r}, 0, 2, every_steps=4, wait=True, run_id="run",
                            clock=lambda: now[0], {limit})
    model = CodistillationModel(regression, teachers=teachers)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
def part(context):
    rng = np.random.default_rng(worker)
    x = rng.normal(size=(12, BATCH, NUM_FEATURES)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, rng.integers(0, NUM_CLASSES, (12, BATCH))))
data = strategy.distribute_datasets_from_function(part)
own = keras.Sequential([keras.Input((NUM_FEATURES,)), keras.layers.Dense(NUM_CLASSES)])
if worker == 0:
    publish({directory!r}, 1, 0, own, run_id="run", clock=lambda: 1000.0)
logs = model.fit(data, verbose=0, shuffle=False, callbacks=[Ticks()]).history
print(json.dumps([weights.checksum(model.student), teachers.swaps, teachers.steps(),
                  logs["staleness_steps"], logs["outdated_teachers"]]))
"""


@pytest.mark.parametrize("limit", ["max_staleness_steps=5", "max_staleness_secs=5.5"])
def test_two_workers_whose_clocks_differ_put_the_same_out_at_the_same_step(tmp_path, limit: str) -> None:
    script = _TWO_WORKERS.format(directory=str(tmp_path / "exchange"), limit=limit)
    one, other = [json.loads(output.splitlines()[-1]) for output in run_workers(script, 2)]
    assert one == other
    is_by_clock = "secs" in limit
    assert one[1][1:] == ([[6, 0, NO_PEER, 0, 0]] if is_by_clock else [])
    assert one[2] == [NO_SNAPSHOT if is_by_clock else 0]
    assert one[3] == [pytest.approx(3.5 if is_by_clock else 3.0)]
    assert one[4] == [1.0]
