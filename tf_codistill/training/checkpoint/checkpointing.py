"""Checkpointing: training that is stopped at any step goes on as if it had never stopped.

    model.fit(dataset, epochs=5, callbacks=[Checkpointing("gs://bucket/group_0", every_steps=500)])

    every N steps, every M minutes,       copied to the host,  +------------+
    when a monitored value is best,  -->  then written by   -> | checkpoint | -> found by the next `fit`
    at SIGTERM or Ctrl-C, at the end      a thread beside it   +------------+    of a new model

What is in it: `state`. A signal ends training with the step, or in a validation with the test batch,
that is under way: a checkpoint is saved, then KeyboardInterrupt leaves `fit`. A second signal does not wait.
What is resumed reads over the data of the steps that were done, which takes as long as reading them; that the
data is the same is checked by its first batch.
"""

from __future__ import annotations

import math
import secrets
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import keras
from absl import logging

from tf_codistill import checkpoints, distribution, weights
from tf_codistill.groups import decisions
from tf_codistill.training.checkpoint import own_part, state
from tf_codistill.training.checkpoint.progress import NONE, Found, Position, TrainingProgress

_FAILED = -2


class _DivergedError(ValueError):
    """No later checkpoint would be any better."""


class Checkpointing(keras.callbacks.Callback):
    """Saves checkpoints, and lets `fit` go on from the newest complete one.

    All workers of a group need it. A damaged checkpoint is passed over with a warning. Steps are those of
    `fit`, that is batches, also where gradients accumulate. Weights that are not finite are not saved; `fit`
    then ends with a `ValueError`, by the next checkpoint at the latest.
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
            every_steps: Steps between two checkpoints; None for none at certain steps. One that is due while
                the one before is still being written is saved when that is done.
            every_minutes: Minutes between two checkpoints; None for none at certain times.
            keep: How many of the newest stay.
            keep_every_steps: Those of multiples of this many steps stay for ever; None for none of them.
            monitor: Name in the logs of an epoch, such as ``val_loss``: the checkpoint with the best value
                stays, too, see `checkpoints.read_best`.
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
        self._in_fit = self._is_requested = self._is_due = self._stops = self._is_busy = False
        self._has_warned = False
        self._counted_from = self._epoch_began_at = 0
        self._saved_at = 0.0
        self._metrics: state.Replicas | None = None
        self._writing: threading.Thread | None = None
        self._failure: Exception | None = None
        self._handlers: dict[int, Any] = {}

    # What is found and restored, before training begins.

    def find(self, model: Any) -> Position | None:
        """Finds the newest complete checkpoint; all workers of the group must call it.

        Args:
            model: The `CodistillationModel` that `fit` is about to train.

        Returns:
            Where it goes on; None if there is none.

        Raises:
            ValueError: It is of another version, or the directory cannot be used.
        """
        directory, strategy = self._store.directory, model.distribute_strategy
        self._store.worker = distribution.worker_index(strategy)
        self._store.num_workers = distribution.num_workers(strategy)
        if directory not in model.progress.found:
            step, error = self._look() if self._store.worker == 0 else (NONE, None)
            step, start = decisions.broadcast(strategy, [step, secrets.randbits(62)])
            if step == _FAILED:
                raise ValueError(
                    str(error or "the chief of this group cannot use its checkpoints")
                ) from error
            manifest = {} if step == NONE else checkpoints.manifest_of(directory, step)
            model.progress.found[directory] = Found(step, start, manifest)
        found = model.progress.found[directory]
        self._store.start = found.start
        return None if found.step == NONE else Position(*found.manifest["metadata"]["position"])

    def _look(self) -> tuple[int, Exception | None]:
        try:
            self._store.prepare()
            found = checkpoints.newest_complete(self._store.directory)
        except (ValueError, OSError) as error:
            return _FAILED, error
        return NONE if found is None else found[0], None

    def restore(self, model: Any) -> Position | None:
        """Brings a model, built for its data, to where the newest complete checkpoint has it.

        Args:
            model: The `CodistillationModel`.

        Returns:
            Where it goes on; None if there is no checkpoint.

        Raises:
            ValueError: The checkpoint holds another model, or of another batch size.
        """
        position = self.find(model)
        if position is None:
            return None
        step, _, manifest = model.progress.found[self._store.directory]
        path = checkpoints.path_of(self._store.directory, step)
        try:
            own = own_part.read(model, path, manifest)
            state.assign(model, checkpoints.read_shared(path, manifest), own)
        except ValueError as error:
            raise ValueError(
                f"the checkpoint of step {step} holds another model or other groups: {error}; "
                "use the settings that it was made with, or another directory"
            ) from error
        progress, best = model.progress, manifest["metadata"]["best"]
        progress.position, progress.saved_step, progress.restored = position, step, own["metrics"]
        progress.best = math.inf if best is None else best
        logging.info("resumed from step %d", step)
        return position

    # What happens while training goes on.

    def on_train_begin(self, logs: Any = None) -> None:
        """Listens to signals, where Python lets it: in the main thread."""
        if getattr(self.model, "progress", None) is None:
            raise TypeError(
                "Checkpointing saves a CodistillationModel; of a single model CodistillationModel(model_fn)"
            )
        self._is_requested = self._is_due = self._stops = self._is_busy = False
        self._in_fit, self._saved_at, self._counted_from = True, self._clock(), self.model.batches()
        self.model.meeting.join(3, self._propose, self._decide, in_validation=True)
        if threading.current_thread() is threading.main_thread():
            self._handlers = {
                number: signal.signal(number, self._request_stop)
                for number in (signal.SIGINT, signal.SIGTERM)
            }

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes where the epoch begins."""
        begin, position = Position(self._progress.fit, epoch), self._progress.position
        done = position.batch if position[:2] == begin[:2] else 0
        self._progress.position = begin._replace(batch=done)
        self._epoch_began_at = self.model.batches() - done

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Saves if it is time to, or if training shall stop."""
        step, every = self.model.batches(), self._every_steps
        self._progress.position = self._progress.position._replace(batch=step - self._epoch_began_at)
        self._is_due = self._is_due or bool(every and step // every > self._counted_from // every)
        if self._stops or (self._is_due and not self._is_busy):
            self._save()
        self._leave_if_requested()

    def on_test_begin(self, logs: Any = None) -> None:
        """Keeps the metrics of the epoch, which validation begins anew."""
        self._metrics = state.metrics_of(self.model) if self._in_fit else None

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Leaves a validation, to begin it anew when training goes on."""
        if self._in_fit and self._stops:
            self._save(metrics=self._metrics)
            self._leave_if_requested()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Saves if it is time to, if the monitored value is the best so far, or if training ends."""
        progress = self._progress
        if self.model.pass_over and not self.model.stop_training:
            self.model.pass_over.check_end()
        progress.position = Position(progress.fit, epoch + 1)
        rank = self._rank(logs or {})
        is_best = rank is not None and rank < progress.best
        ends = self.model.stop_training or epoch + 1 >= self.params["epochs"]
        is_saved = progress.saved_step == self.model.batches()
        if is_best or is_saved or ends or self._stops or (self._is_due and not self._is_busy):
            if is_best and rank is not None:
                progress.best = rank
            self._save(rank)
        self._leave_if_requested()

    def on_train_end(self, logs: Any = None) -> None:
        """Waits until what training has ended with is saved."""
        self._listen_no_more()
        self._wait()

    def close(self, waits: bool = True) -> None:
        """Ends what `on_train_begin` began, if training did not end as it should; `fit` calls it.

        Args:
            waits: Whether to wait until what is being written is there.
        """
        self._listen_no_more()
        self._in_fit = False
        if waits:
            self._join()

    @property
    def _progress(self) -> TrainingProgress:
        return self.model.progress

    def _propose(self) -> Sequence[int]:
        late = self._every_secs and self._clock() - self._saved_at >= self._every_secs
        is_busy = self._writing is not None and self._writing.is_alive()
        return [int(self._is_requested), int(bool(late) and self._store.worker == 0), int(is_busy)]

    def _decide(self, sums: Sequence[int]) -> None:
        self._stops, self._is_due = self._stops or sums[0] > 0, self._is_due or sums[1] > 0
        self._is_busy = sums[2] > 0

    def _rank(self, logs: dict[str, Any]) -> float | None:
        """The monitored value, so that less is better."""
        if self._monitor is None:
            return None
        if self._monitor not in logs:
            is_due = not self._monitor.startswith("val_") or any(name.startswith("val_") for name in logs)
            if is_due and not self._has_warned:
                self._has_warned = True
                logging.warning(
                    "%r is not in the logs, which have %s", self._monitor, ", ".join(sorted(logs))
                )
            return None
        rank = self._sign * float(logs[self._monitor])
        return rank if math.isfinite(rank) else None

    def _save(self, rank: float | None = None, metrics: state.Replicas | None = None) -> None:
        """Copies everything to the host, and lets a thread write it."""
        progress, step = self._progress, self.model.batches()
        self._is_due, self._saved_at, self._counted_from = False, self._clock(), step
        best = progress.best if math.isfinite(progress.best) else None
        metadata: dict[str, Any] = {"position": list(progress.position), "best": best}
        if rank is not None:
            metadata |= {"rank": rank, "monitor": self._monitor}
        if step == progress.saved_step:
            self._write(self._store.update_metadata, step, metadata)
        else:
            self._write(self._save_finite, step, *state.of(self.model, metrics), metadata)
            progress.saved_step = step

    def _save_finite(self, step: int, shared: checkpoints.Arrays, *rest: Any) -> None:
        """Nobody could go on from weights that are not finite, and an older checkpoint would go for them."""
        if (position := weights.first_not_finite(shared["weights"])) is not None:
            held = [weight for student in self.model.students for weight in student.weights]
            raise _DivergedError(
                f"weight {held[position].path!r} is not finite after step {step}; training ends, as it would "
                "not come back, and the checkpoint before stays: lower the learning rate, or clip gradients"
            )
        self._store.save(step, shared, *rest)

    def _write(self, act: Callable[..., None], step: int, *arguments: Any) -> None:
        def write() -> None:
            try:
                act(step, *arguments)
                self._failure = None if act == self._save_finite else self._failure
            except Exception as error:
                logging.warning("the checkpoint of step %d is not saved: %s", step, error)
                self._failure = error

        self._join()
        if isinstance(self._failure, _DivergedError):
            self._wait()
        self._writing = threading.Thread(target=write, name="checkpointing", daemon=True)
        self._writing.start()

    def _join(self) -> None:
        if self._writing is not None:
            self._writing.join()

    def _wait(self) -> None:
        self._join()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _leave_if_requested(self) -> None:
        if self._stops:
            self._listen_no_more()
            self._wait()
            message = f"stopped and saved at step {self._progress.saved_step}"
            logging.info(message)
            raise KeyboardInterrupt(message)

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        logging.info("%s: stopping at the end of the step", signal.Signals(number).name)
        self._is_requested = True
        self._listen_no_more()

    def _listen_no_more(self) -> None:
        while self._handlers:
            number, handler = self._handlers.popitem()
            signal.signal(number, handler or signal.SIG_DFL)
