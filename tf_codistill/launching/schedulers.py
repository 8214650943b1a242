"""One run, started here or by a scheduler: the same flags, and a command line of `train` for each worker.

run = Run(workdir="runs/two", num_groups=2, workers_per_group=2, train_flags=("--gin_file=...",))
start(run, "slurm", {"partition": "gpu"})                     submits it and says what Slurm answers
start(run, "slurm", {"partition": "gpu"}, dry_run=True)       prints the script

local         --group=<g>          TF_CONFIG in the environment      watched from here
tpu           --group=<g>          a slice is one worker             watched from here, by ssh
slurm         --cluster=slurm      the worker makes TF_CONFIG        on its own
kubernetes    --cluster=jobset     the worker makes TF_CONFIG        on its own
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import Any

from tf_codistill import runs
from tf_codistill.launching import kubernetes, local, slurm, tpu

SCHEDULERS = ("local", "slurm", "kubernetes", "tpu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What is to be started.

    Attributes:
        workdir: Directory of the run, as its workers see it.
        num_groups: Groups.
        workers_per_group: Processes of each group.
        train_flags: Further flags of `train`.
        num_steps: Steps that the run is to have; None if only the run itself can tell.
    """

    workdir: str
    num_groups: int
    workers_per_group: int
    train_flags: tuple[str, ...] = ()
    num_steps: int | None = None

    def command(self, *of_scheduler: str, python: str = sys.executable) -> list[str]:
        """The command line of a worker.

        Args:
            *of_scheduler: Flags of `train` that say which worker it is.
            python: The interpreter.

        Returns:
            The arguments, the interpreter first.
        """
        size = (f"--workdir={self.workdir}", *of_scheduler, f"--num_groups={self.num_groups}")
        return [python, "-m", "tf_codistill.train", *size, *self.train_flags]

    def size(self) -> dict[str, Any]:
        """Where it is, and of how many workers."""
        names = ("workdir", "num_groups", "workers_per_group")
        return {name: getattr(self, name) for name in names}


def start(run: Run, scheduler: str, settings: Mapping[str, Any], dry_run: bool = False) -> None:
    """Starts a run, or prints what would be submitted.

    Args:
        run: The run.
        scheduler: Who starts its workers, one of `SCHEDULERS`.
        settings: What the scheduler takes beside the run: `local.launch`, `slurm.batch_script`,
            `kubernetes.manifest` and `tpu.ssh_command` have them.
        dry_run: Whether nothing is submitted; there is nothing to print of runs on this machine.

    Raises:
        ValueError: A setting cannot be used, or the scheduler's program is not there.
        ChildProcessError: The scheduler refuses the run; or it is watched from here, and a worker failed.
        KeyboardInterrupt: A run that is watched from here was stopped by Ctrl-C.
    """
    if scheduler == "slurm":
        script = slurm.batch_script(run.command("--cluster=slurm"), **run.size(), **settings)
        print(script if dry_run else slurm.submit(script))
    elif scheduler == "kubernetes":
        worker = run.command("--cluster=jobset", python="python")
        manifest = kubernetes.manifest(worker, **run.size(), **settings)
        print(manifest if dry_run else kubernetes.apply(manifest))
    elif scheduler == "tpu":
        if run.workers_per_group > 1:
            raise ValueError(
                f"workers_per_group is {run.workers_per_group}; expected 1 with --scheduler=tpu, since one "
                "process drives a slice"
            )

        def on_slice(group: int) -> list[str]:
            worker = run.command("--strategy=tpu", f"--group={group}", python="python3")
            return tpu.ssh_command(worker, group=group, **settings)

        if dry_run:
            print("\n".join(shlex.join(on_slice(group)) for group in range(run.num_groups)))
        else:
            _watch(run, on_slice)
    elif dry_run:
        raise ValueError("--dry_run has an effect only with another --scheduler than local; leave it out")
    else:

        def on_this_machine(group: int) -> list[str]:
            return [*run.command(f"--group={group}"), f"--run_id={runs.run_id(run.workdir)}"]

        _watch(run, on_this_machine, **settings)


def _watch(run: Run, command: Callable[[int], list[str]], **settings: Any) -> None:
    local.launch(**run.size(), command=command, num_steps=run.num_steps, **settings)
