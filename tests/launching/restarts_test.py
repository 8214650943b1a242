"""When a group is started again: a table of failures, one after the other."""

import pytest

from tf_codistill.launching.restarts import Failure, Restarts

KILLED = Failure("killed", 150)
TOLD = Failure(
    "worker 0 failed with exit status 3; its log ends with\n 17:01 x\n KeyError", 150, is_told=True
)
AGAIN = Failure(
    "worker 1 failed with exit status 3; its log ends with\n 17:02 y\n KeyError", 150, is_told=True
)
MISTAKE = Failure("no corpus", 0, is_told=True, is_mistake=True)


@pytest.mark.parametrize(
    ("failures", "delays"),
    [
        ([(KILLED, 0)] * 4, [1, 2, 4, None]),
        ([(KILLED, 100), (KILLED, 100), (KILLED, 200), (KILLED, 200)], [1, 2, 1, 2]),
        ([(MISTAKE, 0)], [None]),
        ([(Failure("disk full", 150, True, True), 100)] * 2, [1, None]),
        ([(TOLD, 100), (AGAIN, 100)], [1, None]),
        ([(Failure("taken over", 150, True, True, True), 100)], [None]),
        ([(TOLD, 100), (Failure(TOLD.reason, 160, True), 100)], [1, 2]),
        ([(TOLD, 100), (KILLED, 100), (TOLD, 100)], [1, 2, 4]),
    ],
    ids=[
        "at_most",
        "a_checkpoint_counts",
        "mistake",
        "mistake_later",
        "repeated",
        "taken_over",
        "elsewhere",
        "in_turns",
    ],
)
def test_delays(failures, delays):
    restarts = Restarts(max_restarts=3)
    assert [restarts.after(*one) for one in failures] == delays


def test_delays_are_bounded():
    restarts = Restarts(max_restarts=20)
    assert [restarts.after(KILLED, 0) for _ in range(20)][-1] == 60


def test_a_mistake_in_a_run_that_goes_on_is_still_one_before_the_first_step():
    assert Restarts(3, step=150).after(Failure("no corpus", 150, True, True), 100) is None
    assert Restarts(3, step=100).after(Failure("disk full", 150, True, True), 100) == 1


def test_the_number_is_checked():
    with pytest.raises(ValueError, match="max_restarts is -1; expected 0, for none, or more"):
        Restarts(-1)
