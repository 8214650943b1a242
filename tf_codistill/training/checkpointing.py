"""Checkpointing: training that is stopped at any step goes on as if it had never stopped.

    model.fit(dataset, epochs=5, callbacks=[Checkpointing("gs://bucket/group_0", every_steps=500)])

    every N steps, every M minutes,       copied to the host,  +------------+
    when a monitored value is best,  -->  then written by   -> | checkpoint | -> found by the next `fit`
    at SIGTERM or Ctrl-C, at the end      a thread beside it   +------------+    of a new model

    shared    weights        of each student, in order, as they would be served
              optimizer
              teachers       of the teaching
    own       replicas       what each replica holds apart: batch statistics, seeds, metrics of the epoch
              lanes          recurrent states of this worker's lanes, student by student
              teacher_lanes  of the teaching, which reads the same lanes

A signal ends training with the step, or in a validation with the test batch, that is under way: a checkpoint
is saved, then KeyboardInterrupt leaves `fit`. A second signal does not wait. What is resumed reads over the
data of the steps that were done, which takes as long as reading them; that the data is the same is checked by
its first batch.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import FrameType
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from tf_codistill import checkpoints, distribution, recurrent_state, weights
from tf_codistill.groups import decisions
from tf_codistill.training.pass_over import PassOver, before_epoch, check_first
from tf_codistill.training.replica_statistics import replica_values

_NONE = -1


class Position(NamedTuple):
    """How far training has come.

    Attributes:
        epoch: Epochs that have ended, validation included.
        batch: Batches of the next epoch that have been learned from.
    """

    epoch: int = 0
    batch: int = 0


class Checkpointing(keras.callbacks.Callback):
    """Saves checkpoints, and lets `fit` go on from the newest whole one.

    List it last. All workers of a group need it. `fit` restores a model that has not trained yet; a damaged
    checkpoint is passed over with a warning.
    """

    def __init__(
        self,
        directory: str,
        every_steps: int | None = 500,
        every_minutes: float | None = None,
        keep: int = 2,
        keep_every_steps: int | None = None,
        monitor: str | None = None,
        mode: str = "min",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes note of the arguments; touches no file.

        Args:
            directory: Where checkpoints are kept, of any scheme of ``tf.io.gfile``; for one group alone.
            every_steps: Steps between two checkpoints; None for none at certain steps.
            every_minutes: Minutes between two checkpoints; None for none at certain times.
            keep: How many of the newest stay.
            keep_every_steps: Those of multiples of this many steps stay for ever; None for none of them.
            monitor: Name in the logs of an epoch, such as ``val_loss``: the checkpoint with the best value
                stays, too, see `checkpoints.best_step`.
            mode: ``min`` or ``max``, which values are best.
            clock: Returns seconds that never go back.

        Raises:
            ValueError: An argument is out of range.
        """
        super().__init__()
        for name, value in (("every_steps", every_steps), ("every_minutes", every_minutes)):
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; expected more than 0, or None")
        if mode not in ("min", "max"):
            raise ValueError(f"mode is {mode!r}; expected 'min' or 'max'")
        self._store = checkpoints.Checkpoints(directory, keep=keep, keep_every_steps=keep_every_steps)
        self._every_steps, self._every_secs = every_steps, every_minutes and 60 * every_minutes
        self._monitor, self._sign = monitor, 1 if mode == "min" else -1
        self._clock = clock
        self._is_asked = self._is_due = self._stops = False
        self._position, self._epoch_began_at = Position(), 0
        self._saved_step, self._saved_at, self._best = _NONE, 0.0, np.inf
        self._metrics: list[list[np.ndarray]] | None = None
        self._found: tuple[int, Any] | None = None
        self._restored: Any = None
        self._writing: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "checkpointing")
        self._handlers: dict[int, Any] = {}

    # What is found and restored, before training begins.

    def find(self, model: Any) -> Position:
        """Finds the newest whole checkpoint; all workers of the group must call it.

        Args:
            model: The `CodistillationModel` that `fit` is about to train.

        Returns:
            Where it goes on.
        """
        strategy = model.distribute_strategy
        self._store.worker = distribution.worker_index(strategy)
        self._store.num_workers = distribution.num_workers(strategy)
        found = None
        if self._store.worker == 0:
            self._store.clean()
            found = checkpoints.newest_whole(self._store.directory)
        (step,) = decisions.broadcast(strategy, [_NONE if found is None else found[0]])
        if step == _NONE:
            return Position()
        self._found = found or (step, checkpoints.mark_of(self._store.directory, step))
        return Position(*self._found[1]["metadata"]["position"])

    def restore(self, model: Any) -> Position:
        """Brings a model, built for its data, to where the newest whole checkpoint has it.

        Args:
            model: The `CodistillationModel`.

        Returns:
            Where it goes on.

        Raises:
            ValueError: The checkpoint holds another model, or was written by another number of workers.
        """
        position = self.find(model)
        if self._found is None:
            return position
        step, mark = self._found
        path = checkpoints.path_of(self._store.directory, step)
        number = distribution.num_workers(model.distribute_strategy)
        if mark["num_workers"] != number:
            raise ValueError(
                f"checkpoint {path!r} was written by {mark['num_workers']} workers, this group has {number}; "
                "start as many, or use another directory"
            )
        shared = checkpoints.read_shared(path, mark)
        own = checkpoints.read_own(path, mark, distribution.worker_index(model.distribute_strategy))
        try:
            self._metrics = _State(model).assign(shared, own)
        except ValueError as error:
            raise ValueError(
                f"the checkpoint of step {step} holds another model or other groups: {error}; "
                "use the settings that it was made with, or another directory"
            ) from error
        self._position, self._saved_step, self._restored = position, step, model
        self._best = min(self._best, mark["metadata"].get("rank", np.inf))
        logging.info("resumed from step %d", step)
        return position

    @property
    def position(self) -> Position:
        """How far training has come."""
        return self._position

    def first_batch(self) -> int | None:
        """What tells the first batch apart that training began with, in the checkpoint that was found."""
        return None if self._found is None else int(self._found[1]["metadata"]["first_batch"])

    def has_restored(self, model: Any) -> bool:
        """Whether it has brought a model to where it is."""
        return self._restored is model

    def restore_metrics(self) -> None:
        """Gives the metrics of the epoch the values that they had; called when its steps are passed over."""
        if self._metrics is not None:
            _assign_replicas(_State(self.model).metrics(), self._metrics)
            self._metrics = None

    # What happens while training goes on.

    def on_train_begin(self, logs: Any = None) -> None:
        """Listens to signals, where Python lets it: in the main thread."""
        del logs
        self._is_asked = self._is_due = self._stops = False
        self._saved_at = self._clock()
        self.model.meeting.join(2, self._propose, self._decide, in_validation=True)
        if threading.current_thread() is threading.main_thread():
            self._handlers = {
                number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)
            }

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes where the epoch begins."""
        del logs
        done = self._position.batch if self._position.epoch == epoch else 0
        self._epoch_began_at = self.model.batches() - done
        self._position = Position(epoch, done)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Saves if it is time to, or if training shall stop."""
        del batch, logs
        step, done = self.model.step(), self.model.batches() - self._epoch_began_at
        self._position = self._position._replace(batch=done)
        every = self._every_steps
        self._is_due = self._is_due or bool(every and step // every > max(self._saved_step, 0) // every)
        # At the end of an epoch validation is part of what is saved.
        if self._stops or (self._is_due and done != self.params.get("steps")):
            self._save()
        self._leave_if_asked()

    def on_test_begin(self, logs: Any = None) -> None:
        """Keeps the metrics of the epoch, which validation begins anew."""
        del logs
        if self._handlers or self._position.batch:
            self._metrics = [replica_values(one) for one in _State(self.model).metrics()]

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Leaves a validation, to begin it anew when training goes on."""
        del batch, logs
        if self._stops and self._metrics is not None:
            self._save(self._metrics)
            self._leave_if_asked()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Saves if it is time to, if the monitored value is the best so far, or if training shall stop."""
        self._position, self._metrics = Position(epoch + 1, 0), None
        value = (logs or {}).get(self._monitor) if self._monitor else None
        rank = np.inf if value is None else self._sign * float(value)
        is_best = rank < self._best
        if self._is_due or is_best or self._stops:
            self._best = min(self._best, rank)
            self._save(rank=rank if value is not None else None)
        self._leave_if_asked()

    def on_train_end(self, logs: Any = None) -> None:
        """Saves what training ended with."""
        del logs
        self._save()
        self._listen_no_more()
        self._wait()

    def _propose(self) -> Sequence[int]:
        late = self._every_secs and self._clock() - self._saved_at >= self._every_secs
        is_chief = distribution.is_chief(self.model.distribute_strategy)
        return [int(self._is_asked), int(bool(late) and is_chief)]

    def _decide(self, sums: Sequence[int]) -> None:
        self._stops = self._stops or sums[0] > 0
        self._is_due = self._is_due or sums[1] > 0

    def _save(self, metrics: list[list[np.ndarray]] | None = None, rank: float | None = None) -> None:
        """Copies everything to the host, and lets the thread write it."""
        step = self.model.step()
        self._is_due, self._saved_at = False, self._clock()
        first = int(weights.values([self.model.first_batch])[0])
        metadata: dict[str, Any] = {"position": list(self._position), "first_batch": first}
        if rank is not None:
            metadata |= {"rank": rank, "monitor": self._monitor}
        if step != self._saved_step or metrics is not None:
            shared, own = _State(self.model).arrays(metrics)
            self._wait()
            self._writing = self._thread.submit(self._store.save, step, shared, own, metadata)
            self._saved_step = step
        elif distribution.is_chief(self.model.distribute_strategy):
            self._wait()
            self._store.mark(step, **metadata)

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _leave_if_asked(self) -> None:
        if self._stops:
            self._listen_no_more()
            self._wait()
            raise KeyboardInterrupt(f"stopped and saved at step {self._saved_step}")

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        logging.info("%s: stopping at the end of the step", signal.Signals(number).name)
        self._is_asked = True
        self._listen_no_more()

    def _listen_no_more(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())


def resume(model: Any, callbacks: Sequence[Any], arguments: dict[str, Any]) -> PassOver | None:
    """Lets `fit` go on from the newest whole checkpoint, if `Checkpointing` is among its callbacks.

    Args:
        model: The `CodistillationModel`.
        callbacks: Those given to `fit`.
        arguments: All that was given to `fit` by name; the epoch to begin with is changed.

    Returns:
        What takes the place of steps that were done before; None if there are none.
    """
    found = [callback for callback in callbacks if isinstance(callback, Checkpointing)]
    if not found:
        return None
    (checkpointing,) = found
    if isinstance(arguments.get("x"), np.ndarray) and arguments.get("shuffle", True):
        logging.warning(
            "arrays are shuffled in an order that cannot be restored, so that a resumed run learns from "
            "other batches; give fit shuffle=False, or a tf.data.Dataset that is shuffled with a seed"
        )
    first_epoch = arguments.get("initial_epoch", 0)
    if model.batches() == 0:
        position = checkpointing.find(model)
        model.when_built = lambda: checkpointing.restore(model)
    elif not checkpointing.has_restored(model):
        return None
    else:
        position = checkpointing.position
    if position <= Position(first_epoch, 0):
        return None
    arguments["initial_epoch"] = position.epoch
    skipped = max(position.epoch - first_epoch, 0)
    expected = checkpointing.first_batch() if first_epoch == 0 else None

    def check(batch: Any) -> None:
        if expected is not None:
            check_first(batch, expected)

    read, from_first = before_epoch(arguments["x"], skipped, arguments.get("steps_per_epoch"), check)
    ignore = lambda batch: None  # noqa: E731
    return PassOver(read, position.batch, check if from_first else ignore, checkpointing.restore_metrics)


class _State:
    """All that training depends on, as arrays and back."""

    def __init__(self, model: Any) -> None:
        self._model = model
        students = model.students
        known = {id(weight) for student in students for weight in student.trainable_weights}
        held = [variable for student in students for variable in student.variables]
        # Batch statistics, and random number generators, which are no weights to Keras.
        self._apart = [one for one in held if id(one) not in known] + [model.batches_seen, model.first_batch]
        self._lanes = [lane for student in students for lane in recurrent_state.variables(student)]

    def metrics(self) -> list[keras.Variable]:
        return [variable for metric in self._model.metrics for variable in metric.variables]

    def arrays(self, metrics: list[list[np.ndarray]] | None) -> tuple[Any, Any]:
        teachers, teacher_lanes = self._model.teachers.state()
        values = [self._model.statistics.own(one) for one in self._apart]
        values += metrics or [replica_values(one) for one in self.metrics()]
        shared = {
            "weights": [array for student in self._model.students for array in self._model.served(student)],
            "optimizer": weights.values(self._model.optimizer.variables),
            "teachers": teachers,
        }
        own = {
            "replicas": [np.stack(copies) for copies in values],
            "lanes": recurrent_state.values(self._lanes),
            "teacher_lanes": teacher_lanes,
        }
        return shared, own

    def assign(self, shared: Any, own: Any) -> list[list[np.ndarray]]:
        """Assigns everything but the metrics of the epoch, which it returns."""
        model = self._model
        model.teachers.restore(shared["teachers"], own["teacher_lanes"])
        weights.assign([one for student in model.students for one in student.weights], shared["weights"])
        weights.assign(model.optimizer.variables, shared["optimizer"])
        recurrent_state.assign(self._lanes, own["lanes"])
        number = len(self._apart)
        _assign_replicas(self._apart, [list(copies) for copies in own["replicas"][:number]])
        return [list(copies) for copies in own["replicas"][number:]]


def _assign_replicas(variables: Sequence[keras.Variable], values: Sequence[Sequence[np.ndarray]]) -> None:
    for variable, copies in zip(variables, values, strict=True):
        local = weights.local_copies(variable)
        if len(local) != len(copies) or tuple(variable.shape) != copies[0].shape:
            raise ValueError(
                f"variable {variable.path!r} has shape {tuple(variable.shape)} on {len(local)} replicas; "
                f"there are {len(copies)} arrays of shape {copies[0].shape}"
            )
        for copy, value in zip(local, copies, strict=True):
            copy.assign(tf.cast(value, copy.dtype))
