"""When which fault hits which group: a function of the seed.

    plan(seed=1, secs=600, mtbf_secs=20, num_groups=3, kinds=KINDS)
    [Planned(at_secs=2.9, kind="nan", group=2), Planned(at_secs=31.4, kind="kill_launcher", group=0), ...]

    kill stop terminate        a worker gets SIGKILL, SIGSTOP, SIGTERM from outside
    kill_launcher              the launcher gets SIGKILL, and its workers with it; it is started again at once
    all others                 happen within the worker with its next step, as `injection` makes them

Whatever has no memory fails at exponentially distributed distances. Faults come at times and not at steps, as
``--inject`` has them, because a machine does not ask how far a process is: they hit groups that start, save,
validate or end, too, and one plan is enough for signals and for faults within a worker.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from tf_codistill import injection

SIGNALS = ("kill", "stop", "terminate")
"""What is done to a worker from outside."""
LAUNCHER = "kill_launcher"
"""What is done to the launcher."""
HARMLESS = ("slow", "corrupt_snapshot", "truncate_snapshot", "delete_snapshot")
"""What ends no process."""
KINDS = (*SIGNALS, LAUNCHER, *(kind for kind in injection.KINDS if kind not in SIGNALS))
"""All that can happen."""


class Planned(NamedTuple):
    """A fault to come.

    Attributes:
        at_secs: When, in seconds since all groups train.
        kind: What happens, one of `KINDS`.
        group: To which group; of no meaning where it is the launcher that is killed.
    """

    at_secs: float
    kind: str
    group: int


def plan(
    seed: int, secs: float, mtbf_secs: float, num_groups: int, kinds: Sequence[str] = KINDS
) -> list[Planned]:
    """Draws faults.

    Args:
        seed: Fixes all of them.
        secs: For how long there are any.
        mtbf_secs: Mean seconds between two of them, whichever group they hit.
        num_groups: Groups that may be hit.
        kinds: What may happen, each as often as the others.

    Returns:
        The faults in order.

    Raises:
        ValueError: A number is not above 0, or there is no such kind.
    """
    for name, value in (("secs", secs), ("mtbf_secs", mtbf_secs), ("num_groups", num_groups)):
        if not value > 0:
            raise ValueError(f"{name} is {value}; expected more than 0")
    check_kinds(kinds)
    source = random.Random(seed)
    return [
        Planned(at, source.choice(kinds), source.randrange(num_groups))
        for at in _times(source, secs, mtbf_secs)
    ]


def kills(seed: int, secs: float, mtbf_secs: float, num_workers: int) -> list[tuple[float, int]]:
    """Draws when which of several workers is killed; the same for whoever they train with.

    There are as many as are to be expected, at times that have no memory: in a time that is not many times
    that between two of them, their number would otherwise be mostly chance.

    Args:
        seed: Fixes all of them.
        secs: For how long there are any.
        mtbf_secs: Mean seconds between two of them; infinite for none.
        num_workers: Workers that may be hit.

    Returns:
        Seconds and worker, in order.
    """
    source = random.Random(seed)
    times = sorted(source.uniform(0.0, secs) for _ in range(round(secs / mtbf_secs)))
    return [(at, source.randrange(num_workers)) for at in times]


def check_kinds(kinds: Collection[str]) -> None:
    """Raises a `ValueError` if there is no such kind, or none at all."""
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise ValueError(f"kinds of faults have {', '.join(unknown)}; expected some of {', '.join(KINDS)}")
    if not kinds:
        raise ValueError(f"there is no kind of fault; expected some of {', '.join(KINDS)}")


def _times(source: random.Random, secs: float, mtbf_secs: float) -> Iterator[float]:
    at = source.expovariate(1 / mtbf_secs)
    while at < secs:
        yield at
        at += source.expovariate(1 / mtbf_secs)
