"""A task and a kind of teaching of one's own go through all programs; nothing else knows of them."""

from __future__ import annotations

import json
import math
import pathlib
import signal

import numpy as np
import pytest
import tensorflow as tf

from tests.integration.programs import Programs, final_weights, log_of, metrics
from tests.toy_house import KILLED_AFTER_STEP, Points, Recollection
from tf_codistill import checkpoints, runs
from tf_codistill.tasks.base import Part
from tf_codistill.training.codistillation import CodistillationModel

NUM_STEPS = 24

TOY = """
import tests.toy_house

Experiment.task = @Points()
Points.num_points = 32
Points.batch_size = 8
Experiment.optimizer = @keras.optimizers.Adam
keras.optimizers.Adam.learning_rate = 0.02
Experiment.distillation_loss = @SquaredLogits()
Experiment.distillation_weight = 0.5
Experiment.seed = 3
Experiment.num_steps = 24
Experiment.log_every_steps = 2
Experiment.validate_every_steps = 6
Experiment.checkpoint_every_steps = 6
"""

RECOLLECTION = """
Experiment.teaching = @Recollection
Recollection.num_examples = 32
Recollection.every_steps = 5
"""
PEERS = """
Experiment.teaching = @PeerExchange
PeerExchange.every_steps = 2
"""
FELLOWS = """
Experiment.teaching = @FellowStudents
FellowStudents.refresh_every_steps = 3
"""


def gin_file(directory: pathlib.Path, teaching: str) -> str:
    path = directory / "toy_house.gin"
    path.write_text(TOY + teaching)
    return f"--gin_file={path}"


def everything(workdir: pathlib.Path) -> list[np.ndarray]:
    """All arrays of the last checkpoint, of all workers."""
    step, shared, owns = checkpoints.read_latest(runs.checkpoints_dir(str(workdir), 0))
    assert step == NUM_STEPS
    return [array for part in (shared, *owns) for name in sorted(part) for array in part[name]]


def memories_of(workdir: pathlib.Path, at_step: int = NUM_STEPS) -> list[dict[int, float]]:
    """What was predicted at the last visit of each point that a worker has visited."""
    step, _, owns = checkpoints.read_latest(runs.checkpoints_dir(str(workdir), 0))
    assert step == at_step
    tables = [own["teacher_lanes"] for own in owns]
    return [{number: said[number] for number in np.flatnonzero(at >= 0)} for said, at in tables]


def logged(workdir: pathlib.Path, kind: str) -> dict[int, dict[str, float]]:
    """What was logged but for times."""
    return {
        step: {
            name: value
            for name, value in record.items()
            if name != "elapsed_secs" and not name.endswith("_per_sec")
        }
        for step, record in metrics(workdir, 0, kind).items()
    }


@pytest.fixture(scope="module")
def trained(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run with a teaching that is the toy's own, and one of two groups that exchange snapshots."""
    place = tmp_path_factory.mktemp("toy_house")
    for name, teaching, num_groups in (("own", RECOLLECTION, 1), ("pair", PEERS, 2), ("fellows", FELLOWS, 1)):
        (place / name).mkdir()
        flags = [gin_file(place / name, teaching), f"--num_groups={num_groups}"]
        programs.succeed("launch", f"--workdir={place / name}", *flags)
    return place


@pytest.mark.parametrize("num_workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_of_both_that_was_killed_ends_as_one_that_was_not(
    programs: Programs, trained: pathlib.Path, tmp_path: pathlib.Path, num_workers: int
) -> None:
    flags = [gin_file(tmp_path, RECOLLECTION), "--num_groups=1", f"--workers_per_group={num_workers}"]
    whole, stopped = trained / "own", tmp_path / "stopped"
    if num_workers > 1:
        whole = tmp_path / "whole"
        programs.succeed("launch", f"--workdir={whole}", *flags)
    kill = {KILLED_AFTER_STEP: "15"}
    killed = programs.run("launch", f"--workdir={stopped}", "--max_restarts=0", *flags, environment=kill)
    assert f"worker {num_workers - 1} of group 0 was killed by {signal.SIGKILL.name}" in killed.sentence()
    assert max(metrics(stopped, 0, "train")) in (12, 14)
    shown = programs.succeed("launch", f"--workdir={stopped}", *flags).output
    assert "points/s" in shown
    assert f"step {NUM_STEPS}/{NUM_STEPS}" in shown
    for worker in range(num_workers):
        log = log_of(stopped, 0, worker)
        assert "resumed from step 12" in log
        assert final_weights(log) == final_weights(log_of(whole, 0, 0))
    for one, other in zip(everything(whole), everything(stopped), strict=True):
        np.testing.assert_array_equal(one, other)
    memories = memories_of(whole)
    assert len(memories) == num_workers
    assert {point for memory in memories for point in memory} == set(range(32))
    assert all(memories[0] != memory for memory in memories[1:]), "each remembers what it has read itself"
    for kind, every in (("train", 2), ("validation", 6)):
        assert list(logged(whole, kind)) == list(range(every, NUM_STEPS + 1, every))
        assert logged(whole, kind) == logged(stopped, kind)


def test_a_run_of_both_goes_on_with_fewer_workers(programs: Programs, tmp_path: pathlib.Path) -> None:
    """What each worker of two remembers of its rows is what one then remembers of all."""
    flags = [gin_file(tmp_path, RECOLLECTION), "--num_groups=1", f"--workdir={tmp_path / 'run'}"]
    short = [*flags, "--gin_bindings=Experiment.num_steps = 6"]
    programs.succeed("launch", "--workers_per_group=2", *short)
    one, other = memories_of(tmp_path / "run", 6)
    assert one.keys() | other.keys() == set(range(32))
    assert one.keys() & other.keys(), "their last visits count"
    programs.succeed("launch", *flags)
    log = log_of(tmp_path / "run", 0)
    assert "] the group goes on with 1 worker in place of 2\n" in log
    assert "] resumed from step 6\n" in log
    (memory,) = memories_of(tmp_path / "run", NUM_STEPS)
    assert memory.keys() == set(range(32))
    train = logged(tmp_path / "run", "train")
    assert list(train) == list(range(2, NUM_STEPS + 1, 2))
    assert train[24]["loss"] < train[2]["loss"]


def test_both_teachers_of_the_toy_teach(trained: pathlib.Path) -> None:
    train = logged(trained / "own", "train")
    assert train[24]["loss"] < train[2]["loss"]
    for record in train.values():
        assert record["distillation_weight"] == 0.5
        assert record["teacher_0_task_loss"] > 0, "the average teaches from the first step on"
    assert train[4]["teacher_1_task_loss"] == 0, "4 steps visit each point, the memory is of earlier visits"
    assert train[24]["teacher_1_task_loss"] > 0
    assert train[2]["staleness_steps"] == pytest.approx((0 + 1) / 2)
    assert train[24]["staleness_steps"] == pytest.approx((2 + 3) / 2), "refreshed at step 20"


def test_the_task_learns_from_every_kind_of_teaching(trained: pathlib.Path) -> None:
    for name, group in (("own", 0), ("pair", 0), ("pair", 1), ("fellows", 0)):
        train = metrics(trained / name, group, "train")
        assert train[24]["points_per_sec"] > 0
        assert not any("tokens" in key for key in train[24])
        assert train[24]["loss"] < train[2]["loss"]
        validation = metrics(trained / name, group, "validation")[24]
        assert validation["deviation"] == pytest.approx(math.sqrt(validation["loss"]))
        assert validation["error"] > 0
        assert "perplexity" not in validation
        assert (trained / name / f"group_{group}" / "points.json").exists()
    both = [metrics(trained / "pair", group, "train")[24]["distillation_loss"] for group in (0, 1)]
    assert max(both) > 0
    assert metrics(trained / "fellows", 0, "train")[24]["distillation_loss"] > 0


def test_evaluate_and_report_speak_of_points(programs: Programs, trained: pathlib.Path) -> None:
    output = trained / "evaluation.json"
    names = ("own", "pair", "fellows")
    both = [f"--runs={name}={trained / name}" for name in names]
    saved = f"--model=saved={runs.student_path(str(trained / 'pair'), 1)}"
    printed = programs.succeed("evaluate", *both, saved, f"--output={output}").output
    assert "On 16 points that were held out" in " ".join(printed.split())
    found = json.loads(output.read_text())
    assert (found["num_units"], found["units"]) == (16, "points")
    rows = found["models"]
    assert set(rows) == {
        *("own, group 0", "pair, group 0", "pair, group 1", "pair, ensemble", "saved"),
        *("fellows, group 0, student 0", "fellows, group 0, student 1", "fellows, ensemble"),
    }
    for name, group in (("own", 0), ("pair", 0), ("pair", 1)):
        last = metrics(trained / name, group, "validation")[24]
        row = rows[f"{name}, group {group}"]
        assert set(row) == {"loss", "error", "deviation"}
        for figure, value in row.items():
            assert value == pytest.approx(last[figure], rel=1e-5)
    assert rows["saved"] == pytest.approx(rows["pair, group 1"], rel=1e-6)
    assert rows["pair, ensemble"]["loss"] <= max(rows[f"pair, group {group}"]["loss"] for group in (0, 1))

    flags = [f"--evaluation={output}", f"--output_dir={trained / 'report'}"]
    programs.succeed("report", *both, *flags)
    report = (trained / "report" / "report.md").read_text()
    assert "On 16 points that were held out." in report
    assert "| model | deviation | error | loss |" in report
    own = rows["own, group 0"]
    figures = " | ".join(f"{own[name]:.3f}" for name in ("deviation", "error", "loss"))
    assert f"| own, group 0 | {figures} |" in report
    best = min(record["loss"] for record in metrics(trained / "own", 0, "validation").values())
    assert f"The baseline is *own*: {best:.3f}" in report


def test_what_is_beside_a_model_is_checked_before_it_is_used(
    programs: Programs, trained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    other = "--gin_bindings=Points.num_points = 40"
    sentence = r"points.json' is of a model of 32 points, not of 40"
    ended = programs.run("evaluate", f"--runs=own={trained / 'own'}", other)
    assert sentence in ended.sentence()
    flags = [gin_file(tmp_path, RECOLLECTION), other, "--gin_bindings=Recollection.num_examples = 40"]
    ended = programs.run("train", f"--workdir={trained / 'own'}", *flags)
    assert "Points.num_points was 32 and is 40" in ended.sentence()


def test_the_memory_speaks_of_examples_that_it_has_been_asked_about() -> None:
    teaching = Recollection(num_examples=32)
    model = CodistillationModel(Points().make_model, teaching)
    model.compile("sgd", "mse")
    stream = Points().training(Part(0, 1, seed=3))
    model.build_for_data(stream.dataset().element_spec)
    said: dict[int, float] = {}
    for step, element in enumerate(stream.dataset(num_steps=10)):
        (features, _), keys = element
        predictions = tf.random.stateless_normal([8, 1], [step, 0])
        (taught,) = teaching.teach([features], [keys], tf.constant(step), [predictions])
        np.testing.assert_array_equal(taught.present_PB[0], keys.numpy().sum(axis=1) % 2 == 0)
        np.testing.assert_array_equal(taught.present_PB[1], np.full(8, step >= stream.steps_per_epoch))
        for key, before in zip(keys[:, 0].numpy(), taught.predictions[1][:, 0].numpy(), strict=True):
            assert before == said.get(key, 0.0)
        said |= dict(zip(keys[:, 0].numpy(), predictions[:, 0].numpy(), strict=True))
    assert len(said) == 32
