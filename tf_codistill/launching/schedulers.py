"""One run, started here or by a scheduler: the same flags, and a command line of `train` for each worker.

launch = Launch(workdir="runs/two", num_groups=2, workers_per_group=2, train_flags=("--gin_file=...",))
start(launch, "slurm", {"partition": "gpu"})                     submits it and says what Slurm answers
start(launch, "slurm", {"partition": "gpu"}, dry_run=True)       prints the script

local         --group=<g>          TF_CONFIG in the environment      watched from here
tpu           --group=<g>          a slice is one worker             watched from here, by ssh
slurm         --cluster=slurm      the worker makes TF_CONFIG        on its own
kubernetes    --cluster=jobset     the worker makes TF_CONFIG        on its own
"""

from __future__ import annotations

import dataclasses
import functools
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import Any

from tf_codistill import runs
from tf_codistill.launching import kubernetes, local, slurm, tpu

SCHEDULERS = ("local", "slurm", "kubernetes", "tpu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
    """What is to be started.

    Attributes:
        workdir: Directory of the run, as its workers see it.
        num_groups: Groups.
        first_group: The first of them; those before run elsewhere.
        workers_per_group: Processes of each group.
        exchange_dir: Directory through which groups exchange; that of the workdir if not given.
        train_flags: Further flags of `train`.
        num_steps: Steps that the run is to have; None if only the run itself can tell.
        num_ps: Parameter servers of each group, which makes groups asynchronous; on this machine alone.
    """

    workdir: str
    num_groups: int
    workers_per_group: int
    first_group: int = 0
    exchange_dir: str | None = None
    train_flags: tuple[str, ...] = ()
    num_steps: int | None = None
    num_ps: int = 0

    def command(self, *of_scheduler: str, python: str = sys.executable) -> list[str]:
        """The command line of a worker.

        Args:
            *of_scheduler: Flags of `train` that say which worker it is.
            python: The interpreter.

        Returns:
            The arguments, the interpreter first.
        """
        size = (f"--workdir={self.workdir}", *of_scheduler, f"--num_groups={self.num_groups}")
        exchange = [f"--exchange_dir={self.exchange_dir}"] if self.exchange_dir else []
        kind = ["--gin_bindings=Experiment.group = @AsynchronousGroup"] if self.num_ps else []
        return [python, "-m", "tf_codistill.train", *size, *exchange, *self.train_flags, *kind]

    def size(self) -> dict[str, Any]:
        """Where it is, and of how many workers."""
        names = ("workdir", "num_groups", "workers_per_group", "first_group")
        return {name: getattr(self, name) for name in names}


def start(launch: Launch, scheduler: str, settings: Mapping[str, Any], dry_run: bool = False) -> None:
    """Starts a run, or prints what would be submitted.

    Args:
        launch: The run.
        scheduler: Who starts its workers, one of `SCHEDULERS`.
        settings: What the scheduler takes beside the run: `local.launch`, `slurm.batch_script`,
            `kubernetes.manifest` and `tpu.ssh_command` have them.
        dry_run: Whether nothing is submitted; there is nothing to print of runs on this machine.

    Raises:
        ValueError: A setting cannot be used, or the scheduler's program is not there, or groups are
            asynchronous where it cannot start them.
        ChildProcessError: The scheduler refuses the run; or it is watched from here, and a worker failed.
        KeyboardInterrupt: A run that is watched from here was stopped by Ctrl-C.
    """
    if launch.num_ps and scheduler != "local":
        raise ValueError(
            f"--scheduler={scheduler} starts synchronous groups alone; for asynchronous ones use local"
        )
    if scheduler == "slurm":
        script = slurm.batch_script(launch.command("--cluster=slurm"), **launch.size(), **settings)
        print(script.rstrip() if dry_run else slurm.submit(script))
    elif scheduler == "kubernetes":
        worker = launch.command("--cluster=jobset", python="python")
        manifest = kubernetes.manifest(worker, **launch.size(), **settings)
        print(manifest.rstrip() if dry_run else kubernetes.apply(manifest))
    elif scheduler == "tpu":
        groups = range(launch.first_group, launch.first_group + launch.num_groups)
        commands = {group: _on_slice(launch, group, settings) for group in groups}
        if dry_run:
            print("\n".join(map(shlex.join, commands.values())))
        else:
            _watch(launch, commands.__getitem__)
    elif dry_run:
        raise ValueError("--dry_run has an effect only with another --scheduler than local; leave it out")
    else:
        take_over = ["--take_over"] if settings.get("take_over") else []
        on_this_machine = functools.partial(_on_this_machine, launch)
        _watch(launch, on_this_machine, num_ps=launch.num_ps, **{**settings, "take_over": take_over})


def _on_this_machine(launch: Launch, group: int) -> list[str]:
    command = launch.command(f"--group={group}")
    if launch.first_group:  # a run that others have begun has a name, in its exchange
        return command
    return [*command, f"--run_id={runs.run_id(launch.workdir)}"]


def _on_slice(launch: Launch, group: int, settings: Mapping[str, Any]) -> list[str]:
    if launch.workers_per_group > 1:
        raise ValueError(
            f"workers_per_group is {launch.workers_per_group}; expected 1 with --scheduler=tpu, since one "
            "process drives a slice"
        )
    worker = launch.command("--strategy=tpu", f"--group={group}", python="python3")
    return tpu.ssh_command(worker, group=group, **settings)


def _watch(launch: Launch, command: Callable[[int], list[str]], **settings: Any) -> None:
    of_run: dict[str, Any] = {"num_steps": launch.num_steps, "exchange_dir": launch.exchange_dir}
    local.launch(**launch.size(), command=command, **of_run, **settings)
