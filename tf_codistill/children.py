"""Child processes that outlive neither their work nor their parent.

    process = children.start(["python", "-m", "tf_codistill.train", ...], log, environment)

                 kill -9
    this process ---x        the kernel (Linux's parent-death signal) kills the child, and so on down the tree

Each is in a session of its own, which keeps the terminal's Ctrl-C away: it comes once, from its parent. Where
there is no such signal a child of a parent that was killed goes on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

TRY_AGAIN = 75
"""Exit status of a program that was stopped with work left and can be started again, EX_TEMPFAIL in C."""
SUPERSEDED = 76
"""Exit status of a program whose place another process has taken, so that it must not be started again."""

_PR_SET_PDEATHSIG = 1  # of prctl(2)


def start(
    command: Sequence[str], log: IO[bytes], environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a command; call it from the main thread, whose end would be taken for that of the process.

    Args:
        command: The command line.
        log: Where its output goes, standard error with it.
        environment: Its environment; that of this process if not given.

    Returns:
        The process.
    """
    leash = [sys.executable, "-I", "-S", os.path.abspath(__file__), str(os.getpid())]
    return subprocess.Popen(
        [*(leash if sys.platform == "linux" else ()), *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _become(parent: int, command: list[str]) -> None:
    """Turns this process into the command, which is to end with its parent."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before the kernel was told
        os._exit(128 + signal.SIGKILL)
    os.execvp(command[0], command)


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
