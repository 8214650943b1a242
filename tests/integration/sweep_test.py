"""A sweep of real runs: killed, continued, and what it says of them against their metrics files and NumPy."""

from __future__ import annotations

import os
import pathlib
import signal

import numpy as np
import pytest

from tests.integration.programs import Programs, log_of, metrics, pids_of
from tests.toy_tables import write_experiment
from tf_codistill import checkpoints, run_matrix, runs
from tf_codistill.sweeps import results
from tf_codistill.sweeps.summary import Summary

SWEEP = """
Sweep.settings = {'lone': @lone/Setting(), 'slow': @slow/Setting()}
Sweep.seeds = [1]
Sweep.measured_with = ["ClickTask.held_out = 'test'"]
lone/Setting.gin_files = ['{place}/toy.gin']
slow/Setting.gin_files = ['{place}/toy.gin']
slow/Setting.bindings = ['keras.optimizers.SGD.learning_rate = 0.01', 'Experiment.num_steps = 600']
"""
MORE = """
Sweep.seeds = [1, 2]
Sweep.ensembles = {'ensemble of two': 'lone'}
Sweep.settings = {'lone': @lone/Setting(), 'slow': @slow/Setting(), 'two': @two/Setting()}
two/Setting.gin_files = ['{place}/toy.gin']
two/Setting.num_groups = 2
"""
BROKEN = """
Sweep.settings = {'lone': @lone/Setting(), 'slow': @slow/Setting(), 'broken': @broken/Setting()}
broken/Setting.gin_files = ['{place}/toy.gin']
broken/Setting.bindings = ['Experiment.num_steps = 7']
"""


@pytest.fixture
def place(tmp_path: pathlib.Path) -> pathlib.Path:
    write_experiment(tmp_path)
    (tmp_path / "sweep.gin").write_text(SWEEP.replace("{place}", str(tmp_path)))
    return tmp_path


def flags(place: pathlib.Path, *more: str) -> list[str]:
    return [f"--output_dir={place / 'out'}", f"--gin_file={place / 'sweep.gin'}", "--max_workers=1", *more]


def test_killed_and_continued_it_tells_what_the_runs_have_written(
    programs: Programs, place: pathlib.Path
) -> None:
    workdir, path = place / "out" / "slow" / "seed_1", place / "kept" / "results.jsonl"
    given = flags(place, f"--results={path}")
    with programs.started("sweep", *given) as running:
        saved = runs.checkpoints_dir(str(workdir), 0)
        running.wait_until(lambda: os.path.isdir(saved) and checkpoints.committed_steps(saved) != [])
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
    for pid in pids_of(workdir):
        os.kill(pid, signal.SIGKILL)  # and with it `launch`, which would go on
    ended = [one.setting for one in results.read(str(path))]
    assert ended == ["lone"], "what has ended has a result at once"
    written = programs.succeed("sweep", *given)
    found = results.read(str(path))
    assert [(one.setting, one.seed) for one in found] == [("lone", 1), ("slow", 1)]
    trained = [row["setting"] for row in run_matrix.rows(str(place / "out"))]
    assert trained == ["lone", "slow"], "what had ended is not trained again"
    assert "resumed from step" in log_of(workdir, 0)
    for one in found:
        validations = metrics(place / "out" / one.setting / "seed_1", 0, "validation")
        assert one.curves[0].steps.tolist() == list(validations)
        losses = np.array([record["loss"] for record in validations.values()])
        np.testing.assert_array_equal(one.curves[0].losses, losses)
        assert f"| {one.setting} | 1 | {losses.min():.3f} | {losses[-1]:.3f} |" in written.output
        assert 0 < one.held_out["group 0"]["loss"] < 1
    summary = Summary(found)
    difference = found[1].held_out["group 0"]["loss"] - found[0].held_out["group 0"]["loss"]
    assert summary.differences()["slow"]["loss"].mean == pytest.approx(difference, rel=1e-12)
    assert f"({difference:.4f})" in written.output
    again = programs.succeed("report", f"--results={path}", f"--output_dir={place / 'again'}")
    assert again.output == written.output
    os.rename(place / "out", place / "gone")
    with (place / "sweep.gin").open("a") as file:
        file.write(BROKEN.replace("{place}", str(place)))
    kept = programs.run("sweep", *given)
    assert kept.status == 1
    assert "num_steps is 7" in kept.error
    assert kept.output == written.output, "what there is is told, although a run has failed"
    assert not (place / "out" / "lone").exists(), "what has a result is not trained again"


@pytest.mark.slow
def test_groups_and_ensembles(programs: Programs, place: pathlib.Path) -> None:
    with (place / "sweep.gin").open("a") as file:
        file.write(MORE.replace("{place}", str(place)))
    written = programs.succeed("sweep", *flags(place))
    found = results.read(str(place / "out" / "results.jsonl"))
    assert len(found) == 2 * 4
    held_out = Summary(found).held_out()
    assert list(held_out) == ["lone", "slow", "two", "two, ensemble", "ensemble of two"]
    lone = [one.held_out["group 0"]["loss"] for one in found if one.setting == "lone"]
    assert held_out["lone"]["loss"].mean == pytest.approx(np.mean(lone))
    assert held_out["ensemble of two"]["loss"].mean < held_out["lone"]["loss"].high
    assert "| ensemble of two | " in written.output


def test_a_wrong_sweep_is_told_before_anything_is_trained(programs: Programs, place: pathlib.Path) -> None:
    with (place / "sweep.gin").open("a") as file:
        file.write("Sweep.ensembles = {'pair': 'alone'}\n")
    told = programs.run("sweep", *flags(place)).sentence()
    assert "ensembles['pair'] is 'alone'" in told
    assert not (place / "out").exists()
    assert "--figure has an effect only with --results" in (
        programs.run("report", "--figure=auc", f"--output_dir={place / 'report'}").sentence()
    )
