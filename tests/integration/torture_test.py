"""A job that is tortured for real: what it leaves is evidence, and what must hold of it does."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tests.forks import REPOSITORY
from tests.integration.programs import Programs
from tf_codistill import runs
from tf_codistill.torturing import evidence, invariants, job, plan, trail, victim

pytestmark = pytest.mark.usefixtures("fresh_gin")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows, and few steps between everything."""
    for name, value in (("NUM_ROWS", 2000), ("LOG_EVERY", 5), ("VALIDATE_EVERY", 10)):
        monkeypatch.setattr(job, name, value)


@pytest.mark.usefixtures("small")
def test_a_job_that_was_killed_leaves_evidence_that_it_went_on(
    programs: Programs, tmp_path: pathlib.Path
) -> None:
    """Group 0 trains alone and publishes; group 1 is killed, ordered to be slow, and learns from it."""
    table = job.make_table(str(tmp_path / "data"))
    place = {"workdir": str(tmp_path / "job"), "table_dir": table}
    small_job = job.Job(**place, num_groups=2, num_steps=30, seed=4, checkpoint_every=10)
    (gin_file,) = (flag for flag in small_job.command() if flag.startswith("--gin_file"))
    flags = [f"--workdir={small_job.workdir}", "--num_groups=2", gin_file]
    said = [programs.succeed("train", *flags, "--group=0")]
    said.append(programs.run("train", *flags, "--group=1", "--inject=slow@1:0:11", "--inject=kill@1:0:24"))
    assert said[1].status == -signal.SIGKILL
    assert evidence.of_group(dataclasses.replace(small_job, workdir=str(tmp_path / "no")), 0).saved_step == 0
    order = os.path.join(trail.group_dir(small_job.trail_dir, 1), f"{trail.ORDER}000001_delete_snapshot")
    pathlib.Path(order).touch()
    said.append(programs.succeed("train", *flags, "--group=1"))
    assert not os.path.exists(order)
    for group, logs in enumerate((said[:1], said[1:])):  # where `launch` has them
        pathlib.Path(runs.log_path(small_job.workdir, group, 0)).write_text(
            "".join(one.error for one in logs)
        )

    groups = [evidence.of_group(small_job, group) for group in range(2)]
    found = evidence.Evidence(
        num_steps=30,
        log_every=5,
        validate_every=10,
        groups=groups,
        statuses=[0],
        num_killed=0,
        processes=victim.left_behind(small_job.workdir),
        control_losses=[
            loss + shift for loss in evidence.final_losses(small_job.workdir, 2) for shift in (0, 1)
        ],
    )
    failed = [finding for finding in invariants.judge(found) if not finding.holds]
    assert not failed
    first, second = groups[1].starts
    assert [record["step"] for record in first.of_kind("step")] == list(range(1, 25))
    assert second.step in (10, 20), "of the last checkpoint, a thread wrote it"
    assert [record["fault"] for record in second.of_kind("fault")] == ["delete_snapshot"]
    assert groups[1].taken, "it learned from group 0"
    assert len(set(groups[1].keys)) == 30
    assert groups[0].chain != groups[1].chain, "each group has an order of its own"
    other = dataclasses.replace(groups[1], saved_chain=groups[0].saved_chain)
    holds, _ = invariants.weights_of_all_batches(dataclasses.replace(found, groups=[groups[0], other]))
    assert not holds


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_minute_of_torture(tmp_path: pathlib.Path) -> None:
    workdir, output = tmp_path / "torture", tmp_path / "report" / "torture.json"
    kinds = ["kill", "terminate", plan.LAUNCHER, "nan", "corrupt_snapshot", "delete_snapshot", "storage_503"]
    flags = [f"--workdir={workdir}", f"--output={output}", "--minutes=1", "--mtbf_secs=8", "--num_groups=2"]
    command = [sys.executable, "-m", "tf_codistill.torture", *flags, f"--kinds={','.join(kinds)}", "--seed=9"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1700)
    assert ended.returncode == 0, ended
    report = json.loads(output.read_text())
    assert report["holds"]
    assert [one["name"] for one in report["invariants"]] == list(invariants.INVARIANTS)
    planned = [fault.kind for fault in plan.plan(9, 60, 8, 2, kinds)]
    hit = [one["kind"] for one in report["faults"]]
    assert hit
    assert set(hit) <= set(planned)
    again = [one for one in report["faults"] if one["resumed_step"] is not None]
    assert again, "some have ended a group"
    assert all(one["secs_to_new_step"] > 0 for one in again), "which came to new steps"
    assert all(0 < one["goodput"] < 5 for one in report["goodput"])
    for text in ("Faults by kind", "Goodput", "Invariants", hit[0]):
        assert text in ended.stdout
    assert victim.left_behind(str(workdir)) == []


def test_what_cannot_be_tortured_is_told_before_anything_starts(
    programs: Programs, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").touch()
    for flags, sentence in (
        ([], "--workdir is not set; name a new directory"),
        ([f"--workdir={tmp_path}/old"], "there is something already; name another directory"),
        ([f"--workdir={tmp_path}/new", "--kinds=explode"], "kinds of faults have explode; expected some of"),
        ([f"--workdir={tmp_path}/new", "--minutes=0"], "secs is 0.0; expected more than 0"),
        (
            [f"--workdir={tmp_path}/new", "--num_groups=1", "--num_controls=1"],
            "num_controls is 1; expected so many that they have three groups at least",
        ),
    ):
        assert sentence in programs.run("torture", *flags).sentence()
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_ctrl_c_leaves_no_process(programs: Programs, tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "torture"
    with programs.started("torture", f"--workdir={workdir}", "--num_groups=3") as running:
        running.wait_until(lambda: len(victim.left_behind(str(workdir / "rehearsal"))) == 4)
        os.kill(running.pid, signal.SIGINT)
        ended = running.wait()
    assert ended.status == 130, ended
    assert "Traceback" not in ended.output + ended.error
    assert victim.left_behind(str(workdir)) == []
