"""An asynchronous group: real workers and parameter servers, and a coordinator that drives them."""

from __future__ import annotations

import functools
import math
import os
import pathlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import pytest
import tensorflow as tf

from tests.forks import forks
from tests.toy_experiments import VOCABULARY_SIZE, toy_experiment, toy_task, write_language_corpus
from tests.toy_models import lstm
from tests.workers import _free_ports
from tf_codistill import checkpoints, evaluation, runs
from tf_codistill.experiment import Experiment
from tf_codistill.groups.asynchronous import AsynchronousGroup, Rounds
from tf_codistill.groups.synchronous import SynchronousGroup
from tf_codistill.launching import cluster
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.teaching.base import Teaching
from tf_codistill.teaching.fellows import FellowStudents
from tf_codistill.teaching.overlap import OverlappingTeachers
from tf_codistill.training.codistillation import CodistillationModel

NUM_WORKERS = 2
TIMEOUT_SECS = 300

_COORDINATOR = """
import os, signal
import keras
from tests.groups import asynchronous_test as toy
from tf_codistill import distribution
from tf_codistill.groups.asynchronous import AsynchronousGroup

workdir, corpus, workers = {arguments!r}
strategy = distribution.create_strategy()
{script}
print("done")
distribution.leave(strategy)
"""


def without_state(vocabulary_size: int, batch_size: int | None) -> keras.Model:
    """What an asynchronous group asks a task for, as a model for any group."""
    return LanguageModel(vocabulary_size, embedding_dim=8, num_layers=1, num_units=12, dropout=0.0)


def codistilled(
    workdir: str, corpus: str, group: Any, strategy: tf.distribute.Strategy | None = None, **changes: Any
) -> None:
    """Two groups one after the other, the second taught by the first; each interval is one step."""
    task = toy_task(corpus, model_fn=without_state)
    settings: dict[str, Any] = {
        "num_steps": 6,
        "log_every_steps": 1,
        "validate_every_steps": 3,
        "checkpoint_every_steps": 6,
        "measure_every_steps": 1,
        "distillation_weight": 1.0,
        "optimizer": decaying,
    }
    experiment = toy_experiment(task, group=group, **{**settings, **changes})
    for index in range(2):
        experiment.train(workdir, index, 2, strategy)


def decaying() -> keras.optimizers.Optimizer:
    """An optimizer whose rate tells the step."""
    return keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.02, 2, 0.5))


def long(corpus: str, num_steps: int = 20, **changes: Any) -> Experiment:
    """Rounds of five steps."""
    return toy_experiment(toy_task(corpus), group=AsynchronousGroup, num_steps=num_steps, **changes)


fellows = functools.partial(FellowStudents, num_students=2, refresh_every_steps=5)


class At(keras.callbacks.Callback):
    """Does something once, at the end of the round with a step."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        super().__init__()
        self._step, self._act, self._is_done = step, act, False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.model.step() >= self._step and not self._is_done:
            self._is_done = True
            self._act()


class Cluster:
    """Servers of a group, which wait for its coordinator and end when that has ended."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self._addresses = [f"localhost:{port}" for port in _free_ports(NUM_WORKERS + 2)]
        server = "from tf_codistill import distribution; assert distribution.serve()"
        self.servers = [self._start(index, server) for index in range(1, NUM_WORKERS + 2)]

    def _start(self, index: int, script: str) -> int:
        output, error = (str(self._directory / f"{index}.{end}") for end in ("out", "err"))
        config = cluster.tf_config(self._addresses, index, num_ps=1)
        environment = {"TF_CONFIG": config, "OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}
        return forks().start(
            script, output=output, error=error, environment=environment, timeout_secs=TIMEOUT_SECS
        )

    def run(self, script: str, workdir: str, corpus: str) -> None:
        """What the coordinator does; an error with the end of its log if it fails."""
        arguments = (workdir, corpus, self.servers[:NUM_WORKERS])
        coordinator = self._start(0, _COORDINATOR.format(arguments=arguments, script=script))
        while (status := forks().poll(coordinator)) is None:
            time.sleep(0.1)
        out, err = ((self._directory / f"0.{end}").read_text(errors="replace") for end in ("out", "err"))
        assert (status, out[-5:]) == (0, "done\n"), f"{out[-2000:]}\n{err[-6000:]}"

    def wait(self) -> list[int | None]:
        """How the servers end, given ten seconds."""
        deadline = time.monotonic() + 10
        while None in (statuses := list(map(forks().poll, self.servers))) and time.monotonic() < deadline:
            time.sleep(0.1)
        return statuses

    def kill(self) -> None:
        for server in self.servers:
            if forks().poll(server) is None:
                os.kill(server, signal.SIGKILL)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_language_corpus(str(tmp_path_factory.mktemp("corpus")))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: str) -> Iterator[tuple[str, Cluster]]:
    """What one coordinator does for all tests: start-up is what takes long."""
    workdir = tmp_path_factory.mktemp("runs")
    servers = Cluster(workdir)
    script = """
toy.codistilled(workdir + "/exact", corpus, AsynchronousGroup, strategy)
for num_steps in (10, 20):
    toy.long(corpus, num_steps).train(workdir + "/long", strategy=strategy)
toy.long(corpus, 10, teaching=toy.fellows).train(workdir + "/fellows", strategy=strategy)
kill = toy.At(5, lambda: os.kill(workers[0], signal.SIGKILL))
toy.long(corpus).train(workdir + "/killed", strategy=strategy, callbacks=[kill])
"""
    try:
        servers.run(script, str(workdir), corpus)
        yield str(workdir), servers
    finally:
        servers.kill()


@pytest.fixture(scope="module")
def synchronous(tmp_path_factory: pytest.TempPathFactory, corpus: str) -> str:
    workdir = str(tmp_path_factory.mktemp("synchronous"))
    codistilled(workdir, corpus, SynchronousGroup)
    return workdir


def averages(workdir: str, group: int = 0, kind: str = "train") -> list[Mapping[str, Any]]:
    return [
        record for record in runs.read_metrics(runs.metrics_path(workdir, group)) if record["kind"] == kind
    ]


@pytest.mark.parametrize("kind", ["train", "validation"])
def test_where_a_round_is_one_step_all_is_as_in_a_synchronous_group(
    kind: str, trained: tuple[str, Cluster], synchronous: str
) -> None:
    """Batches, updates, teachers, rates by the step, meters and validation."""
    for group in range(2):
        found, expected = (averages(path, group, kind) for path in (f"{trained[0]}/exact", synchronous))
        assert len(found) == len(expected) == {"train": 6, "validation": 2}[kind]
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.pop("gradient_staleness", 0.0) == 0
            timed = {"elapsed_secs", "tokens_per_sec", "exchange_secs", "staleness_secs"}
            names = theirs.keys() - timed
            assert ours.keys() - timed == names
            for name in names:
                assert ours[name] == (
                    theirs[name] if name == "kind" else pytest.approx(theirs[name], abs=2e-4)
                ), name
    if kind == "train":
        assert averages(synchronous, 1)[-1]["distillation_loss"] > 0


def test_gradients_are_stale_and_training_goes_on_from_its_checkpoint(trained: tuple[str, Cluster]) -> None:
    workdir = f"{trained[0]}/long"
    intervals = averages(workdir)
    assert [record["step"] for record in intervals] == [5, 10, 15, 20], "each once"
    assert all(0 <= record["gradient_staleness"] < NUM_WORKERS * 5 for record in intervals)
    assert intervals[-1]["loss"] < intervals[0]["loss"] - 0.1
    assert [record["step"] for record in averages(workdir, kind="start")] == [0, 10]
    _, shared, _ = checkpoints.read_latest(runs.checkpoints_dir(workdir, 0))
    assert int(shared["optimizer"][0]) == 20, "the count of steps is the coordinator's own"


def test_a_worker_that_is_killed_is_missed_by_nobody(trained: tuple[str, Cluster]) -> None:
    workdir, servers = trained
    intervals = averages(f"{workdir}/killed")
    assert [record["step"] for record in intervals] == [5, 10, 15, 20]
    assert all(record["gradient_staleness"] == 0 for record in intervals[2:]), "by one alone"
    assert intervals[-1]["loss"] < intervals[0]["loss"] - 0.1
    assert servers.wait() == [-signal.SIGKILL, 0, 0], "servers end with their coordinator"


def test_without_parameter_servers_there_is_no_such_group() -> None:
    with pytest.raises(ValueError, match="needs workers and parameter servers; start them by launch"):
        AsynchronousGroup()


def test_students_of_one_process_teach_each_other(trained: tuple[str, Cluster]) -> None:
    intervals = averages(f"{trained[0]}/fellows")
    assert [record["step"] for record in intervals] == [5, 10]
    assert intervals[-1]["distillation_loss"] > 0
    assert intervals[-1]["student_0_task_loss"] != intervals[-1]["student_1_task_loss"]


def test_what_it_has_trained_is_evaluated(trained: tuple[str, Cluster], corpus: str) -> None:
    task = toy_task(corpus)
    members = evaluation.from_checkpoint(task, f"{trained[0]}/long", 0)
    (row,) = evaluation.evaluate(task, members).values()
    assert row["carried_from"] == "first pass", "no state has been carried in training"
    assert row["zero_state_loss"] < math.log(VOCABULARY_SIZE) - 0.05, "better than chance"


class OnHost(Teaching):
    """Leaves the graph of the step."""

    on_host = True


REFUSED = {
    "jit_compile is True": (functools.partial(without_state, 40, None), {"jit_compile": True}),
    "the optimizer scales the loss": (
        functools.partial(without_state, 40, None),
        {"optimizer": keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())},
    ),
    "a student carries '.*' from batch to batch": (lstm, {}),
    "teachers predict the next batch ahead": (
        functools.partial(without_state, 40, None),
        {"teachers": OverlappingTeachers(1, overlap=True)},
    ),
    "teaching leaves the graph": (functools.partial(without_state, 40, None), {"teachers": OnHost()}),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_it_cannot_do_is_refused(reason: str) -> None:
    model_fn, changes = REFUSED[reason]
    options = {"optimizer": "sgd", "loss": "mse", "jit_compile": False, **changes}
    model = CodistillationModel(model_fn, options.pop("teachers", None))
    model.compile(**{**options, "optimizer": keras.optimizers.get(options["optimizer"])})
    with pytest.raises(ValueError, match=reason):
        Rounds(model, None, 1)
