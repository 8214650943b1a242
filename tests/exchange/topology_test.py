from __future__ import annotations

import collections
import itertools

import pytest

from tf_codistill.exchange.topology import (
    NO_PEER,
    TOPOLOGIES,
    RandomPeers,
    Topology,
    candidates_of,
    seats,
    teachers_of,
)


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
        ("star", 1, [[]]),
        ("star", 2, [[1], [0]]),
        ("star", 4, [[1, 2, 3], [0], [0], [0]]),
        ({0: [2, 1], 1: [0], 2: []}, 3, [[1, 2], [0], []]),
        ({0: ()}, 1, [[]]),
        # alone, as the baseline of a run with more groups
        ("pairs", 1, [[]]),
        ({0: [1], 1: [0]}, 1, [[]]),
        (RandomPeers(2), 1, [[]]),
    ],
)
def test_who_teaches_whom(topology: Topology, num_groups: int, expected: list[list[int]]) -> None:
    assert [teachers_of(group, num_groups, topology) for group in range(num_groups)] == expected
    assert [candidates_of(group, num_groups, topology) for group in range(num_groups)] == [
        [[peer] for peer in peers] for peers in expected
    ]


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
        (
            0,
            2,
            "mesh",
            "topology is 'mesh'; expected one of fully_connected, ring, pairs, star, a table, or RandomPeers",
        ),
        (0, 3, RandomPeers(3), "RandomPeers needs 3 peers for each group; there are 2"),
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


def test_random_peers_depend_on_seed_group_and_exchange_alone() -> None:
    topology = RandomPeers(2, seed=5)
    draws = [[teachers_of(group, 6, topology, exchange) for exchange in range(60)] for group in (0, 3)]
    assert draws[0] == [teachers_of(0, 6, RandomPeers(2, seed=5), exchange) for exchange in range(60)]
    assert draws[0] != [teachers_of(0, 6, RandomPeers(2, seed=6), exchange) for exchange in range(60)]
    for group, drawn in zip((0, 3), draws, strict=True):
        assert all(len(set(peers)) == 2 and group not in peers and peers == sorted(peers) for peers in drawn)
        others = [peer for peer in range(6) if peer != group]
        counts = collections.Counter(tuple(peers) for peers in drawn)
        assert set(counts) == set(itertools.combinations(others, 2)), "every pair has its turn"
        assert max(counts.values()) < 20
    assert draws[0][0] != draws[0][1]


def test_memory_does_not_grow_with_the_number_of_groups() -> None:
    assert [len(candidates_of(1, num_groups, RandomPeers(2))) for num_groups in (3, 10, 1000)] == [2, 2, 2]
    assert candidates_of(1, 4, RandomPeers(2)) == [[0, 2, 3]] * 2


@pytest.mark.parametrize(("num_peers", "seed"), [(0, 0), (-1, 0), (1.5, 0), (True, 0), (1, -1), (1, 0.5)])
def test_random_peers_are_counted_in_whole_numbers(num_peers: int, seed: int) -> None:
    with pytest.raises(ValueError, match="of RandomPeers is .*; expected an integer >="):
        RandomPeers(num_peers, seed)


@pytest.mark.parametrize(
    ("held", "peers", "expected"),
    [
        ([NO_PEER, NO_PEER], [1, 3], [1, 3]),
        ([3, NO_PEER], [1, 3], [3, 1]),
        ([3, 2], [2, 4], [4, 2]),
        ([3, 2], [1, 4], [1, 4]),
        ([3, 2], [2, 3], [3, 2]),
        ([], [], []),
    ],
)
def test_who_is_drawn_again_keeps_its_seat(held: list[int], peers: list[int], expected: list[int]) -> None:
    assert seats(held, peers) == expected
