"""A run under faults: groups are killed, diverge, and publish rubbish; all of them end."""

from __future__ import annotations

import pathlib

import pytest

from tests.integration.programs import Programs, experiment, metrics
from tf_codistill.health import progress


@pytest.mark.slow
def test_groups_end_whatever_happens_to_them(programs: Programs, corpus: str, tmp_path: pathlib.Path) -> None:
    workdir = str(tmp_path / "run")
    flags = experiment(tmp_path, corpus, "Experiment.num_steps = 60")
    faults = ("kill@0:0:22", "nan@1:0:32", "corrupt_snapshot@1:0:21", "delete_snapshot@0:0:41")
    flags += [f"--workdir={workdir}", *(f"--inject={fault}" for fault in faults)]
    ended = programs.succeed("launch", *flags)
    assert "worker 0 of group 0 was killed by SIGKILL" in ended.output
    assert "worker 0 of group 1: the loss of steps 31 to 35 is nan" in ended.output
    assert progress.finished_steps(workdir, range(2)) == 60
    for group in range(2):
        assert list(metrics(workdir, group, "train")) == list(range(5, 61, 5)), "each step once"
        assert len(metrics(workdir, group, "restart")) == 1
