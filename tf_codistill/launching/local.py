r"""Starts the groups of a run on this machine, watches over them, and stops them together.

    launch(workdir, num_groups=2, workers_per_group=2, command=...)

                  each worker gets the TF_CONFIG of its group, and its cores and GPUs
                 /
    launch ----+---- group 0: worker 0, worker 1  ->  group_0/worker_0.log, worker_1.log
               +---- group 1: worker 0, worker 1  ->  group_1/worker_0.log, worker_1.log
                \
                  reads group_*/metrics.jsonl and shows one line per group

Groups know nothing of each other but the exchange. When a worker fails, or on Ctrl-C, every worker gets
SIGINT, so that it can finish its checkpoint, then SIGTERM, then SIGKILL. Logs are written as they come, which
remote storage cannot do: for a workdir there they are in a new directory of this machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TextIO

from rich.console import Console

from tf_codistill import files, gpus, runs
from tf_codistill.health import display, logs, progress, signs

POLL_SECS = 0.2
GRACE_SECS = 30.0
TAIL_LINES = 15

_HOST = "127.0.0.1"


def launch(
    workdir: str,
    *,
    num_groups: int,
    workers_per_group: int,
    command: Callable[[int], Sequence[str]],
    base_port: int | None = None,
    num_steps: int | None = None,
    exchange_dir: str | None = None,
    grace_secs: float = GRACE_SECS,
    stream: TextIO | None = None,
) -> None:
    """Trains a run to its end, all its groups at once; says so and returns if that has been done before.

    Args:
        workdir: Directory of the run.
        num_groups: Groups to start.
        workers_per_group: Processes of each group; more than one find each other by TF_CONFIG.
        command: Gives the command line of a group's workers from the group's index.
        base_port: First of ``num_groups * workers_per_group`` ports, when groups have several workers; None
            picks free ones.
        num_steps: Steps that the run is to have; None takes what the run itself wrote down when it started.
        exchange_dir: Directory through which groups exchange; that of the workdir by default.
        grace_secs: Timeout between SIGINT and SIGTERM, for workers to stop.
        stream: Where the status goes; None is standard output.

    Raises:
        ValueError: A count is below 1, a group has more workers than there are GPUs, a port is in use or out
            of range, the workdir cannot be written to.
        ChildProcessError: A worker failed; the message has the last lines of its log, and says last where the
            run has stopped.
        KeyboardInterrupt: Ctrl-C was pressed; all workers have been stopped.
    """
    _check_count("num_groups", num_groups)
    _check_count("workers_per_group", workers_per_group)
    console = Console(file=stream or sys.stdout, soft_wrap=True, highlight=False)
    steps = progress.finished_steps(workdir, num_groups)
    if steps is not None and steps >= (num_steps or 0):
        console.print(
            f"{workdir}: finished, {num_groups} x {steps} steps; delete it to train again", markup=False
        )
        return
    logs_dir = tempfile.mkdtemp(prefix="tf_codistill_") if files.is_remote(workdir) else workdir
    allocated = gpus.allocate(gpus.visible(), num_groups, workers_per_group)
    workers = _plan(workdir, num_groups, workers_per_group, command, base_port, allocated, logs_dir)
    size = f"{_counted(num_groups, 'group')} of {_counted(workers_per_group, 'worker')}"
    size += f", {gpus.description(allocated)}" if any(allocated) else ""
    prefix = "" if logs_dir == workdir else f"{logs_dir}/"
    console.print(f"{workdir}: {size}, logs in {prefix}group_*/worker_*.log", markup=False)
    started = time.monotonic()
    shown = display.Display(workdir, num_groups, console, exchange_dir)
    try:
        with _running(workers, grace_secs, console), shown:
            _watch(workers, shown)
    except ChildProcessError as error:
        raise ChildProcessError(f"{error}\n{signs.stopped(workdir, num_groups)}") from error
    except BaseException:  # Ctrl-C, or a signal
        console.print(signs.stopped(workdir, num_groups), markup=False)
        raise
    console.print(f"{workdir}: done after {progress.duration(time.monotonic() - started)}", markup=False)


@dataclasses.dataclass
class _Worker:
    group: int
    index: int
    command: Sequence[str]
    environment: dict[str, str]
    log_path: str
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.log_path, "ab") as log:
            log.write(f"$ {shlex.join(self.command)}\n".encode())
            log.flush()
            # A session of its own keeps the terminal's Ctrl-C away: it comes once, from here.
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def exit_status(self) -> int | None:
        return self.process.poll() if self.process else 0

    def send(self, signal_number: int) -> None:
        if self.process and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal_number)

    def failure(self) -> str:
        code = self.exit_status() or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit status {code}"
        tail = logs.last_lines(self.log_path, TAIL_LINES)
        name = f"worker {self.index} of group {self.group}"
        if code > 0 and tail[-1].startswith(logs.SENTENCE):
            return f"{name}: {tail[-1].removeprefix(logs.SENTENCE)}"
        return "\n".join([f"{name} {how}; {self.log_path} ends with", *(f"    {line}" for line in tail)])


def _plan(
    workdir: str,
    num_groups: int,
    workers_per_group: int,
    command: Callable[[int], Sequence[str]],
    base_port: int | None,
    gpus_by_worker: Sequence[Sequence[str]],
    logs_dir: str,
) -> list[_Worker]:
    num_processes = num_groups * workers_per_group
    ports = _ports(num_processes, base_port) if workers_per_group > 1 else []
    workers: list[_Worker] = []
    for group in range(num_groups):
        files.make_directory(runs.group_dir(workdir, group))
        os.makedirs(runs.group_dir(logs_dir, group), exist_ok=True)
        group_ports = ports[group * workers_per_group :][:workers_per_group]
        for index in range(workers_per_group):
            environment = _environment(group_ports, index, num_processes)
            environment |= gpus.environment(gpus_by_worker, len(workers))
            log_path = runs.log_path(logs_dir, group, index)
            workers.append(_Worker(group, index, list(command(group)), environment, log_path))
    return workers


def _environment(ports: Sequence[int], index: int, num_processes: int) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = str(max(1, cores // num_processes))
    defaults = {"OMP_NUM_THREADS": threads, "TF_NUM_INTRAOP_THREADS": threads}
    environment = {**defaults, **os.environ, "PYTHONUNBUFFERED": "1"}
    environment.pop("TF_CONFIG", None)
    if ports:
        addresses = [f"{_HOST}:{port}" for port in ports]
        environment["TF_CONFIG"] = json.dumps(
            {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        )
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


@contextlib.contextmanager
def _running(workers: Sequence[_Worker], grace_secs: float, console: Console) -> Iterator[None]:
    previous = {number: signal.signal(number, _exit) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        for worker in workers:
            worker.start()
        yield
    finally:
        if any(worker.exit_status() is None for worker in workers):
            console.print("stopping the workers; Ctrl-C kills them", markup=False)
        _stop(workers, grace_secs)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _watch(workers: Sequence[_Worker], shown: display.Display) -> None:
    while True:
        codes = [worker.exit_status() for worker in workers]
        failed = [worker for worker, code in zip(workers, codes, strict=True) if code]
        if failed:
            raise ChildProcessError("\n".join(worker.failure() for worker in failed))
        if all(code == 0 for code in codes):
            return
        shown.update()
        time.sleep(POLL_SECS)


def _stop(workers: Sequence[_Worker], grace_secs: float) -> None:
    try:
        for number, timeout_secs in ((signal.SIGINT, grace_secs), (signal.SIGTERM, grace_secs / 3)):
            for worker in workers:
                worker.send(number)
            deadline = time.monotonic() + timeout_secs
            while any(worker.exit_status() is None for worker in workers) and time.monotonic() < deadline:
                time.sleep(POLL_SECS / 4)
    finally:  # also when Ctrl-C is pressed once more
        for worker in workers:
            worker.send(signal.SIGKILL)
        for worker in workers:
            if worker.process:
                worker.process.wait()


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} is {value}; expected 1 or more")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"
