"""The real programs, run as a user runs them, on an experiment that trains in seconds.

    with Programs() as programs:
        ended = programs.run("train", "--workdir=...", *experiment(tmp_path, corpus))
        ended.status, ended.output, ended.error

Importing TensorFlow takes seconds. So one process imports it once and forks for every program that is run;
the fork starts like ``python -m tf_codistill.train``, with its own flags, directory, environment and output.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType

from tf_codistill import runs

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TIMEOUT_SECS = 300

# The recurrent state of an untrained layer-normalised LSTM is chaotic: noise of one part in 10 million grows
# ten thousandfold within some 100 tokens. Lanes that move on by 4 tokens a step keep it small.
TOY = """
include 'gin/models/language_model_tiny.gin'
LanguageModel.embedding_dim = 24
LanguageModel.num_units = 32
Experiment.task = @LanguageTask()
LanguageTask.num_lanes = 32
LanguageTask.window_tokens = 4
LanguageTask.data = 'same'
Experiment.num_steps = 20
Experiment.seed = 3
Experiment.log_every_steps = 5
Experiment.validate_every_steps = 10
Experiment.checkpoint_every_steps = 10
"""

ADAM = ("Experiment.optimizer = @keras.optimizers.Adam", "keras.optimizers.Adam.learning_rate = 0.002")
SGD = ("Experiment.optimizer = @keras.optimizers.SGD", "keras.optimizers.SGD.learning_rate = 0.5")
PEERS = ("PeerExchange.every_steps = 5", "PeerExchange.wait = True")

_FORKS = """
import json, os, runpy, signal, sys
import tensorflow
from tf_codistill import experiment

def child(work):
    for target, path in ((1, work["output"]), (2, work["error"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), target)
    os.chdir(work["directory"])
    os.environ.update(work["environment"])
    signal.alarm(work["timeout_secs"])
    sys.argv = ["-m", *work["arguments"]]
    try:
        runpy.run_module("tf_codistill." + work["program"], run_name="__main__", alter_sys=True)
    except SystemExit as end:  # tidying up after TensorFlow takes longer than many a program
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code or 0)

for line in sys.stdin:
    work = json.loads(line)
    if "wait_for" in work:
        print(os.waitstatus_to_exitcode(os.waitpid(work["wait_for"], 0)[1]), flush=True)
    elif pid := os.fork():
        print(pid, flush=True)
    else:
        child(work)
        sys.exit(0)
"""


@dataclasses.dataclass
class Ended:
    """How a program ended.

    Attributes:
        status: Its exit status; minus the number of the signal that killed it.
        output: What it wrote to standard output.
        error: What it wrote to standard error.
    """

    status: int
    output: str
    error: str

    def sentence(self) -> str:
        """The one sentence in which the program said what the user did wrong."""
        assert self.status == 1, self
        assert "Traceback" not in self.error, self.error
        said = [line for line in self.error.splitlines() if line.startswith("error: ")]
        assert len(said) == 1, self.error
        return said[0].removeprefix("error: ")


class Running:
    """A program that is running.

    Attributes:
        pid: Its process.
    """

    def __init__(self, pid: int, paths: Sequence[str], wait: Callable[[], int]) -> None:
        self.pid = pid
        self._paths = paths
        self._wait = wait
        self._ended: Ended | None = None

    def output_so_far(self) -> str:
        """What it has written to standard output by now."""
        path = pathlib.Path(self._paths[0])  # appears when the program starts
        return path.read_text(errors="replace") if path.exists() else ""

    def wait(self) -> Ended:
        """Waits for its end."""
        if self._ended is None:
            status = self._wait()
            self._ended = Ended(status, *(pathlib.Path(p).read_text(errors="replace") for p in self._paths))
        return self._ended

    def wait_until(self, condition: Callable[[], bool], timeout_secs: float = TIMEOUT_SECS) -> None:
        """Waits for something that the program does."""
        deadline = time.monotonic() + timeout_secs
        while not condition():
            assert not _is_over(self.pid), self.wait()
            assert time.monotonic() < deadline, "time is up"
            time.sleep(0.01)


class Programs:
    """Runs programs; a context manager."""

    def __enter__(self) -> Programs:
        changes = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}
        self._forks = subprocess.Popen(
            [sys.executable, "-c", _FORKS],
            env={**{name: value for name, value in os.environ.items() if name != "TF_CONFIG"}, **changes},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._forks.kill()
        self._forks.communicate()

    @contextlib.contextmanager
    def started(
        self,
        program: str,
        *arguments: str,
        directory: str | os.PathLike[str] = REPOSITORY,
        environment: Mapping[str, str] | None = None,
    ) -> Iterator[Running]:
        """Starts ``python -m tf_codistill.<program>``, and makes sure that it ends.

        Args:
            program: Its name.
            *arguments: Its command line.
            directory: Its working directory.
            environment: Variables beside those of this process.

        Yields:
            The running program.
        """
        with tempfile.TemporaryDirectory() as scratch:
            paths = {name: os.path.join(scratch, name) for name in ("output", "error")}
            work = {
                "program": program,
                "arguments": arguments,
                "timeout_secs": TIMEOUT_SECS,
                "directory": os.fspath(directory),
                "environment": dict(environment or {}),
                **paths,
            }
            pid = self._ask(work)
            running = Running(pid, list(paths.values()), lambda: self._ask({"wait_for": pid}))
            try:
                yield running
            finally:
                if not _is_over(pid):
                    os.kill(pid, signal.SIGTERM)  # `launch` then stops its workers
                running.wait()

    def run(
        self,
        program: str,
        *arguments: str,
        directory: str | os.PathLike[str] = REPOSITORY,
        environment: Mapping[str, str] | None = None,
    ) -> Ended:
        """Runs a program to its end; arguments are those of `started`."""
        with self.started(program, *arguments, directory=directory, environment=environment) as running:
            return running.wait()

    def succeed(self, program: str, *arguments: str) -> Ended:
        """Runs a program to its end, which is to be a good one."""
        ended = self.run(program, *arguments)
        assert ended.status == 0, f"{program} ended with {ended.status}\n{ended.output}\n{ended.error}"
        return ended

    def _ask(self, question: Mapping[str, object]) -> int:
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        self._forks.stdin.write(json.dumps(question) + "\n")
        self._forks.stdin.flush()
        answer = self._forks.stdout.readline()
        assert answer, "tf_codistill cannot be imported"
        return int(answer)


def experiment(
    directory: pathlib.Path,
    corpus_dir: str,
    *bindings: str,
    optimizer: Sequence[str] = ADAM,
    teaching: Sequence[str] = PEERS,
) -> list[str]:
    """Flags for the toy experiment, its gin file written to a directory, with bindings of the test's own."""
    path = directory / "toy.gin"
    path.write_text(TOY)
    bound = (f"LanguageTask.corpus_dir = {corpus_dir!r}", *optimizer, *teaching, *bindings)
    return [f"--gin_file={path}", *(f"--gin_bindings={binding}" for binding in bound)]


def metrics(workdir: str | os.PathLike[str], group: int, kind: str) -> dict[int, dict[str, float]]:
    """The lines of one kind in a group's metrics file by step; every step is there once."""
    records = runs.read_metrics(runs.metrics_path(os.fspath(workdir), group), kind)
    by_step = {record["step"]: record for record in records}
    assert len(by_step) == len(records), f"steps logged twice: {[record['step'] for record in records]}"
    return by_step


def final_weights(log: str) -> tuple[int, str]:
    """The last step and the checksum of all weights there, as a worker's log tells them at its end."""
    words = [line for line in log.splitlines() if "trained to step" in line][-1].split()
    return int(words[-3].rstrip(",")), words[-1]


def log_of(workdir: str | os.PathLike[str], group: int, worker: int = 0) -> str:
    """What a worker started by `launch` has written."""
    return pathlib.Path(runs.log_path(os.fspath(workdir), group, worker)).read_text(errors="replace")


def pids_of(workdir: str | os.PathLike[str]) -> list[int]:
    """The processes that were started to train a run on this machine."""
    flag = f"--workdir={os.fspath(workdir)}".encode()
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if flag in words and b"tf_codistill.train" in words:
                found.append(int(path.parent.name))
    return sorted(found)


def _is_over(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
