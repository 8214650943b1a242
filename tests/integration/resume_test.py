"""A run that is killed in the middle and started again, and then interrupted, ends as one that never was."""

from __future__ import annotations

import os
import pathlib
import signal

import pytest

from tests import toy_images, toy_tables
from tests.integration.programs import (
    PEERS,
    Programs,
    Running,
    experiment,
    final_weights,
    log_of,
    metrics,
    pids_of,
)
from tf_codistill import checkpoints, runs
from tf_codistill.health import progress

NUM_STEPS = 90


def reach(step: int, workdir: pathlib.Path, running: Running) -> None:
    """Waits until a run has logged a step and has a checkpoint to resume from."""
    saved = runs.checkpoints_dir(str(workdir), 0)
    path = runs.metrics_path(str(workdir), 0)

    def reached() -> bool:
        steps = [record["step"] for record in runs.read_metrics(path, "train")]
        return (
            max(steps, default=0) >= step
            and os.path.isdir(saved)
            and checkpoints.committed_steps(saved) != []
        )

    running.wait_until(reached)


def resumed_from(workdir: pathlib.Path) -> list[int]:
    lines = log_of(workdir, 0).splitlines()
    return [int(line.split()[-1]) for line in lines if "resumed from step" in line]


# Copies of step 35, say, still teach at step 40, where a run may stop.
STUDENTS = (
    *("Experiment.teaching = @FellowStudents", "FellowStudents.refresh_every_steps = 35"),
    *("FellowStudents.batches = 'different'", "LanguageTask.data = 'disjoint'", "LanguageTask.num_lanes = 8"),
)


@pytest.mark.parametrize(
    ("num_workers", "teaching"),
    [
        pytest.param(1, PEERS, id="one_worker"),
        pytest.param(2, PEERS, marks=pytest.mark.slow, id="two_workers"),
        pytest.param(1, STUDENTS, marks=pytest.mark.slow, id="students"),
        pytest.param(2, STUDENTS, marks=pytest.mark.slow, id="students_of_two_workers"),
    ],
)
def test_a_run_that_was_killed_and_interrupted_ends_as_if_nothing_had_happened(
    programs: Programs, corpus: str, tmp_path: pathlib.Path, num_workers: int, teaching: tuple[str, ...]
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    flags = experiment(tmp_path, corpus, f"Experiment.num_steps = {NUM_STEPS}", teaching=teaching)
    flags += [
        "--num_groups=1",
        f"--workers_per_group={num_workers}",
    ]

    with programs.started("launch", f"--workdir={stopped}", *flags) as running:
        reach(15, stopped, running)
        before = pids_of(stopped)
        os.kill(before[-1], signal.SIGKILL)
        running.wait_until(lambda: metrics(stopped, 0, "restart") != {})
        assert not set(before) & set(pids_of(stopped)), "the others were stopped, too"
        first = max(metrics(stopped, 0, "train"))
        reach(first + 10, stopped, running)
        os.kill(running.pid, signal.SIGINT)
        ended = running.wait()
    assert f"worker {num_workers - 1} of group 0 was killed by SIGKILL" in ended.output
    assert "group 0 starts again in 1 s from checkpoint " in ended.output
    assert ended.status == 130, ended
    assert "Traceback" not in ended.output + ended.error
    assert pids_of(stopped) == []
    interrupted = max(metrics(stopped, 0, "train"))
    assert interrupted < NUM_STEPS

    programs.succeed("launch", f"--workdir={stopped}", *flags)
    after_kill, after_interrupt = resumed_from(stopped)
    assert after_kill in range(10, first + 6, 10), "it may have been killed between checkpoint and log line"
    assert interrupted <= after_interrupt <= interrupted + 5
    assert f"stopped and saved at step {after_interrupt}\n" in log_of(stopped, 0), "Ctrl-C loses no steps"

    programs.succeed("launch", f"--workdir={whole}", *flags)
    for worker in range(num_workers):
        straight, other = (final_weights(log_of(workdir, 0, worker)) for workdir in (whole, stopped))
        assert straight == other
        assert straight[0] == NUM_STEPS
    for kind, every in (("train", 5), ("validation", 10)):
        records = [metrics(workdir, 0, kind) for workdir in (whole, stopped)]
        assert list(records[0]) == list(records[1]) == list(range(every, NUM_STEPS + 1, every))
        assert [r["loss"] for r in records[0].values()] == [r["loss"] for r in records[1].values()]
    assert list(metrics(stopped, 0, "end")) == [NUM_STEPS]
    records = runs.read_metrics(runs.metrics_path(str(stopped), 0))
    times = [record["elapsed_secs"] for record in records if "elapsed_secs" in record]
    assert times == sorted(times), "time goes on where it stopped"

    again = programs.succeed("launch", f"--workdir={stopped}", *flags)
    assert f"finished, 1 x {NUM_STEPS} steps" in again.output


def test_the_exit_status_says_whether_work_is_left(
    programs: Programs, corpus: str, tmp_path: pathlib.Path
) -> None:
    flags = [f"--workdir={tmp_path / 'run'}", *experiment(tmp_path, corpus, "Experiment.num_steps = 2000")]
    with programs.started("train", *flags) as running:
        reach(15, tmp_path / "run", running)
        os.kill(running.pid, signal.SIGTERM)
        assert running.wait().status == 75
    step = checkpoints.committed_steps(runs.checkpoints_dir(str(tmp_path / "run"), 0))[-1]
    programs.succeed("train", *flags, f"--gin_bindings=Experiment.num_steps = {step - step % 5 + 10}")


def test_a_run_has_one_launcher_and_a_zombie_does_no_harm(
    programs: Programs, corpus: str, tmp_path: pathlib.Path
) -> None:
    """A launcher and its worker are stopped; another one takes over, and ends before they wake up."""
    workdir = tmp_path / "run"
    flags = experiment(tmp_path, corpus, f"Experiment.num_steps = {NUM_STEPS}")
    flags += ["--num_groups=1", f"--workdir={workdir}"]
    with programs.started("launch", *flags) as zombie:
        reach(15, workdir, zombie)
        (worker,) = pids_of(workdir)
        for pid in (zombie.pid, worker):
            os.kill(pid, signal.SIGSTOP)
        sentence = programs.run("launch", *flags).sentence()
        assert f"group_0' is held by process {worker} on " in sentence
        assert "with a heartbeat" in sentence
        assert "--take_over" in sentence
        first = max(metrics(workdir, 0, "train"))
        programs.succeed("launch", *flags, "--take_over")
        ended = [path.read_bytes() for path in sorted((workdir / "group_0").glob("generation_2/*.*"))]
        for pid in (worker, zombie.pid):
            os.kill(pid, signal.SIGCONT)
        sentence = zombie.wait().sentence()
    assert "group_0' was taken over by process " in sentence
    assert pids_of(workdir) == []
    assert [path.read_bytes() for path in sorted((workdir / "group_0").glob("generation_2/*.*"))] == ended
    assert runs.group_dir(str(workdir), 0).endswith("generation_2")
    assert resumed_from(workdir)[0] <= first < NUM_STEPS
    assert list(metrics(workdir, 0, "train")) == list(range(5, NUM_STEPS + 1, 5)), "each step once"
    assert progress.finished_steps(str(workdir), range(1)) == NUM_STEPS


@pytest.mark.slow
@pytest.mark.parametrize("task", ["images", "clicks"])
def test_a_killed_run_of_images_or_clicks_ends_with_the_same_bits(
    programs: Programs, tmp_path: pathlib.Path, task: str
) -> None:
    if task == "images":
        data = f"ImageTask.data_dir = {toy_images.write_folders(tmp_path / 'images')!r}\n"
        path = tmp_path / "toy.gin"
        path.write_text(toy_images.EXPERIMENT + data + "ImageTask.augmentation = 'inception'\n")
    else:
        path = toy_tables.write_experiment(tmp_path)
    flags = [f"--gin_file={path}", "--gin_bindings=Experiment.num_steps = 60", "--num_groups=1"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    with programs.started("launch", f"--workdir={stopped}", *flags) as running:
        reach(20, stopped, running)
        os.kill(pids_of(stopped)[-1], signal.SIGKILL)
        ended = running.wait()
    assert ended.status == 0, ended
    assert "was killed by SIGKILL" in ended.output
    programs.succeed("launch", f"--workdir={whole}", *flags)
    assert len(resumed_from(stopped)) == 1
    assert final_weights(log_of(stopped, 0)) == final_weights(log_of(whole, 0))
    losses = [[record["loss"] for record in metrics(run, 0, "train").values()] for run in (stopped, whole)]
    assert losses[0] == losses[1]
