"""Faults done to real processes, which are small children in place of a launcher and its workers."""

import os
import signal
import time

import psutil
import pytest

from tests import toy_runs
from tests.torturing.stub import StubJob
from tf_codistill.torturing import trail, victim
from tf_codistill.torturing.plan import KINDS, LAUNCHER, SIGNALS, Planned


@pytest.fixture
def job(tmp_path):
    (tmp_path / "trail" / "group_1").mkdir(parents=True)
    return StubJob(workdir=str(tmp_path), table_dir="", num_groups=2, num_steps=10)


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "time is up"
        time.sleep(0.02)


def ready(tmp_path):
    found = [int(path.name.partition("_")[2]) for path in tmp_path.glob("ready_*")]
    return sorted(pid for pid in found if psutil.pid_exists(pid) and not is_dead(pid))


def is_dead(pid):
    return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_signals_reach_the_worker_of_the_group_and_nobody_else(job, tmp_path):
    with victim.Victim(job) as running:
        until(lambda: len(ready(tmp_path)) == 2)
        before = ready(tmp_path)
        assert running.hit(Planned(0.0, "kill", 1)) == victim.DONE
        until(lambda: len(ready(tmp_path)) == 1)
        (left,) = ready(tmp_path)
        assert "--group=0" in psutil.Process(left).cmdline()
        until(lambda: running.hit(Planned(0.0, "kill", 1)) == victim.NOBODY)
        assert running.hit(Planned(0.0, "stop", 0)) == victim.DONE
        until(lambda: psutil.Process(left).status() == psutil.STATUS_STOPPED)
        assert running.poll() is None
        assert len(victim.left_behind(str(tmp_path))) == 2, "the launcher and a worker"
    assert not any(map(psutil.pid_exists, before)), "a worker that was stopped ends, too"
    assert (tmp_path / f"signal_{int(signal.SIGTERM)}").exists(), "and is let save before"
    assert running.statuses == [75]
    assert victim.left_behind(str(tmp_path)) == []


def test_a_launcher_that_is_killed_takes_its_workers_along_and_is_started_again(job, tmp_path):
    with victim.Victim(job) as running:
        until(lambda: len(ready(tmp_path)) == 2)
        before = ready(tmp_path)
        assert running.hit(Planned(0.0, LAUNCHER, 0)) == victim.DONE
        until(lambda: not set(ready(tmp_path)) & set(before))
        until(lambda: len(ready(tmp_path)) == 2)
        assert running.hit(Planned(0.0, "terminate", 0)) == victim.DONE
        until((tmp_path / f"signal_{int(signal.SIGTERM)}").exists)
        (tmp_path / "end").touch()
        until(lambda: running.poll() is not None)
    assert running.statuses == [-9, 75]


def test_an_order_is_there_at_once_and_none_is_given_to_a_group_that_has_ended(job, tmp_path):
    toy_runs.log(tmp_path, 0, toy_runs.start(10), toy_runs.end(10))
    orders = [kind for kind in KINDS if kind not in SIGNALS and kind != LAUNCHER]
    with victim.Victim(job) as running:
        for kind in orders:
            assert running.hit(Planned(0.0, kind, 1)) == victim.DONE
        assert running.hit(Planned(0.0, "nan", 0)) == victim.OVER
        assert running.hit(Planned(0.0, "kill", 0)) == victim.OVER
    names = sorted(os.listdir(tmp_path / "trail" / "group_1"))
    assert names == [f"{trail.ORDER}{number:06d}_{kind}" for number, kind in enumerate(orders, start=1)]
    assert not (tmp_path / "trail" / "group_0").exists()


def test_what_would_look_like_an_end_for_good_is_withheld(job, tmp_path):
    """A loss that is NaN at the same step twice, or storage that fails there, is given up by `launch`."""
    toy_runs.log(tmp_path, 1, toy_runs.start(100), toy_runs.train(50))
    written = trail.Trail(job.trail_dir, 1)
    written.begin(0)
    with victim.Victim(job) as running:

        def hit(kind):
            return running.hit(Planned(0.0, kind, 1))

        assert hit("nan") == victim.DONE
        assert hit("nan") == victim.TOO_SOON, "the first is not obeyed yet"
        written.note("fault", 61, fault="nan")
        toy_runs.log(tmp_path, 1, toy_runs.start(100, step=50))
        assert hit("nan") == victim.TOO_SOON, "the first ended it in the interval that comes next"
        assert hit("storage_503") == victim.DONE, "that has other words"
        assert hit("slow") == hit("slow") == victim.DONE
        toy_runs.log(tmp_path, 1, toy_runs.train(100))
        assert hit("nan") == victim.DONE


def test_nothing_is_left_when_the_block_is_broken_off(job, tmp_path):
    def broken_off():
        with victim.Victim(job):
            until(lambda: len(ready(tmp_path)) == 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert victim.left_behind(str(tmp_path)) == []
