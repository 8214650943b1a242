"""A run on slices of Cloud TPUs: each slice is a group, and has been created before.

    ssh_command(train, group=0, slices="codistill", zone="us-central2-b")

    slice codistill-0                    group 0
      host 0                             train --strategy=tpu --group=0, which drives the whole slice
      hosts 1, 2, ...                    TensorFlow's servers, which the image of the slice starts
    slice codistill-1                    group 1

TensorFlow drives a slice from one process, so that a group is one worker, on the first host, and leaves the
chips to the servers; TPU_LOAD_LIBRARY=0 tells it to.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def ssh_command(command: Sequence[str], *, group: int, slices: str | None, zone: str | None) -> list[str]:
    """The command that starts one group from here, and shows what it prints.

    Args:
        command: The command line of the group's worker.
        group: Index of the group.
        slices: What the names of all slices begin with, before a dash and the group's index.
        zone: Zone of Google Cloud that they are in.

    Returns:
        The arguments, ``gcloud`` first.

    Raises:
        ValueError: Slices or zone are not named.
    """
    if not slices or not zone:
        raise ValueError(
            f"--slices is {slices!r} and --zone is {zone!r}; expected what the names of the slices begin "
            "with, and the zone that they are in"
        )
    name = f"{slices}-{group}"
    there = f"TPU_NAME={shlex.quote(name)} TPU_LOAD_LIBRARY=0 {shlex.join(command)}"
    ssh = ("gcloud", "compute", "tpus", "tpu-vm", "ssh", name)
    return [*ssh, f"--zone={zone}", "--worker=0", f"--command={there}"]
