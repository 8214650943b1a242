"""What happens around the steps: metrics on disk and on the screen, and checkpoints.

An epoch of `fit` is one log interval, so that the averages in Keras's logs are those of the interval:

    on_epoch_end    logs {"loss": 4.1, "task_loss": ..., "val_loss": ...}
        MetricsLog  -> a line in metrics.jsonl, the same numbers as TensorBoard scalars, a line in the log
        Saver       -> a checkpoint, every so many steps, when training ends, and at Ctrl-C
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from tf_codistill import runs

_VALIDATION = "val_"


class MetricsLog(keras.callbacks.Callback):
    """Writes a group's metrics file and TensorBoard events; the chief alone needs it."""

    def __init__(
        self,
        workdir: str,
        group: int,
        num_steps: int,
        units_per_step: int,
        units: str = "examples",
        derived: Callable[[dict[str, float]], dict[str, float]] = lambda averages: {},
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes note of the arguments; touches no file.

        Args:
            workdir: Directory of the run.
            group: This group.
            num_steps: Steps after which training ends, for those who follow the file.
            units_per_step: How much the whole group trains on in a step.
            units: What that is counted in.
            derived: Makes further figures of the averages of a validation.
            clock: Returns seconds that never go back.
        """
        super().__init__()
        self._path = runs.metrics_path(workdir, group)
        self._tensorboard_dir = runs.tensorboard_dir(workdir, group)
        self._num_steps = num_steps
        self._units_per_step = units_per_step
        self._units = units
        self._derived = derived
        self._clock = clock
        self._began = 0.0
        self._interval_began = 0.0
        self._interval_step = 0
        self._last_step_ended = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        """Continues the metrics file behind the step that training resumes from.

        Args:
            logs: Not used.
        """
        del logs
        step = self.model.step()
        runs.rewind_metrics(self._path, step)
        spent = max(
            (float(record.get("elapsed_secs", 0.0)) for record in runs.read_metrics(self._path)), default=0.0
        )
        self._began = self._clock() - spent
        runs.append_metrics(
            self._path,
            "start",
            step,
            num_steps=self._num_steps,
            units=self._units,
            time=time.time(),
            elapsed_secs=spent,
        )
        self._writer = tf.summary.create_file_writer(self._tensorboard_dir)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the clock of an interval.

        Args:
            epoch: Index of the interval.
            logs: Not used.
        """
        del epoch, logs
        self._interval_began = self._clock()
        self._interval_step = self.model.step()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Notes when the last step of the interval ended, so that validation does not count as training.

        Args:
            batch: Index of the step in the interval.
            logs: Not used.
        """
        del batch, logs
        self._last_step_ended = self._clock()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Writes the averages of the interval.

        Args:
            epoch: Index of the interval.
            logs: Averages by name; those of validation begin with ``val_``.
        """
        del epoch
        numbers = {name: float(value) for name, value in (logs or {}).items()}
        step = self.model.step()
        secs = max(self._last_step_ended - self._interval_began, 1e-9)
        train = {name: value for name, value in numbers.items() if not name.startswith(_VALIDATION)}
        train[f"{self._units}_per_sec"] = (step - self._interval_step) * self._units_per_step / secs
        self._write("train", step, train)
        validation = {name.removeprefix(_VALIDATION): v for name, v in numbers.items() if name not in train}
        if validation:
            self._write("validation", step, validation | self._derived(validation))

    def on_train_end(self, logs: Any = None) -> None:
        """Marks the end if the last step has been reached.

        Args:
            logs: Not used.
        """
        del logs
        self._writer.close()
        if self.model.step() >= self._num_steps:
            runs.append_metrics(self._path, "end", self.model.step(), elapsed_secs=self._elapsed_secs())

    def _write(self, kind: str, step: int, numbers: dict[str, float]) -> None:
        runs.append_metrics(self._path, kind, step, elapsed_secs=self._elapsed_secs(), **numbers)
        with self._writer.as_default(step):
            for name, value in numbers.items():
                tf.summary.scalar(f"{kind}/{name}", value)
        self._writer.flush()
        logging.info(
            "step %d %s: %s", step, kind, "  ".join(f"{k} {v:.4g}" for k, v in sorted(numbers.items()))
        )

    def _elapsed_secs(self) -> float:
        return round(self._clock() - self._began, 3)


class Saver(keras.callbacks.Callback):
    """Saves every so many intervals, at the end of training, and when asked to stop; every worker needs it.

    SIGINT (Ctrl-C) and SIGTERM (preemption) ask: the interval is trained to its end, a checkpoint is saved,
    and KeyboardInterrupt leaves `fit`. A worker that is asked stops its group. A second signal does not wait.
    """

    def __init__(
        self, save: Callable[[], None], every_epochs: int, any_worker: Callable[[bool], bool] = bool
    ) -> None:
        """Takes note of the arguments.

        Args:
            save: Saves a checkpoint of the step that has been reached.
            every_epochs: Intervals between two calls.
            any_worker: Whether a flag is set on any worker of the group; called by all of them.
        """
        super().__init__()
        self._save = save
        self._every_epochs = every_epochs
        self._any_worker = any_worker
        self._saved_step = -1
        self._is_asked = False
        self._handlers: dict[int, Any] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        """Listens to signals, where Python lets it: in the main thread.

        Args:
            logs: Not used.
        """
        del logs
        self._is_asked = False
        if threading.current_thread() is threading.main_thread():
            self._handlers = {
                number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)
            }

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Saves if it is time to, or if training shall stop.

        Args:
            epoch: Index of the interval.
            logs: Not used.

        Raises:
            KeyboardInterrupt: A worker of the group was asked to stop.
        """
        del logs
        is_asked = self._any_worker(self._is_asked)
        if is_asked or (epoch + 1) % self._every_epochs == 0:
            self._save_once()
        if is_asked:
            self._listen_no_more()
            raise KeyboardInterrupt(f"stopped and saved at step {self._saved_step}")

    def on_train_end(self, logs: Any = None) -> None:
        """Saves what training ended with.

        Args:
            logs: Not used.
        """
        del logs
        self._save_once()
        self._listen_no_more()

    def _save_once(self) -> None:
        step = self.model.step()
        if step != self._saved_step:
            self._save()
            self._saved_step = step

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        logging.info("%s: stopping at the end of the interval", signal.Signals(number).name)
        self._is_asked = True
        self._listen_no_more()

    def _listen_no_more(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())
