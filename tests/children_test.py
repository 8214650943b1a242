"""Processes that end with their parent."""

from __future__ import annotations

import pathlib
import signal
import sys

from tf_codistill import children

SCRIPT = "import signal; print(signal.getsignal(signal.SIGINT) == signal.default_int_handler)"


def test_a_child_hears_sigint_where_its_parent_ignores_it(tmp_path: pathlib.Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in whatever `script.sh &` starts
    try:
        with open(tmp_path / "log", "wb") as log:
            assert children.start([sys.executable, "-c", SCRIPT], log).wait() == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "log").read_text() == "True\n"
