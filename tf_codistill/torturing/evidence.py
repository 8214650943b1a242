"""What is left of a tortured job, collected for those who judge it.

<workdir>/group_0/metrics.jsonl          what was logged
          group_0/checkpoints/...        the chain that was saved with the final weights
          group_0/worker_0.log           which snapshots were taken, as the exchange tells it
          group_0/lease/...              who holds the group
          trail/group_0/...              what was really done
the rows themselves                      what should have been learned, and in which order
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import gin
import tensorflow as tf

from tf_codistill import checkpoints, experiment, files, leases, runs
from tf_codistill.tasks.base import Part
from tf_codistill.torturing import trail
from tf_codistill.torturing.audit import hashed, link
from tf_codistill.torturing.job import Job

_SWAP = re.compile(rb"swap at step \d+, seat \d+, peer (\d+), incarnation (\d+), serial (\d+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfGroup:
    """What one group has left.

    Attributes:
        records: The lines of its metrics file.
        starts: Its trail.
        taken: Peer, incarnation and serial number of each snapshot that its log says to have been taken.
        saved_step: The step of its last checkpoint, 0 if there is none.
        saved_chain: The chain in it, 0 if there is none.
        keys: The hash of the keys of each batch that it should have learned from, in order.
        chain: The chain that these make.
        is_held: Whether somebody still holds its lease.
    """

    records: Sequence[dict[str, Any]]
    starts: Sequence[trail.Start]
    taken: Sequence[tuple[int, int, int]]
    saved_step: int
    saved_chain: int
    keys: Sequence[int]
    chain: int
    is_held: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a job has left.

    Attributes:
        num_steps: Steps that each group was to make.
        log_every: Steps between two lines of training.
        validate_every: Steps between two validations.
        groups: What each group has left.
        statuses: Exit statuses of its launchers, minus the number of the signal that ended one.
        num_killed: How many of them were killed on purpose.
        processes: Processes that are left.
        control_losses: Final validation losses of groups without faults.
    """

    num_steps: int
    log_every: int
    validate_every: int
    groups: Sequence[OfGroup]
    statuses: Sequence[int]
    num_killed: int
    processes: Sequence[str]
    control_losses: Sequence[float]


def of_group(job: Job, group: int) -> OfGroup:
    """Collects what a group has left.

    Args:
        job: The job, which has ended.
        group: The group.

    Returns:
        All of it.

    Raises:
        ValueError: A file cannot be understood.
    """
    saved_step, saved_chain = _saved(runs.checkpoints_dir(job.workdir, group))
    keys, chain = expected(job, group)
    log_path = runs.log_path(job.workdir, group, 0)
    taken = _SWAP.findall(files.read(log_path)) if files.exists(log_path) else []
    directory = runs.leased_dir(job.workdir, group)
    holder = leases.newest_holder(directory)
    return OfGroup(
        records=runs.read_metrics(runs.metrics_path(job.workdir, group)),
        starts=trail.read(job.trail_dir, group),
        taken=[(int(peer), int(one), int(serial)) for peer, one, serial in taken],
        saved_step=saved_step,
        saved_chain=saved_chain,
        keys=keys,
        chain=chain,
        is_held=holder is not None and not leases.beat_of(directory, holder).is_released,
    )


def _saved(directory: str) -> tuple[int, int]:
    """Step and chain of the newest complete checkpoint; zeros if there is none."""
    found = checkpoints.newest_complete(directory)
    if found is None:
        return 0, 0
    step, manifest = found
    shared = checkpoints.read_shared(checkpoints.path_of(directory, step), manifest)
    return step, int(shared["teachers"][-1])


def expected(job: Job, group: int) -> tuple[list[int], int]:
    """What a group should learn from, by its data alone.

    Args:
        job: The job.
        group: The group.

    Returns:
        The hash of the keys of each batch, in order, and the chain that these make.
    """

    def follow(chain: Any, batch: Any) -> tuple[Any, Any]:
        keys = hashed(batch.keys)
        return link(chain, keys), (keys, link(chain, keys))

    gin.clear_config()
    gin.parse_config(job.gin())
    stream = experiment.configured().task.training(Part(group, job.num_groups, job.seed))
    batches = stream.dataset(num_steps=job.num_steps).scan(tf.constant(0, tf.int64), follow)
    keys, chains = zip(*batches.as_numpy_iterator(), strict=True)
    return [int(one) for one in keys], int(chains[-1])


def final_losses(workdir: str, num_groups: int) -> list[float]:
    """The validation loss with which each group of a run has ended; not a number where there is none."""
    losses = []
    for group in range(num_groups):
        found = runs.read_metrics(runs.metrics_path(workdir, group), "validation")
        losses.append(float(found[-1]["loss"]) if found else float("nan"))
    return losses
