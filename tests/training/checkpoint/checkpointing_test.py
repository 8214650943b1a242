"""Checkpointing: whatever is trained, and wherever it is stopped, it ends as if it had never been."""

from __future__ import annotations

import functools
import itertools
import logging as standard_logging
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import faults
from tests.replicas import two_replicas
from tests.toy_models import BATCH, NUM_CLASSES, NUM_FEATURES, batches, examples, lstm, regression
from tf_codistill import checkpoints, files, metrics, weights
from tf_codistill.teaching.base import Teaching
from tf_codistill.teaching.fellows import FellowStudents
from tf_codistill.training.checkpoint import state
from tf_codistill.training.checkpoint.checkpointing import Checkpointing
from tf_codistill.training.codistillation import CodistillationModel

STEPS = 5  # of an epoch
EPOCHS = 3
STALE = functools.partial(FellowStudents, refresh_every_steps=5)


class Patient(Checkpointing):
    """Waits for what is written, so that which steps are saved does not hang on how fast a machine is."""

    def _write(self, *arguments: Any) -> None:
        super()._write(*arguments)
        self._writing.join()


class At(keras.callbacks.Callback):
    """Does something once so many batches are done, of training or of validation in this process."""

    def __init__(self, batch: int, act: Callable[[], Any], in_validation: bool = False) -> None:
        super().__init__()
        self._batch, self._act, self._in_validation = batch, act, in_validation
        self.seen = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self._in_validation and self.model.batches() >= self._batch:
            act, self._act = self._act, lambda: None
            act()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen += 1
        if self._in_validation and self.seen == self._batch:
            self._act()


class DiedError(Exception):
    """Stands for a process that is no more."""


def die() -> None:
    raise DiedError


def ask(number: signal.Signals = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def compiled(
    model_fn: Callable[[], keras.Model] = regression,
    teachers: Callable[[], Teaching] = Teaching,
    optimizer: Callable[[], keras.optimizers.Optimizer] = lambda: keras.optimizers.Adam(0.05),
    strategy: tf.distribute.Strategy | None = None,
    **options: Any,
) -> CodistillationModel:
    """A new process's model; step by step, because most tests take fewer steps than a trace takes time."""
    keras.utils.set_random_seed(1)
    with (strategy or tf.distribute.get_strategy()).scope():
        model = CodistillationModel(model_fn, teachers())
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        measured = ["accuracy", metrics.Perplexity()]
        options = {"jit_compile": False, "run_eagerly": True, **options}
        model.compile(optimizer(), loss, metrics=measured, **options)
    return model


def finite() -> tf.data.Dataset:
    return batches(*examples(0, STEPS))


def fit(
    model: CodistillationModel, directory: pathlib.Path, *callbacks: keras.callbacks.Callback, **changes: Any
) -> dict[str, list[float]]:
    """Trains with checkpoints at every third step, unless `changes` has another callback."""
    ours = changes.pop("checkpointing", None) or Patient(str(directory), every_steps=3)
    arguments = {"x": finite, "epochs": EPOCHS, "verbose": 0, "shuffle": False, **changes}
    if callable(arguments["x"]):
        arguments["x"] = arguments["x"]()
    return model.fit(**arguments, callbacks=[ours, *callbacks]).history


def steps_in(directory: pathlib.Path) -> list[int]:
    return checkpoints.committed_steps(str(directory))


def position_in(directory: pathlib.Path) -> list[int]:
    found = checkpoints.newest_complete(str(directory))
    assert found is not None
    return found[1]["metadata"]["position"]


def assert_same(one: CodistillationModel, other: CodistillationModel, but: str = "") -> None:
    for ours, theirs in zip(state.of(one), state.of(other), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {but}:
            for position, (a, b) in enumerate(zip(ours[name], theirs[name], strict=True)):
                np.testing.assert_array_equal(a, b, err_msg=f"{name} {position}")


def assert_resumes(
    tmp_path: pathlib.Path,
    make: Callable[[], CodistillationModel],
    dies_at: Sequence[int] = (7, 11),
    **data: Any,
) -> CodistillationModel:
    """Trains without and with deaths, each of which loses a step or two; the end of both is the same."""
    whole = make()
    history = fit(whole, tmp_path / "whole", **data)
    for step in dies_at:
        with pytest.raises(DiedError):
            fit(make(), tmp_path / "stopped", At(step, die), **data)
    resumed = make()
    rest = fit(resumed, tmp_path / "stopped", **data)
    assert_same(whole, resumed)
    assert 0 < len(rest["loss"]) < len(history["loss"])
    for name, values in history.items():
        assert values[-len(rest[name]) :] == rest[name], name
    return resumed


def shuffled() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(examples(0, STEPS)).shuffle(50, seed=3).batch(BATCH)


DATA: dict[str, dict[str, Any]] = {
    "iterated over again": {},
    "of unknown length": {"x": lambda: finite().filter(lambda *_: True)},
    "repeated": {"x": lambda: finite().repeat(), "steps_per_epoch": STEPS},
    "repeated out of step": {"x": lambda: finite().repeat(), "steps_per_epoch": 4},
    "shuffled": {"x": shuffled},
    "shuffled and repeated": {"x": lambda: shuffled().repeat(), "steps_per_epoch": 4},
    "an epoch at a time": {"x": shuffled, "steps_per_epoch": STEPS},
    "shuffled, in parts": {"x": shuffled, "steps_per_epoch": 3, "epochs": 6},
    "arrays": dict(zip("xy", examples(0, STEPS), strict=True), batch_size=BATCH),
    "begun later": {"initial_epoch": 2, "epochs": 5},
}


@pytest.mark.filterwarnings("ignore:.*ran out of data")
@pytest.mark.parametrize("name", DATA)
def test_data_are_read_on_where_training_stopped(
    tmp_path: pathlib.Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(standard_logging.WARNING, logger="absl"):
        assert_resumes(tmp_path, compiled, **DATA[name])
    assert "do not repeat" not in caplog.text
    assert "cannot be restored" not in caplog.text


def sequential(*layers: keras.layers.Layer) -> keras.Model:
    return keras.Sequential([keras.Input((NUM_FEATURES,)), *layers, keras.layers.Dense(NUM_CLASSES)])


def normalised() -> keras.Model:
    return sequential(keras.layers.Dense(6), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3))


def half() -> keras.Model:
    return sequential(keras.layers.Dense(6, dtype="mixed_float16"))


def scaled() -> keras.optimizers.Optimizer:
    """Its first steps are skipped: the gradients of such a loss are infinite in float16."""
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**26)


def sequences() -> tf.data.Dataset:
    x, y = examples(0, STEPS)
    x = np.stack([x, 0.5 * x, -x], axis=1)
    return batches(x, y)


MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "executions of two steps": ({"steps_per_execution": 2}, {}),
    "executions of two steps of endless data": (
        {"steps_per_execution": 2},
        {"x": lambda: finite().repeat(), "steps_per_epoch": STEPS},
    ),
    "gradients of two batches": (
        {"optimizer": lambda: keras.optimizers.SGD(0.3, gradient_accumulation_steps=2)},
        {},
    ),
    "skipped steps": ({"model_fn": half, "optimizer": scaled}, {}),
    "batch statistics and dropout": ({"model_fn": normalised}, {}),
    "a memory": ({"model_fn": lstm}, {"x": sequences}),
    "stale fellows": (
        {"model_fn": normalised, "teachers": STALE},
        {},
    ),
    "fellows that read apart": (
        {
            "teachers": functools.partial(FellowStudents, batches="different"),
            "optimizer": lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 15)),
        },
        {},
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_goes_on_as_if_it_had_never_stopped(tmp_path: pathlib.Path, name: str) -> None:
    settings, data = MODELS[name]
    resumed = assert_resumes(tmp_path, lambda: compiled(**settings), **data)
    if name == "skipped steps":
        assert int(resumed.optimizer.iterations) < resumed.step() == resumed.batches() == STEPS * EPOCHS
    if name == "gradients of two batches":
        assert resumed.step() == resumed.batches() // 2


@pytest.mark.parametrize(
    ("teachers", "options"),
    [
        pytest.param(Teaching, {}, id="one"),
        pytest.param(Teaching, {"steps_per_execution": 3}, marks=pytest.mark.slow, id="three at once"),
        pytest.param(Teaching, {"jit_compile": True}, marks=pytest.mark.slow, id="compiled"),
        pytest.param(STALE, {}, marks=pytest.mark.slow, id="stale fellows"),
    ],
)
def test_replicas_keep_what_they_hold_apart(
    tmp_path: pathlib.Path, teachers: Any, options: dict[str, Any]
) -> None:
    make = lambda: compiled(  # noqa: E731
        normalised, teachers, strategy=two_replicas(), **{"run_eagerly": False, **options}
    )
    data = {"x": shuffled, "epochs": 2, "validation_data": finite().take(2)}
    resumed = assert_resumes(tmp_path, make, dies_at=(9,), **data)
    (own,) = checkpoints.read_latest(str(tmp_path / "stopped"))[2]
    assert any((copies[0] != copies[1]).any() for copies in own["replicas"] if copies.dtype == np.float32)
    for weight in resumed.weights:
        one, other = weights.replica_values(weight)
        np.testing.assert_array_equal(one, other, err_msg="when training has ended they agree")


@pytest.mark.slow
def test_as_xla_compiles_it(tmp_path: pathlib.Path) -> None:
    make = lambda: compiled(normalised, run_eagerly=False, jit_compile=True)  # noqa: E731
    assert_resumes(tmp_path, make, dies_at=(8,), x=lambda: shuffled().repeat(), steps_per_epoch=STEPS)


def test_every_so_many_steps_and_at_the_end(tmp_path: pathlib.Path) -> None:
    fit(compiled(), tmp_path, checkpointing=Patient(str(tmp_path), every_steps=4, keep=9))
    assert steps_in(tmp_path) == [4, 8, 12, 15]
    assert position_in(tmp_path) == [0, EPOCHS, 0]


def test_gradients_of_several_batches_are_saved_at_any_of_them(tmp_path: pathlib.Path) -> None:
    optimizer = lambda: keras.optimizers.SGD(0.3, gradient_accumulation_steps=4)  # noqa: E731
    with pytest.raises(KeyboardInterrupt, match="saved at step 7"):
        fit(compiled(optimizer=optimizer), tmp_path, At(6, ask))
    assert position_in(tmp_path) == [0, 1, 2]
    whole, resumed = compiled(optimizer=optimizer), compiled(optimizer=optimizer)
    fit(whole, tmp_path / "whole")
    fit(resumed, tmp_path)
    assert_same(whole, resumed)


def test_an_execution_may_have_other_steps_than_when_training_was_stopped(tmp_path: pathlib.Path) -> None:
    data = {"x": lambda: finite().repeat(), "steps_per_epoch": 4}
    whole, resumed = compiled(), compiled(steps_per_execution=4)
    fit(whole, tmp_path / "whole", **data)
    with pytest.raises(KeyboardInterrupt, match="saved at step 7"):
        fit(compiled(), tmp_path / "stopped", At(6, ask), **data)
    fit(resumed, tmp_path / "stopped", **data)
    assert_same(whole, resumed)


def test_every_so_many_minutes(tmp_path: pathlib.Path) -> None:
    now = itertools.count(step=1)
    minute = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: next(now))
    clock = lambda: 60.0 * int(repr(now)[6:-1])  # noqa: E731
    options = {"every_steps": None, "every_minutes": 4, "keep": 9, "clock": clock}
    fit(compiled(), tmp_path, minute, checkpointing=Patient(str(tmp_path), **options))
    assert steps_in(tmp_path) == [4, 8, 12, 15]


def test_what_is_kept(tmp_path: pathlib.Path) -> None:
    options = {"every_steps": 2, "keep": 3, "keep_every_steps": 4}
    fit(compiled(), tmp_path, checkpointing=Patient(str(tmp_path), **options))
    assert steps_in(tmp_path) == [4, 8, 12, 14, 15]
    kept = steps_in(tmp_path)
    fit(compiled(), tmp_path, checkpointing=Patient(str(tmp_path), **options), epochs=EPOCHS + 1)
    assert steps_in(tmp_path) == sorted({*kept[:3], 16, 18, 20})


class Measure(keras.callbacks.Callback):
    """Puts into the logs of each epoch what it has been given."""

    def __init__(self, values: Sequence[float]) -> None:
        super().__init__()
        self._values = values

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._values[epoch] is not None:
            logs["quality"] = self._values[epoch]


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("min", [3.0, 2.0, 5.0, 4.0, 6.0, 6.0], 2),
        ("max", [3.0, 9.0, 5.0, 4.0, 6.0, 6.0], 2),
        ("min", [3.0, float("nan"), float("-inf"), None, 4.0, 2.5], 6),
    ],
)
def test_the_best_is_kept(tmp_path: pathlib.Path, mode: str, values: list[float], best: int) -> None:
    """Stopped in the fourth epoch: it is remembered how good the best of them was."""
    make = lambda: Patient(str(tmp_path), every_steps=4, keep=1, monitor="quality", mode=mode)  # noqa: E731
    with pytest.raises(DiedError):
        fit(compiled(), tmp_path, At(17, die), Measure(values), epochs=6, checkpointing=make())
    fit(compiled(), tmp_path, Measure(values), epochs=6, checkpointing=make())
    assert checkpoints.best_step(str(tmp_path)) == best * STEPS
    assert steps_in(tmp_path) == sorted({best * STEPS, 6 * STEPS})
    whole = compiled()
    fit(whole, tmp_path / "whole", epochs=best)
    step, shared, _ = checkpoints.read_best(str(tmp_path))
    assert step == best * STEPS
    for one, other in zip(shared["weights"], weights.values(whole.student.weights), strict=True):
        np.testing.assert_array_equal(one, other)


def test_training_whose_weights_are_not_finite_ends(tmp_path: pathlib.Path) -> None:
    """Although its loss may be: a rectifier takes NaN for 0."""
    model = compiled(
        lambda: keras.Sequential(
            [
                keras.Input((NUM_FEATURES,)),
                keras.layers.Dense(4, "relu", name="hidden"),
                keras.layers.Dense(NUM_CLASSES),
            ]
        )
    )
    poison = lambda: model.student.weights[1].assign([float("nan")] * 4)  # noqa: E731
    ended = At(7, lambda: pytest.fail("training went on"))
    with pytest.raises(ValueError, match="hidden/kernel' is not finite after step 4; training ends"):
        fit(model, tmp_path, At(3, poison), ended, checkpointing=Patient(str(tmp_path), every_steps=2))
    assert steps_in(tmp_path) == [2]


def test_a_monitored_value_that_is_not_there_is_told_of(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpointing = Patient(str(tmp_path), monitor="los")
    with caplog.at_level(standard_logging.WARNING, logger="absl"):
        fit(compiled(), tmp_path, epochs=1, checkpointing=checkpointing)
    assert "'los' is not in the logs, which have accuracy, chance" in caplog.text
    with pytest.raises(ValueError, match="has a monitored value; give Checkpointing `monitor`"):
        checkpoints.read_best(str(tmp_path))


def test_early_stopping_gives_the_best_back_and_the_newest_checkpoint_stays(tmp_path: pathlib.Path) -> None:
    values = [3.0, 2.0, 5.0, 4.0, 6.0, 6.0]
    stopping = keras.callbacks.EarlyStopping("quality", mode="min", patience=2, restore_best_weights=True)
    model = compiled()
    checkpointing = Patient(str(tmp_path), every_steps=None, keep=1, monitor="quality")
    fit(model, tmp_path, Measure(values), stopping, epochs=6, checkpointing=checkpointing)
    assert steps_in(tmp_path) == [2 * STEPS, 4 * STEPS]
    assert model.batches() == 4 * STEPS, "steps do not go back"
    best, newest = (
        read(str(tmp_path))[1]["weights"] for read in (checkpoints.read_best, checkpoints.read_latest)
    )
    for one, other, last in zip(weights.values(model.student.weights), best, newest, strict=True):
        np.testing.assert_array_equal(one, other)
        assert (one != last).any()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_the_next_step(tmp_path: pathlib.Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match="stopped and saved at step 8"):
        fit(compiled(), tmp_path, At(7, lambda: ask(number)))
    assert signal.getsignal(number) is before
    assert steps_in(tmp_path) == [6, 8]
    whole, resumed = compiled(), compiled()
    history, rest = fit(whole, tmp_path / "whole"), fit(resumed, tmp_path)
    assert_same(whole, resumed)
    assert history["accuracy"][1:] == rest["accuracy"], "of the whole epoch, not of what was left of it"


def test_a_second_signal_does_not_wait(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = threading.Event()
    monkeypatch.setattr(weights, "write", lambda prefix, **arrays: written.wait())
    before = signal.getsignal(signal.SIGINT)

    def twice() -> None:
        ask(signal.SIGINT)
        ask(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(compiled(), tmp_path, At(4, twice), checkpointing=Checkpointing(str(tmp_path), every_steps=3))
    assert signal.getsignal(signal.SIGINT) is before
    written.set()


def test_an_error_of_training_leaves_no_signal_handler_behind(tmp_path: pathlib.Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(DiedError):
        fit(compiled(), tmp_path, At(2, die))
    assert signal.getsignal(signal.SIGINT) is before


def test_in_a_thread_training_goes_without_signals(tmp_path: pathlib.Path) -> None:
    thread = threading.Thread(target=lambda: fit(compiled(), tmp_path))
    thread.start()
    thread.join()
    assert steps_in(tmp_path) == [12, 15]


@pytest.mark.parametrize("every_steps", [None, STEPS])
def test_in_validation_a_signal_stops_at_the_next_batch_of_it(
    tmp_path: pathlib.Path, every_steps: int | None
) -> None:
    """The epoch's last step is saved with the epoch's logs; what is resumed begins with the validation."""
    data = {"validation_data": batches(*examples(9, 6))}
    make = lambda: compiled(normalised)  # noqa: E731
    options = {"every_steps": every_steps}
    at = At(6 + 2, ask, in_validation=True)
    with pytest.raises(KeyboardInterrupt, match="saved at step 10"):
        fit(make(), tmp_path, at, checkpointing=Patient(str(tmp_path), **options), **data)
    assert at.seen == 6 + 3
    assert position_in(tmp_path) == [0, 1, STEPS]
    whole, resumed, calls = make(), make(), []
    notes = keras.callbacks.LambdaCallback(
        on_test_begin=lambda logs: calls.append(("validation", resumed.batches()))
    )
    history = fit(whole, tmp_path / "whole", **data)
    rest = fit(resumed, tmp_path, notes, checkpointing=Patient(str(tmp_path), **options), **data)
    assert calls == [("validation", 10), ("validation", 15)]
    assert_same(whole, resumed)
    assert {"val_loss", "val_accuracy", "val_perplexity", "perplexity"} <= rest.keys()
    for name, values in history.items():
        assert values[1:] == rest[name], name


def test_every_validation_reads_the_same(tmp_path: pathlib.Path) -> None:
    """As Keras says of ``validation_steps``: otherwise what is resumed would go on with other values."""
    validation = {"validation_data": batches(*examples(9, 7)).repeat(), "validation_steps": 3}
    still = lambda: compiled(optimizer=lambda: keras.optimizers.SGD(0.0))  # noqa: E731
    losses = fit(still(), tmp_path, **validation)["val_loss"]
    assert losses == [losses[0]] * EPOCHS


def test_a_damaged_checkpoint_is_passed_over_and_written_anew(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, resumed = compiled(), compiled()
    fit(whole, tmp_path)
    assert steps_in(tmp_path) == [12, 15]
    faults.halve(next((tmp_path / "checkpoint_00000015").glob("worker_0.data*")))
    with caplog.at_level(standard_logging.WARNING, logger="absl"):
        fit(resumed, tmp_path)
    assert "the checkpoint of step 15 is passed over: file" in caplog.text
    assert "is damaged" in caplog.text
    assert_same(whole, resumed)
    found = checkpoints.newest_complete(str(tmp_path))
    assert found is not None
    assert found[0] == 15


def test_another_model_or_version_is_refused(tmp_path: pathlib.Path) -> None:
    fit(compiled(), tmp_path, epochs=1)
    for other in (normalised, lambda: sequential(keras.layers.Dense(3))):
        with pytest.raises(
            ValueError, match="the checkpoint of step 5 holds another model or other groups: "
        ):
            fit(compiled(other), tmp_path)
    with pytest.raises(ValueError, match="holds another model or other groups: .* arrays do not fit"):
        fit(compiled(optimizer=lambda: keras.optimizers.SGD(0.1)), tmp_path)
    mark = checkpoints.manifest_of(str(tmp_path), 5)
    older = checkpoints._sealed({**mark, "format_version": 1})
    files.write_json(str(tmp_path / "checkpoint_00000005" / files.MANIFEST), older)
    with pytest.raises(ValueError, match="has format version 1; expected 2: it is of another version"):
        fit(compiled(), tmp_path)


def test_other_metrics_begin_anew(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DiedError):
        fit(compiled(), tmp_path, At(7, die))
    model = compiled()
    model.compile(
        keras.optimizers.Adam(0.05),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["sparse_top_k_categorical_accuracy"],
        run_eagerly=True,
    )
    with caplog.at_level(standard_logging.WARNING, logger="absl"):
        fit(model, tmp_path)
    assert "metrics of the epoch begin anew where training goes on: " in caplog.text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"x": lambda: finite().unbatch().shuffle(99).batch(BATCH)},
            "the data do not repeat: the first batch",
        ),
        (
            {**dict(zip("xy", examples(0, STEPS), strict=True)), "batch_size": BATCH, "shuffle": True},
            "arrays are shuffled in an order that cannot be restored",
        ),
    ],
)
def test_data_that_do_not_repeat_are_warned_of(
    tmp_path: pathlib.Path, data: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DiedError):
        fit(compiled(), tmp_path, At(4, die), **data)
    tf.random.set_seed(77)
    model = compiled()
    tf.random.set_seed(77)
    with caplog.at_level(standard_logging.WARNING, logger="absl"):
        fit(model, tmp_path, epochs=1, **data)
    assert message in caplog.text


def test_data_that_have_become_shorter_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DiedError):
        fit(compiled(), tmp_path, At(4, die))
    with pytest.raises(ValueError, match="the data end 1 batches before the one with which training goes on"):
        fit(compiled(), tmp_path, x=finite().take(2))


def test_writing_does_not_hold_training_up(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage that is still busy when the next checkpoint is due gets the first one after it."""
    write, is_there = weights.write, threading.Event()

    def slow_write(prefix: str, **arrays: Any) -> Any:
        assert is_there.wait(timeout=60)
        return write(prefix, **arrays)

    monkeypatch.setattr(weights, "write", slow_write)
    checkpointing = Checkpointing(str(tmp_path), every_steps=3, keep=9)

    def storage_is_back() -> None:
        assert steps_in(tmp_path) == [], "seven steps were done meanwhile"
        is_there.set()
        checkpointing._writing.join()

    fit(compiled(), tmp_path, At(7, storage_is_back), checkpointing=checkpointing)
    steps = steps_in(tmp_path)
    assert steps[:2] == [3, 8]
    assert steps[-1] == 15


def test_storage_that_fails_once_is_told_of_and_training_goes_on(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = weights.write

    def failing(prefix: str, **arrays: Any) -> Any:
        if "checkpoint_00000003" in prefix:
            raise OSError("no space left")
        return write(prefix, **arrays)

    monkeypatch.setattr(weights, "write", failing)
    with caplog.at_level(standard_logging.WARNING, logger="absl"):
        fit(compiled(), tmp_path)
    assert "the checkpoint of step 3 is not saved: no space left" in caplog.text
    assert steps_in(tmp_path) == [12, 15]


def test_storage_that_fails_in_the_end_is_an_error(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(prefix: str, **arrays: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(weights, "write", failing)
    with pytest.raises(OSError, match="no space left"):
        fit(compiled(), tmp_path)
    with pytest.raises(OSError, match="no space left"):
        fit(compiled(), tmp_path, At(4, ask))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file' cannot be written to"):
        fit(compiled(), tmp_path / "file")


def test_fit_may_be_called_more_than_once(tmp_path: pathlib.Path) -> None:
    def script(directory: pathlib.Path, *callbacks: keras.callbacks.Callback) -> CodistillationModel:
        model = compiled(normalised)
        fit(model, directory, *callbacks, epochs=2)
        model.compile(keras.optimizers.SGD(0.01), model.loss, metrics=["accuracy"], run_eagerly=True)
        fit(model, directory, *callbacks, x=shuffled, epochs=3)
        return model

    whole = script(tmp_path / "whole")
    assert whole.batches() == 5 * STEPS
    for step in (7, 14, 19):
        with pytest.raises(DiedError):
            script(tmp_path / "stopped", At(step, die))
    resumed = script(tmp_path / "stopped")
    assert_same(whole, resumed)
    assert position_in(tmp_path / "stopped") == [1, 3, 0]


def test_a_callback_may_be_used_for_another_model(tmp_path: pathlib.Path) -> None:
    checkpointing = Patient(str(tmp_path), every_steps=3, keep=9)
    fit(compiled(), tmp_path, checkpointing=checkpointing, epochs=1)
    model = compiled()
    fit(model, tmp_path, checkpointing=checkpointing, epochs=2)
    assert model.batches() == 10
    assert steps_in(tmp_path) == [3, 5, 6, 9, 10]


def test_a_run_that_has_ended_is_left_as_it_is_and_can_be_made_longer(tmp_path: pathlib.Path) -> None:
    first, again, longer = compiled(), compiled(), compiled()
    fit(first, tmp_path, epochs=2)
    assert fit(again, tmp_path, epochs=2) == {}
    assert_same(first, again, but="metrics")  # of an epoch that there was not
    assert steps_in(tmp_path) == [9, 10]
    assert len(fit(longer, tmp_path, epochs=4)["loss"]) == 2
    assert longer.batches() == 4 * STEPS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_steps": 0}, "every_steps is 0; expected more than 0, or None"),
        ({"every_minutes": -1.0}, "every_minutes is -1.0; expected more than 0"),
        ({"keep": 0}, "keep is 0; expected at least 1"),
        ({"keep_every_steps": -2}, "keep_every_steps is -2"),
        ({"mode": "best"}, "mode is 'best'; expected 'min' or 'max'"),
        ({"directory": "s3q://bucket"}, "s3q"),
    ],
)
def test_arguments_are_checked(tmp_path: pathlib.Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Checkpointing(**{"directory": str(tmp_path), **settings})


def test_it_is_given_once_and_to_our_models(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="fit got 2 Checkpointing; expected one"):
        fit(compiled(), tmp_path, Checkpointing(str(tmp_path)))
    model = regression()
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(TypeError, match="saves a CodistillationModel"):
        model.fit(finite(), verbose=0, callbacks=[Checkpointing(str(tmp_path))])
