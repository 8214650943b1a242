"""The loop that lets faults happen, on small children in place of a launcher and its workers."""

import io
import signal

import pytest
from rich.console import Console

from tests import toy_runs
from tests.torturing.stub import StubJob
from tf_codistill.torturing import plan, torment, victim


@pytest.fixture
def job(tmp_path):
    (tmp_path / "trail" / "group_1").mkdir(parents=True)
    for group in range(2):
        toy_runs.log(tmp_path, group, toy_runs.start(100), toy_runs.train(50))
    return StubJob(workdir=str(tmp_path), table_dir="", num_groups=2, num_steps=100, ends_with="any")


def test_faults_happen_in_turn_until_the_job_ends(job, tmp_path):
    faults = [plan.Planned(0.0, plan.LAUNCHER, 0), plan.Planned(0.1, "nan", 1)]
    faults += [plan.Planned(0.1 * number, "terminate", 0) for number in range(2, 600)]
    output = io.StringIO()
    done = torment.torment(job, faults, Console(file=output, width=160))
    assert done.statuses == [-9, 75]
    assert done.num_killed == 1
    assert done.left == []
    kinds = [hit.kind for hit in done.hits]
    assert kinds[:3] == [plan.LAUNCHER, "nan", "terminate"]
    assert len(kinds) < 600, "what was planned for after its end does not happen"
    assert victim.DONE in {hit.how for hit in done.hits[2:]}
    times = [hit.at for hit in done.hits]
    assert times == sorted(times)
    assert times[0] >= done.began
    assert "kill_launcher of the launcher" in output.getvalue()
    assert "nan of group 1" in output.getvalue()


def test_faults_wait_until_all_groups_train(job, tmp_path):
    (tmp_path / "group_1" / "metrics.jsonl").unlink()
    (tmp_path / "end").touch()
    done = torment.torment(job, [plan.Planned(0.0, "kill", 0)], Console(file=io.StringIO()))
    assert (done.hits, done.began) == ([], 0.0)


def test_a_job_that_does_nothing_any_more_is_ended(job, monkeypatch):
    monkeypatch.setattr(torment, "_STALLED_SECS", 0.5)
    done = torment.torment(job, [], Console(file=io.StringIO()))
    assert done.statuses in ([75], [-signal.SIGTERM]), "the latter before it listens"
    assert victim.left_behind(job.workdir) == []
