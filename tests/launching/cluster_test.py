"""What schedulers tell a worker, and what it makes of it."""

from __future__ import annotations

import json
import os
import pathlib

import pytest

from tf_codistill.launching import cluster

SLURM = {
    "SLURM_ARRAY_JOB_ID": "100",
    "SLURM_ARRAY_TASK_ID": "1",
    "SLURM_PROCID": "2",
    "SLURM_NTASKS": "3",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "a[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
}
JOBSET = {
    "JOBSET_NAME": "two",
    "REPLICATED_JOB_NAME": "group",
    "JOB_INDEX": "1",
    "JOB_COMPLETION_INDEX": "0",
    "WORKERS_PER_GROUP": "2",
    "FIRST_GROUP": "0",
}


def nodes(text: str) -> list[str]:
    assert text == "a[1-2]"
    return ["a1", "a2"]


def ports(**changes: str) -> list[int]:
    member = cluster.of_slurm({**SLURM, **changes}, nodes)
    return [int(address.rpartition(":")[2]) for address in member.addresses]


def test_a_task_of_a_job_array_is_a_group_and_its_tasks_are_workers() -> None:
    member = cluster.of_slurm(SLURM, nodes)
    assert (member.group, member.worker) == (1, 2)
    assert [address.rpartition(":")[0] for address in member.addresses] == ["a1", "a1", "a2"]


@pytest.mark.parametrize(("counts", "hosts"), [("1(x2),3", "abccc"), ("2,1(x3)", "aabcd")])
def test_several_tasks_of_a_node_are_counted(counts: str, hosts: str) -> None:
    told = {**SLURM, "SLURM_STEP_TASKS_PER_NODE": counts, "SLURM_NTASKS": "5"}
    told |= {"SLURM_PROCID": "0", "SLURM_NODEID": "0"}
    member = cluster.of_slurm(told, lambda text: sorted(set(hosts)))
    assert "".join(address[0] for address in member.addresses) == hosts


def test_workers_agree_on_ports_and_no_two_of_a_run_have_the_same() -> None:
    assert ports() == ports(SLURM_PROCID="0", SLURM_NODEID="0")
    found = [port for group in range(20) for port in ports(SLURM_ARRAY_TASK_ID=str(group))]
    assert len({*found}) == len(found) == 60
    # Ports of the runs before and after: an array takes as many numbers as it has tasks.
    others = [
        port
        for job in ("80", "120")
        for group in range(20)
        for port in ports(SLURM_ARRAY_JOB_ID=job, SLURM_ARRAY_TASK_ID=str(group))
    ]
    assert not {*found} & {*others}


def test_ports_are_below_those_that_systems_give_away() -> None:
    far = ports(SLURM_ARRAY_JOB_ID="67000000", SLURM_ARRAY_TASK_ID="4000")
    assert all(1024 <= port < 32768 for port in (*far, *ports()))


def test_ports_follow_from_the_formula_that_is_documented() -> None:
    assert (
        "port = 20480 + (64 * SLURM_ARRAY_JOB_ID + workers per group * SLURM_ARRAY_TASK_ID + worker) % 12288"
        in (cluster.__doc__ or "")
    )
    assert ports() == [20480 + (64 * 100 + 3 * 1 + worker) % 12288 for worker in range(3)]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"SLURM_ARRAY_TASK_ID": ""},
            "SLURM_ARRAY_TASK_ID is not set; a worker is a task of srun in a job array",
        ),
        ({"SLURM_PROCID": "x"}, "SLURM_PROCID is 'x'; expected a number from 0"),
        (
            {"SLURM_STEP_TASKS_PER_NODE": "2;1"},
            "SLURM_STEP_TASKS_PER_NODE is '2;1'; expected numbers such as",
        ),
        (
            {"SLURM_PROCID": "1"},
            "SLURM_PROCID is 1 on node a2 .* expected 3 workers, .* --distribution=block",
        ),
        ({"SLURM_NTASKS": "4"}, "expected 4 workers"),
        ({"SLURM_NODEID": "7"}, "on node None"),
    ],
)
def test_what_slurm_does_not_tell_is_named(changes: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        cluster.of_slurm({**SLURM, **changes}, nodes)


def scontrol(directory: pathlib.Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = directory / "scontrol"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def test_scontrol_is_asked_for_the_nodes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol(tmp_path, 'echo "$3" > "$(dirname "$0")/asked"; echo b1; echo b2', monkeypatch)
    assert cluster.of_slurm(SLURM).addresses[2].startswith("b2:")
    assert (tmp_path / "asked").read_text() == "a[1-2]\n"


def test_a_failure_of_scontrol_is_told(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol(tmp_path, "echo bad list >&2; exit 1", monkeypatch)
    with pytest.raises(ValueError, match=r"scontrol cannot read the list of nodes 'a\[1-2\]': bad list"):
        cluster.of_slurm(SLURM)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="scontrol is not found; it has to be on the PATH of every worker"):
        cluster.of_slurm(SLURM)


def test_a_job_of_a_jobset_is_a_group_and_its_pods_are_workers() -> None:
    member = cluster.of_jobset(JOBSET)
    assert member == cluster.Membership(1, 0, ("two-group-1-0.two:2222", "two-group-1-1.two:2222"))


def test_groups_of_a_jobset_that_joins_are_counted_on() -> None:
    member = cluster.of_jobset({**JOBSET, "FIRST_GROUP": "4"})
    assert member == cluster.Membership(5, 0, ("two-group-1-0.two:2222", "two-group-1-1.two:2222"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"JOBSET_NAME": ""}, "JOBSET_NAME is not set; `launch --scheduler=kubernetes --dry_run` prints"),
        ({"JOB_INDEX": "-1"}, "JOB_INDEX is '-1'; expected a number from 0"),
        ({"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETION_INDEX is 2; expected less than WORKERS_PER_GROUP"),
    ],
)
def test_what_a_jobset_does_not_tell_is_named(changes: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        cluster.of_jobset({**JOBSET, **changes})


def test_joining_sets_tf_config_but_for_a_lone_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", "that of somebody else")
    for name, value in {**JOBSET, "WORKERS_PER_GROUP": "1"}.items():
        monkeypatch.setenv(name, value)
    assert cluster.join("jobset") == 1
    assert "TF_CONFIG" not in os.environ
    monkeypatch.setenv("WORKERS_PER_GROUP", "2")
    assert cluster.join("jobset") == 1
    assert json.loads(os.environ["TF_CONFIG"]) == {
        "cluster": {"worker": ["two-group-1-0.two:2222", "two-group-1-1.two:2222"]},
        "task": {"type": "worker", "index": 0},
    }


def test_joining_a_slurm_job(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol(tmp_path, "echo b1; echo b2", monkeypatch)
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TF_CONFIG", "")
    assert cluster.join("slurm") == 1
    assert json.loads(os.environ["TF_CONFIG"])["task"] == {"type": "worker", "index": 2}
