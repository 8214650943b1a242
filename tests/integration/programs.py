"""The real programs, run as a user runs them, on an experiment that trains in seconds.

ended = programs.run("train", "--workdir=...", *experiment(tmp_path, corpus))
ended.status, ended.output, ended.error
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from tests.forks import REPOSITORY, forks
from tf_codistill import runs

TIMEOUT_SECS = 300

# The recurrent state of an untrained layer-normalised LSTM is chaotic: noise of one part in 10 million grows
# ten thousandfold within some 100 tokens. Lanes that move on by 4 tokens a step keep it small.
TOY = """
include 'gin/models/language_model_tiny.gin'
LanguageModel.embedding_dim = 24
LanguageModel.num_layers = 1
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

    def __init__(self, pid: int, paths: Sequence[str]) -> None:
        self.pid = pid
        self._paths = paths
        self._ended: Ended | None = None

    def output_so_far(self) -> str:
        """What it has written to standard output by now."""
        return pathlib.Path(self._paths[0]).read_text(errors="replace")

    def is_over(self) -> bool:
        """Whether it has ended."""
        return forks().poll(self.pid) is not None

    def wait(self) -> Ended:
        """Waits for its end."""
        while self._ended is None:
            status = forks().poll(self.pid)
            if status is None:
                time.sleep(0.01)
            else:
                texts = (pathlib.Path(path).read_text(errors="replace") for path in self._paths)
                self._ended = Ended(status, *texts)
        return self._ended

    def wait_until(self, condition: Callable[[], bool], timeout_secs: float = TIMEOUT_SECS) -> None:
        """Waits for something that the program does."""
        deadline = time.monotonic() + timeout_secs
        while not condition():
            assert not self.is_over(), self.wait()
            assert time.monotonic() < deadline, "time is up"
            time.sleep(0.01)


class Programs:
    """Runs programs."""

    @contextlib.contextmanager
    def started(
        self,
        program: str,
        *arguments: str,
        directory: str | os.PathLike[str] = REPOSITORY,
        environment: Mapping[str, str] | None = None,
        timeout_secs: int = TIMEOUT_SECS,
    ) -> Iterator[Running]:
        """Starts ``python -m tf_codistill.<program>``, and makes sure that it ends.

        Args:
            program: Its name.
            *arguments: Its command line.
            directory: Its working directory.
            environment: Variables beside those of this process.
            timeout_secs: When it is killed.

        Yields:
            The running program.
        """
        with tempfile.TemporaryDirectory() as scratch:
            paths = [os.path.join(scratch, name) for name in ("output", "error")]
            pid = forks().start(
                module=f"tf_codistill.{program}",
                arguments=arguments,
                output=paths[0],
                error=paths[1],
                directory=directory,
                environment=environment,
                timeout_secs=timeout_secs,
            )
            running = Running(pid, paths)
            try:
                yield running
            finally:
                if not running.is_over():
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
