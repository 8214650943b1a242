"""The worker processes of a run on this machine: their command, environment and log.

plan(...)    one `Worker` for each: the TF_CONFIG of its group, its share of cores, its GPUs, its log
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence

from tf_codistill import children, files, gpus, runs
from tf_codistill.health import logs
from tf_codistill.launching import cluster

TAIL_LINES = 15

ROLES = {"chief": "coordinator", "worker": "worker", "ps": "parameter server"}
"""What TensorFlow's jobs are called here."""

_HOST = "127.0.0.1"


@dataclasses.dataclass
class Worker:
    """One process, which may be started several times.

    Attributes:
        group: Its group.
        index: Which worker of the group it is.
        command: Its command line.
        environment: Its environment.
        log_path: The file for what it prints.
        once: What its command line has besides when it is started for the first time.
        role: What it is in its group, one of `ROLES`.
        is_replaceable: Whether it is started again by itself, as it holds nothing that is lost with it.
    """

    group: int
    index: int
    command: Sequence[str]
    environment: dict[str, str]
    log_path: str
    once: Sequence[str] = ()
    role: str = "worker"
    is_replaceable: bool = False
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it; what it prints is added to the log."""
        command = [*self.command, *(() if self._process else self.once)]
        with open(self.log_path, "ab") as log:
            log.write(f"{logs.START}{shlex.join(command)}\n".encode())
            log.flush()
            self._process = children.start(command, log, self.environment)

    def exit_status(self) -> int | None:
        """Its exit status, minus the number of the signal that ended it; None while it runs."""
        return self._process.poll() if self._process else 0

    def send(self, signal_number: int) -> None:
        """Sends a signal to it and its children, if it still runs."""
        if self._process and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal_number)

    def wait(self) -> None:
        """Waits until it has ended."""
        if self._process:
            self._process.wait()

    def failure(self) -> tuple[str, bool]:
        """Why it has failed, in words, and whether it said itself what its user did wrong."""
        code = self.exit_status() or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit status {code}"
        tail = logs.last_lines(self.log_path, TAIL_LINES)
        name = f"{self.role} {self.index} of group {self.group}"
        if code > 0 and tail and tail[-1].startswith(logs.SENTENCE):
            return f"{name}: {tail[-1].removeprefix(logs.SENTENCE)}", True
        quoted = (f"    {line}" for line in tail)
        return "\n".join([f"{name} {how}; {self.log_path} ends with", *quoted]), False


def plan(
    workdir: str,
    indices: Sequence[int],
    workers_per_group: int,
    command: Callable[[int], Sequence[str]],
    base_port: int | None,
    gpus_by_worker: Sequence[Sequence[str]],
    logs_dir: str,
    once: Sequence[str] = (),
    num_ps: int = 0,
) -> list[list[Worker]]:
    """The workers of each group; makes the directories that they write to.

    Args:
        workdir: Directory of the run.
        indices: The groups.
        workers_per_group: Workers of each.
        command: Gives the command line of a group's workers from the group's index.
        base_port: First of as many ports as there are workers; None picks free ones.
        gpus_by_worker: The GPUs of each, as `gpus.allocate` returns them.
        logs_dir: Where logs are, like a workdir.
        once: What command lines have besides when they are started for the first time.
        num_ps: Parameter servers of each group, which then has a coordinator, too.

    Returns:
        The processes by group, not started; several of a group find each other by TF_CONFIG.

    Raises:
        ValueError: A port is in use or out of range, or the workdir cannot be written to.
    """
    places = cluster.places(workers_per_group + num_ps + (1 if num_ps else 0), num_ps)
    num_processes = len(indices) * len(places)
    ports = _ports(num_processes, base_port) if len(places) > 1 else []
    groups: list[list[Worker]] = []
    for position, group in enumerate(indices):
        files.make_directory(runs.leased_dir(workdir, group))
        os.makedirs(runs.leased_dir(logs_dir, group), exist_ok=True)
        addresses = [f"{_HOST}:{port}" for port in ports[position * len(places) :][: len(places)]]
        workers = []
        for index, (job, task) in enumerate(places):
            environment = _environment(num_processes)
            if addresses:
                environment["TF_CONFIG"] = cluster.tf_config(addresses, index, num_ps)
            computes = job == "worker"
            environment |= (
                gpus.environment(gpus_by_worker, position * workers_per_group + task)
                if computes
                else {gpus.VISIBLE: ""}
            )
            log_path = runs.log_path(logs_dir, group, index)
            of_group = (group, index, list(command(group)), environment, log_path, once)
            workers.append(Worker(*of_group, ROLES[job], is_replaceable=computes and num_ps > 0))
        _close_logs(logs_dir, group, len(places))
        groups.append(workers)
    return groups


def _close_logs(logs_dir: str, group: int, num_workers: int) -> None:
    """Lets the logs of workers that a group has no more say so: their last error counts no longer."""
    index = num_workers
    while os.path.exists(path := runs.log_path(logs_dir, group, index)):
        with open(path, "a", encoding="utf-8") as log:
            log.write(f"{logs.START}none: worker {index} is one too many for a group of {num_workers}\n")
        index += 1


def _environment(num_processes: int) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = str(max(1, cores // num_processes))
    defaults = {"OMP_NUM_THREADS": threads, "TF_NUM_INTRAOP_THREADS": threads}
    environment = {**defaults, **os.environ, "PYTHONUNBUFFERED": "1"}
    environment.pop("TF_CONFIG", None)
    return environment


def _ports(count: int, base_port: int | None) -> list[int]:
    if base_port is not None and not 1024 <= base_port <= 65536 - count:
        raise ValueError(
            f"base_port is {base_port}; expected 1024 to {65536 - count}, as {count} ports are needed"
        )
    requested = [0] * count if base_port is None else range(base_port, base_port + count)
    with contextlib.ExitStack() as stack:  # all are bound at once, so that no port is picked twice
        sockets = [stack.enter_context(_bound_socket(port)) for port in requested]
        return [bound.getsockname()[1] for bound in sockets]


def _bound_socket(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(("", port))
    except OSError as error:
        bound.close()
        raise ValueError(
            f"port {port} is in use ({error.strerror}); choose another --base_port, or none for free ones"
        ) from error
    return bound
