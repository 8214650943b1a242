"""Who runs the tasks of a stage: processes on this machine, or Apache Beam.

    stages.run(stage, Local(num_processes=8))
    stages.run(stage, Beam(["--runner=DataflowRunner", "--project=..."]))
    stages.run(stage, Beam([f"--runner={DASK_RUNNER}", "--dask_client_address=tcp://HOST:8786"]))

All only call the stage with each task, so that the results are the same, byte for byte.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

import tf_codistill
from tf_codistill.jobs.stages import Advance, Stage

DASK_RUNNER = "apache_beam.runners.dask.dask_runner.DaskRunner"
"""What Beam calls its engine for clusters of Dask; it knows no shorter name."""

_POLL_SECS = 0.2
_LIST_SECS = 5.0
_BEAM_RUNNER = "FnApiRunner"
_KILLED = (
    "a worker process was killed, perhaps for want of memory; run again with fewer processes: what is "
    "finished is kept"
)


class Local:
    """Processes on this machine.

    They end when this one does, however it ends.

    Args:
        num_processes: How many; None for as many as there are CPU cores. A single one is this process itself.

    Raises:
        ValueError: `num_processes` is below 1.
    """

    def __init__(self, num_processes: int | None = None) -> None:
        if num_processes is not None and num_processes < 1:
            raise ValueError(f"num_processes is {num_processes}; expected at least 1")
        self.num_processes = num_processes or os.cpu_count() or 1

    def run(self, stage: Stage, tasks: Sequence[str], advance: Advance) -> None:
        """Runs tasks; see `stages.Engine`."""
        all_sizes = stage.sizes()
        sizes = [all_sizes[task] for task in tasks]
        num_units = sum(size or stage.units_per_process for size in sizes)  # 0 is an unknown size
        num_processes = min(self.num_processes, len(tasks), 1 + num_units // stage.units_per_process)
        if num_processes == 1:
            for task in tasks:
                stage(task, advance)
            return
        try:
            self._run(num_processes, stage, tasks, advance)
        except BrokenProcessPool as error:
            raise OSError(f"{stage.title}: {_KILLED}") from error

    def _run(self, num_processes: int, stage: Stage, tasks: Sequence[str], advance: Advance) -> None:
        with _workers(num_processes, stage.preload) as (executor, num_done):
            waiting: set[futures.Future[Any]] = {executor.submit(_do, stage, task) for task in tasks}
            waiting.add(executor.submit(int))  # the pool learns of its last process with what comes after it
            shown = 0
            while waiting:
                done, waiting = futures.wait(waiting, _POLL_SECS, futures.FIRST_EXCEPTION)
                for future in done:
                    future.result()
                now = num_done.value  # read once: it grows
                advance(now - shown)
                shown = now


class Beam:
    """Apache Beam, on whatever machines its options name.

    Args:
        options: Command-line options of Beam, such as ``--runner=FlinkRunner``. Without that one it is
            FnApiRunner, in this process: Beam's own default tries to fetch a program for each stage. On Dask
            each task is sent for itself: Beam would send 128 at once, all of them to one worker.

    Raises:
        ValueError: Beam is not installed, or refuses an option.
    """

    def __init__(self, options: Sequence[str] = ()) -> None:
        try:
            importlib.import_module("apache_beam")
        except ImportError as error:
            raise ValueError(
                f"runner beam needs apache-beam ({error}); run: pip install 'apache-beam>=2.77,<3'"
            ) from error
        self.options = [f"--runner={_BEAM_RUNNER}", *options]  # where one is given twice the last counts
        runner = _checked_runner(options)
        self._is_dask = type(runner).__name__ == "DaskRunner"
        if self._is_dask and "--dask_npartitions" not in str(options):
            self.options.insert(0, "--dask_partition_size=1")

    def run(self, stage: Stage, tasks: Sequence[str], advance: Advance) -> None:
        """Runs tasks; see `stages.Engine`."""
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions

        if self._is_dask and "://" not in stage.directory and not os.path.isabs(stage.directory):
            raise ValueError(
                f"{stage.directory!r} is elsewhere for workers of Dask that are started elsewhere; "
                "name the output directory from the root, and so all others"
            )
        pipeline = apache_beam.Pipeline(options=PipelineOptions(self.options))
        do = functools.partial(_do_far_away, tf_codistill.__version__, stage)
        # `Create` spreads them over the workers.
        _ = pipeline | "tasks" >> apache_beam.Create(list(tasks)) | stage.title >> apache_beam.Map(do)
        with _watched(stage, tasks, advance):
            result = pipeline.run()
            # What Dask raises of a task that was running in each of four workers that were killed.
            killed = importlib.import_module("distributed").KilledWorker if self._is_dask else ()
            try:
                result.wait_until_finish()
            except killed as error:
                raise OSError(f"{stage.title}: {_KILLED}") from error
            finally:
                if self._is_dask:  # without a client it drops what has not begun
                    result.client.close()


def _checked_runner(options: Sequence[str]) -> Any:
    """The runner that options name; raises an error if Beam refuses them, which it does late, by exiting."""
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
    from apache_beam.runners import create_runner

    said = io.StringIO()
    try:
        found = PipelineOptions(options)  # perhaps begins to log, so not to what is thrown away
        with contextlib.redirect_stderr(said):
            name = found.view_as(StandardOptions).runner or _BEAM_RUNNER
        runner = create_runner(name)  # may know further options
        with contextlib.redirect_stderr(said):
            found.get_all_options()
    except (SystemExit, ValueError, AttributeError, ImportError) as error:
        reason = said.getvalue().rpartition("error: ")[2] or str(error)
        raise ValueError(
            f"Apache Beam refuses options {list(options)}: {reason.strip().rstrip('.')}; correct them"
        ) from error
    return runner


def _do_far_away(version: str, stage: Stage, task: str) -> None:
    if version != tf_codistill.__version__:
        raise ValueError(
            f"worker {socket.gethostname()} has tf_codistill {tf_codistill.__version__}, who started this "
            f"has {version}; install the same on all machines"
        )
    stage(task, lambda number: None)


@contextlib.contextmanager
def _watched(stage: Stage, tasks: Sequence[str], advance: Advance) -> Iterator[None]:
    """Tells of the tasks whose results have appeared."""
    sizes = stage.sizes()
    waiting, ended = set(tasks), threading.Event()

    def look() -> None:
        found = waiting & stage.done()
        waiting.difference_update(found)
        advance(sum(sizes[task] for task in found))

    def watch() -> None:
        while not ended.wait(_LIST_SECS):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
    look()


_num_done: Any = None  # in a worker process, the units that all of them have done


@contextlib.contextmanager
def _workers(number: int, preload: Sequence[str]) -> Iterator[tuple[futures.ProcessPoolExecutor, Any]]:
    """Worker processes, and the number of units that all of them have done."""
    context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        context.set_forkserver_preload([__name__, *preload])
        with _interrupts_ignored():
            forkserver.ensure_running()
    reader, writer = context.Pipe(duplex=False)
    num_done = context.Value("q", 0)
    executor = futures.ProcessPoolExecutor(number, context, _start_worker, (num_done, reader))
    try:
        yield executor, num_done
    except BaseException:
        writer.close()  # the workers end at once
        raise
    finally:
        executor.shutdown(cancel_futures=True)
        writer.close()
        reader.close()


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """A process that starts meanwhile does not hear Ctrl-C: this one does, and ends it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start_worker(num_done: Any, lifeline: Connection) -> None:
    global _num_done
    _num_done = num_done
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()


def _end_with(lifeline: Connection) -> None:
    """Waits for the other end to be closed, which the death of its process does, too."""
    with contextlib.suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os._exit(1)


def _do(stage: Callable[[str, Advance], None], task: str) -> None:
    stage(task, _advance)


def _advance(number: int) -> None:
    with _num_done.get_lock():
        _num_done.value += number
