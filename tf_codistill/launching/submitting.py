"""Hands a job to the program of a scheduler.

submit(["sbatch"], script)                            what it answers: "Submitted batch job 7"
submit(["kubectl", "apply", "--filename=-"], manifest)
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

NOTICE_SECS = 120
"""How long a worker has between SIGTERM and its end to finish a step and to save a checkpoint."""


def submit(command: Sequence[str], text: str) -> str:
    """Gives a job to a program on its standard input.

    Args:
        command: The program and its arguments.
        text: The job.

    Returns:
        What the program answers.

    Raises:
        ValueError: The program is not there.
        ChildProcessError: It refuses the job; the message is what it says.
    """
    try:
        ended = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ValueError(
            f"{command[0]} is not found; install it, or take what --dry_run prints to where it is"
        ) from error
    if ended.returncode:
        said = ended.stderr.strip() or ended.stdout.strip()
        raise ChildProcessError(f"{command[0]} failed with exit status {ended.returncode}: {said}")
    return ended.stdout.strip()
