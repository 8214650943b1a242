r"""What the log of a worker says to those who were not there.

    $ python -m tf_codistill.train --workdir=runs/two --group=0 ...       a start
    I1129 15:52:06.1 7 exchanging.py:238] swap at step 162, seat 0, peer 1, incarnation 1700000000, serial 3
    I1129 15:52:09.8 7 metrics_log.py:99] step 200 train: loss 4.1  ...   is in the metrics file as well
    error: the corpus is missing; prepare it                              the last error since that start

    read("worker_0.log").swaps         {0: Taken(peer=1, incarnation=1700000000, serial=3)}
    read("worker_0.log").last_error    "the corpus is missing; prepare it"
    last_lines("worker_0.log", 15)     the end, without what the metrics file says

Only the end of a log is read.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import NamedTuple

from tf_codistill import files

MAX_LOG_BYTES = 128 << 10
START = "$ "
"""What a line begins with that names the command by which a worker was started."""
SENTENCE = "error: "
"""What a line begins with in which a program says what its user did wrong."""

_METRICS = re.compile(r"(?:^|\] )step \d+ (?:train|validation): ")
_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception)(?:: .*)?")
_SWAP = re.compile(
    r"swap at step \d{1,18}, seat (\d{1,9}), peer (\d{1,9}), incarnation (\d{1,18}), serial (\d{1,18})"
)


class Taken(NamedTuple):
    """Which snapshot a teacher took, as the name of its directory says.

    Attributes:
        peer: The group that published it.
        incarnation: The start of that group.
        serial: Its number in that start.
    """

    peer: int
    incarnation: int
    serial: int


@dataclasses.dataclass(frozen=True)
class Log:
    """What the end of a log says.

    Attributes:
        swaps: For each teacher the snapshot that it took last.
        last_error: The last error since the worker started; None if there is none.
    """

    swaps: Mapping[int, Taken]
    last_error: str | None


def read(path: str) -> Log:
    """Reads the end of a worker's log.

    Args:
        path: The log.

    Returns:
        What it says.

    Raises:
        OSError: The log is not there, or cannot be read.
    """
    lines = _end(path)
    swaps = {}
    for line in lines:
        if match := _SWAP.search(line):
            seat, *taken = map(int, match.groups())
            swaps[seat] = Taken(*taken)
    return Log(swaps, _last_error(lines))


def last_lines(path: str, num_lines: int) -> list[str]:
    """The last lines of a worker's log but for those that are in the metrics file as well.

    Args:
        path: The log.
        num_lines: How many.

    Returns:
        So many lines or fewer.

    Raises:
        OSError: The log is not there, or cannot be read.
    """
    return [line for line in _end(path) if not _METRICS.search(line)][-num_lines:]


def _end(path: str) -> list[str]:
    start = max(0, files.size_bytes(path) - MAX_LOG_BYTES)
    lines = files.read(path, start, MAX_LOG_BYTES).decode("utf-8", "replace").splitlines()
    return lines[1:] if start else lines


def _last_error(lines: list[str]) -> str | None:
    for line in reversed(lines):
        if line.startswith(SENTENCE):
            return line.removeprefix(SENTENCE)
        if _EXCEPTION.fullmatch(line):
            return line
        if line.startswith(START):
            break
    return None
