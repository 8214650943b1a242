"""What is logged of training: metrics on disk and on the screen.

An epoch of `fit` is one log interval, so that the averages in Keras's logs are those of the interval:

    on_epoch_end    logs {"loss": 4.1, "total_loss": ..., "val_loss": ...}
        MetricsLog  -> a line in metrics.jsonl, the same numbers as TensorBoard scalars, a line in the log
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
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
        generation: int | None = None,
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
            generation: That of the group's directory to write to, see `runs.group_dir`.
            derived: Makes further figures of the averages of a validation.
            clock: Returns seconds that never go back.
        """
        super().__init__()
        self._path = runs.metrics_path(workdir, group, generation)
        self._tensorboard_dir = runs.tensorboard_dir(workdir, group, generation)
        self._num_steps, self._units_per_step, self._units = num_steps, units_per_step, units
        self._derived, self._clock = derived, clock
        self._began = self._interval_began = self._last_step_ended = 0.0
        self._interval_step = 0
        self._trained_secs = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        """Continues the metrics file behind the step that training resumes from."""
        step, passed = self.model.step(), self.model.pass_over
        # The interval that training goes on with is logged when it ends, once.
        runs.rewind_metrics(self._path, step - (passed.batches if passed else 0))
        records = runs.read_metrics(self._path)
        spent = max((float(record.get("elapsed_secs", 0.0)) for record in records), default=0.0)
        self._began = self._clock() - spent
        start: dict[str, Any] = {"num_steps": self._num_steps, "units": self._units, "time": time.time()}
        runs.append_metrics(self._path, "start", step, **start, elapsed_secs=spent)
        self._writer = tf.summary.create_file_writer(self._tensorboard_dir)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the clock of an interval."""
        self._interval_began = self._clock()
        self._interval_step = self.model.step()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Notes when the last step of the interval ended, so that validation does not count as training."""
        self._last_step_ended = self._clock()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Writes the averages of the interval; a `ValueError` if the loss of training is not finite."""
        numbers = {name: float(value) for name, value in (logs or {}).items()}
        step = self.model.step()
        if not math.isfinite(loss := numbers.get("loss", 0.0)):
            raise ValueError(
                f"the loss of steps {self._interval_step + 1} to {step} is {loss}; training ends, as it would"
                " not come back: lower the learning rate, or clip gradients"
            )
        secs = max(self._last_step_ended - self._interval_began, 1e-9)
        train = {name: value for name, value in numbers.items() if not name.startswith(_VALIDATION)}
        if step > self._interval_step:  # otherwise a validation was all that was left of it
            train[f"{self._units}_per_sec"] = (step - self._interval_step) * self._units_per_step / secs
        self._write("train", step, train)
        validation = {name.removeprefix(_VALIDATION): v for name, v in numbers.items() if name not in train}
        if validation:
            self._write("validation", step, validation | self._derived(validation))

    def on_train_end(self, logs: Any = None) -> None:
        """Stops the clock; `end` is for when all that training leaves is there."""
        self._writer.close()
        self._trained_secs = self._elapsed_secs()

    def end(self) -> None:
        """Marks the end if the last step has been reached: from then on the run counts as finished."""
        if self.model.step() >= self._num_steps:
            runs.append_metrics(self._path, "end", self.model.step(), elapsed_secs=self._trained_secs)

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
