"""A group goes on with another number of replicas, as if it had had them from the start.

Whole batches are the same whoever reads them, so that only the order in which a few numbers are added up
differs from an undisturbed run. Real workers are in `tests/integration/redealing_test.py`.
"""

from __future__ import annotations

import functools
import json
import logging as standard_logging
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.toy_models import publish
from tests.training.checkpoint import checkpointing_test
from tests.training.checkpoint.checkpointing_test import At, DiedError, Patient, compiled, die, normalised
from tests.workers import run_workers
from tf_codistill import checkpoints, weights
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.redealing import Layout, Redealing
from tf_codistill.teaching.base import Teaching
from tf_codistill.teaching.fellows import FellowStudents
from tf_codistill.teaching.snapshots import PeerExchange
from tf_codistill.training.checkpoint import state
from tf_codistill.training.checkpoint.progress import BatchesSeen, fingerprint
from tf_codistill.training.codistillation import CodistillationModel

LANES, WINDOW, PIECES = 8, 3, 11
STEPS = 5  # of an epoch
EPOCHS = 2
SAVED, DIED = 3, 4

# A step adds up some hundred numbers below 1 in another order: 1e-14 in float64, and 1e-7 where psi, which is
# computed in float32, has a part in them. Ten steps of a few pieces let none of it grow much.
BOUND, BOUND_OF_PSI = 1e-12, 1e-5

Strategy = tf.distribute.Strategy


def alone() -> Strategy:
    return tf.distribute.get_strategy()


def text(seed: int = 0, lanes: int = LANES) -> tf.data.Dataset:
    """Lanes that move on by a window in each step."""
    ids = np.random.default_rng(seed).integers(0, PIECES, (STEPS * lanes, WINDOW + 1)).astype("int32")
    return tf.data.Dataset.from_tensor_slices((ids[:, :-1], ids[:, 1:])).batch(lanes, drop_remainder=True)


def language_model(rows: int) -> keras.Model:
    return LanguageModel(PIECES, 4, 1, 6, batch_size=rows, dtype="float64")


def grouped(strategy: Strategy, teachers: Teaching | None = None, lanes: int = LANES) -> CodistillationModel:
    """A new process's model, in which each replica has its part of the lanes."""
    keras.utils.set_random_seed(1)
    rows = lanes // strategy.num_replicas_in_sync
    with strategy.scope():
        model = CodistillationModel(lambda: language_model(rows), teachers, measure_every_steps=2)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
        model.compile(keras.optimizers.SGD(0.5), loss, metrics=["accuracy"], jit_compile=False)
    return model


class Restored(keras.callbacks.Callback):
    """Notes what is there when training goes on."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._then = then

    def on_train_begin(self, logs: Any = None) -> None:
        self.shared, self.own = state.of(self.model)
        self._then()


def fit(
    model: CodistillationModel, directory: pathlib.Path, *callbacks: keras.callbacks.Callback, **changes: Any
) -> dict[str, list[float]]:
    """Trains in epochs of five steps, with checkpoints at every third."""
    arguments = {"x": text(), "epochs": EPOCHS, "verbose": 0, "shuffle": False, **changes}
    ours = Patient(str(directory), every_steps=SAVED)
    return model.fit(**arguments, callbacks=[ours, *callbacks]).history


def begin(model: CodistillationModel, directory: pathlib.Path, **changes: Any) -> checkpoints.ByName:
    """Trains until it dies in the first epoch; returns what was its own in the last checkpoint."""
    with pytest.raises(DiedError):
        fit(model, directory, At(DIED, die), **changes)
    step, _, (own,) = checkpoints.read_latest(str(directory))
    assert step == SAVED
    return own


def restored(model: CodistillationModel, directory: pathlib.Path, **changes: Any) -> Restored:
    """What a model has before it takes another step."""
    found = Restored(then=die)
    with pytest.raises(DiedError):
        fit(model, directory, found, **changes)
    return found


def assert_close(found: pathlib.Path, expected: pathlib.Path, bound: float) -> None:
    """Weights, recurrent states and teachers' states of all lanes in the last checkpoints."""
    (step, shared, (own,)), (last, *theirs) = (checkpoints.read_latest(str(one)) for one in (found, expected))
    assert step == last == STEPS * EPOCHS
    pairs = [(shared["weights"], theirs[0]["weights"])]
    pairs += [(own[name], theirs[1][0][name]) for name in ("lanes", "teacher_lanes")]
    assert pairs[1][0]
    for arrays, others in pairs:
        for one, other in zip(arrays, others, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=bound)


def peers(exchange: pathlib.Path) -> PeerExchange:
    """Group 1 has published once, and is gone; every lane had another state."""
    if not exchange.exists():
        keras.utils.set_random_seed(5)
        states = [np.random.default_rng(7).normal(scale=0.3, size=(LANES, 6)) for _ in range(2)]
        publish(str(exchange), 1, 1, language_model(LANES), states)
    return PeerExchange(str(exchange), 0, 2, every_steps=2, wait=True)


TEACHING = {
    "nobody": (lambda exchange: Teaching(), BOUND),
    "peers": (peers, BOUND_OF_PSI),
    "fellows": (lambda exchange: FellowStudents(batches="different", refresh_every_steps=2), BOUND_OF_PSI),
}


def make(strategy: Strategy, tmp_path: pathlib.Path, teaching: str) -> CodistillationModel:
    lanes = LANES // (2 if teaching == "fellows" else 1)
    return grouped(strategy, TEACHING[teaching][0](tmp_path / "exchange"), lanes)


def go_on(now: Strategy, tmp_path: pathlib.Path, teaching: str) -> dict[str, list[float]]:
    """Goes on with what `begin` has left, with another number of replicas."""
    _, _, (own,) = checkpoints.read_latest(str(tmp_path / "run"))
    model, found = make(now, tmp_path, teaching), Restored()
    history = fit(model, tmp_path / "run", found)
    for name in ("lanes", "teacher_lanes"):
        for one, other in zip(found.own[name], own[name], strict=True):
            np.testing.assert_array_equal(one, other)
            assert len({tuple(row) for row in one}) == len(one), "lanes can be told apart"
    if teaching == "peers":
        steps_P, have_read_P = found.shared["teachers"][2:4]
        assert (steps_P.tolist(), have_read_P.tolist()) == ([1], [1]), "so that its state is kept"
    assert_close(tmp_path / "run", tmp_path / "whole", TEACHING[teaching][1])
    return {name: history[name] for name in model.get_metrics_result()}


def undisturbed(tmp_path: pathlib.Path, teaching: str) -> dict[str, list[float]]:
    """One replica from beginning to end."""
    return fit(make(alone(), tmp_path, teaching), tmp_path / "whole")


def assert_logs_close(found: dict[str, list[float]], expected: dict[str, list[float]]) -> None:
    assert {"loss", "total_loss", "accuracy", "distillation_loss", "teacher_kl"} < found.keys()
    for name, values in found.items():
        assert values == pytest.approx(expected[name], rel=1e-4, abs=1e-6), f"{name} of both epochs"


@pytest.mark.parametrize(
    ("before", "now", "teaching"),
    [
        (two_replicas, alone, "nobody"),
        (alone, two_replicas, "peers"),
        pytest.param(alone, two_replicas, "nobody", marks=pytest.mark.slow),
        pytest.param(two_replicas, alone, "peers", marks=pytest.mark.slow),
        pytest.param(two_replicas, alone, "fellows", marks=pytest.mark.slow),
        pytest.param(alone, two_replicas, "fellows", marks=pytest.mark.slow),
    ],
)
def test_lanes_meet_their_own_state_on_another_number_of_replicas(
    tmp_path: pathlib.Path, before: Any, now: Any, teaching: str, caplog: pytest.LogCaptureFixture
) -> None:
    history = undisturbed(tmp_path, teaching)
    begin(make(before(), tmp_path, teaching), tmp_path / "run")
    with caplog.at_level(standard_logging.INFO, logger="absl"):
        assert_logs_close(go_on(now(), tmp_path, teaching), history)
    sizes = "1 worker of {} in place of 1 of {}"
    words = sizes.format("2 replicas", 1) if now is two_replicas else sizes.format("1 replica", 2)
    assert f"the group goes on with {words}: lanes are dealt anew\n" in caplog.text
    assert "do not repeat" not in caplog.text


_FOUR = """
import json, pathlib
import tensorflow as tf
devices = [tf.config.LogicalDeviceConfiguration()] * 4
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
from tests.training.checkpoint import redealing_test
four = tf.distribute.MirroredStrategy([f"CPU:{{i}}" for i in range(4)])
print(json.dumps(redealing_test.go_on(four, pathlib.Path({directory!r}), "peers")))
"""


@pytest.mark.slow
def test_two_replicas_become_four(tmp_path: pathlib.Path) -> None:
    history = undisturbed(tmp_path, "peers")
    begin(make(two_replicas(), tmp_path, "peers"), tmp_path / "run")
    (output,) = run_workers(_FOUR.format(directory=str(tmp_path)), num_workers=1)
    assert_logs_close(json.loads(output.splitlines()[-1]), history)


def test_what_replicas_hold_apart_begins_from_its_mean(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Batch statistics of students and of their stale copies; seeds are the same on all replicas."""
    make = functools.partial(compiled, normalised, checkpointing_test.STALE, run_eagerly=False)
    data = {"x": checkpointing_test.finite()}
    own = begin(make(strategy=two_replicas()), tmp_path, **data)
    statistics = [copies for copies in own["replicas"] if copies.dtype == "float32"]
    assert len(statistics) == 4, "mean and variance of two students"
    assert all((copies[0] != copies[1]).any() for copies in statistics)
    with caplog.at_level(standard_logging.INFO, logger="absl"):
        found = restored(make(), tmp_path, **data)
    for name in ("replicas", "teacher_lanes"):
        for now, before in zip(found.own[name][:-1], own[name], strict=False):
            mean = before.mean(0, dtype="float64").astype(before.dtype)
            np.testing.assert_array_equal(now, [mean if now.dtype == "float32" else before[0]])
    served = [one for one in found.shared["weights"] if one.shape == (6,)]
    for values in statistics:
        assert any((values.mean(0, dtype="float64").astype("float32") == one).all() for one in served)
    assert (
        "the group goes on with 1 worker of 1 replica in place of 1 of 2: each replica begins with the mean "
        "of all batch statistics; random numbers (dropout) are others from here on\n"
    ) in caplog.text


def test_goes_on_the_same_way_each_time(tmp_path: pathlib.Path) -> None:
    """With dropout, whose masks cannot be those of the run before."""
    data = {"x": checkpointing_test.finite()}
    begin(compiled(normalised, strategy=two_replicas(), run_eagerly=False), tmp_path / "one", **data)
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    ends = []
    for name in ("one", "other"):
        model = compiled(normalised)
        fit(model, tmp_path / name, **data)
        assert model.batches() == STEPS * EPOCHS
        ends.append(weights.checksum(model.student))
    assert ends[0] == ends[1]


def test_another_batch_size_is_no_other_number_of_replicas(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With lanes it is refused; without, the first batch shows it."""
    begin(grouped(two_replicas()), tmp_path / "lanes")
    with pytest.raises(ValueError, match="recurrent state of 8 lanes does not fit the 4 of this worker"):
        fit(grouped(alone(), lanes=4), tmp_path / "lanes", x=text(lanes=4))
    data = checkpointing_test.finite()
    begin(compiled(strategy=two_replicas(), run_eagerly=False), tmp_path / "rows", x=data)
    with caplog.at_level(standard_logging.WARNING, logger="absl"):
        restored(compiled(), tmp_path / "rows", x=data)
        assert "do not repeat" not in caplog.text
        fit(compiled(), tmp_path / "rows", x=data.unbatch().batch(4), epochs=1)
    assert "the data do not repeat: the first batch" in caplog.text
    assert "keep the batch size of the whole group" in caplog.text


def test_a_batch_is_known_again_whoever_reads_its_rows() -> None:
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.normal(size=(8, 3, 2)).astype("float32"),
        "label": rng.integers(0, 9, 8),
        "name": np.array([f"row {row}".encode() for row in range(8)]),
    }
    parts = [keras.tree.map_structure(lambda part: part[rows], batch) for rows in (slice(5), slice(5, 8))]  # noqa: B023
    whole = int(fingerprint(batch))
    assert np.sum([np.int64(fingerprint(part)) for part in parts]) == whole
    batch["image"][7, 2, 1] += 1e-3
    assert int(fingerprint(batch)) != whole

    held = [np.full(2, part, "int64") for part in (2**62, 2**62 + 5, 7)]
    now = Layout(5, 3)
    redealt = [BatchesSeen.redealt(held, Redealing(Layout(3, 2), now, worker)) for worker in range(5)]
    assert all((one == one[0]).all() and one.shape == (3,) and one[0] for one in redealt)
    assert np.sum([one[0] for one in redealt]) == np.sum([one[0] for one in held])
    assert not BatchesSeen.redealt([np.zeros(2, "int64")], Redealing(Layout(1, 2), now, 1)).any()
