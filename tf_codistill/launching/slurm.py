"""A run as a Slurm job array: each task of it is a group, which ends, is stopped and is requeued by itself.

    print(batch_script(command, workdir="runs/two", num_groups=2, workers_per_group=2))

    #SBATCH --array=0-1                  group 0, group 1
    #SBATCH --ntasks=2                   workers of a group, on as many nodes as Slurm likes
    #SBATCH --requeue                    preempted, or its node lost: again from the last checkpoint
    #SBATCH --signal=TERM@120            the time limit is near: workers save and stop
    srun ... train --cluster=slurm       logs in group_<g>/worker_<w>.log

    exit status of srun    0            the group has ended
                           75, > 128    work is left, or a signal ended a worker: the group is requeued
                           others       the group has failed

The checkpoint from which a group goes on is its own, so that the others need not stop.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence

from tf_codistill import children, files
from tf_codistill.launching import submitting

_SCRIPT = """\
#!/bin/bash
{options}

# Each task of the array is a group; `train` asks Slurm which one, and where the group's workers are.
workdir={workdir}
group=$SLURM_ARRAY_TASK_ID

{logs}srun --distribution=block --kill-on-bad-exit=0 --wait={wait_secs} \\
    ${{SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}} \\
    {log_options} \\
    {command}
status=$?

# {work_left}: stopped with work left; above 128: a signal ended a worker. It goes on from its checkpoint.
if (( status == {work_left} || status > 128 )); then
    if (( ${{SLURM_RESTART_COUNT:-0}} < {max_restarts} )); then
        exec scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$group"  # its own number may be that of the array
    fi
    echo "group $group was started again {max_restarts} times, as often as --max_restarts allows" >&2
fi
exit $status
"""
# A bucket cannot be appended to; there srun's output stays in that of the batch script.
_LOGS = 'mkdir -p "$workdir/group_$group"\n'
_LOG_OPTIONS = '--open-mode=append --output="${workdir//\\%/%%}/group_$group/worker_%t.log"'


def batch_script(
    command: Sequence[str],
    *,
    workdir: str,
    num_groups: int,
    workers_per_group: int,
    first_group: int = 0,
    gpus_per_worker: int = 0,
    partition: str | None = None,
    account: str | None = None,
    time_limit: str | None = None,
    max_restarts: int = 20,
    sbatch: Sequence[str] = (),
) -> str:
    """Writes the script that ``sbatch`` takes.

    Args:
        command: The command line of every worker.
        workdir: Directory of the run, on a file system that all nodes share, or in a bucket.
        num_groups: Groups, each a task of the array.
        workers_per_group: Workers of a group, each a task of ``srun``.
        first_group: The first of the groups.
        gpus_per_worker: GPUs of a worker.
        partition: Where it runs; None leaves it to Slurm, as with the next two.
        account: Who pays.
        time_limit: Longest time that a group may run at a stretch, as Slurm has it: ``1-12:00:00``.
        max_restarts: How often a group may be started again.
        sbatch: Further options, such as ``--mem-per-cpu=4G``; of two that contradict, Slurm takes the later.

    Returns:
        The script.

    Raises:
        ValueError: A further option does not begin with a dash, or has a line break in it.
    """
    options = [
        f"--job-name={shlex.quote(os.path.basename(os.path.normpath(workdir)))}",
        f"--array={first_group}-{first_group + num_groups - 1}",
        f"--ntasks={workers_per_group}",
        *([f"--gpus-per-task={gpus_per_worker}"] if gpus_per_worker else []),
        *([f"--partition={shlex.quote(partition)}"] if partition else []),
        *([f"--account={shlex.quote(account)}"] if account else []),
        *([f"--time={shlex.quote(time_limit)}"] if time_limit else []),
        *("--requeue", f"--signal=TERM@{submitting.NOTICE_SECS}", "--open-mode=append"),
        *map(_checked, sbatch),
    ]
    has_logs = not files.is_remote(workdir)
    return _SCRIPT.format(
        options="\n".join(f"#SBATCH {option}" for option in options),
        workdir=shlex.quote(workdir),
        logs=_LOGS if has_logs else "",
        log_options=_LOG_OPTIONS if has_logs else "--label",
        wait_secs=2 * submitting.NOTICE_SECS,
        command=" \\\n    ".join([shlex.join(command[:3]), *map(_quoted, command[3:])]),
        work_left=children.TRY_AGAIN,
        max_restarts=max_restarts,
    )


def _checked(option: str) -> str:
    if not re.fullmatch(r"-.*", option):
        raise ValueError(f"--sbatch is {option!r}; expected an option of sbatch such as --mem-per-cpu=4G")
    return option


def _quoted(word: str) -> str:
    """A word for the shell; what is bound in gin has quotes of its own, which look better in double ones."""
    return f'"{word}"' if "'" in word and not re.search(r'["$`\\\n]', word) else shlex.quote(word)


def submit(script: str) -> str:
    """Submits a script.

    Args:
        script: What `batch_script` has written.

    Returns:
        What ``sbatch`` answers, the job's number in it.

    Raises:
        ValueError: There is no ``sbatch``.
        ChildProcessError: Slurm refuses the job.
    """
    return submitting.submit(["sbatch"], script)
