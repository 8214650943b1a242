r"""Groups that are watched: one that fails or hangs is started again, and the others never notice.

    group = Group(0, workers, workdir, restarts, hang_secs)
    group.start()
    while not group.has_ended:
        group.look()               every now and then; returns what there is to tell
       +---------------- after a delay, from its newest checkpoint ----------------+
       v                                                                           |
    running --- a worker fails, or nothing is logged for too long: others killed --+--> failed for good
       \--> done

Workers of a group fail together, because a collective takes in nobody who comes later. Those of an
asynchronous group hold nothing, and are started again one by one.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Sequence

from tf_codistill import children, files, runs
from tf_codistill.health import progress, signs
from tf_codistill.launching.restarts import Failure, Restarts
from tf_codistill.launching.workers import Worker

LOOK_SECS = 10.0
"""Seconds between two looks at when a group has logged."""

_HANG_FACTOR = 10  # how much longer than the longest pause so far, starts excepted


class Group:
    """The workers of one group.

    Attributes:
        index: Which group it is.
        workers: Its workers.
        is_done: Whether all have ended well.
        failure: Why it has failed for good; None as long as it has not.
    """

    def __init__(
        self,
        index: int,
        workers: Sequence[Worker],
        workdir: str,
        max_restarts: int = 0,
        hang_secs: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts nothing yet.

        Args:
            index: Which group it is.
            workers: Its workers.
            workdir: Directory of the run.
            max_restarts: How often it is started again without a new checkpoint in between.
            hang_secs: How many seconds without a line in its metrics file it is given at least before it is
                taken for hung, and ten times its longest pause between two looks at it that found a new line;
                0 for ever. Twice as many after each time that it has logged nothing since it was started.
            clock: Returns seconds that never go back.

        Raises:
            ValueError: A number is out of range.
        """
        if hang_secs < 0:
            raise ValueError(f"hang_secs is {hang_secs}; expected seconds, or 0 for ever")
        self.index, self.workers, self._workdir = index, workers, workdir
        self._furthest = 0  # a restart takes steps back
        self._first_step = self._step()
        self._restarts = Restarts(max_restarts, self._first_step)
        self._max_restarts, self._hang_secs, self._clock = max_restarts, hang_secs, clock
        self._mark: float | None = None  # when it last logged, by the clock of its storage
        self._mark_at_start: float | None = None
        self._marked_at = self._longest_secs = self._looked_at = 0.0
        self._starts_at: float | None = None
        self.is_done = False
        self.failure: str | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is to be expected of it."""
        return self.is_done or self.failure is not None

    def has_progressed(self) -> bool:
        """Whether it has logged a step since it was first started, or is done."""
        self._step()
        return self.is_done or self._furthest > self._first_step

    def start(self) -> None:
        """Starts all its workers."""
        self._starts_at, self._marked_at = None, self._clock()
        self._mark = self._mark_at_start = self._logged_at()
        for worker in self.workers:
            worker.start()

    def look(self) -> str | None:
        """Notices what has become of it, and sees to it.

        Returns:
            What there is to tell of it, if anything.
        """
        if self.has_ended:
            return None
        if self._starts_at is not None:
            if self._clock() >= self._starts_at:
                self.start()
            return None
        codes = [worker.exit_status() for worker in self.workers]
        failed = [(code, worker) for worker, code in zip(self.workers, codes, strict=True) if code]
        if failed and all(worker.is_replaceable for _, worker in failed):
            return self._replace([worker for _, worker in failed])
        if failed:
            # One whose place was taken comes first, then one that a signal has ended: others may have ended
            # because it had.
            code, worker = min(failed, key=lambda one: (one[0] != children.SUPERSEDED, one[0]))
            reason, is_mistake = worker.failure()
            # Whoever has trained before, and has begun to do so again, has made none.
            has_trained = self._checkpoint() > 0 or self.has_progressed()
            is_mistake = is_mistake and not (has_trained and self._has_logged())
            is_superseded = code == children.SUPERSEDED
            return self._fail(Failure(reason, self._step(), code > 0, is_mistake, is_superseded))
        if all(code == 0 for code in codes):
            self.is_done = True
        elif (pause := self._pause()) is not None:
            if not self._has_logged():  # perhaps it only starts slowly: the next time it has as long again
                self._hang_secs *= 2
            reason = f"group {self.index} has logged nothing for {progress.duration(pause)}"
            return self._fail(Failure(reason, self._step()))
        return None

    def _replace(self, workers: Sequence[Worker]) -> str:
        """Starts workers again that are missed by nobody, as often as the whole group would be."""
        reasons = []
        for worker in workers:
            reason, is_mistake = worker.failure()
            is_told = (worker.exit_status() or 0) > 0
            failure = Failure(reason, self._step(), is_told, is_mistake)
            if self._restarts.after(failure, self._checkpoint()) is None:
                return self._fail(failure)
            reasons.append(reason)
        for worker in workers:
            worker.start()
        return "\n".join([*reasons, "it is started again, while its group goes on"])

    def _fail(self, failure: Failure) -> str:
        """Ends what is left of it, and decides whether it is started again."""
        for worker in self.workers:
            worker.send(signal.SIGKILL)
            worker.wait()
        checkpoint = self._checkpoint()
        delay = self._restarts.after(failure, checkpoint)
        if delay is None:
            self.failure = failure.reason
            return failure.reason
        self._starts_at = self._clock() + delay
        number = self._restarts.number
        with contextlib.suppress(OSError, ValueError):
            path = runs.metrics_path(self._workdir, self.index)
            line: dict[str, str | float] = {
                "reason": failure.reason.splitlines()[0],
                "attempt": number,
                "time": time.time(),
            }
            runs.append_metrics(path, "restart", failure.step, **line)
        return (
            f"{failure.reason}\ngroup {self.index} starts again in {delay:.0f} s from "
            f"{f'checkpoint {checkpoint}' if checkpoint else 'the beginning'}, restart {number} of at most "
            f"{self._max_restarts} without a new checkpoint"
        )

    def _pause(self) -> float | None:
        """For how long nothing has been logged, if that is too long."""
        now = self._clock()
        if not self._hang_secs or now - self._looked_at < LOOK_SECS:
            return None
        self._looked_at, mark = now, self._logged_at()
        if mark != self._mark:
            if self._mark != self._mark_at_start:  # a start takes long, and says nothing of steps
                self._longest_secs = max(self._longest_secs, now - self._marked_at)
            self._mark, self._marked_at = mark, now
        pause = now - self._marked_at
        return pause if pause > max(self._hang_secs, _HANG_FACTOR * self._longest_secs) else None

    def _checkpoint(self) -> int:
        """The step of its newest checkpoint, 0 if there is none."""
        with contextlib.suppress(OSError):
            return signs.checkpoint_step(self._workdir, self.index) or 0
        return 0

    def _has_logged(self) -> bool:
        """Whether it has logged anything since it was started, as it does when it begins to train."""
        return self._logged_at() != self._mark_at_start

    def _logged_at(self) -> float | None:
        with contextlib.suppress(OSError):
            return files.modified_at(runs.metrics_path(self._workdir, self.index))
        return None

    def _step(self) -> int:
        """The last step that it has logged."""
        step = 0
        with contextlib.suppress(OSError, ValueError):
            step = progress.read_status(self._workdir, self.index).step
        self._furthest = max(self._furthest, step)
        return step
