"""A group of two processes does what one process does with the whole batch."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil

import pytest

from tests.integration.programs import (
    SGD,
    TIMEOUT_SECS,
    Programs,
    experiment,
    final_weights,
    log_of,
    metrics,
)
from tests.workers import run_workers

_TRAIN = """
import os, runpy, sys
os.dup2(1, 2)
sys.argv = ["-m", *{arguments!r}]
runpy.run_module("tf_codistill.train", run_name="__main__", alter_sys=True)
"""


@dataclasses.dataclass
class Trained:
    """A run of group 0, and what its workers have said."""

    workdir: pathlib.Path
    logs: list[str]


@pytest.fixture(scope="module")
def trained(programs: Programs, corpus: str, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Trained]:
    """Group 0 trained by one and by two workers, each time taught by the same snapshot of group 1.

    Gradient descent, as Adam would hide gradients that are wrong by a factor.
    """
    directory = tmp_path_factory.mktemp("workers")
    flags = experiment(directory, corpus, "Experiment.distillation_weight = 0.5", optimizer=SGD)
    flags.append("--num_groups=2")
    programs.succeed("train", f"--workdir={directory / 'peer'}", "--group=1", *flags)
    trained = {}
    for number in (1, 2):
        workdir = directory / str(number)
        shutil.copytree(directory / "peer" / "exchange", workdir / "exchange")
        arguments = [f"--workdir={workdir}", "--group=0", *flags]
        if number == 1:
            logs = [programs.succeed("train", *arguments).error]
        else:
            logs = run_workers(_TRAIN.format(arguments=arguments), number, timeout_secs=TIMEOUT_SECS)
        trained[number] = Trained(workdir, logs)
    return trained


def test_both_workers_of_a_group_hold_the_same_weights_to_the_bit(trained: dict[int, Trained]) -> None:
    first, second = (final_weights(log) for log in trained[2].logs)
    assert first == second
    assert first[0] == 20


def test_two_workers_lose_as_much_as_one_with_the_whole_batch(trained: dict[int, Trained]) -> None:
    one, two = (metrics(trained[number].workdir, 0, "validation") for number in (1, 2))
    assert list(one) == list(two) == [10, 20]
    for step in one:
        assert two[step]["loss"] == pytest.approx(one[step]["loss"], abs=1e-4)
    assert one[20]["loss"] < one[10]["loss"] - 0.05, "weights that hardly move would prove nothing"


def test_two_workers_log_as_much_as_one_with_the_whole_batch(trained: dict[int, Trained]) -> None:
    one, two = (metrics(trained[number].workdir, 0, "train") for number in (1, 2))
    for step, values in one.items():
        for name in ("loss", "total_loss", "distillation_loss", "distillation_weight", "staleness_steps"):
            assert two[step][name] == pytest.approx(values[name], abs=1e-4), name
        assert values["distillation_weight"] == 0.5
        assert values["distillation_loss"] > 1


@pytest.mark.slow
def test_two_groups_of_two_workers(programs: Programs, corpus: str, tmp_path: pathlib.Path) -> None:
    """Until the burn-in is over the groups' ways cannot cross, so that group 0 is as if it were alone."""
    bindings = (
        *("Experiment.distillation_weight = @BurnIn()", "BurnIn.steps = 20", "BurnIn.weight = 1.0"),
        "Experiment.num_steps = 60",
    )
    flags = experiment(tmp_path, corpus, *bindings, optimizer=SGD)
    command = ["--num_groups=2", "--workers_per_group=2", f"--workdir={tmp_path / 'four'}", *flags]
    programs.succeed("launch", *command)
    ends = [
        [final_weights(log_of(tmp_path / "four", group, worker)) for worker in (0, 1)] for group in (0, 1)
    ]
    for first, second in ends:
        assert first == second
        assert first[0] == 60
    assert ends[0] != ends[1]

    programs.succeed("train", f"--workdir={tmp_path / 'one'}", "--num_groups=2", *flags)
    losses = [metrics(tmp_path / name, 0, "validation") for name in ("one", "four")]
    for step in (10, 20):
        assert losses[1][step]["loss"] == pytest.approx(losses[0][step]["loss"], abs=1e-4)
    assert losses[1][20]["loss"] < losses[1][10]["loss"] - 0.05
    for group in (0, 1):
        train = metrics(tmp_path / "four", group, "train")
        assert train[20]["distillation_weight"] == 0
        assert train[60]["distillation_weight"] == 1
        assert train[60]["distillation_loss"] > 1
