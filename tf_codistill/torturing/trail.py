"""An audit trail: what each start of a group has really done, a line for each deed.

    <trail>/group_0/start_000001.jsonl       by the first process that trained group 0
        {"kind": "begin", "step": 0, "pid": 4711, "time": 1700000000.0}
        {"kind": "step", "step": 1, "keys": -6148914691236517205, "time": ...}
        {"kind": "publish", "step": 50, "incarnation": 1700000000, "digest": "9f86d0..."}
        {"kind": "swap", "step": 50, "peer": 1, "incarnation": 1700000000, "serial": 1, "digest": ...}
        {"kind": "fault", "step": 113, "fault": "nan", "time": ...}
    <trail>/group_0/start_000002.jsonl       by the next one, which went on from a checkpoint
        {"kind": "begin", "step": 100, ...}

A swap's step is that of the snapshot. Lines are in the order of deeds, and a process that is killed leaves
all that it has written. Of steps only those are in the ancestry of the final weights that no later start has
gone back behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tf_codistill import files

ORDER = "order_"
"""What the name of a file begins with that orders a fault of the kind that follows its number."""

_START = re.compile(r"start_(\d{6})\.jsonl")


class Trail:
    """Written by one process; storage that is broken on purpose does not reach it."""

    def __init__(self, directory: str, group: int) -> None:
        """Takes note of the arguments; touches no file.

        Args:
            directory: Directory of the trail, on this machine.
            group: The group that the process trains.
        """
        self._directory = group_dir(directory, group)
        self._file: int | None = None

    def begin(self, step: int) -> None:
        """Begins the file of this process, with the step from which it goes on."""
        os.makedirs(self._directory, exist_ok=True)
        number = max(_numbers(self._directory), default=0) + 1
        path = os.path.join(self._directory, f"start_{number:06d}.jsonl")
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL)
        self.note("begin", step, pid=os.getpid())

    def note(self, kind: str, step: int, **values: Any) -> None:
        """Adds a line; any thread may do it."""
        if self._file is not None:
            record = {"kind": kind, "step": step, **values, "time": time.time()}
            os.write(self._file, (json.dumps(record) + "\n").encode())


@dataclasses.dataclass(frozen=True)
class Start:
    """What one process has done.

    Attributes:
        step: The step from which it went on, 0 if it began anew.
        at: When its training began, in seconds since the epoch.
        records: All lines but the first.
    """

    step: int
    at: float
    records: Sequence[dict[str, Any]]

    def of_kind(self, kind: str) -> Iterator[dict[str, Any]]:
        """The lines of one kind."""
        return (record for record in self.records if record["kind"] == kind)


def group_dir(directory: str, group: int) -> str:
    """Where the trail of a group is."""
    return os.path.join(directory, f"group_{group}")


def read(directory: str, group: int) -> list[Start]:
    """The trail of a group.

    Args:
        directory: Directory of the trail.
        group: The group.

    Returns:
        All its starts in order; empty before the first.

    Raises:
        ValueError: A line is none that a trail has.
    """
    own, starts = group_dir(directory, group), []
    for number in _numbers(own):
        path = os.path.join(own, f"start_{number:06d}.jsonl")
        lines = files.read(path).decode().split("\n")[:-1]  # the last one may not be whole
        records = [json.loads(line) for line in lines]
        if records:
            starts.append(Start(records[0]["step"], records[0]["time"], records[1:]))
    return starts


def ancestry(starts: Sequence[Start]) -> list[dict[str, Any]]:
    """The steps from which the weights of the last start come: each start takes back those behind its first.

    Args:
        starts: What `read` returned.

    Returns:
        Lines of kind ``step``.
    """
    kept: list[dict[str, Any]] = []
    for start in starts:
        kept = [record for record in kept if record["step"] <= start.step]
        kept += start.of_kind("step")
    return kept


def _numbers(directory: str) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        found = map(_START.fullmatch, os.listdir(directory))
        return sorted(int(match.group(1)) for match in found if match)
    return []
