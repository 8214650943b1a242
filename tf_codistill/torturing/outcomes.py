"""What followed each fault, and what all of them have cost: goodput.

    fault at 113.2 s, group 1 at step 1380 ... a new start from step 1250 ... step 1381 at 131.0 s
    Outcome(followed="started again: killed by SIGKILL", resumed_step=1250, secs_to_new_step=17.8)

    goodput = steps that were kept / steps that a run without faults would have made in the same time

Times are counted from the first step to the last one of each group, here and there, so that nobody's
beginning counts. Where groups share cores one that is down lends its own to the others, which is as good
for goodput as it is for them.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tf_codistill.torturing import plan, trail, victim

Starts = Sequence[trail.Start]

_NEVER = "the group ended before"
_OVERTAKEN = "nothing, until the next fault or the end"
_WENT_ON = "went on"


@dataclasses.dataclass(frozen=True)
class Hit:
    """A fault that was due.

    Attributes:
        kind: Its kind.
        group: The group.
        at: When, in seconds since the epoch.
        how: What `Victim.hit` says of it.
    """

    kind: str
    group: int
    at: float
    how: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What followed.

    Attributes:
        kind: Kind of the fault.
        group: The group that was hit; all of them where it was the launcher.
        at_secs: When, in seconds since all groups trained.
        followed: In words.
        resumed_step: From which step the group went on; None if it was not started again.
        secs_to_new_step: Seconds until the group made a step that it had not made before, and not taken back
            after; None if it never did.
    """

    kind: str
    group: int
    at_secs: float
    followed: str
    resumed_step: int | None = None
    secs_to_new_step: float | None = None


def outcomes(
    hits: Sequence[Hit],
    began: float,
    starts: Sequence[Starts],
    restarts: Sequence[Sequence[Mapping[str, Any]]],
) -> list[Outcome]:
    """What followed each fault.

    Args:
        hits: The faults in order.
        began: When all groups trained, in seconds since the epoch.
        starts: The trail of each group.
        restarts: The lines of kind ``restart`` of each group's metrics.

    Returns:
        An outcome for each; of a launcher's end one for each group.
    """
    times = _happened_at(hits, starts)
    found = []
    for hit, at in zip(hits, times, strict=True):
        for group in range(len(starts)) if hit.kind == plan.LAUNCHER else [hit.group]:
            followed: tuple[str, int | None, float | None] = (hit.how, None, None)
            if hit.how == victim.DONE:
                others = (other for other, of in zip(times, hits, strict=True) if other and _ends(of, group))
                until = min((other for other in others if at and other > at), default=math.inf)
                ended = _ended(hit, at, until, restarts[group]) if at else None
                followed = _followed(at, until, ended, starts[group]) if at else (_NEVER, None, None)
            found.append(Outcome(hit.kind, group, hit.at - began, *followed))
    return found


def _ends(hit: Hit, group: int) -> bool:
    """Whether it may end the process of a group."""
    return hit.kind not in plan.HARMLESS and (hit.kind == plan.LAUNCHER or hit.group == group)


def _happened_at(hits: Sequence[Hit], starts: Sequence[Starts]) -> list[float | None]:
    """When each fault happened: an order is obeyed with the next step, those of a group one by one."""
    obeyed = [iter([record["time"] for start in one for record in start.of_kind("fault")]) for one in starts]
    times: list[float | None] = []
    for hit in hits:
        if hit.how != victim.DONE:
            times.append(None)
        elif hit.kind == plan.LAUNCHER or hit.kind in plan.SIGNALS:
            times.append(hit.at)
        else:
            times.append(next(obeyed[hit.group], None))
    return times


def _ended(
    hit: Hit, at: float, until: float, restarts: Sequence[Mapping[str, Any]]
) -> tuple[float, str] | None:
    """When it has ended the group, and what the launcher says of it; None if it has not."""
    if hit.kind == plan.LAUNCHER:
        return at, "by the next launcher"
    records = () if hit.kind in plan.HARMLESS else restarts
    found = (record for record in records if at < record["time"] <= until)
    return next(((record["time"], record["reason"].partition("; ")[0]) for record in found), None)


def _followed(
    at: float, until: float, ended: tuple[float, str] | None, starts: Starts
) -> tuple[str, int | None, float | None]:
    """What followed in a group, which nothing else could end until a time."""
    lost = ended[0] if ended else at
    steps = [record for start in starts for record in start.of_kind("step")]
    highest = max((record["step"] for record in steps if record["time"] <= lost), default=0)
    new = next(
        (record["time"] for record in steps if record["time"] > lost and record["step"] > highest), None
    )
    secs = None if new is None else new - at
    if ended is None:
        return (_WENT_ON if new is not None and new <= until else _OVERTAKEN), None, secs
    again = next((start for start in starts if start.at > lost), None)
    return f"started again: {ended[1]}", None if again is None else again.step, secs


@dataclasses.dataclass(frozen=True)
class Goodput:
    """What a group has made of its time.

    Attributes:
        kept_steps: Steps that are in the ancestry of its final weights.
        trained_steps: Steps that it made.
        secs: From its first step to its last one.
        steps_per_sec: What a run without faults makes of a second.
        goodput: Steps kept of those that such a run would have made.
    """

    kept_steps: int
    trained_steps: int
    secs: float
    steps_per_sec: float
    goodput: float


def rate(trails: Sequence[Starts]) -> float:
    """Steps per second of a group, by the trails of groups without faults."""
    return statistics.mean((len(steps) - 1) / _span(steps) for steps in map(trail.ancestry, trails))


def goodput(starts: Starts, steps_per_sec: float) -> Goodput:
    """What a group has made of its time.

    Args:
        starts: Its trail.
        steps_per_sec: What `rate` says of groups without faults.

    Returns:
        Its figures.
    """
    kept = trail.ancestry(starts)
    trained = sum(len(list(start.of_kind("step"))) for start in starts)
    first = next((record for start in starts for record in start.of_kind("step")), None)
    secs = kept[-1]["time"] - first["time"] if kept and first else 0.0
    share = (len(kept) - 1) / (steps_per_sec * secs) if secs else 0.0
    return Goodput(len(kept), trained, secs, steps_per_sec, share)


def _span(steps: Sequence[Mapping[str, Any]]) -> float:
    return float(steps[-1]["time"] - steps[0]["time"])
