"""Child processes that outlive neither their work nor their parent.

    process = children.start(["python", "-m", "tf_codistill.train", ...], log, environment)

                 kill -9
    this process ---x        the kernel (Linux's parent-death signal) kills the child, and so on down the tree

Each is in a session of its own, which keeps the terminal's Ctrl-C away: it comes once, from its parent. Where
there is no such signal a child of a parent that was killed goes on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import IO

TRY_AGAIN = 75
"""Exit status of a program that was stopped with work left and can be started again, EX_TEMPFAIL in C."""
SUPERSEDED = 76
"""Exit status of a program whose place another process has taken, so that it must not be started again."""

# Becomes the command, which the kernel is told to kill when its parent ends: PR_SET_PDEATHSIG of prctl(2). If
# that has ended before, nobody would. SIGINT, by which a parent may stop it, is heard even where the parent
# itself ignores it, as whatever a shell's script has started in the background does.
_LEASH = """
import ctypes, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    os._exit(128 + signal.SIGKILL)
os.execvp(sys.argv[2], sys.argv[2:])
"""


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block by a `SystemExit`; one that was ignored, as by nohup, still is."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, _exit) for number in heard}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(TRY_AGAIN if number == signal.SIGTERM else 128 + number)


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
    leash = [sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid())]
    return subprocess.Popen(
        [*(leash if sys.platform == "linux" else ()), *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
