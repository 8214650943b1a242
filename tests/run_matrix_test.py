"""Runs are trained several at a time; those that end, fail or are interrupted are found as they were left."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from tf_codistill import run_matrix
from tf_codistill.run_matrix import Setting, Trial

LONE, TWO = (
    Setting(gin_files=["lone.gin"], bindings=["A.b = 1"]),
    Setting(gin_files=["two.gin"], num_groups=2),
)

CHILD = """
    import json, os, signal, sys, time
    from tf_codistill import runs
    workdir, num_groups, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    def leave(name):
        with open(os.path.join(os.path.dirname(workdir), f"{name}_{seed}_{time.monotonic()}"), "w") as file:
            file.write(json.dumps(dict(os.environ)))
    def stop(*_):
        leave("interrupted")
        sys.exit(130)
    signal.signal(signal.SIGINT, stop)
    leave("started")
    {body}
    for group in range(num_groups):
        path = runs.metrics_path(workdir, group)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        runs.append_metrics(path, "start", 0, num_steps=4)
        runs.append_metrics(path, "validation", 4, loss=0.5 + group)
        runs.append_metrics(path, "end", 4)
    leave("ended")
"""


@pytest.fixture(name="child")
def fixture_child(monkeypatch: pytest.MonkeyPatch):
    """Puts a small program in the place of `launch`."""

    def child(body: str = "pass") -> None:
        script = textwrap.dedent(CHILD).replace("{body}", body)

        def command(run: Trial) -> list[str]:
            return [sys.executable, "-c", script, run.workdir, str(run.setting.num_groups), str(run.seed)]

        monkeypatch.setattr(Trial, "command", command)
        monkeypatch.setattr(run_matrix, "_POLL_SECS", 0.02)

    return child


def planned(tmp_path: pathlib.Path, **seeds: list[int]) -> list[Trial]:
    return run_matrix.plan(str(tmp_path), seeds, {"lone": LONE, "two": TWO})


def left(tmp_path: pathlib.Path, name: str) -> list[pathlib.Path]:
    return sorted(tmp_path.rglob(f"{name}_*"), key=lambda path: float(path.name.split("_")[-1]))


def test_what_is_planned() -> None:
    found = run_matrix.plan("m", {"lone": [1, 2, 3], "two": [5]}, {"lone": LONE, "two": TWO})
    assert [(run.name, run.seed) for run in found] == [("lone", 1), ("two", 5), ("lone", 2), ("lone", 3)]
    assert found[1].workdir == "m/two/seed_5"
    assert found[0].command()[1:] == [
        *("-m", "tf_codistill.launch", "--workdir=m/lone/seed_1", "--num_groups=1", "--workers_per_group=1"),
        *("--gin_file=lone.gin", "--gin_bindings=A.b = 1", "--gin_bindings=Experiment.seed = 1"),
    ]


def test_all_are_trained_and_only_once(child, tmp_path: pathlib.Path) -> None:
    child()
    matrix = planned(tmp_path, lone=[1, 2], two=[1])
    run_matrix.train(matrix, str(tmp_path), max_workers=2, threads=3)
    assert [run.is_done() for run in matrix] == 3 * [True]
    assert len(left(tmp_path, "ended")) == 3
    environment = json.loads(left(tmp_path, "started")[0].read_text())
    assert environment["TF_NUM_INTRAOP_THREADS"] == environment["OMP_NUM_THREADS"] == "3"
    assert environment["TF_DETERMINISTIC_OPS"] == "1"
    rows = run_matrix.rows(str(tmp_path))
    assert sorted((row["setting"], row["seed"], row["status"]) for row in rows) == [
        *(("lone", 1, "done"), ("lone", 2, "done"), ("two", 1, "done"))
    ]
    two = next(row for row in rows if row["setting"] == "two")
    assert two["commit"] is None or re.fullmatch(r"[\w.-]{7,}", two["commit"])
    assert (two["steps"], two["validation_loss"]) == (8, [0.5, 1.5])
    run_matrix.train(matrix, str(tmp_path))
    assert len(left(tmp_path, "started")) == 3


@pytest.mark.parametrize(("seeds", "third"), [({"lone": [1, 2, 3]}, 2), ({"two": [1], "lone": [2]}, 1)])
def test_no_more_workers_at_a_time_than_wanted(
    child, tmp_path: pathlib.Path, seeds: dict, third: int
) -> None:
    child("time.sleep(0.3)")
    run_matrix.train(planned(tmp_path, **seeds), str(tmp_path), max_workers=2)
    started, ended = left(tmp_path, "started"), left(tmp_path, "ended")
    times = [float(path.name.split("_")[-1]) for path in (started[third], ended[0])]
    assert times[0] > times[1]


def test_a_run_of_more_workers_than_wanted_is_trained_alone(child, tmp_path: pathlib.Path) -> None:
    child()
    run_matrix.train(planned(tmp_path, two=[1, 2]), str(tmp_path), max_workers=1)
    assert len(left(tmp_path, "ended")) == 2


def test_no_more_than_there_is_memory_for(child, tmp_path: pathlib.Path, monkeypatch) -> None:
    child()
    seen, most = set(), []

    def measure(self: run_matrix._Running) -> None:
        self.memory_bytes = 60
        seen.add(self)
        most.append(sum(one.process.poll() is None for one in seen))

    monkeypatch.setattr(run_matrix._Running, "measure", measure)
    run_matrix.train(planned(tmp_path, lone=[1, 2, 3]), str(tmp_path), max_workers=3, max_memory_bytes=100)
    assert (max(most), len(seen)) == (1, 3)


def test_memory_is_that_of_all_processes(tmp_path: pathlib.Path, monkeypatch) -> None:
    inner = "import sys, time; block = b'x' * 60_000_000; print(flush=True); time.sleep(60)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    monkeypatch.setattr(Trial, "command", lambda self: [sys.executable, "-c", outer])
    (run,) = planned(tmp_path, lone=[1])
    running = run_matrix._Running(run, threads=1)
    while not os.path.getsize(running.log_path):
        time.sleep(0.02)
    running.measure()
    os.killpg(running.process.pid, signal.SIGKILL)
    running.process.wait()
    assert 60_000_000 < running.memory_bytes < 200_000_000


def test_one_that_fails_leaves_the_others_alone(child, tmp_path: pathlib.Path) -> None:
    child("if seed == 2: sys.exit('error: the weather')")
    matrix = planned(tmp_path, lone=[1, 2, 3])
    with pytest.raises(ChildProcessError, match=r"1 of 3 runs failed:\n.*seed_2: error: the weather"):
        run_matrix.train(matrix, str(tmp_path), max_workers=1)
    assert [run.is_done() for run in matrix] == [True, False, True]
    assert [row["status"] for row in run_matrix.rows(str(tmp_path))] == ["done", "failed", "done"]
    child()
    run_matrix.train(matrix, str(tmp_path))
    assert matrix[1].is_done()


def test_a_run_of_another_setting_is_refused(child, tmp_path: pathlib.Path) -> None:
    child()
    run_matrix.train(planned(tmp_path, lone=[1]), str(tmp_path))
    other = Setting(gin_files=["lone.gin"], bindings=["A.b = 2"])
    (changed,) = run_matrix.plan(str(tmp_path), {"lone": [1]}, {"lone": other})
    with pytest.raises(ValueError, match=r"bindings of the run in '.*' was \['A.b = 1'\] when it began"):
        run_matrix.train([changed], str(tmp_path))


def test_a_run_that_has_not_begun_may_get_another_setting(child, tmp_path: pathlib.Path) -> None:
    child("if seed == 1: sys.exit('error: the weather')")
    with pytest.raises(ChildProcessError):
        run_matrix.train(planned(tmp_path, lone=[1, 2]), str(tmp_path), max_workers=1)
    other = Setting(gin_files=["other.gin"])
    (changed,) = run_matrix.plan(str(tmp_path), {"lone": [2]}, {"lone": other})
    child()
    run_matrix.train([changed], str(tmp_path))
    assert changed.is_done()


def test_where_the_first_fails_all_would(child, tmp_path: pathlib.Path) -> None:
    child("sys.exit('error: no such data')")
    with pytest.raises(ChildProcessError, match="1 of 3 runs failed"):
        run_matrix.train(planned(tmp_path, lone=[1, 2, 3]), str(tmp_path), max_workers=1)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=str
)
def test_a_signal_lets_each_run_end_in_peace(child, tmp_path: pathlib.Path, number, error) -> None:
    child("time.sleep(60)")

    def interrupt() -> None:
        while len(left(tmp_path, "started")) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(error):
        run_matrix.train(planned(tmp_path, lone=[1, 2, 3]), str(tmp_path), max_workers=2)
    thread.join()
    assert len(left(tmp_path, "interrupted")) == 2
    assert not subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, check=False).stdout


@pytest.mark.parametrize("wrong", [{"max_workers": 0}, {"threads": 0}])
def test_what_is_refused(wrong: dict[str, int], tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="is 0; expected 1 or more"):
        run_matrix.train([], str(tmp_path), **wrong)


def test_a_setting_of_the_wrong_type_is_named() -> None:
    with pytest.raises(ValueError, match="gin_files is 'lone.gin'; expected a list of strings"):
        Setting(gin_files="lone.gin")


def test_one_that_fails_leaves_others_alone_if_runs_have_ended_before(child, tmp_path: pathlib.Path) -> None:
    child()
    run_matrix.train(planned(tmp_path, lone=[1]), str(tmp_path))
    child("if seed == 2: sys.exit('error: diverged')")
    with pytest.raises(ChildProcessError, match="1 of 2 runs failed"):
        run_matrix.train(planned(tmp_path, lone=[2, 3]), str(tmp_path), max_workers=1)
    assert len(left(tmp_path, "ended")) == 2


def test_a_row_that_was_left_unfinished_is_passed_over(child, tmp_path: pathlib.Path) -> None:
    (tmp_path / "runs.jsonl").write_text('{"setting": "lone", "se')
    assert run_matrix.rows(str(tmp_path)) == []
    child()
    run_matrix.train(planned(tmp_path, lone=[1]), str(tmp_path))
    assert [row["status"] for row in run_matrix.rows(str(tmp_path))] == ["done"]


def test_runs_at_their_end_are_not_read_again(child, tmp_path: pathlib.Path, monkeypatch) -> None:
    child("time.sleep(0.3 * (seed - 1))")
    looked: list[int] = []
    monkeypatch.setattr(Trial, "steps", _noting(looked, Trial.steps))
    run_matrix.train(planned(tmp_path, lone=[1, 3]), str(tmp_path), max_workers=2)
    assert looked.count(3) - looked.count(1) > 3


def _noting(seeds: list[int], steps):
    def noted(trial: Trial):
        seeds.append(trial.seed)
        return steps(trial)

    return noted
