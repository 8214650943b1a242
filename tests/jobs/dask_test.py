"""Beam on a cluster of Dask: its workers share the tasks, and what a killed one had is done by others."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests import toy_dask
from tests.jobs.toy_stages import ToyStage
from tf_codistill.jobs import engines, stages

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="dask.distributed is not installed"
)


@pytest.fixture(scope="module")
def engine() -> Iterator[engines.Beam]:
    with toy_dask.beam_on_dask() as found:
        yield found


def pids(directory: Path) -> set[int]:
    return {int(path.read_text() or 0) for path in directory.glob("*.pid")} - {0}


def test_workers_share_the_tasks_and_one_that_is_killed_costs_none(
    engine: engines.Beam, tmp_path: Path
) -> None:
    told: list[int] = []
    stage = ToyStage(str(tmp_path), tuple(map(str, range(1, 13))), secs=0.3)
    with toy_dask.killing_one(lambda: pids(tmp_path)) as at_work:
        engine.run(stage, stage.tasks, told.append)
    assert len(at_work) == 2, "all tasks went to one worker"
    assert stage.done() == set(stage.tasks)
    assert sum(told) == 78


def test_an_error_arrives_and_what_has_not_begun_is_left(engine: engines.Beam, tmp_path: Path) -> None:
    # The cluster chooses their order.
    stage = ToyStage(str(tmp_path), ("100", *map(str, range(10, 40)), "101"), secs=0.2)
    with pytest.raises(ValueError, match="task 10. is too much"):
        engine.run(stage, stage.tasks, lambda number: None)
    assert len(stage.done()) < 28


class Fatal(ToyStage):
    """Kills the process that it runs in, as a system does that is out of memory."""

    def do(self, task: str, advance: stages.Advance) -> Mapping[str, Any] | None:
        os.kill(os.getpid(), signal.SIGKILL)
        return None


@pytest.mark.slow
def test_a_task_that_kills_every_worker_is_told(engine: engines.Beam, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="trying: a worker process was killed, perhaps for want of memory"):
        engine.run(Fatal(str(tmp_path), ("1",)), ("1",), lambda number: None)


def test_options_of_dask_are_told(engine: engines.Beam) -> None:
    assert engine.options[0] == "--dask_partition_size=1"
    asked = engines.Beam([f"--runner={engines.DASK_RUNNER}", "--dask_npartitions=4"])
    assert "--dask_partition_size=1" not in asked.options
    with pytest.raises(ValueError, match="argument --dask_npartitions: invalid int value: 'many'"):
        engines.Beam([f"--runner={engines.DASK_RUNNER}", "--dask_npartitions=many"])


def test_a_directory_that_workers_would_look_for_elsewhere_is_refused(engine: engines.Beam) -> None:
    stage = ToyStage("work/toys", ("1", "2"))
    with pytest.raises(ValueError, match="'work/toys' is elsewhere for workers of Dask"):
        engine.run(stage, stage.tasks, lambda number: None)


def test_a_worker_with_another_version_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has tf_codistill .*, who started this has 0\.0\.1; install"):
        engines._do_far_away("0.0.1", ToyStage(str(tmp_path), ("1",)), "1")
