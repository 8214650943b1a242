"""Saver and MetricsLog: what happens around the steps."""

from __future__ import annotations

import os
import signal

import keras
import pytest

from tests.training.codistillation_test import batches, compiled, examples
from tf_codistill import runs
from tf_codistill.training.callbacks import MetricsLog, Saver


def fit(*callbacks: keras.callbacks.Callback, epochs: int = 4) -> None:
    data = batches(*examples(0, 3)).repeat()
    model = compiled()
    model.fit(data, epochs=epochs, steps_per_epoch=3, verbose=0, shuffle=False, callbacks=list(callbacks))


class At(keras.callbacks.Callback):
    """Does something after one step."""

    def __init__(self, step: int, act) -> None:
        super().__init__()
        self._step, self._act = step, act

    def on_train_batch_end(self, batch, logs=None) -> None:
        if self.model.step() == self._step:
            self._act()


def test_saves_every_so_many_intervals_and_at_the_end() -> None:
    steps: list[int] = []
    saver = Saver(lambda: steps.append(saver.model.step()), every_epochs=3)
    fit(saver)
    assert steps == [9, 12]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_interval_with_a_checkpoint(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    steps: list[int] = []
    saver = Saver(lambda: steps.append(saver.model.step()), every_epochs=3)
    with pytest.raises(KeyboardInterrupt, match="saved at step 6"):
        fit(saver, At(4, lambda: os.kill(os.getpid(), number)))
    assert steps == [6]
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_does_not_wait() -> None:
    steps: list[int] = []
    saver = Saver(lambda: steps.append(saver.model.step()), every_epochs=1)
    ask = lambda: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        fit(saver, At(1, ask), At(2, ask))
    assert steps == []


def test_another_worker_that_was_asked_stops_this_one() -> None:
    steps: list[int] = []
    saver = Saver(lambda: steps.append(saver.model.step()), every_epochs=9, any_worker=lambda flag: True)
    with pytest.raises(KeyboardInterrupt):
        fit(saver)
    assert steps == [3]


def test_speed_and_time_come_from_the_clock(tmp_path) -> None:
    os.makedirs(runs.group_dir(str(tmp_path), 0))
    now = [100.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    fit(MetricsLog(str(tmp_path), 0, num_steps=6, units_per_step=10, units="images", clock=clock), epochs=2)
    train = runs.read_metrics(runs.metrics_path(str(tmp_path), 0), "train")
    # Each reading of the clock is a second: one at the interval's begin, one after each of its three steps.
    assert [record["images_per_sec"] for record in train] == [10.0, 10.0]
    assert train[0]["elapsed_secs"] < train[1]["elapsed_secs"]
