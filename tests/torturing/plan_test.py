"""Random faults: the same for the same seed, and as many of each as was promised."""

import collections
import itertools
import statistics

import pytest

from tf_codistill import injection
from tf_codistill.torturing import plan


def test_the_seed_fixes_all():
    assert plan.plan(3, 600, 20, 3) == plan.plan(3, 600, 20, 3)
    assert plan.plan(3, 600, 20, 3) != plan.plan(4, 600, 20, 3)
    shorter = plan.plan(3, 300, 20, 3)
    assert plan.plan(3, 600, 20, 3)[: len(shorter)] == shorter, "faults do not depend on those after them"


def test_times_kinds_and_groups_are_drawn_as_promised():
    faults = plan.plan(1, 200_000, 20, 4)
    times = [fault.at_secs for fault in faults]
    distances = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 200_000
    assert statistics.mean(distances) == pytest.approx(20, rel=0.05)
    assert statistics.stdev(distances) == pytest.approx(20, rel=0.05), "exponential: as wide as its mean"
    for what, values in (("kind", plan.KINDS), ("group", range(4))):
        counts = collections.Counter(getattr(fault, what) for fault in faults)
        assert set(counts) == set(values)
        assert max(counts.values()) < 1.3 * min(counts.values())


def test_every_fault_that_can_be_injected_may_happen_and_only_those_that_are_wanted():
    assert set(injection.KINDS) < set(plan.KINDS)
    assert len(set(plan.KINDS)) == len(plan.KINDS)
    wanted = ("nan", "kill_launcher")
    assert {fault.kind for fault in plan.plan(1, 2000, 20, 3, wanted)} == set(wanted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 0, 20, 3), "secs is 0; expected more than 0"),
        ((1, 600, -1.0, 3), "mtbf_secs is -1.0"),
        ((1, 600, 20, 0), "num_groups is 0"),
        ((1, 600, 20, 3, ["explode", "kill"]), "kinds of faults have explode; expected some of kill, stop,"),
        ((1, 600, 20, 3, []), "there is no kind of fault"),
    ],
)
def test_what_cannot_be_drawn_is_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan.plan(*arguments)


def test_kills_are_the_same_for_whoever_they_hit_and_none_without_failures():
    assert plan.kills(5, 90, float("inf"), 2) == []
    kills = plan.kills(5, 9000, 30, 2)
    assert kills == plan.kills(5, 9000, 30, 2) == sorted(kills)
    assert len(kills) == 300
    assert 0 < kills[0][0] < kills[150][0] - 4000 < kills[-1][0] - 8000 < 1000
    assert {worker for _, worker in kills} == {0, 1}
