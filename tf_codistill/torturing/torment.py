"""A job under faults, from its start to its end.

    what = torment(job, plan(...), console)
    what.hits, what.began           which faults were due, when; since when all groups trained
    what.statuses                   [-9, 0]: how launchers have ended

Faults begin when all groups train, and end with the job or with the plan.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence

from rich.console import Console

from tf_codistill.health import display, progress
from tf_codistill.torturing import job, outcomes, plan, trail, victim

_POLL_SECS = 0.1
_STALLED_SECS = 900.0


@dataclasses.dataclass(frozen=True)
class Torment:
    """What was done to a job.

    Attributes:
        hits: The faults that were due before it ended.
        began: When all groups trained, in seconds since the epoch.
        statuses: Exit statuses of its launchers, minus the number of the signal that ended one.
        left: Processes that were left when the last launcher had ended.
    """

    hits: Sequence[outcomes.Hit]
    began: float
    statuses: Sequence[int]
    left: Sequence[str]

    @property
    def num_killed(self) -> int:
        """How many launchers were killed on purpose."""
        return sum(hit.kind == plan.LAUNCHER for hit in self.hits)


def torment(of: job.Job, faults: Sequence[plan.Planned], console: Console, *flags: str) -> Torment:
    """Runs a job, and lets faults happen to it until it ends.

    Args:
        of: The job.
        faults: What shall happen when.
        console: Where progress and faults are shown.
        *flags: Further flags of `launch`.

    Returns:
        What was done; a job in which nobody makes a step for a quarter of an hour is ended.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; all processes have been ended.
    """
    hits: list[outcomes.Hit] = []
    waiting, began = list(faults), 0.0
    seen = _Progress(of)
    with victim.Victim(of, *flags) as running:
        with display.Display(of.workdir, range(of.num_groups), console) as shown:
            while running.poll() is None and seen.secs_ago() < _STALLED_SECS:
                began = began or (time.time() if _all_train(of) else 0.0)
                if began and waiting and time.time() - began >= waiting[0].at_secs:
                    fault = waiting.pop(0)
                    hits.append(outcomes.Hit(fault.kind, fault.group, time.time(), running.hit(fault)))
                    console.print(_told(hits[-1], began), markup=False)
                shown.update()
                time.sleep(_POLL_SECS)
        left = victim.left_behind(of.workdir) if running.poll() is not None else []
    return Torment(hits, began, running.statuses, left)


class _Progress:
    """Since when nobody has done anything."""

    def __init__(self, of: job.Job) -> None:
        self._dirs = [trail.group_dir(of.trail_dir, group) for group in range(of.num_groups)]
        self._mark, self._at = -1, time.monotonic()

    def secs_ago(self) -> float:
        entries = [entry for path in self._dirs if os.path.isdir(path) for entry in os.scandir(path)]
        mark = sum(entry.stat().st_size for entry in entries if entry.name.endswith(".jsonl"))
        if mark != self._mark:
            self._mark, self._at = mark, time.monotonic()
        return time.monotonic() - self._at


def _all_train(of: job.Job) -> bool:
    return all(progress.read_status(of.workdir, group).step > 0 for group in range(of.num_groups))


def _told(hit: outcomes.Hit, began: float) -> str:
    whom = "the launcher" if hit.kind == plan.LAUNCHER else f"group {hit.group}"
    how = "" if hit.how == victim.DONE else f": {hit.how}"
    return f"{hit.at - began:6.1f} s  {hit.kind} of {whom}{how}"
