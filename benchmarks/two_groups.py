"""Two groups of a benchmark: its own processes, half of the cores and GPUs of this machine for each.

    started("benchmarks.prediction_exchange", group, directory)     in the process that was started by hand
    take_half(GROUP.value)                                          first thing in each of the two

Each has the command line of the former, and two flags that this benchmark defines: --group and --directory.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import time
from typing import Any

from tf_codistill import gpus


def started(module: str, group: int, directory: str, **pipes: Any) -> subprocess.Popen[str]:
    """Starts a benchmark once more, as one of its groups.

    Args:
        module: The benchmark.
        group: Which group the process is, 0 or 1.
        directory: The exchange.
        **pipes: What else `subprocess.Popen` takes.

    Returns:
        The process.
    """
    own = [f"--group={group}", f"--directory={directory}"]
    environment = gpus.environment(gpus.allocate(gpus.visible(), 2, 1), group)
    command = [sys.executable, "-m", module, *sys.argv[1:], *own]
    return subprocess.Popen(command, env=os.environ | environment, text=True, **pipes)


def outputs(module: str, directory: str) -> list[str]:
    """Runs both groups to their ends; if one fails the other is ended, too, which would wait for it.

    Args:
        module: The benchmark.
        directory: The exchange.

    Returns:
        What each has printed.

    Raises:
        ValueError: One has failed.
    """
    paths = [pathlib.Path(directory, f"printed_{group}") for group in range(2)]
    both = []
    for group, path in enumerate(paths):
        with path.open("w") as file:
            both.append(started(module, group, directory, stdout=file))
    while None in (statuses := [process.poll() for process in both]) and not any(statuses):
        time.sleep(0.1)
    for process in both:
        process.kill()
        process.wait()
    if any(statuses):
        raise ValueError("a group has failed; what it has printed above says why")
    return [path.read_text() for path in paths]


def take_half(group: int) -> None:
    """Pins this process to every second core, if there are two."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cores[group::2] or cores))
