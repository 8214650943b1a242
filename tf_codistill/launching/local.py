r"""Starts the groups of a run on this machine, watches over them, and stops them together.

    launch(workdir, num_groups=2, workers_per_group=2, command=...)

                  each worker gets the TF_CONFIG of its group, and its cores and GPUs
                 /
    launch ----+---- group 0: worker 0, worker 1  ->  group_0/worker_0.log, worker_1.log
               +---- group 1: worker 0, worker 1  ->  group_1/worker_0.log, worker_1.log
                \
                  reads group_*/metrics.jsonl and shows one line per group

Groups know nothing of each other but the exchange. One that fails is started again while the others go on,
see `supervision`. On Ctrl-C, and where a group fails for good before any has made a step, every worker gets
SIGINT, so that it can finish its checkpoint, then SIGTERM, then SIGKILL. Should this process be killed, they
are killed with it. Logs are written as they come, which remote storage cannot do: for a workdir there they
are in a new directory of this machine.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from rich.console import Console

from tf_codistill import children, files, gpus, leases, runs
from tf_codistill.health import display, progress, signs
from tf_codistill.launching.supervision import Group
from tf_codistill.launching.workers import Worker, plan

POLL_SECS = 0.2
GRACE_SECS = 30.0


def launch(
    workdir: str,
    *,
    num_groups: int,
    workers_per_group: int,
    first_group: int = 0,
    command: Callable[[int], Sequence[str]],
    base_port: int | None = None,
    num_steps: int | None = None,
    max_restarts: int = 0,
    hang_secs: float = 0.0,
    take_over: Sequence[str] = (),
    exchange_dir: str | None = None,
    num_ps: int = 0,
    grace_secs: float = GRACE_SECS,
    stream: TextIO | None = None,
) -> None:
    """Trains a run to its end, all its groups at once; says so and returns if that has been done before.

    Args:
        workdir: Directory of the run.
        num_groups: Groups to start.
        workers_per_group: Workers of each group; several processes find each other by TF_CONFIG.
        first_group: The first group.
        command: Gives the command line of a group's workers from the group's index.
        base_port: First port, where groups have several processes; None picks free ones.
        num_steps: Steps that the run is to have; None takes what the run itself wrote down when it started.
        max_restarts: How often a group that has failed is started again without a new checkpoint in between.
        hang_secs: Least seconds without a line of metrics after which a group has failed; 0 for never.
        take_over: What lets the first start take groups from processes that are alive, else refused.
        exchange_dir: Directory through which groups exchange; that of the workdir by default.
        num_ps: Parameter servers of each group, which makes groups asynchronous; 0 for synchronous ones.
        grace_secs: Timeout between SIGINT and SIGTERM, for workers to stop.
        stream: Where the status goes; None is standard output.

    Raises:
        ValueError: A count is below 1, there are too few GPUs, a port is in use or out of range, the workdir
            cannot be written to, or a process of this machine trains one of the groups.
        ChildProcessError: Groups failed for good: the last lines of a log, and where the run has stopped.
        KeyboardInterrupt: Ctrl-C was pressed; all workers have been stopped.
    """
    _check_count("num_groups", num_groups)
    _check_count("workers_per_group", workers_per_group)
    console = Console(file=stream or sys.stdout, soft_wrap=True, highlight=False)
    indices = range(first_group, first_group + num_groups)
    if _is_finished(workdir, indices, num_steps or 0, console):
        return
    if not take_over:
        _refuse(workdir, indices)
    logs_dir = tempfile.mkdtemp(prefix="tf_codistill_") if files.is_remote(workdir) else workdir
    allocated = gpus.allocate(gpus.visible(), num_groups, workers_per_group)
    processes = (command, base_port, allocated, logs_dir, take_over, num_ps)
    planned = plan(workdir, indices, workers_per_group, *processes)
    groups = [Group(one[0].group, one, workdir, max_restarts, hang_secs) for one in planned]
    _tell_size(workdir, _size(num_groups, workers_per_group, allocated), logs_dir, console)
    started = time.monotonic()
    shown = display.Display(workdir, indices, console, exchange_dir)
    with _telling(workdir, indices, console), _running(groups, grace_secs, console), shown:
        _watch(groups, shown, console)
    console.print(f"{workdir}: done after {progress.duration(time.monotonic() - started)}", markup=False)


def _is_finished(workdir: str, groups: Sequence[int], num_steps: int, console: Console) -> bool:
    """Whether all groups have made so many steps; says so if they have."""
    steps = progress.finished_steps(workdir, groups)
    if steps is None or steps < num_steps:
        return False
    console.print(
        f"{workdir}: finished, {len(groups)} x {steps} steps; delete it to train again", markup=False
    )
    return True


def _refuse(workdir: str, groups: Sequence[int]) -> None:
    for group in groups:
        leases.Lease(runs.leased_dir(workdir, group)).refuse()


@contextlib.contextmanager
def _telling(workdir: str, groups: Sequence[int], console: Console) -> Iterator[None]:
    """Says last where the run has stopped, if it has."""
    try:
        yield
    except ChildProcessError as error:
        raise ChildProcessError(f"{error}\n{signs.stopped(workdir, groups)}") from error
    except BaseException:  # Ctrl-C, or a signal
        console.print(signs.stopped(workdir, groups), markup=False)
        raise


@contextlib.contextmanager
def _running(groups: Sequence[Group], grace_secs: float, console: Console) -> Iterator[None]:
    workers = [worker for group in groups for worker in group.workers]
    with children.ended_by_signals():
        try:
            for group in groups:
                group.start()
            yield
        finally:
            if any(worker.exit_status() is None for worker in workers):
                console.print("stopping the workers; Ctrl-C kills them", markup=False)
            _stop(workers, grace_secs)


def _watch(groups: Sequence[Group], shown: display.Display, console: Console) -> None:
    """Returns when all groups are done; a group that fails for good ends them all if none has made a step."""
    while not all(group.has_ended for group in groups):
        for group in groups:
            message = group.look()
            if message and group.failure and not any(other.has_progressed() for other in groups):
                raise ChildProcessError(message)
            if message:
                console.print(message, markup=False)
        shown.update()
        time.sleep(POLL_SECS)
    if failures := [group.failure for group in groups if group.failure]:
        raise ChildProcessError("\n".join(failures))


def _stop(workers: Sequence[Worker], grace_secs: float) -> None:
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
            worker.wait()


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} is {value}; expected 1 or more")


def _tell_size(workdir: str, size: str, logs_dir: str, console: Console) -> None:
    prefix = "" if logs_dir == workdir else f"{logs_dir}/"
    console.print(f"{workdir}: {size}, logs in {prefix}group_*/worker_*.log", markup=False)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"


def _size(num_groups: int, workers_per_group: int, allocated: Sequence[Sequence[str]]) -> str:
    size = f"{_counted(num_groups, 'group')} of {_counted(workers_per_group, 'worker')}"
    return f"{size}, {gpus.description(allocated)}" if any(allocated) else size
