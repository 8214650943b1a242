"""MetricsLog: every interval is logged once, whenever training was stopped."""

from __future__ import annotations

import math
import os
import pathlib
from typing import Any

import keras
import pytest
import tensorflow as tf

from tests.toy_models import batches, examples
from tests.training.checkpoint.checkpointing_test import At, DiedError, Patient, ask, compiled, die
from tf_codistill import checkpoints, runs
from tf_codistill.training.metrics_log import MetricsLog

STEPS = 3


class Ticks:
    """A clock on which a second passes whenever it is looked at."""

    def __init__(self) -> None:
        self._now = 100.0

    def __call__(self) -> float:
        self._now += 1.0
        return self._now


def fit(directory: pathlib.Path, *callbacks: keras.callbacks.Callback, epochs: int = 4, **data: Any) -> None:
    os.makedirs(runs.group_dir(str(directory), 0), exist_ok=True)
    log = MetricsLog(str(directory), 0, STEPS * epochs, units_per_step=10, units="images", clock=Ticks())
    checkpointing = Patient(str(directory / "checkpoints"), every_steps=2)
    arguments = {"x": batches(*examples(0, STEPS)).repeat(), "steps_per_epoch": STEPS, "verbose": 0, **data}
    compiled().fit(**arguments, epochs=epochs, shuffle=False, callbacks=[log, *callbacks, checkpointing])
    log.end()


def records(directory: pathlib.Path, kind: str | None = None) -> list[dict[str, Any]]:
    return runs.read_metrics(runs.metrics_path(str(directory), 0), kind)


def test_speed_and_time_come_from_the_clock(tmp_path: pathlib.Path) -> None:
    fit(tmp_path, epochs=2)
    train = records(tmp_path, "train")
    # Each reading of the clock is a second: one at the interval's begin, one after each of its three steps.
    assert [record["images_per_sec"] for record in train] == [10.0, 10.0]
    assert train[0]["elapsed_secs"] < train[1]["elapsed_secs"]


def test_what_it_writes(tmp_path: pathlib.Path) -> None:
    fit(tmp_path, epochs=2, validation_data=batches(*examples(5, 2)), validation_freq=2)
    kinds = [(record["kind"], record["step"]) for record in records(tmp_path)]
    assert kinds == [("start", 0), ("train", 3), ("train", 6), ("validation", 6), ("end", 6)]
    start, first, _, validation, _ = records(tmp_path)
    assert (start["num_steps"], start["units"]) == (6, "images")
    assert {"loss", "total_loss", "accuracy", "perplexity"} <= first.keys()
    assert {"loss", "accuracy"} <= validation.keys()
    assert not any(name.startswith("val_") for record in records(tmp_path) for name in record)
    (events,) = os.listdir(runs.tensorboard_dir(str(tmp_path), 0))
    path = os.path.join(runs.tensorboard_dir(str(tmp_path), 0), events)
    tags = {v.tag for e in tf.compat.v1.train.summary_iterator(path) for v in e.summary.value}
    assert {"train/loss", "train/images_per_sec", "validation/loss"} <= tags


def test_a_loss_that_is_not_finite_ends_training_and_leaves_the_checkpoint_before(
    tmp_path: pathlib.Path,
) -> None:
    class Diverges(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if self.model.step() == 5:
                kernel = self.model.student.trainable_variables[0]
                kernel.assign(kernel * math.nan)

    with pytest.raises(ValueError, match="the loss of steps 4 to 6 is nan; training ends"):
        fit(tmp_path, Diverges())
    assert [record["step"] for record in records(tmp_path, "train")] == [3]
    found = checkpoints.newest_complete(str(tmp_path / "checkpoints"))
    assert found is not None
    assert found[0] == 4


def test_a_run_that_died_twice_tells_of_each_interval_once(tmp_path: pathlib.Path) -> None:
    """Killed in an interval behind a checkpoint in it, and in a validation that has been logged."""
    data = {"validation_data": batches(*examples(5, 2))}
    fit(tmp_path / "whole", **data)
    stopped = tmp_path / "stopped"
    with pytest.raises(DiedError):
        fit(stopped, At(5, die), **data)
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, At(1, ask, in_validation=True), **data)
    assert [r["step"] for r in records(stopped, "train")] == [3], "the validation of step 6 is to come"
    fit(stopped, **data)
    for kind in ("train", "validation"):
        one, other = (records(directory, kind) for directory in (tmp_path / "whole", stopped))
        assert [r["step"] for r in one] == [r["step"] for r in other] == [3, 6, 9, 12]
        assert [r["loss"] for r in one] == [r["loss"] for r in other]
    assert [r["step"] for r in records(stopped, "start")] == [0, 6]
    assert [r["step"] for r in records(stopped, "end")] == [12]
    assert "images_per_sec" not in records(stopped, "train")[1], "nothing of it was trained in that process"


def test_an_interval_that_was_told_of_before_its_checkpoint_was_there_is_told_of_anew(
    tmp_path: pathlib.Path,
) -> None:
    class DiesBetween(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                raise DiedError

    with pytest.raises(DiedError):
        fit(tmp_path, DiesBetween())
    assert [r["step"] for r in records(tmp_path, "train")] == [3, 6]
    fit(tmp_path)
    assert [r["step"] for r in records(tmp_path, "train")] == [3, 6, 9, 12]
