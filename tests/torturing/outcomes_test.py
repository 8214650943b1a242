"""What followed each fault, and what it has cost, from trails that are made up."""

import pytest

from tf_codistill.torturing import outcomes, trail
from tf_codistill.torturing.outcomes import Hit


def start(step, at, first, last, secs_per_step=1.0, faults=()):
    steps = [
        {"kind": "step", "step": one, "time": at + secs_per_step * (one - first + 1), "keys": one}
        for one in range(first, last + 1)
    ]
    obeyed = [{"kind": "fault", "step": 0, "fault": kind, "time": time} for kind, time in faults]
    return trail.Start(step, at, sorted([*steps, *obeyed], key=lambda record: record["time"]))


KILLED = {"reason": "worker 0 of group 0 was killed by SIGKILL; its log ends with", "time": 1021.0}
SAID = "started again: worker 0 of group 0 was killed by SIGKILL"
# Killed at step 20 and back at 10, from 1030 on; what it had not made before begins at 1041.
GROUP_0 = [
    start(0, 1000.0, 1, 20),
    start(10, 1030.0, 11, 60, faults=[("nan", 1050.5)]),
    start(20, 1100.0, 21, 90),
]
GROUP_1 = [start(0, 1000.0, 1, 200, faults=[("slow", 1060.5)])]
RESTARTS = [[KILLED, {"reason": "the loss is nan", "time": 1081.0}], []]


def followed(*hits):
    found = outcomes.outcomes(hits, 1000.0, [GROUP_0, GROUP_1], RESTARTS)
    return [(one.followed, one.resumed_step, one.secs_to_new_step) for one in found]


def test_a_group_that_was_killed_goes_on_from_a_checkpoint_and_comes_to_new_steps():
    hit = Hit("kill", 0, 1020.5, "done")
    (found,) = outcomes.outcomes([hit], 1000.0, [GROUP_0, GROUP_1], RESTARTS)
    assert (found.kind, found.group, found.at_secs) == ("kill", 0, 20.5)
    assert (found.followed, found.resumed_step) == (SAID, 10)
    assert found.secs_to_new_step == 1041.0 - 1020.5


def test_an_order_happens_when_it_is_obeyed():
    """The group was down when it was given; what followed the kill followed the kill."""
    hits = [Hit("kill", 0, 1020.5, "done"), Hit("nan", 0, 1022.0, "done"), Hit("slow", 1, 1060.0, "done")]
    killed, diverged, slowed = followed(*hits)
    assert killed[:2] == (SAID, 10)
    assert diverged == ("started again: the loss is nan", 20, 1141.0 - 1050.5)
    assert slowed == ("went on", None, 0.5)


def test_what_could_not_be_done_is_told():
    nobody, over, never = followed(
        Hit("kill", 0, 1025.0, "nobody was there"),
        Hit("hang", 0, 1300.0, "the group had ended"),
        Hit("full_disk", 1, 1199.9, "done"),
    )[:3]
    assert nobody == ("nobody was there", None, None)
    assert over == ("the group had ended", None, None)
    assert never[0] == "went on", "the one fault in its trail is taken for it"
    (never,) = followed(Hit("slow", 1, 1060.0, "done"), Hit("full_disk", 1, 1199.9, "done"))[1:]
    assert never == ("the group ended before", None, None)


def test_what_follows_two_faults_followed_the_later_one():
    first, second = followed(Hit("stop", 0, 1020.2, "done"), Hit("kill", 0, 1020.7, "done"))
    assert first[0] == "nothing, until the next fault or the end"
    assert second[1] == 10


def test_what_ends_a_group_later_is_told_although_another_fault_hits_its_start():
    """A full disk ends the group when it logs the next time; its new process is killed while it starts."""
    hits = [Hit("kill", 0, 1020.5, "done"), Hit("kill", 0, 1025.0, "done"), Hit("nan", 0, 1026.0, "done")]
    full_disk, kill, _ = followed(*hits)
    assert full_disk == (SAID, 10, 1041.0 - 1020.5)
    assert kill == ("went on", None, 16.0)


def test_what_ends_no_process_takes_the_blame_from_nobody():
    """A snapshot is deleted between the fault that makes a loss NaN and the end that follows from it."""
    starts = [start(0, 1000.0, 1, 20, faults=[("nan", 1019.5), ("delete_snapshot", 1020.5)]), GROUP_0[1]]
    restarts = [[{"reason": "the loss is nan", "time": 1021.0}]]
    hits = [Hit("nan", 0, 1019.2, "done"), Hit("delete_snapshot", 0, 1019.3, "done")]
    nan, deleted = outcomes.outcomes(hits, 1000.0, [starts], restarts)
    assert (nan.followed, nan.resumed_step) == ("started again: the loss is nan", 10)
    assert (deleted.followed, deleted.resumed_step) == ("went on", None)


def test_a_launcher_takes_all_groups_along():
    found = outcomes.outcomes([Hit("kill_launcher", 1, 1020.5, "done")], 1000.0, [GROUP_0, GROUP_1], [[], []])
    assert [(one.group, one.followed, one.resumed_step) for one in found] == [
        (0, "started again: by the next launcher", 10),
        (1, "started again: by the next launcher", None),
    ]


def test_goodput_counts_what_is_kept_against_what_there_would_have_been():
    whole = [start(0, 1000.0, 1, 100, secs_per_step=0.5)]
    assert outcomes.rate([whole, whole]) == pytest.approx(2.0)
    assert outcomes.goodput(whole, 2.0).goodput == pytest.approx(1.0)
    found = outcomes.goodput(GROUP_0, 2.0)
    assert (found.kept_steps, found.trained_steps) == (90, 20 + 50 + 70)
    assert found.secs == 1170.0 - 1001.0
    assert found.goodput == pytest.approx(89 / (2.0 * 169.0))
    assert outcomes.goodput([], 2.0).goodput == 0
