"""Who a worker is in a run that a scheduler has started: from the scheduler's environment to TF_CONFIG.

    group = join("slurm")          # or "jobset"; called by every worker, before TensorFlow looks at TF_CONFIG

    cluster    group                  worker                  addresses of the group's workers
    slurm      SLURM_ARRAY_TASK_ID    SLURM_PROCID            scontrol show hostnames, a port for each worker
    jobset     FIRST_GROUP + JOB_INDEX  JOB_COMPLETION_INDEX  names of pods, one port for all

A Slurm job shares its nodes with others, also of the same run. Its ports follow from the job's number, so
that the workers of a group agree on them without a word. No two workers of a run have the same, nor have
those of runs submitted one after the other, as long as groups have at most 64 workers:

    port = 20480 + (64 * SLURM_ARRAY_JOB_ID + workers per group * SLURM_ARRAY_TASK_ID + worker) % 12288

A pod has all ports to itself.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence

CLUSTERS = ("slurm", "jobset")

_FIRST_PORT, _NUM_PORTS, _PORTS_OF_A_JOB = 20480, 12288, 64  # below those that Linux gives to whoever asks
_POD_PORT = 2222
_TF_CONFIG = "TF_CONFIG"


@dataclasses.dataclass(frozen=True)
class Membership:
    """A worker's place in its run.

    Attributes:
        group: Index of its group.
        worker: Index of the worker in its group.
        addresses: ``host:port`` of each worker of the group.
    """

    group: int
    worker: int
    addresses: tuple[str, ...]


def join(cluster: str) -> int:
    """Takes this worker's place: sets TF_CONFIG, or takes it away where a group has one worker.

    Args:
        cluster: Who has started the worker, one of `CLUSTERS`.

    Returns:
        The index of the worker's group.

    Raises:
        ValueError: The environment does not say what it should.
    """
    member = of_slurm(os.environ) if cluster == "slurm" else of_jobset(os.environ)
    os.environ.pop(_TF_CONFIG, None)
    if len(member.addresses) > 1:
        os.environ[_TF_CONFIG] = tf_config(member.addresses, member.worker)
    return member.group


def tf_config(addresses: Sequence[str], index: int, num_ps: int = 0) -> str:
    """What TF_CONFIG says to one process of a group.

    Args:
        addresses: ``host:port`` of each process of the group.
        index: Index of the process.
        num_ps: How many of the last are parameter servers, see `places`.

    Returns:
        The JSON text.
    """
    found, cluster = places(len(addresses), num_ps), dict[str, list[str]]()
    for (job, _), address in zip(found, addresses, strict=True):
        cluster.setdefault(job, []).append(address)
    job, task = found[index]
    return json.dumps({"cluster": cluster, "task": {"type": job, "index": task}})


def places(num_processes: int, num_ps: int = 0) -> list[tuple[str, int]]:
    """TensorFlow's job and task of each process of a group.

    Args:
        num_processes: How many there are.
        num_ps: How many of the last are parameter servers; then the first is the coordinator, and those
            between are its workers. With none all are workers, equal but for their index.

    Returns:
        The places.
    """
    if not num_ps:
        return [("worker", index) for index in range(num_processes)]
    workers = [("worker", index) for index in range(num_processes - 1 - num_ps)]
    return [("chief", 0), *workers, *(("ps", index) for index in range(num_ps))]


def of_slurm(
    environment: Mapping[str, str], expand: Callable[[str], Sequence[str]] | None = None
) -> Membership:
    """A worker's place in a Slurm job array, each of whose tasks is a group.

    Args:
        environment: The variables that ``srun`` gives to a task.
        expand: Gives the nodes of a list such as ``r[1-2]n[3-4]``; None asks ``scontrol``.

    Returns:
        The place.

    Raises:
        ValueError: A variable is missing or is no number, ``scontrol`` fails, or workers are not dealt out
            to nodes block by block.
    """
    read = _Reader(environment, "a worker is a task of srun in a job array of one task for each group")
    group, worker, workers = map(read.number, ("SLURM_ARRAY_TASK_ID", "SLURM_PROCID", "SLURM_NTASKS"))
    nodes = (expand or _hostnames)(read.text("SLURM_STEP_NODELIST"))
    counts = _tasks_of_nodes(read.text("SLURM_STEP_TASKS_PER_NODE"))
    hosts = [node for node, count in zip(nodes, counts, strict=False) for _ in range(count)]
    node = nodes[read.number("SLURM_NODEID")] if read.number("SLURM_NODEID") < len(nodes) else None
    if len(hosts) != workers or worker >= workers or hosts[worker] != node:
        raise ValueError(
            f"SLURM_PROCID is {worker} on node {node} and SLURM_STEP_TASKS_PER_NODE is {counts} on "
            f"{', '.join(nodes)}; expected {workers} workers, the first of them on the first node: start "
            "them by srun --distribution=block"
        )
    first = _PORTS_OF_A_JOB * read.number("SLURM_ARRAY_JOB_ID") + workers * group
    ports = (_FIRST_PORT + (first + index) % _NUM_PORTS for index in range(workers))
    return Membership(group, worker, tuple(f"{host}:{port}" for host, port in zip(hosts, ports, strict=True)))


def of_jobset(environment: Mapping[str, str]) -> Membership:
    """A worker's place in a JobSet with one replicated job, each of whose jobs is a group.

    Args:
        environment: JOBSET_NAME, REPLICATED_JOB_NAME, JOB_INDEX, WORKERS_PER_GROUP and FIRST_GROUP, which the
            manifest has to set, and JOB_COMPLETION_INDEX, which Kubernetes sets.

    Returns:
        The place; addresses are the names that the JobSet gives to its pods.

    Raises:
        ValueError: A variable is missing, is no number, or too large.
    """
    read = _Reader(environment, "`launch --scheduler=kubernetes --dry_run` prints a manifest that sets it")
    jobset, job = map(read.text, ("JOBSET_NAME", "REPLICATED_JOB_NAME"))
    index, worker, workers = map(read.number, ("JOB_INDEX", "JOB_COMPLETION_INDEX", "WORKERS_PER_GROUP"))
    if worker >= workers:
        raise ValueError(
            f"JOB_COMPLETION_INDEX is {worker}; expected less than WORKERS_PER_GROUP, which is {workers}"
        )
    names = (f"{jobset}-{job}-{index}-{pod}.{jobset}" for pod in range(workers))
    group = read.number("FIRST_GROUP") + index
    return Membership(group, worker, tuple(f"{name}:{_POD_PORT}" for name in names))


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads variables; says which one is missing, and where it would come from."""

    environment: Mapping[str, str]
    source: str

    def text(self, name: str) -> str:
        value = self.environment.get(name, "")
        if not value:
            raise ValueError(f"{name} is not set; {self.source}")
        return value

    def number(self, name: str) -> int:
        value = self.text(name)
        if not (value.isascii() and value.isdigit()):
            raise ValueError(f"{name} is {value!r}; expected a number from 0: {self.source}")
        return int(value)


def _hostnames(nodes: str) -> list[str]:
    command = ["scontrol", "show", "hostnames", nodes]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except FileNotFoundError as error:
        raise ValueError("scontrol is not found; it has to be on the PATH of every worker") from error
    except subprocess.CalledProcessError as error:
        raise ValueError(
            f"scontrol cannot read the list of nodes {nodes!r}: {error.stderr.strip()}"
        ) from error


def _tasks_of_nodes(text: str) -> list[int]:
    """How many tasks each node has: ``2(x3),1`` is 2, 2, 2, 1."""
    parts = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in text.split(",")]
    if None in parts:
        raise ValueError(f"SLURM_STEP_TASKS_PER_NODE is {text!r}; expected numbers such as 2(x3),1")
    return [int(part[1]) for part in parts if part for _ in range(int(part[2] or 1))]
