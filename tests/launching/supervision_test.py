"""One group that is watched, with workers that only pretend, and a clock that is passed in."""

import os

import pytest

from tests import toy_runs
from tf_codistill import children, runs
from tf_codistill.launching.supervision import LOOK_SECS, Group


class Worker:
    """Runs until it is told how it ends."""

    is_replaceable = False

    def __init__(self):
        self.status, self.reason, self.is_mistake, self.num_starts = None, "", False, 0

    def start(self):
        self.status, self.num_starts = None, self.num_starts + 1

    def exit_status(self):
        return self.status

    def send(self, number):
        self.status = self.status or -number

    def wait(self):
        pass

    def failure(self):
        return self.reason, self.is_mistake

    def fail(self, reason, is_mistake=True):
        self.status, self.reason, self.is_mistake = 1, reason, is_mistake


class Watched:
    """A group of two workers, and its clock."""

    def __init__(self, workdir, hang_secs=0.0, max_restarts=20):
        os.makedirs(runs.group_dir(str(workdir), 0), exist_ok=True)
        self.workdir, self.worker, self.other, self.now = workdir, Worker(), Worker(), 1000.0
        workers = [self.worker, self.other]
        self.group = Group(0, workers, str(workdir), max_restarts, hang_secs, clock=lambda: self.now)
        self.group.start()

    def log(self, *records):
        path = toy_runs.log(self.workdir, 0, *records)
        os.utime(path, (self.now, self.now))

    def look_for(self, secs):
        """What it tells in some seconds, and after how many of them."""
        began = self.now
        while self.now < began + secs:
            self.now += 1.0
            if message := self.group.look():
                return self.now - began, message
        return None


@pytest.fixture
def watched(tmp_path):
    return Watched(tmp_path, hang_secs=2 * LOOK_SECS)


def test_a_group_that_starts_slowly_is_given_more_time_each_time(watched):
    """Otherwise it would be killed for ever where the machine is slower than was thought."""
    waited = []
    for _ in range(3):
        secs, message = watched.look_for(20 * LOOK_SECS)
        assert "group 0 has logged nothing for " in message
        waited.append(secs)
        while watched.worker.status is not None:
            watched.look_for(1.0)
    assert [secs // LOOK_SECS for secs in waited] == [2, 4, 8]
    assert watched.look_for(15 * LOOK_SECS) is None


def test_a_group_that_hangs_later_is_not(watched):
    for _ in range(2):
        watched.log(toy_runs.start(100))
        assert watched.look_for(LOOK_SECS + 1.0) is None
        secs, _ = watched.look_for(50 * LOOK_SECS)
        assert secs // LOOK_SECS <= 11, "ten times its longest pause"
        while watched.worker.status is not None:
            watched.look_for(1.0)


def test_how_long_a_start_takes_does_not_delay_what_is_done_about_a_hang(tmp_path):
    watched = Watched(tmp_path, hang_secs=10 * LOOK_SECS)
    assert watched.look_for(9 * LOOK_SECS) is None
    for step in range(3):
        watched.log(toy_runs.start(100) if step == 0 else toy_runs.train(step))
        assert watched.look_for(LOOK_SECS + 1.0) is None
    secs, message = watched.look_for(100 * LOOK_SECS)
    assert "group 0 has logged nothing for " in message
    assert secs <= 25 * LOOK_SECS, "not ten times what the start took"


def test_a_worker_that_holds_nothing_is_started_again_alone(tmp_path):
    """That of an asynchronous group; as often as a group without a new checkpoint would be."""
    watched = Watched(tmp_path, max_restarts=2)
    watched.worker.is_replaceable = True
    for number in (2, 3):
        watched.worker.fail(f"killed {number}", is_mistake=False)
        assert watched.group.look() == f"killed {number}\nit is started again, while its group goes on"
        assert (watched.worker.num_starts, watched.other.num_starts) == (number, 1)
        assert watched.worker.status is watched.other.status is watched.group.look() is None
    watched.worker.fail("killed again", is_mistake=False)
    assert watched.group.look() == watched.group.failure == "killed again"
    assert watched.other.status is not None, "all have ended"


def test_what_it_has_said_that_its_user_did_wrong_ends_the_group(watched):
    watched.worker.is_replaceable = True
    watched.worker.fail("port 2222 is in use")
    assert watched.group.look() == watched.group.failure == "port 2222 is in use"


def test_where_it_does_not_fail_alone_the_group_starts_again(watched):
    watched.worker.is_replaceable = True
    watched.worker.fail("a server is gone", is_mistake=False)
    watched.other.fail("killed", is_mistake=False)
    assert "group 0 starts again" in watched.group.look()


def test_a_group_whose_place_was_taken_stays_ended_whatever_the_other_workers_end_with(watched):
    watched.worker.fail("a collective is broken", is_mistake=False)
    watched.other.fail("taken over", is_mistake=False)
    watched.other.status = children.SUPERSEDED
    assert watched.group.look() == watched.group.failure == "taken over"


NAN = "the loss of steps 151 to 200 is nan"


def go_on(tmp_path):
    """A run that has been trained before, by another launcher."""
    toy_runs.log(tmp_path, 0, toy_runs.start(500), toy_runs.train(150))
    toy_runs.checkpoint(tmp_path, 0, 100)
    return Watched(tmp_path)


def test_a_fault_in_the_first_interval_after_the_launcher_was_started_again_is_no_mistake(tmp_path):
    watched = go_on(tmp_path)
    watched.now += 1.0
    watched.log(toy_runs.start(500, step=100))
    watched.worker.fail(NAN)
    assert "group 0 starts again in 1 s from checkpoint 100" in watched.group.look()
    watched.look_for(3.0)
    assert watched.worker.num_starts == 2
    watched.now += 1.0
    watched.log(toy_runs.start(500, step=100))
    watched.worker.fail(NAN)
    assert watched.group.look() == NAN
    assert watched.group.failure == NAN, "the same at the same step, twice"


def test_a_fault_in_the_first_interval_is_no_mistake_of_a_group_that_has_come_further_before(tmp_path):
    """It was killed before its first checkpoint, so that it begins anew."""
    watched = Watched(tmp_path)
    watched.log(toy_runs.start(500), toy_runs.train(50))
    assert watched.group.has_progressed()
    watched.worker.status, watched.worker.reason = -9, "worker 0 was killed"
    assert "group 0 starts again in 1 s from the beginning" in watched.group.look()
    watched.look_for(3.0)
    runs.rewind_metrics(runs.metrics_path(str(tmp_path), 0), 0)
    watched.log(toy_runs.start(500))
    assert watched.group.has_progressed(), "still"
    watched.worker.fail("file 'metrics.jsonl' cannot be used: 503 Service Unavailable")
    assert "group 0 starts again in 2 s from the beginning" in watched.group.look()


def test_a_mistake_before_training_has_begun_is_still_one(tmp_path):
    watched = go_on(tmp_path)
    watched.worker.fail("no corpus")
    assert watched.group.look() == "no corpus"
    assert watched.group.has_ended


def test_a_mistake_without_a_checkpoint_is_still_one(tmp_path):
    watched = Watched(tmp_path)
    watched.log(toy_runs.start(500))
    watched.worker.fail("group 0 and group 1 train different models")
    assert watched.group.look() == "group 0 and group 1 train different models"
    assert watched.group.has_ended


def test_a_worker_that_was_killed_is_the_reason_and_not_those_that_miss_it(tmp_path):
    """Otherwise two kills in one interval would be the same last words of a fellow, twice."""
    watched = go_on(tmp_path)
    for number in (1, 2):
        watched.worker.fail("UnavailableError: connection reset by peer", is_mistake=False)
        watched.other.status, watched.other.reason = -9, "worker 1 of group 0 was killed by SIGKILL"
        told = watched.group.look()
        assert told.startswith("worker 1 of group 0 was killed by SIGKILL\ngroup 0 starts again in ")
        watched.look_for(3.0)
        assert watched.worker.num_starts == number + 1
    records = runs.read_metrics(runs.metrics_path(str(tmp_path), 0), "restart")
    assert [record["reason"] for record in records] == ["worker 1 of group 0 was killed by SIGKILL"] * 2
