"""A group that was trained by one number of workers goes on with another, through the programs."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest

from tests.integration.programs import SGD, Programs, experiment, final_weights, log_of, metrics
from tf_codistill import checkpoints, files, runs

HALF, WHOLE = 10, 20


def launch(
    programs: Programs, place: pathlib.Path, corpus: str, name: str, num_workers: int, num_steps: int
) -> pathlib.Path:
    """Trains a group to a step, with a teacher that reads its lanes from their beginning on."""
    teaching = (
        "Experiment.teaching = @SavedTeachers",
        f"SavedTeachers.sources = [{str(place / 'teacher' / 'group_0')!r}]",
    )
    bindings = ("LanguageModel.dtype = 'float64'", f"Experiment.num_steps = {num_steps}")
    others = (
        ("Experiment.distillation_weight = 0.5", *teaching) if name != "teacher" else ("Experiment.seed = 8",)
    )
    flags = experiment(place, corpus, *bindings, *others, optimizer=SGD, teaching=())
    programs.succeed(
        "launch", f"--workdir={place / name}", "--num_groups=1", f"--workers_per_group={num_workers}", *flags
    )
    return place / name


def last_checkpoint(workdir: pathlib.Path) -> tuple[checkpoints.ByName, checkpoints.ByName]:
    """What workers hold alike, and of what each has of its own the lanes of all."""
    step, shared, owns = checkpoints.read_latest(runs.checkpoints_dir(str(workdir), 0))
    assert step == WHOLE
    names = ("lanes", "teacher_lanes")
    return shared, {
        name: [np.concatenate(parts) for parts in zip(*(own[name] for own in owns), strict=True)]
        for name in names
    }


@pytest.mark.slow
@pytest.mark.parametrize(("before", "now"), [(2, 1), (1, 2)])
def test_a_group_goes_on_with_another_number_of_workers(
    programs: Programs, corpus: str, tmp_path: pathlib.Path, before: int, now: int
) -> None:
    launch(programs, tmp_path, corpus, "teacher", 1, HALF)
    whole = launch(programs, tmp_path, corpus, "whole", 1, WHOLE)
    launch(programs, tmp_path, corpus, "run", before, HALF)
    run = launch(programs, tmp_path, corpus, "run", now, WHOLE)
    words = "1 worker in place of 2" if now == 1 else "2 workers in place of 1"
    for worker in range(now):
        log = log_of(run, 0, worker)
        assert f"] the group goes on with {words}: lanes are dealt anew\n" in log
        assert f"] resumed from step {HALF}\n" in log
        assert final_weights(log) == final_weights(log_of(run, 0))

    (shared, lanes), (expected, expected_lanes) = last_checkpoint(run), last_checkpoint(whole)
    assert len(lanes["lanes"]) == len(lanes["teacher_lanes"]) == 2
    # float64 but for the losses; 80 pieces make a thousandfold of what these round otherwise.
    pairs = [*zip(shared["weights"], expected["weights"], strict=True)]
    pairs += [pair for name in lanes for pair in zip(lanes[name], expected_lanes[name], strict=True)]
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    for kind in ("train", "validation"):
        records, others = (metrics(workdir, 0, kind) for workdir in (run, whole))
        assert list(records) == list(others)
        for step, record in records.items():
            assert record["loss"] == pytest.approx(others[step]["loss"], abs=1e-5)

    path = os.path.join(runs.checkpoints_dir(str(run), 0), f"checkpoint_{WHOLE:08d}")
    parts = {name.split(".")[0] for name in files.names(path)}
    assert parts == {"shared", "manifest", *(f"worker_{worker}" for worker in range(now))}
