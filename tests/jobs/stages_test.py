"""Stages: what is done is not done again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.jobs.toy_stages import ToyStage
from tf_codistill.jobs import stages
from tf_codistill.jobs.engines import Local


class Noting:
    """An engine that notes its tasks, then runs them here."""

    def __init__(self) -> None:
        self.tasks: list[str] = []

    def run(self, stage: stages.Stage, tasks: list[str], advance: stages.Advance) -> None:
        self.tasks += tasks
        Local(1).run(stage, tasks, advance)


def test_only_what_is_not_done_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory, engine = str(tmp_path / "toys"), Noting()
    first = stages.run(ToyStage(directory, ("1", "2")), engine)
    assert first == {"1": {"task": "1", "pid": os.getpid()}, "2": {"task": "2", "pid": os.getpid()}}
    capsys.readouterr()
    assert set(stages.run(ToyStage(directory, ("3", "2", "1")), engine)) == {"1", "2", "3"}
    assert engine.tasks == ["1", "2", "3"]
    assert capsys.readouterr().err.startswith("trying: 6 of 6 tries")


def test_a_task_that_cannot_be_done_is_left_out_and_tried_again(tmp_path: Path) -> None:
    engine, stage = Noting(), ToyStage(str(tmp_path / "toys"), ("1", "-2"))
    for _ in range(2):
        assert set(stages.run(stage, engine)) == {"1"}
    assert engine.tasks == ["1", "-2", "-2"]


def test_a_stage_without_tasks_leaves_no_trace(tmp_path: Path) -> None:
    assert stages.run(ToyStage(str(tmp_path / "toys"), ()), Noting()) == {}
    assert not (tmp_path / "toys").exists()
