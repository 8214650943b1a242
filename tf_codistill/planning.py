"""What a plan takes, in steps, hours, bytes and dollars, from what a run of the same model has measured.

    rates = measure("runs/two")
    for way in ways(rates, Scenario(num_groups=2, workers_per_group=8, share=0.75)): ...

    one group                   S steps                     S (plain + other)
    G groups                    r S steps, B of burn-in     B plain + (r S - B) taught + r S other
    one group of all workers    S / G steps at best, with batches G times as large: where they still help
                                S steps where they do not

S is the number of steps that a lone group makes, r the share of them after which groups that codistil are as
good (`Scenario.share`), B the steps in which nobody is asked. A worker has the same part of a batch in all of
them, so that a step takes what it took; what a larger all-reduce takes is left out, to the rival's advantage.
"""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
from collections.abc import Sequence
from typing import Any

from tf_codistill import files, runs

_EVERY_STEPS = re.compile(r"^PeerExchange\.every_steps = (\d+)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Rates:
    """What a run has measured; of several groups the slowest counts.

    Attributes:
        num_steps: Steps that a group has made.
        plain_secs: Seconds of a step in which nobody is asked; None if there were none.
        taught_secs: Seconds of a step with teachers; None if there were none.
        other_secs: Seconds a step beside that: validation, checkpoints, the first step.
        model_bytes: Size of the trained model.
        every_steps: Steps between two exchanges.
    """

    num_steps: int
    plain_secs: float | None
    taught_secs: float | None
    other_secs: float
    model_bytes: int
    every_steps: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is to be trained, with what.

    Attributes:
        num_groups: Groups that codistil, G.
        workers_per_group: Workers of each.
        num_steps: Steps that a lone group needs, S.
        share: Share of them that codistilling groups need, r.
        burn_in_steps: Steps in which nobody is asked, B.
        larger_batch_share: Share of them that one group needs with batches G times as large; None if that is
            not known: then what is best, 1 / G, and what is worst, 1, are told.
        dollars_per_hour: Price of a worker.

    Raises:
        ValueError: A number is out of its range.
    """

    num_groups: int
    workers_per_group: int = 1
    num_steps: int
    share: float = 1.0
    burn_in_steps: int = 0
    larger_batch_share: float | None = None
    dollars_per_hour: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (
            *(("num_groups", 2), ("workers_per_group", 1), ("num_steps", 1)),
            *(("burn_in_steps", 0), ("dollars_per_hour", 0)),
        ):
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}, and finite")
        for name in ("share", "larger_batch_share"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; expected more than 0 and finite, such as 0.75")


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to the same quality.

    Attributes:
        name: What it is.
        num_workers: Workers of all groups.
        steps: Steps of each group.
        hours: Until the last one.
        exchanged_bytes: Snapshots written and read by all groups.
        gradient_bytes: What each worker sends to others of its group, by a ring.
        dollars: Price of all workers.
        break_even_share: Of a way without codistillation: at which `Scenario.share` groups are as fast; above
            1 they may even take more steps.
    """

    name: str
    num_workers: int
    steps: int
    hours: float
    exchanged_bytes: int
    gradient_bytes: int
    dollars: float
    break_even_share: float | None = None


def measure(workdir: str) -> Rates:
    """Reads what a run has measured.

    Args:
        workdir: Directory of a run that has ended.

    Returns:
        Its rates.

    Raises:
        ValueError: There is no run of groups that exchange, or none of them has come to an end.
    """
    found = [_measure(workdir, group) for group in runs.groups(workdir)]
    ended = [one for one in found if one is not None]
    if not ended:
        raise ValueError(
            f"no group in {workdir!r} exchanges snapshots and has come to its end; plan from one that does"
        )
    return max(ended, key=lambda one: (one.taught_secs or 0.0) + (one.plain_secs or 0.0))


def _measure(workdir: str, group: int) -> Rates | None:
    path = runs.metrics_path(workdir, group)
    train, ends = runs.read_metrics(path, "train"), runs.read_metrics(path, "end")
    saved = runs.student_path(workdir, group)
    every = _EVERY_STEPS.search(runs.bindings(workdir, group))
    if not (train and ends and every and files.exists(saved)):
        return None
    plain, taught = _secs_of_steps(train, is_taught=False), _secs_of_steps(train, is_taught=True)
    medians = [statistics.median(secs) if secs else None for secs in (plain, taught)]
    steps = int(ends[-1]["step"])
    in_steps = sum((median or 0.0) * len(secs) for median, secs in zip(medians, (plain, taught), strict=True))
    in_steps *= steps / max(1, len(plain) + len(taught))
    return Rates(
        num_steps=steps,
        plain_secs=medians[0],
        taught_secs=medians[1],
        other_secs=max(0.0, ends[-1]["elapsed_secs"] - in_steps) / steps,
        model_bytes=files.size_bytes(saved),
        every_steps=int(every.group(1)),
    )


def _secs_of_steps(train: Sequence[dict[str, Any]], is_taught: bool) -> list[float]:
    """Seconds of a step in each interval that consists of such steps alone, but for the first."""
    found = []
    for before, after in zip(train, train[1:], strict=False):
        weights = {before.get("distillation_weight", 0.0) > 0, after.get("distillation_weight", 0.0) > 0}
        if weights == {is_taught}:
            steps = after["step"] - before["step"]
            found.append((after["elapsed_secs"] - before["elapsed_secs"]) / steps)
    return found


def ways(rates: Rates, scenario: Scenario) -> list[Way]:
    """The ways to the same quality, with what each takes.

    Args:
        rates: What was measured.
        scenario: What is to be trained.

    Returns:
        One group, groups that codistil, and one group of all workers.

    Raises:
        ValueError: The run had no steps of a kind that the plan has.
    """
    if rates.plain_secs is None or rates.taught_secs is None:
        missing = "without" if rates.plain_secs is None else "with"
        raise ValueError(
            f"the run has no two log intervals {missing} teachers, so that it does not say how long such a "
            "step takes; plan from a run of two groups with a burn-in"
        )
    plain, taught, other = rates.plain_secs, rates.taught_secs, rates.other_secs
    num_groups, each = scenario.num_groups, scenario.workers_per_group
    steps = round(scenario.share * scenario.num_steps)
    burn_in = min(scenario.burn_in_steps, steps)

    def way(name: str, groups: int, each: int, steps: int, secs: float) -> Way:
        # In a ring each worker sends all parts of the gradient but one, twice (Patarasuk & Yuan 2009).
        sent = round(2 * (each - 1) / each * rates.model_bytes) * steps
        dollars = secs / 3600 * groups * each * scenario.dollars_per_hour
        return Way(name, groups * each, steps, secs / 3600, 0, sent, dollars)

    def alone(name: str, each: int, share: float) -> Way:
        steps = round(share * scenario.num_steps)
        secs = steps * (plain + other)
        even = (secs + scenario.burn_in_steps * (taught - plain)) / (taught + other) / scenario.num_steps
        return dataclasses.replace(way(name, 1, each, steps, secs), break_even_share=even)

    secs = burn_in * plain + (steps - burn_in) * taught + steps * other
    # At each exchange each group writes one snapshot and reads those of all others.
    exchanged = steps // rates.every_steps * num_groups**2 * rates.model_bytes
    codistilling = way(f"{num_groups} groups", num_groups, each, steps, secs)
    larger = f"one group, {num_groups} x the workers and the batch"
    shares = {f"{larger}, at best": 1 / num_groups, f"{larger}, at worst": 1.0}
    if scenario.larger_batch_share is not None:
        shares = {larger: scenario.larger_batch_share}
    return [
        alone("one group", each, 1.0),
        dataclasses.replace(codistilling, exchanged_bytes=exchanged),
        *(alone(name, num_groups * each, share) for name, share in shares.items()),
    ]
