"""What whoever follows a run waits for: that it begins, that something new comes, that it ends.

wait_for_bindings("runs/two")                  gin bindings, as soon as a group has written them
unfinished("runs/two")                         [1]: group 0 has come to its end; None: nothing is known yet
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Collection

from tf_codistill import files, runs
from tf_codistill.following.faults import Faults
from tf_codistill.health import progress

Show = Callable[[str], None]
Sleep = Callable[[float], None]

POLL_SECS, REMOTE_POLL_SECS = 2.0, 10.0

_NUM_GROUPS = re.compile(r"^# num_groups: (\d{1,6})$", re.MULTILINE)


def say(line: str) -> None:
    """Shows a line at once, also where standard output is a file."""
    print(line, flush=True)


def poll_secs(*paths: str) -> float:
    """Seconds between two looks at directories."""
    return REMOTE_POLL_SECS if any(map(files.is_remote, paths)) else POLL_SECS


def wait_for_bindings(workdir: str, show: Show = say, sleep: Sleep = time.sleep) -> str:
    """The bindings of a run, as soon as one of its groups has begun.

    Args:
        workdir: Directory of the run, which need not be there yet.
        show: Shows a line.
        sleep: Waits for so many seconds.

    Returns:
        A gin file.
    """
    is_told = False
    while True:
        with contextlib.suppress(OSError, ValueError):  # storage may be back the next time
            for group in runs.groups(workdir):
                if found := runs.bindings(workdir, group):
                    return found
        if not is_told:
            show(f"waiting for a group of {workdir!r} to begin")
        is_told = True
        sleep(poll_secs(workdir))


def unfinished(workdir: str, publishing: Collection[int] = ()) -> list[int] | None:
    """The groups of a run that have not come to their end.

    Args:
        workdir: Directory of the run.
        publishing: Groups that are known to be of it.

    Returns:
        Their indices; None if it is not known which groups there are.

    Raises:
        ValueError: A line of a metrics file is no record.
        OSError: A file cannot be read.
    """
    begun = {*runs.groups(workdir), *publishing}
    found = _without_an_end(workdir, begun)
    if not begun or found:
        return found or None
    return _without_an_end(workdir, range(num_groups(workdir)))  # with those that are yet to begin


def unfinished_yet(workdir: str, publishing: Collection[int], faults: Faults) -> list[int] | None:
    """As `unfinished`; None also if that cannot be read now, which is counted."""
    try:
        return unfinished(workdir, publishing)
    except (OSError, ValueError) as error:
        faults.note("the groups' metrics", error)
        return None


def num_groups(workdir: str) -> int:
    """How many groups a run began with, by what the first of them has written; 1 if that is not known."""
    told = (_NUM_GROUPS.search(runs.bindings(workdir, group)) for group in runs.groups(workdir))
    return max((int(match[1]) for match in told if match), default=1)


def _without_an_end(workdir: str, groups: Collection[int]) -> list[int]:
    return [group for group in sorted(groups) if not progress.read_status(workdir, group).is_ended]
