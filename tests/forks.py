"""Processes that need not import TensorFlow, which takes seconds: one imports it and forks for all others.

    forks = Forks()
    pid = forks.start("from tf_codistill import runs; print(runs.KINDS)", output="out", error="err")
    forks.poll(pid)                    None while it runs, then how it ended

A fork starts like a new process, with its own arguments, directory, environment and output.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]

_FORKS = """
import json, os, runpy, signal, sys
import tensorflow
from tf_codistill import experiment


def child(work):
    for target, path in ((1, work["output"]), (2, work["error"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), target)
    os.chdir(work["directory"])
    os.environ.update(work["environment"])
    signal.alarm(work["timeout_secs"])
    sys.argv = ["-m", *work["arguments"]]
    if work["module"] is None:
        exec(compile(work["script"], "<script>", "exec"), {"__name__": "__main__"})
        return
    try:
        runpy.run_module(work["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:  # tidying up after TensorFlow takes longer than many a program
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code or 0)

ended = {}
for line in sys.stdin:
    work = json.loads(line)
    if "poll" in work:
        pid = work["poll"]
        if pid not in ended:
            found, status = os.waitpid(pid, os.WNOHANG)
            ended |= {pid: os.waitstatus_to_exitcode(status)} if found else {}
        print(json.dumps(ended.get(pid)), flush=True)
    elif pid := os.fork():
        ended.pop(pid, None)  # numbers come again, how a process ended that had this one does not
        print(pid, flush=True)
    else:
        child(work)
        sys.exit(0)
"""


class Forks:
    """The process that forks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        changes = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _FORKS],
            env={**{name: value for name, value in os.environ.items() if name != "TF_CONFIG"}, **changes},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def start(
        self,
        script: str = "",
        *,
        module: str | None = None,
        arguments: Sequence[str] = (),
        output: str,
        error: str,
        directory: str | os.PathLike[str] = REPOSITORY,
        environment: Mapping[str, str] | None = None,
        timeout_secs: int = 3600,
    ) -> int:
        """Starts a process.

        Args:
            script: What it runs.
            module: A module that it runs in place of it, as ``python -m`` does.
            arguments: Its command line.
            output: Path of a file for what it writes to standard output.
            error: Path of a file for what it writes to standard error.
            directory: Its working directory.
            environment: Variables beside those of this process.
            timeout_secs: Seconds after which it is killed.

        Returns:
            Its number.
        """
        for path in (output, error):
            pathlib.Path(path).touch()
        work = {"script": script, "module": module, "arguments": list(arguments), "output": output}
        work |= {"error": error, "directory": os.fspath(directory), "timeout_secs": timeout_secs}
        pid = self._ask({**work, "environment": dict(environment or {})})
        assert pid is not None
        return pid

    def poll(self, pid: int) -> int | None:
        """Its exit status, or minus the number of the signal that killed it; None while it runs."""
        return self._ask({"poll": pid})

    def _ask(self, question: Mapping[str, object]) -> int | None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:  # a test may wait for several at a time
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        assert answer, "tf_codistill cannot be imported"
        return json.loads(answer)


@functools.cache
def forks() -> Forks:
    """The one of this process; it ends with it, when its standard input does."""
    return Forks()
