import math
import os

import numpy as np
import pytest

from tf_codistill import files, learning_curves, runs


def _write(workdir, group, losses, every_steps=10, secs_per_step=0.5, ended=True):
    os.makedirs(runs.group_dir(workdir, group), exist_ok=True)
    _write_metrics(runs.metrics_path(workdir, group), losses, every_steps, secs_per_step, ended)


def _write_metrics(path, losses, every_steps=10, secs_per_step=0.5, ended=True):
    runs.append_metrics(path, "start", 0, num_steps=every_steps * len(losses))
    for index, loss in enumerate(losses, 1):
        step = index * every_steps
        runs.append_metrics(path, "train", step, loss=1.0, elapsed_secs=secs_per_step * step)
        runs.append_metrics(path, "validation", step, loss=loss, elapsed_secs=secs_per_step * step)
    if ended:
        runs.append_metrics(path, "end", every_steps * len(losses), elapsed_secs=1.0)


@pytest.fixture(name="workdir")
def fixture_workdir(tmp_path):
    workdir = str(tmp_path / "run")
    _write(workdir, 0, [5.0, 3.5, 3.0, 3.0, 3.25])
    _write(workdir, 1, [4.0, 4.5, 2.5], ended=False)
    return workdir


def test_curves_are_read_from_remote_storage():
    workdir = "ram://learning_curves_test/run"
    files.make_directory(runs.group_dir(workdir, 0))
    _write_metrics(runs.metrics_path(workdir, 0), [5.0, 3.0])
    run = learning_curves.read_run("alone", workdir)
    assert (run.best, run.best_step) == (3.0, 20)


def test_curves_are_read_per_group(workdir):
    run = learning_curves.read_run("two", workdir)
    first, second = run.curves
    np.testing.assert_array_equal(first.steps, [10, 20, 30, 40, 50])
    np.testing.assert_array_equal(first.secs, [5.0, 10.0, 15.0, 20.0, 25.0])
    np.testing.assert_array_equal(second.losses, [4.0, 4.5, 2.5])
    assert (first.group, second.group) == (0, 1)
    assert (first.is_finished, second.is_finished) == (True, False)


def test_best_is_the_first_of_the_lowest(workdir):
    run = learning_curves.read_run("two", workdir)
    assert (run.curves[0].best, run.curves[0].best_index, run.curves[0].final) == (3.0, 2, 3.25)
    assert (run.best, run.best_step) == (2.5, 30)


@pytest.mark.parametrize(("loss", "index"), [(6.0, 0), (3.5, 1), (3.4, 2), (2.99, None)])
def test_first_reaching_counts_equality(workdir, loss, index):
    assert learning_curves.read_run("two", workdir).curves[0].first_reaching(loss) == index


def test_nan_never_counts_as_best_or_as_reached(tmp_path):
    _write(str(tmp_path), 0, [4.0, math.nan, 5.0])
    curve = learning_curves.read_run("broken", str(tmp_path)).curves[0]
    assert curve.best == 4.0
    _write(str(tmp_path), 1, [math.inf, 3.5, -math.inf])
    assert learning_curves.read_run("broken", str(tmp_path)).best == 3.5
    assert curve.first_reaching(3.0) is None


def test_steps_that_are_out_of_order_are_told(tmp_path):
    _write(str(tmp_path), 0, [5.0, 4.0, 3.0], ended=False)
    _write(str(tmp_path), 0, [4.9, 3.9, 2.9])
    path = runs.metrics_path(str(tmp_path), 0)
    with pytest.raises(
        ValueError, match="steps of run 'two' are out of order in .*: 0 comes after 30"
    ) as told:
        learning_curves.read_run("two", str(tmp_path))
    assert path in str(told.value)
    assert "\n" not in str(told.value)


def test_run_without_metrics(tmp_path):
    with pytest.raises(ValueError, match="run 'alone' has no metrics below .*train it first"):
        learning_curves.read_run("alone", str(tmp_path / "nothing"))


def test_group_without_finite_validation(tmp_path):
    _write(str(tmp_path), 0, [4.0])
    _write(str(tmp_path), 1, [math.nan])
    with pytest.raises(ValueError, match="group 1 of run 'two' has no finite validation loss"):
        learning_curves.read_run("two", str(tmp_path))


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param([[5.0, 3.0, 2.0], [4.0, 1.5]], id="passes the baseline"),
        pytest.param([[9.0, 8.0, 7.0]], id="never passes"),
        pytest.param([[3.0]], id="one validation"),
        pytest.param([[3.0, math.nan, 3.0]], id="diverged"),
        pytest.param([[math.inf, 3.0, -math.inf], [3.0, math.nan]], id="infinite"),
    ],
)
def test_picture_is_a_png(tmp_path, losses):
    _write(str(tmp_path / "alone"), 0, [5.0, 3.5, 3.0])
    for group, group_losses in enumerate(losses):
        _write(str(tmp_path / "other"), group, group_losses)
    shown = [learning_curves.read_run(name, str(tmp_path / name)) for name in ("alone", "other")]
    png = learning_curves.draw(shown, "Title")
    assert png.startswith(b"\x89PNG\r\n")
    assert png != learning_curves.draw(shown[:1], "Title")
