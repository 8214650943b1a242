from __future__ import annotations

import pytest

from tf_codistill.peers.topology import TOPOLOGIES, Topology, teachers_of


@pytest.mark.parametrize(
    ("topology", "num_groups", "expected"),
    [
        ("fully_connected", 1, [[]]),
        ("fully_connected", 2, [[1], [0]]),
        ("fully_connected", 4, [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]),
        ("ring", 1, [[]]),
        ("ring", 2, [[1], [0]]),
        ("ring", 4, [[3], [0], [1], [2]]),
        ("pairs", 2, [[1], [0]]),
        ("pairs", 4, [[1], [0], [3], [2]]),
        ({0: [2, 1], 1: [0], 2: []}, 3, [[1, 2], [0], []]),
        ({0: ()}, 1, [[]]),
    ],
)
def test_who_teaches_whom(topology: Topology, num_groups: int, expected: list[list[int]]) -> None:
    assert [teachers_of(group, num_groups, topology) for group in range(num_groups)] == expected


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("num_groups", [2, 6])
def test_nobody_teaches_itself_and_everybody_teaches(topology: str, num_groups: int) -> None:
    teachers = [teachers_of(group, num_groups, topology) for group in range(num_groups)]
    assert all(group not in peers for group, peers in enumerate(teachers))
    assert set().union(*teachers) == set(range(num_groups))
    assert all(peers == sorted(set(peers)) for peers in teachers)


@pytest.mark.parametrize(
    ("group", "num_groups", "topology", "sentence"),
    [
        (2, 2, "ring", "group is 2; expected 0 <= group < num_groups, which is 2"),
        (-1, 2, "ring", "group is -1; expected"),
        (0, 0, "ring", "group is 0; expected 0 <= group < num_groups, which is 0"),
        (0, 2, "star", "topology is 'star'; expected one of fully_connected, ring, pairs, or a table"),
        (0, 3, "pairs", "topology 'pairs' needs an even number of groups; num_groups is 3"),
        (0, 2, {0: [1]}, r"topology names groups \[0\]; expected each of 0 to 1 once"),
        (0, 2, {0: [1], 1: [0], 2: [0]}, r"topology names groups \[0, 1, 2\]; expected each of 0 to 1"),
        (0, 2, {0: [1], "1": [0]}, r"topology names groups \[0, '1'\]; expected each of 0 to 1 once"),
        (
            0,
            2,
            {0: [0], 1: [0]},
            r"topology says that \[0\] teach group 0; expected different groups of 0 to 1",
        ),
        (0, 2, {0: [1], 1: [2]}, r"topology says that \[2\] teach group 1"),
        (0, 2, {0: [1, 1], 1: [0]}, r"topology says that \[1, 1\] teach group 0"),
        (0, 2, {0: ["1"], 1: [0]}, r"topology says that \['1'\] teach group 0"),
    ],
)
def test_what_is_wrong_is_said(group: int, num_groups: int, topology: Topology, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        teachers_of(group, num_groups, topology)
