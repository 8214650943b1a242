"""What has to hold of a run whatever has happened to it; each with its evidence in a sentence.

for finding in judge(evidence):
    finding.name, finding.holds, finding.evidence
    "each batch trained once", True, "3 x 6000 steps of 6412, 6100 and 6731 trained"
"""

from __future__ import annotations

import math
import signal
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from scipy import stats

from tf_codistill import runs
from tf_codistill.torturing import trail
from tf_codistill.torturing.evidence import Evidence, OfGroup

RISK = 0.001
"""How often a run without any fault would be taken for one whose loss is not within noise."""


class Finding(NamedTuple):
    """Whether an invariant holds.

    Attributes:
        name: Which one.
        holds: Whether it does.
        evidence: What says so.
    """

    name: str
    holds: bool
    evidence: str


def judge(evidence: Evidence) -> list[Finding]:
    """Looks at all of them.

    Args:
        evidence: What the job has left.

    Returns:
        A finding for each invariant.
    """
    return [Finding(name, *look(evidence)) for name, look in INVARIANTS.items()]


def metrics_in_order(evidence: Evidence) -> tuple[bool, str]:
    """Each step's line is in the metrics once, and in order."""
    number, troubles = 0, []
    for index, group in enumerate(evidence.groups):
        for kind, every in (("train", evidence.log_every), ("validation", evidence.validate_every)):
            steps = [record["step"] for record in group.records if record["kind"] == kind]
            expected = list(range(every, evidence.num_steps + 1, every))
            number += len(steps)
            if found := _first_difference(steps, expected):
                troubles.append(f"group {index}, {kind}: {found}")
        if back := runs.out_of_order(group.records):
            troubles.append(f"group {index}: step {back[1]} after step {back[0]}")
    return _found(troubles, f"{number} lines of training and validation")


def batches_once(evidence: Evidence) -> tuple[bool, str]:
    """Each batch was trained once in the ancestry of the final weights, by the trail."""
    troubles, trained = [], []
    for index, group in enumerate(evidence.groups):
        kept = trail.ancestry(group.starts)
        trained.append(sum(len(list(start.of_kind("step"))) for start in group.starts))
        steps = [record["step"] for record in kept]
        if found := _first_difference(steps, list(range(1, evidence.num_steps + 1))):
            troubles.append(f"group {index}, steps: {found}")
        elif found := _first_difference([record["keys"] for record in kept], group.keys):
            troubles.append(f"group {index}, batches: {found}")
    kept_steps = f"{len(evidence.groups)} x {evidence.num_steps} steps kept"
    return _found(troubles, f"{kept_steps}, {_and(trained)} trained")


def weights_of_all_batches(evidence: Evidence) -> tuple[bool, str]:
    """The chain that was saved with the final weights is that of all batches in their order."""
    troubles = []
    for index, group in enumerate(evidence.groups):
        if group.saved_step != evidence.num_steps:
            troubles.append(f"group {index}: the last checkpoint is of step {group.saved_step}")
        elif group.saved_chain != group.chain:
            troubles.append(
                f"group {index}: chain {group.saved_chain} in the checkpoint, {group.chain} by the data"
            )
    chains = _and([group.saved_chain for group in evidence.groups])
    return _found(troubles, f"chains {chains}, in the last checkpoints and by the data")


def snapshots_whole(evidence: Evidence) -> tuple[bool, str]:
    """Teachers took what had been published whole, and it stayed so."""
    published = {
        (peer, record["incarnation"], record["step"]): record["digest"]
        for peer, group in enumerate(evidence.groups)
        for record in _of_kind(group, "publish")
    }
    troubles, number = [], 0
    for index, group in enumerate(evidence.groups):
        swaps = list(_of_kind(group, "swap"))
        number += len(swaps)
        for swap in swaps:
            name = f"group {index}: the snapshot of step {swap['step']} of group {swap['peer']}"
            known = published.get((swap["peer"], swap["incarnation"], swap["step"]))
            if known is None:
                troubles.append(f"{name} was never published")
            elif known != swap["digest"]:
                troubles.append(f"{name} is {swap['digest'][:8]} for its reader, {known[:8]} for its writer")
            elif swap["has_changed"]:
                troubles.append(f"{name} took the place of another one that had changed in the teacher")
        audited = {(swap["peer"], swap["incarnation"], swap["serial"]) for swap in swaps}
        troubles += [
            f"group {index}: the swap to {one} that it has logged is not in its trail"
            for one in group.taken
            if one not in audited
        ]
    if not number and len(evidence.groups) > 1:
        troubles.append("no snapshot was ever taken")
    return _found(troubles, f"{number} swaps, digests as those of {len(published)} that were published")


def groups_ended(evidence: Evidence) -> tuple[bool, str]:
    """All groups have come to their end."""
    troubles = []
    for index, group in enumerate(evidence.groups):
        ends = [record["step"] for record in group.records if record["kind"] == "end"]
        if ends != [evidence.num_steps]:
            troubles.append(f"group {index}: ends {ends}, expected one at {evidence.num_steps}")
    return _found(troubles, f"{len(evidence.groups)} groups at step {evidence.num_steps}")


def good_exit(evidence: Evidence) -> tuple[bool, str]:
    """The launcher ends well, if it was not killed on purpose."""
    *before, last = evidence.statuses
    strange = [status for status in before if status not in (0, -signal.SIGKILL)]
    num_killed = before.count(-signal.SIGKILL)
    said = f"exit status {_and([*strange, last])}, {num_killed} launchers killed before, "
    said += f"{evidence.num_killed} of them on purpose"
    return not (strange or last or num_killed > evidence.num_killed), said


def loss_within_noise(evidence: Evidence) -> tuple[bool, str]:
    """The final validation loss of each group is one that groups without faults have, too."""
    validations = [
        {record["step"]: record["loss"] for record in group.records if record["kind"] == "validation"}
        for group in evidence.groups
    ]
    losses = [float(by_step.get(evidence.num_steps, math.nan)) for by_step in validations]
    controls = evidence.control_losses
    mean, width = statistics.mean(controls), bound(controls, len(losses))
    said = (
        f"{_and([f'{loss:.4f}' for loss in losses])}; {mean:.4f} +- {width:.4f} by {len(controls)} groups "
        f"without faults (prediction interval of all {len(losses)} at a risk of {RISK})"
    )
    return all(abs(loss - mean) <= width for loss in losses), said


def bound(controls: Sequence[float], number: int) -> float:
    """How far from the mean of some values so many further ones may be by chance.

    The prediction interval of a normal distribution whose mean and deviation are estimated, at `RISK` for all
    of them together (Bonferroni).

    Args:
        controls: The values, two or more.
        number: How many others shall be within.

    Returns:
        Half its width.

    Raises:
        ValueError: There are fewer than two values.
    """
    if len(controls) < 2:
        raise ValueError(f"there are {len(controls)} values to tell noise by; expected at least 2")
    quantile = float(stats.t.ppf(1 - RISK / (2 * number), len(controls) - 1))
    return quantile * statistics.stdev(controls) * math.sqrt(1 + 1 / len(controls))


def no_process_left(evidence: Evidence) -> tuple[bool, str]:
    """No process of the job is left."""
    return _found(list(evidence.processes), "no process names the workdir")


def no_lease_left(evidence: Evidence) -> tuple[bool, str]:
    """Nobody holds a group's lease any more."""
    held = [f"group {index} is still held" for index, group in enumerate(evidence.groups) if group.is_held]
    return _found(held, f"{len(evidence.groups)} leases released")


INVARIANTS: dict[str, Callable[[Evidence], tuple[bool, str]]] = {
    "each step logged once, in order": metrics_in_order,
    "each batch trained once": batches_once,
    "final weights come from all batches": weights_of_all_batches,
    "no torn snapshot taken": snapshots_whole,
    "all groups reach the end": groups_ended,
    "exit status 0": good_exit,
    "final loss within noise": loss_within_noise,
    "no process left": no_process_left,
    "no lease left": no_lease_left,
}
"""What is looked at, by name."""


def _of_kind(group: OfGroup, kind: str) -> Iterator[dict[str, Any]]:
    return (record for start in group.starts for record in start.of_kind(kind))


def _first_difference(found: Sequence[int], expected: Sequence[int]) -> str | None:
    for place, (one, other) in enumerate(zip(found, expected, strict=False)):
        if one != other:
            return f"{one} in place of {other}, as number {place + 1}"
    if len(found) != len(expected):
        return f"{len(found)} of {len(expected)}"
    return None


def _found(troubles: Sequence[str], otherwise: str) -> tuple[bool, str]:
    if not troubles:
        return True, otherwise
    more = f" and {len(troubles) - 1} more" if len(troubles) > 1 else ""
    return False, f"{troubles[0]}{more}"


def _and(values: Sequence[Any]) -> str:
    words = [str(value) for value in values] or ["none"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
