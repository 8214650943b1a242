"""A launcher that may be killed and started again, and faults done to it and its workers.

    with Victim(job, "--hang_secs=30") as victim:
        victim.hit(Planned(12.5, "kill", group=1))    "done", or why nothing could be done
        victim.poll()                                 None until a launcher has ended by itself
    victim.statuses                                   [-9, 0]: one was killed, the next has ended well

However the block ends, no process is left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from types import TracebackType
from typing import IO

import psutil

from tf_codistill import children, files
from tf_codistill.health import progress
from tf_codistill.torturing import plan, trail
from tf_codistill.torturing.job import Job

DONE = "done"
NOBODY = "nobody was there"
OVER = "the group had ended"
TOO_SOON = "withheld, as the same end at the same step, twice, is one for good"

_TOLD = ("nan", "full_disk", "storage_503")  # ends that a worker tells itself, and `launch` compares

_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "terminate": signal.SIGTERM}
_GRACE_SECS = 60.0
_POLL_SECS = 0.1


class Victim:
    """The processes of a job.

    Attributes:
        log_path: The file for what launchers say.
        statuses: Exit statuses of the launchers that have ended, minus the signal that has ended them.
    """

    def __init__(self, job: Job, *flags: str, environment: Mapping[str, str] | None = None) -> None:
        """Starts nothing yet.

        Args:
            job: The job.
            *flags: Further flags of `launch`.
            environment: Variables beside those of this process.
        """
        self._job, self._flags, self._environment = job, flags, {**os.environ, **(environment or {})}
        self.log_path = os.path.join(job.workdir, "launch.log")
        self._orders, self.statuses = list[tuple[int, str]](), list[int]()

    def __enter__(self) -> Victim:
        """Starts the launcher; call it from the main thread.

        Returns:
            This.
        """
        files.ensure_directory(self._job.workdir)
        self._log: IO[bytes] = open(self.log_path, "ab")
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends all that runs; a second Ctrl-C does not wait."""
        try:
            if self._process.poll() is None:
                self.stop()
        finally:
            if self._process.poll() is None:
                self._process.kill()  # the kernel then kills its workers
                self._process.wait()
            self._log.close()

    def poll(self) -> int | None:
        """How the launcher has ended; None while it runs."""
        status = self._process.poll()
        if status is not None and len(self.statuses) < self._started:
            self.statuses.append(status)
        return status

    def stop(self) -> None:
        """Lets all workers save and end, also those that were stopped, and waits for it.

        Not by SIGINT, which is ignored by all that a shell's script has started in the background.
        """
        for worker in self._workers():
            with contextlib.suppress(psutil.Error):
                worker.resume()
        self._process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_SECS
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL_SECS)

    def is_over(self, group: int) -> bool:
        """Whether a group has come to its end."""
        return progress.read_status(self._job.workdir, group).is_ended

    def hit(self, fault: plan.Planned) -> str:
        """Lets a fault happen.

        Args:
            fault: What shall happen to whom.

        Returns:
            `DONE`, which of an order says that it was given; `NOBODY`, `OVER` or `TOO_SOON` if nothing was.
        """
        if fault.kind == plan.LAUNCHER:
            return self._kill_launcher()
        if self.is_over(fault.group):
            return OVER
        if fault.kind in _SIGNALS:
            return self.send(fault.group, 0, _SIGNALS[fault.kind])
        if fault.kind in _TOLD and not self._has_moved(fault.group, fault.kind):
            return TOO_SOON
        self._orders.append((fault.group, fault.kind))
        directory = trail.group_dir(self._job.trail_dir, fault.group)
        with open(os.path.join(directory, f"{trail.ORDER}{len(self._orders):06d}_{fault.kind}"), "xb"):
            pass  # the name says it all
        return DONE

    def send(self, group: int, worker: int, number: signal.Signals) -> str:
        """Sends a signal to a worker, if there is one.

        Args:
            group: Its group.
            worker: Which of the group's workers it is.
            number: The signal.

        Returns:
            `DONE`, or `NOBODY`.
        """
        for process in self._workers(group)[worker : worker + 1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
                return DONE
        return NOBODY

    def _has_moved(self, group: int, kind: str) -> bool:
        """Whether a group has logged a step behind all faults of a kind that it was ordered."""
        obeyed = [
            record["step"]
            for start in trail.read(self._job.trail_dir, group)
            for record in start.of_kind("fault")
            if record["fault"] == kind
        ]
        if len(obeyed) < self._orders.count((group, kind)):
            return False
        return progress.read_status(self._job.workdir, group).step > max(obeyed, default=-1)

    def _start(self) -> None:
        command = self._job.command(*self._flags)
        self._process = children.start(command, self._log, self._environment)
        self._started = len(self.statuses) + 1

    def _kill_launcher(self) -> str:
        self._process.kill()
        self._process.wait()
        self.poll()
        self._start()
        return DONE

    def _workers(self, group: int | None = None) -> list[psutil.Process]:
        """The workers, in the order in which they were started."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self._process.pid).children():
                with contextlib.suppress(psutil.Error):
                    if group is None or f"--group={group}" in process.cmdline():
                        found.append(process)
        return sorted(found, key=lambda process: (process.create_time(), process.pid))


def left_behind(directory: str) -> list[str]:
    """The processes whose command line names a directory, or something in it, this one excepted.

    Args:
        directory: The directory.

    Returns:
        Number and program of each.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline() if process.pid != os.getpid() else []
            if process.status() != psutil.STATUS_ZOMBIE and any(_is_in(word, directory) for word in words):
                found.append(f"{process.pid} {' '.join(words[1:3])}")
    return found


def _is_in(word: str, directory: str) -> bool:
    value = word.rpartition("=")[2]
    return value == directory or value.startswith(directory.rstrip("/") + "/")
