"""Each invariant holds for good evidence, and fails for evidence that is bad in the way it looks for."""

import copy
import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from tf_codistill.torturing import invariants, trail
from tf_codistill.torturing.evidence import Evidence, OfGroup

NUM_STEPS = 6
KEYS = [-7, 11, 13, -17, 19, 23]
CONTROLS = [0.450, 0.452, 0.451, 0.449, 0.453, 0.451]


def line(kind, step, **values):
    return {"kind": kind, "step": step, **values}


def swap(peer, step, digest, **changes):
    values = {"incarnation": 100, "serial": step // 2, "digest": digest, "has_changed": False, "time": 3.0}
    return line("swap", step, peer=peer, **{**values, **changes})


def group(index):
    """One that was killed after step 5, and went on from the checkpoint of step 4."""

    def steps(first, last):
        return [line("step", step, keys=KEYS[step - 1], time=float(step)) for step in range(first, last + 1)]

    published = [line("publish", step, incarnation=100, digest=f"{index}{step}", time=2.0) for step in (2, 4)]
    swaps = [swap(1 - index, step, f"{1 - index}{step}") for step in (2, 4)]
    records = [line("start", 0), *(line("train", step) for step in (2, 4)), line("validation", 3, loss=0.5)]
    records = sorted(records, key=lambda record: record["step"])
    records += [line("restart", 4), line("start", 4), line("train", 6), line("validation", 6, loss=0.451)]
    return OfGroup(
        records=[*records, line("end", 6)],
        starts=[
            trail.Start(0, 0.0, [*steps(1, 5), *published, *swaps]),
            trail.Start(4, 10.0, steps(5, 6)),
        ],
        taken=[(1 - index, 100, 1), (1 - index, 100, 2)],
        saved_step=NUM_STEPS,
        saved_chain=-4711,
        keys=list(KEYS),
        chain=-4711,
        is_held=False,
    )


@pytest.fixture
def good():
    return Evidence(
        num_steps=NUM_STEPS,
        log_every=2,
        validate_every=3,
        groups=[group(0), group(1)],
        statuses=[-9, 0],
        num_killed=1,
        processes=[],
        control_losses=CONTROLS,
    )


def changed(evidence, index, **values):
    groups = list(evidence.groups)
    groups[index] = dataclasses.replace(groups[index], **values)
    return dataclasses.replace(evidence, groups=groups)


def with_records(evidence, change):
    records = copy.deepcopy(list(evidence.groups[1].records))
    return changed(evidence, 1, records=change(records) or records)


def with_start(evidence, number, change):
    starts = copy.deepcopy(list(evidence.groups[1].starts))
    records = list(starts[number].records)
    starts[number] = dataclasses.replace(starts[number], records=change(records) or records)
    return changed(evidence, 1, starts=starts)


def of(records, kind, step):
    return next(record for record in records if (record["kind"], record["step"]) == (kind, step))


def loss_of(value):
    return lambda evidence: with_records(evidence, lambda rs: of(rs, "validation", 6).update(loss=value))


BAD = {
    "a line is missing": (
        "each step logged once, in order",
        lambda e: with_records(e, lambda rs: rs.remove(of(rs, "train", 4))),
        "group 1, train: 6 in place of 4, as number 2",
    ),
    "a line is there twice": (
        "each step logged once, in order",
        lambda e: with_records(e, lambda rs: [*rs[:2], rs[1], *rs[2:]]),
        "group 1, train: 2 in place of 4",
    ),
    "a validation is missing": (
        "each step logged once, in order",
        lambda e: with_records(e, lambda rs: rs.remove(of(rs, "validation", 3))),
        "group 1, validation: 6 in place of 3",
    ),
    "lines go back": (
        "each step logged once, in order",
        lambda e: with_records(e, lambda rs: rs.insert(len(rs), line("start", 4))),
        "group 1: step 4 after step 6",
    ),
    "a step was left out": (
        "each batch trained once",
        lambda e: with_start(e, 1, lambda rs: rs.pop(0) and None),
        "group 1, steps: 6 in place of 5, as number 5",
    ),
    "a step was made twice": (
        "each batch trained once",
        lambda e: with_start(e, 1, lambda rs: [rs[0], *rs]),
        "group 1, steps: 5 in place of 6",
    ),
    "a start went on too late": (
        "each batch trained once",
        lambda e: changed(
            e, 1, starts=[e.groups[1].starts[0], dataclasses.replace(e.groups[1].starts[1], step=5)]
        ),
        "group 1, steps: 5 in place of 6",
    ),
    "the end is missing": (
        "each batch trained once",
        lambda e: with_start(e, 1, lambda rs: rs.pop() and None),
        "group 1, steps: 5 of 6",
    ),
    "another batch was read": (
        "each batch trained once",
        lambda e: with_start(e, 1, lambda rs: of(rs, "step", 5).update(keys=KEYS[5])),
        "group 1, batches: 23 in place of 19",
    ),
    "the weights come from elsewhere": (
        "final weights come from all batches",
        lambda e: changed(e, 0, saved_chain=4711),
        "group 0: chain 4711 in the checkpoint, -4711 by the data",
    ),
    "the last checkpoint is older": (
        "final weights come from all batches",
        lambda e: changed(e, 0, saved_step=4),
        "group 0: the last checkpoint is of step 4",
    ),
    "a snapshot was torn": (
        "no torn snapshot taken",
        lambda e: with_start(e, 0, lambda rs: of(rs, "swap", 4).update(digest="torn")),
        "group 1: the snapshot of step 4 of group 0 is torn for its reader, 04 for its writer",
    ),
    "a snapshot comes from nowhere": (
        "no torn snapshot taken",
        lambda e: with_start(e, 0, lambda rs: of(rs, "swap", 4).update(incarnation=99)),
        "group 1: the snapshot of step 4 of group 0 was never published",
    ),
    "a teacher has changed by itself": (
        "no torn snapshot taken",
        lambda e: with_start(e, 0, lambda rs: of(rs, "swap", 4).update(has_changed=True)),
        "took the place of another one that had changed in the teacher",
    ),
    "the exchange knows of a swap that the audit does not": (
        "no torn snapshot taken",
        lambda e: changed(e, 1, taken=[(0, 100, 3)]),
        "group 1: the swap to (0, 100, 3) that it has logged is not in its trail",
    ),
    "nobody took anything": (
        "no torn snapshot taken",
        lambda e: dataclasses.replace(
            e,
            groups=[
                dataclasses.replace(
                    one,
                    taken=[],
                    starts=[dataclasses.replace(s, records=list(s.of_kind("step"))) for s in one.starts],
                )
                for one in e.groups
            ],
        ),
        "no snapshot was ever taken",
    ),
    "a group has not ended": (
        "all groups reach the end",
        lambda e: with_records(e, lambda rs: rs.remove(of(rs, "end", 6))),
        "group 1: ends [], expected one at 6",
    ),
    "the launcher has failed": (
        "exit status 0",
        lambda e: dataclasses.replace(e, statuses=[-9, 1]),
        "exit status 1, 1 launchers killed before, 1 of them on purpose",
    ),
    "a launcher was killed by somebody else": (
        "exit status 0",
        lambda e: dataclasses.replace(e, statuses=[-9, -9, 0]),
        "exit status 0, 2 launchers killed before, 1 of them on purpose",
    ),
    "the last launcher was killed": (
        "exit status 0",
        lambda e: dataclasses.replace(e, statuses=[0, -9], num_killed=2),
        "exit status -9, 0 launchers killed before, 2 of them on purpose",
    ),
    "a launcher had failed when it was to be killed": (
        "exit status 0",
        lambda e: dataclasses.replace(e, statuses=[1, 0]),
        "exit status 1 and 0",
    ),
    "the loss is worse": ("final loss within noise", loss_of(0.48), "0.4510 and 0.4800; 0.4510 +- "),
    "the loss is too good": ("final loss within noise", loss_of(0.42), "0.4200"),
    "the loss is nan": ("final loss within noise", loss_of(math.nan), "nan"),
    "a process is left": (
        "no process left",
        lambda e: dataclasses.replace(e, processes=["4711 -m tf_codistill.train"]),
        "4711 -m tf_codistill.train",
    ),
    "a lease is left": ("no lease left", lambda e: changed(e, 1, is_held=True), "group 1 is still held"),
}


def test_all_hold_for_good_evidence(good):
    findings = invariants.judge(good)
    assert [finding.name for finding in findings if not finding.holds] == []
    said = {finding.name: finding.evidence for finding in findings}
    assert said["each batch trained once"] == "2 x 6 steps kept, 7 and 7 trained"
    assert said["no torn snapshot taken"] == "4 swaps, digests as those of 4 that were published"
    assert said["exit status 0"] == "exit status 0, 1 launchers killed before, 1 of them on purpose"


def test_each_invariant_is_tried():
    assert {name for name, _, _ in BAD.values()} == set(invariants.INVARIANTS)


@pytest.mark.parametrize("case", BAD)
def test_bad_evidence_is_found_and_by_nobody_else(good, case):
    name, spoil, said = BAD[case]
    failed = {
        finding.name: finding.evidence for finding in invariants.judge(spoil(good)) if not finding.holds
    }
    assert list(failed) == [name]
    assert said in failed[name]


def test_the_bound_lets_through_what_is_noise_and_nothing_much_larger():
    for number in (1, 3, 8):
        width = invariants.bound(CONTROLS, number)
        t = width / (np.std(CONTROLS, ddof=1) * math.sqrt(1 + 1 / 6))
        assert 2 * number * stats.t.sf(t, 5) == pytest.approx(invariants.RISK)
    assert invariants.bound(CONTROLS, 3) < 0.02
    with pytest.raises(ValueError, match="there are 1 values"):
        invariants.bound([0.4], 3)
