"""The GPUs of this machine, allocated to processes; found without TensorFlow, which would take them.

allocate(["0", "1", ..., "7"], num_groups=2, workers_per_group=2)
    [["0", "1"], ["2", "3"],        group 0: worker 0, worker 1
     ["4", "5"], ["6", "7"]]        group 1
allocate(["0", "1"], num_groups=4, workers_per_group=1)
    [["0"], ["1"], ["0"], ["1"]]    fewer than workers: groups share a GPU, workers of a group never do
"""

from __future__ import annotations

import glob
import os
import subprocess
from collections.abc import Sequence

VISIBLE = "CUDA_VISIBLE_DEVICES"

_GROWTH = "TF_FORCE_GPU_ALLOW_GROWTH"


def visible() -> list[str]:
    """The names of the GPUs that this process may use.

    Returns:
        Those in CUDA_VISIBLE_DEVICES, if it is set, up to the first that is none, as CUDA has it; else the
        numbers of all that the machine has.
    """
    chosen = os.environ.get(VISIBLE)
    if chosen is None:
        return [str(index) for index in range(count())]
    names = [name.strip() for name in chosen.split(",")]
    none = (index for index, name in enumerate(names) if name in ("", "-1"))
    return names[: next(none, len(names))]


def count() -> int:
    """How many GPUs the machine has, as ``nvidia-smi`` tells, or where there is none, the driver."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return len(glob.glob("/proc/driver/nvidia/gpus/*"))
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def allocate(names: Sequence[str], num_groups: int, workers_per_group: int) -> list[list[str]]:
    """Allocates GPUs to the workers of all groups.

    Args:
        names: The GPUs.
        num_groups: Groups.
        workers_per_group: Workers of each group.

    Returns:
        For each worker, those of a group together, as many GPUs as for the others, one beside the other; some
        are left over if the number does not divide. Where there are fewer GPUs than workers, each gets one,
        and groups share it. Where there is none, nobody gets any.

    Raises:
        ValueError: A group has more workers than there are GPUs, so that two of its workers would share one.
    """
    num_workers = num_groups * workers_per_group
    if not names:
        return [[] for _ in range(num_workers)]
    if len(names) < workers_per_group:
        raise ValueError(
            f"workers_per_group is {workers_per_group}, but the only GPUs are {', '.join(names)}, and "
            f"workers of a group cannot share one; start fewer workers, or set {VISIBLE} to '' for CPUs"
        )
    if len(names) < num_workers:
        return [[names[worker % len(names)]] for worker in range(num_workers)]
    each = len(names) // num_workers
    return [list(names[worker * each :][:each]) for worker in range(num_workers)]


def environment(allocated: Sequence[Sequence[str]], worker: int) -> dict[str, str]:
    """Environment variables that keep a worker to its GPUs; none where there are no GPUs.

    Args:
        allocated: What `allocate` returned.
        worker: Index of the worker among those of all groups.

    Returns:
        CUDA_VISIBLE_DEVICES; and, where groups share a GPU, that TensorFlow takes memory as it needs it.
    """
    if not allocated[worker]:
        return {}
    alone = {VISIBLE: ",".join(allocated[worker])}
    return {_GROWTH: os.environ.get(_GROWTH, "true"), **alone} if _are_shared(allocated) else alone


def take_memory_as_needed() -> None:
    """Lets this process share its GPUs with others; to be called before TensorFlow looks for them."""
    os.environ.setdefault(_GROWTH, "true")


def description(allocated: Sequence[Sequence[str]]) -> str:
    """Says in a few words who has which of the GPUs that `allocate` returned."""
    if _are_shared(allocated):
        return f"groups share GPUs {', '.join(sorted({name for names in allocated for name in names}))}"
    return "GPUs " + " | ".join(map(",".join, allocated))


def _are_shared(allocated: Sequence[Sequence[str]]) -> bool:
    given = [name for names in allocated for name in names]
    return len(set(given)) < len(given)
