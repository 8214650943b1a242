"""Real worker processes of one group, for tests of MultiWorkerMirroredStrategy.

outputs = run_workers("print(os.environ['TF_CONFIG'])", num_workers=2)
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import socket
import tempfile
import time
from collections.abc import Sequence

from tests.forks import forks


def run_workers(script: str, num_workers: int, timeout_secs: float = 300) -> list[str]:
    """Runs a Python script in each of several processes that TF_CONFIG makes the workers of one group.

    Args:
        script: Source text; it may import `tf_codistill` and `tests`.
        num_workers: Number of processes.
        timeout_secs: Seconds after which they are killed.

    Returns:
        The standard output of each worker.

    Raises:
        RuntimeError: A worker failed or time is up; the others have been killed. Holds the end of all logs.
    """
    addresses = [f"localhost:{port}" for port in _free_ports(num_workers)]
    with tempfile.TemporaryDirectory() as directory:
        files = [[f"{directory}/{index}.{end}" for end in ("out", "err")] for index in range(num_workers)]
        workers = []
        for index, (output, error) in enumerate(files):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment = {**os.environ, "TF_CONFIG": json.dumps(task), "OMP_NUM_THREADS": "1"}
            workers.append(forks().start(script, output=output, error=error, environment=environment))
        failure = _wait(workers, time.monotonic() + timeout_secs)
        texts = [[pathlib.Path(path).read_text(errors="replace") for path in paths] for paths in files]
    if failure:
        logs = [f"--- worker {i}\n{out[-3000:]}\n{err[-6000:]}" for i, (out, err) in enumerate(texts)]
        raise RuntimeError("\n".join([failure, *logs]))
    return [out for out, _ in texts]


def _wait(workers: Sequence[int], deadline: float) -> str | None:
    try:
        while True:
            codes = [forks().poll(worker) for worker in workers]
            failed = [f"worker {i} exited with {code}" for i, code in enumerate(codes) if code]
            if failed:
                return ", ".join(failed)
            if None not in codes:
                return None
            if time.monotonic() > deadline:
                return "time is up"
            time.sleep(0.05)
    finally:
        for worker in workers:
            while forks().poll(worker) is None:
                os.kill(worker, signal.SIGKILL)
                time.sleep(0.01)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in sockets]
