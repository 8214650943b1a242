"""A cluster of Dask on this machine: two worker processes, each of which may be killed."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

from tf_codistill.corpus.document import Document
from tf_codistill.jobs import engines

_PIDS = "TOY_DASK_PIDS"
_SECS = 0.1


@contextlib.contextmanager
def beam_on_dask() -> Iterator[engines.Beam]:
    """An engine on two worker processes; they end with the block."""
    import distributed

    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        address = f"--dask_client_address={cluster.scheduler_address}"
        yield engines.Beam([f"--runner={engines.DASK_RUNNER}", address])


def slow(document: Document) -> Document:
    """A filter that lets every page pass; in workers of a cluster it takes a while and leaves their pid."""
    if _PIDS in os.environ:
        pathlib.Path(os.environ[_PIDS], str(os.getpid())).touch()
        time.sleep(_SECS)
    return document


@contextlib.contextmanager
def workers_are_slow(directory: pathlib.Path) -> Iterator[Callable[[], set[int]]]:
    """Lets `slow` leave pids in a directory, in processes that start within the block; gives them."""
    directory.mkdir()
    os.environ[_PIDS] = str(directory)
    try:
        yield lambda: {int(path.name) for path in directory.iterdir()}
    finally:
        del os.environ[_PIDS]


@contextlib.contextmanager
def killing_one(pids: Callable[[], set[int]]) -> Iterator[list[int]]:
    """Kills a worker once two of them are at work; gives the pids of these two, the killed one first."""
    found: list[int] = []
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(0.02):
            if len(pids()) >= 2:
                found.extend(sorted(pids()))
                os.kill(found[0], signal.SIGKILL)
                return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield found
    finally:
        ended.set()
        killer.join()
