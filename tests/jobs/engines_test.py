"""Engines: all tasks are run, errors arrive, nothing is left running."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.toy_stages import ToyStage
from tf_codistill.jobs import engines, stages
from tf_codistill.jobs.engines import Beam, Local

ROOT = Path(__file__).parents[2]
SLEEPERS = """
from tests.jobs.toy_stages import ToyStage
from tf_codistill import program
from tf_codistill.jobs import stages
from tf_codistill.jobs.engines import Local
if __name__ == "__main__":
    program.run(lambda: stages.run(ToyStage({directory!r}, ("1", "2", "3"), secs=60), Local(2)))
"""
# Modules of a process are those of the server that it is forked from.
LOADED = """
from tests.jobs.engines_test import Loaded
from tf_codistill.jobs import stages
from tf_codistill.jobs.engines import Local
facts = stages.run(Loaded({directory!r}, ("1", "2")), Local(2))
print(*(facts[task]["is_loaded"] for task in facts))
"""

needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="apache-beam is not installed"
)


class Loaded(ToyStage):
    """Tells whether a module was there before its tasks."""

    preload = ("tabnanny",)

    def do(self, task: str, advance: stages.Advance) -> Mapping[str, Any]:
        return {"is_loaded": "tabnanny" in sys.modules}


def wait_for(condition: Callable[[], bool], secs: float = 60) -> bool:
    end = time.monotonic() + secs
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_processes_run_every_task_and_tell_how_far_they_are(tmp_path: Path) -> None:
    told: list[int] = []
    stage = ToyStage(str(tmp_path), ("1", "2", "3", "4"), secs=0.2)
    Local(2).run(stage, stage.tasks, told.append)
    assert stage.done() == {"1", "2", "3", "4"}
    assert sum(told) == 10
    pids = {stage.facts(task)["pid"] for task in stage.tasks}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert wait_for(lambda: not any(map(is_running, pids)))


def test_processes_find_loaded_what_their_stage_names(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, "-c", LOADED.format(directory=str(tmp_path))]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "True"]


def test_an_error_in_a_process_arrives_here(tmp_path: Path) -> None:
    stage = ToyStage(str(tmp_path), ("1", "100", *map(str, range(10, 30))), secs=0.1)
    with pytest.raises(ValueError, match="task 100 is too much"):
        Local(2).run(stage, stage.tasks, lambda number: None)
    assert len(stage.done()) < 22


class Dying(ToyStage):
    """One of its processes is killed while the other one works."""

    def do(self, task: str, advance: stages.Advance) -> Mapping[str, Any]:
        time.sleep(20.0 if task == "1" else 0.3)
        os.kill(os.getpid(), signal.SIGKILL)
        return {}


@pytest.mark.skipif(sys.platform == "win32", reason="kills by a signal")
def test_a_process_that_is_killed_is_told_of_while_the_others_work(tmp_path: Path) -> None:
    for _ in range(3):  # which of the two was started last is chance
        began = time.monotonic()
        with pytest.raises(OSError, match="trying: a worker process was killed"):
            Local(2).run(Dying(str(tmp_path), ("1", "2")), ("1", "2"), lambda number: None)
        assert time.monotonic() - began < 15


def test_little_work_is_done_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToyStage, "units_per_process", 100)
    stage = ToyStage(str(tmp_path), ("1", "2", "3"))
    Local(8).run(stage, stage.tasks, lambda number: None)
    assert {stage.facts(task)["pid"] for task in stage.tasks} == {os.getpid()}


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_processes_end_with_the_one_that_started_them(tmp_path: Path, end: signal.Signals) -> None:
    script = tmp_path / "sleepers.py"
    script.write_text(SLEEPERS.format(directory=str(tmp_path / "toys")))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, str(script)]
    main = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    found = tmp_path / "toys"
    assert wait_for(lambda: len(list(found.glob("?.pid"))) == 2)
    pids = [int(path.read_text()) for path in found.glob("?.pid")]
    assert all(map(is_running, pids))
    if end == signal.SIGINT:
        os.killpg(main.pid, end)  # as a terminal does for Ctrl-C
    else:
        main.kill()
    _, errors = main.communicate(timeout=10)
    assert main.returncode == (130 if end == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in errors
    assert wait_for(lambda: not any(map(is_running, pids)), secs=5)


def test_number_of_processes_must_make_sense() -> None:
    with pytest.raises(ValueError, match="num_processes is 0"):
        Local(0)
    assert Local().num_processes == os.cpu_count()


def test_beam_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ValueError, match="pip install 'apache-beam"):
        Beam()


def test_beam_is_imported_only_when_asked_for() -> None:
    code = "import sys, tf_codistill.jobs.engines; print('apache_beam' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@needs_beam
def test_beam_runs_every_task_and_tells_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_LIST_SECS", 0.05)
    told: list[int] = []
    stage = ToyStage(str(tmp_path), ("1", "2", "3"), secs=0.2)
    Beam().run(stage, stage.tasks, told.append)
    assert stage.done() == {"1", "2", "3"}
    assert sum(told) == 6
    assert len([number for number in told if number]) > 1


@needs_beam
def test_beam_fetches_no_runner_unless_it_is_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apache_beam.runners.direct.direct_runner import SwitchingDirectRunner

    def fetch(*arguments: object) -> None:
        raise OSError("no server can be reached")

    monkeypatch.setattr(SwitchingDirectRunner, "run_pipeline", fetch)
    stage = ToyStage(str(tmp_path), ("1", "2"))
    Beam(["--direct_num_workers=1"]).run(stage, stage.tasks, lambda number: None)
    assert stage.done() == {"1", "2"}
    for asked in (["--runner=DirectRunner"], ["--runner", "direct"]):
        with pytest.raises(OSError, match="no server"):
            Beam(asked).run(stage, stage.tasks, lambda number: None)


@needs_beam
@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("--direct_num_workers=many", "argument --direct_num_workers: invalid int value: 'many'"),
        ("--runner", "argument --runner: expected one argument"),
        ("--streaming=maybe", "argument --streaming: ignored explicit argument 'maybe'"),
        ("--runner=Nobody", "Unexpected pipeline runner: Nobody. Valid values are .* subclass"),
        ("--runner=absent.Runner", "No module named 'absent'"),
        ("--runner=apache_beam.Nobody", "has no attribute 'Nobody'"),
    ],
)
def test_options_that_beam_refuses_are_told(
    option: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        Beam(["--job_name=test", option])
    said = str(caught.value)
    assert said.startswith(f"Apache Beam refuses options ['--job_name=test', {option!r}]: ")
    assert said.endswith("; correct them")
    assert "\n" not in said
    assert capsys.readouterr().err == ""


def test_stages_can_be_sent_away() -> None:
    import pickle

    stage = ToyStage("toys", ("1",))
    assert isinstance(pickle.loads(pickle.dumps(stage)), stages.Stage)
