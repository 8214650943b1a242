"""Runs on a real Slurm: a controller and two nodes that a test starts on this machine."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
from collections.abc import Iterator

import pytest

from tests import toy_slurm
from tests.integration.programs import Programs, final_weights, log_of, metrics
from tests.toy_slurm import Slurm
from tf_codistill import checkpoints, runs
from tf_codistill.launching import slurm as slurm_module

NUM_STEPS = 160
SECS = 900
MISSING = [name for name in toy_slurm.DAEMONS if not shutil.which(name)]
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(MISSING), reason=f"needs a Slurm: {', '.join(MISSING)} are not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: nodes of a Slurm run as root"),
]

TOY = """
import tests.toy_house
import tests.integration.unhurried_peers

Experiment.task = @Points()
Points.num_points = 32
Points.batch_size = 8
Experiment.optimizer = @keras.optimizers.Adam
Experiment.teaching = @UnhurriedPeers
Experiment.distillation_loss = @SquaredLogits()
Experiment.distillation_weight = 0.5
Experiment.seed = 3
Experiment.log_every_steps = 5
Experiment.validate_every_steps = 20
Experiment.checkpoint_every_steps = 10
"""


@pytest.fixture(name="slurm", scope="module")
def fixture_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with toy_slurm.running(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


def _job_number(said: str) -> str:
    found = re.search(r"Submitted batch job (\d+)", said)
    assert found, said
    return found[1]


def _told_of(slurm: Slurm, job: str, group: int) -> dict[str, str]:
    """What Slurm tells of a task of an array."""
    lines = slurm.run("scontrol", "--oneliner", "show", "job", f"{job}_{group}")
    return dict(word.split("=", 1) for word in lines.split() if "=" in word)


def _is_over(slurm: Slurm, job: str, group: int) -> bool:
    return _told_of(slurm, job, group)["JobState"] not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")


@pytest.mark.slow
@pytest.mark.timeout(1800)  # four workers start, and two of them once more
def test_a_group_that_is_requeued_goes_on_while_the_other_does_not_notice(
    slurm: Slurm, programs: Programs, tmp_path: pathlib.Path
) -> None:
    workdir, hurry = tmp_path / "half of 100%", tmp_path / "hurry"
    (tmp_path / "toy.gin").write_text(
        f"{TOY}Experiment.num_steps = {NUM_STEPS}\nUnhurriedPeers.hurry = {str(hurry)!r}\n"
    )
    ended = programs.run(
        "launch",
        *("--scheduler=slurm", "--num_groups=2", "--workers_per_group=2", f"--workdir={workdir}"),
        *(f"--gin_file={tmp_path / 'toy.gin'}", "--sbatch=--ntasks-per-node=1"),
        f"--sbatch=--output={tmp_path}/batch_%a.log",  # of two options Slurm takes the later
        environment={**slurm.environment, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert ended.status == 0, ended
    job = _job_number(ended.output)
    saved = runs.checkpoints_dir(str(workdir), 0)
    slurm.wait_until(
        lambda: os.path.isdir(saved) and bool(checkpoints.committed_steps(saved)) and metrics_of(workdir, 1),
        SECS,
    )
    assert [_told_of(slurm, job, group)["JobState"] for group in (0, 1)] == ["RUNNING"] * 2
    assert [_told_of(slurm, job, group)["NodeList"] for group in (0, 1)] == [toy_slurm.NODES] * 2

    slurm.run("scontrol", "requeue", f"{job}_0")
    slurm.wait_until(lambda: "stopped and saved at step" in log_of(workdir, 0), SECS)
    hurry.touch()
    slurm.wait_until(lambda: all(_is_over(slurm, job, group) for group in (0, 1)), SECS)

    for group, restarts in ((0, "1"), (1, "0")):
        told = _told_of(slurm, job, group)
        assert (told["JobState"], told["Restarts"]) == ("COMPLETED", restarts), told
        assert list(metrics(workdir, group, "end")) == [NUM_STEPS]
        assert list(metrics(workdir, group, "train")) == list(range(5, NUM_STEPS + 1, 5))
        logs = [log_of(workdir, group, worker) for worker in (0, 1)]
        assert final_weights(logs[0]) == final_weights(logs[1])
        assert final_weights(logs[0])[0] == NUM_STEPS
        stopped = [line.split()[-1] for line in logs[0].splitlines() if "stopped and saved" in line]
        resumed = [line.split()[-1] for line in logs[0].splitlines() if "resumed from step" in line]
        assert stopped == resumed
        assert len(resumed) == int(restarts)
        last = metrics(workdir, group, "train")[NUM_STEPS]
        assert last["distillation_loss"] > 0, "a group learns from the other"


def metrics_of(workdir: pathlib.Path, group: int) -> bool:
    return bool(runs.read_metrics(runs.metrics_path(str(workdir), group), "train"))


@pytest.mark.slow
def test_how_a_group_ends_follows_from_its_workers(slurm: Slurm, tmp_path: pathlib.Path) -> None:
    """Group 0 has work left, 1 is killed, 2 fails, 3 never comes to an end; 0 and 1 do when started again."""
    worker = """
        echo "start ${SLURM_RESTART_COUNT:-0}"
        case $SLURM_ARRAY_TASK_ID in
            0) [ -n "$SLURM_RESTART_COUNT" ] && exit 0; exit 75 ;;
            1) [ -n "$SLURM_RESTART_COUNT" ] && exit 0; [ $SLURM_PROCID = 0 ] && kill -9 $$; exit 1 ;;
            2) exit 3 ;;
            3) trap 'exit 75' TERM; kill -TERM $$ ;;
        esac
    """
    script = slurm_module.batch_script(
        ["bash", "-c", worker],
        workdir=str(tmp_path),
        num_groups=4,
        workers_per_group=2,
        max_restarts=1,
        time_limit="5:00",
        partition="toy",
        account="nobody",
        sbatch=[f"--output={tmp_path}/batch_%a.log", "--cpus-per-task=1"],
    )
    path = tmp_path / "script.sh"
    path.write_text(script)
    job = _job_number(slurm.run("sbatch", str(path)))
    slurm.wait_until(lambda: all(_is_over(slurm, job, group) for group in range(4)))
    told = [_told_of(slurm, job, group) for group in range(4)]
    assert [(t["JobState"], t["Restarts"], t["ExitCode"]) for t in told] == [
        ("COMPLETED", "1", "0:0"),
        ("COMPLETED", "1", "0:0"),
        ("FAILED", "0", "3:0"),
        ("FAILED", "1", "75:0"),
    ]
    assert log_of(tmp_path, 0, 1) == "start 0\nstart 1\n"
    assert "as often as --max_restarts allows" in (tmp_path / "batch_3.log").read_text()
    assert [(t["TimeLimit"], t["Partition"], t["Account"]) for t in told] == [
        ("00:05:00", "toy", "nobody")
    ] * 4
