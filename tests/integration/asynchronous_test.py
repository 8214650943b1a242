"""Asynchronous groups as `launch` starts them: they lose a worker, a parameter server, and are stopped."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
from collections.abc import Callable

import psutil
import pytest

from tests.integration.programs import Programs, experiment, log_of, metrics
from tf_codistill import runs

NUM_STEPS = 300
TIMEOUT_SECS = 900


def kill(launcher: int, group: int, job: str) -> None:
    """Kills a server of a group."""
    for process in psutil.Process(launcher).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # one that was killed before
            config = json.loads(process.environ().get("TF_CONFIG", "{}"))
            if f"--group={group}" in process.cmdline() and config["task"] == {"type": job, "index": 0}:
                process.kill()
                return
    raise AssertionError(f"group {group} has no {job}")


@pytest.mark.slow
def test_groups_lose_a_worker_and_a_parameter_server_and_are_stopped(
    programs: Programs, corpus: str, tmp_path: pathlib.Path
) -> None:
    workdir = tmp_path / "run"
    settings = (f"Experiment.num_steps = {NUM_STEPS}", "Experiment.distillation_weight = 1.0")
    peers = ("PeerExchange.every_steps = 5",)
    flags = [
        *experiment(tmp_path, corpus, *settings, teaching=peers),
        f"--workdir={workdir}",
        "--num_groups=2",
    ]
    kind = ["--group_kind=asynchronous", "--workers_per_group=2", "--num_ps=1"]

    def reached(step: int) -> Callable[[], bool]:
        return lambda: min(max(metrics(workdir, group, "train"), default=0) for group in range(2)) >= step

    with programs.started("launch", *flags, *kind, timeout_secs=TIMEOUT_SECS) as running:
        running.wait_until(reached(20), TIMEOUT_SECS)
        kill(running.pid, 0, "worker")
        kill(running.pid, 1, "ps")
        running.wait_until(lambda: "group 1 starts again" in running.output_so_far())
        running.wait_until(lambda: len(starts(workdir, 1)) > 1, TIMEOUT_SECS)
        os.kill(running.pid, signal.SIGTERM)
        stopped = running.wait()
    assert stopped.status == 75, stopped
    assert "it is started again, while its group goes on" in stopped.output
    assert len(starts(workdir, 0)) == 1, "nobody has missed the worker"
    with programs.started("launch", *flags, *kind, timeout_secs=TIMEOUT_SECS) as running:
        assert running.wait().status == 0, running.wait()
    for group in range(2):
        train = metrics(workdir, group, "train")
        assert list(train) == list(range(5, NUM_STEPS + 1, 5)), "each step once"
        assert max(record.get("gradient_staleness", 0.0) for record in train.values()) > 0
        assert "swap at step" in log_of(workdir, group)
    assert max(record["distillation_loss"] for record in train.values()) > 0


def starts(workdir: pathlib.Path, group: int) -> list[int]:
    """The steps at which a group has begun to train."""
    records = runs.read_metrics(runs.metrics_path(str(workdir), group))
    return [record["step"] for record in records if record["kind"] == "start"]
