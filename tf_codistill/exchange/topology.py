"""Who teaches whom.

    fully_connected    every group learns from all others          0 <- 1 2 3
    ring               every group learns from the one before it   0 <- 3,  1 <- 0,  2 <- 1
    pairs              groups 2k and 2k + 1 learn from each other  0 <- 1,  1 <- 0,  2 <- 3
    star               group 0 is in the middle                    0 <- 1 2 3,  1 <- 0,  2 <- 0
    a table            {0: [1, 2], 1: [0], 2: []}                  as written
    RandomPeers(2)     two others, sampled anew at every exchange    0 <- 1 3, then 0 <- 2 3, ...

Anil et al. (2018) train fully connected pairs and name rings as future work (section 4). In a star what one
group has learned reaches all others through group 0, which alone pays for many teachers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

NO_PEER = -1

TOPOLOGIES = ("fully_connected", "ring", "pairs", "star")


@dataclasses.dataclass(frozen=True)
class RandomPeers:
    """A topology in which every group learns from a few others, sampled anew at every exchange.

    Attributes:
        num_peers: How many teach each group, at least 1. As many teachers are in memory, whatever the number
            of groups.
        seed: With the group and the number of the exchange it fixes who is sampled.
    """

    num_peers: int
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("num_peers", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} of RandomPeers is {value!r}; expected an integer >= {least}")

    def sample(self, peers: Sequence[int], group: int, exchange: int) -> list[int]:
        """Who of some peers teach a group from an exchange on, in ascending order; all if there are fewer."""
        generator = np.random.default_rng([self.seed, group, exchange])
        number = min(self.num_peers, len(peers))
        return sorted(generator.choice(np.array(peers, np.int64), number, replace=False).tolist())


Topology = str | Mapping[int, Sequence[int]] | RandomPeers


def teachers_of(
    group: int, num_groups: int, topology: Topology = "fully_connected", exchange: int = 0
) -> list[int]:
    """The groups that teach a group.

    Args:
        group: The learning group, from 0.
        num_groups: Number of groups.
        topology: One of `TOPOLOGIES`, for each group the list of those who teach it, or `RandomPeers`.
        exchange: Number of the exchange, which random peers depend on.

    Returns:
        Group numbers in ascending order, without `group` itself; empty for a group that is alone, whatever
        the topology is.

    Raises:
        ValueError: The group is out of range, the topology is unknown or does not fit `num_groups`.
    """
    if num_groups < 1 or not 0 <= group < num_groups:
        raise ValueError(f"group is {group}; expected 0 <= group < num_groups, which is {num_groups}")
    if isinstance(topology, str) and topology not in TOPOLOGIES:
        raise ValueError(
            f"topology is {topology!r}; expected one of {', '.join(TOPOLOGIES)}, a table, or RandomPeers"
        )
    if num_groups == 1:  # the baseline of any topology
        return []
    if isinstance(topology, Mapping):
        return _from_table(group, num_groups, topology)
    everybody = [peer for peer in range(num_groups) if peer != group]
    if isinstance(topology, RandomPeers):
        if topology.num_peers > len(everybody):
            raise ValueError(
                f"RandomPeers needs {topology.num_peers} peers for each group; there are {len(everybody)}"
            )
        return topology.sample(everybody, group, exchange)
    if topology == "pairs" and num_groups % 2:
        raise ValueError(f"topology 'pairs' needs an even number of groups; num_groups is {num_groups}")
    if topology == "fully_connected" or (topology == "star" and group == 0):
        return everybody
    return [{"pairs": group ^ 1, "ring": (group - 1) % num_groups, "star": 0}[topology]]


def candidates_of(group: int, num_groups: int, topology: Topology) -> list[list[int]]:
    """For each teacher of a group the groups that it may come to stand for; otherwise as `teachers_of`."""
    peers = teachers_of(group, num_groups, topology)
    if isinstance(topology, RandomPeers):
        return [teachers_of(group, num_groups) for _ in peers]
    return [[peer] for peer in peers]


def seats(held: Sequence[int], peers: Sequence[int]) -> list[int]:
    """Which peer each teacher shall stand for, so that as few as possible change.

    Args:
        held: The peer that each teacher stands for; `NO_PEER` before its first snapshot.
        peers: The peers that shall teach, at most as many as there are teachers.

    Returns:
        The peers: who was there stays where it was, the others take the free seats in order; `NO_PEER` for
        seats that stay free.
    """
    others = iter(peer for peer in peers if peer not in held)
    return [peer if peer in peers else next(others, NO_PEER) for peer in held]


def _from_table(group: int, num_groups: int, table: Mapping[int, Sequence[int]]) -> list[int]:
    if set(table) != set(range(num_groups)):
        raise ValueError(f"topology names groups {list(table)}; expected each of 0 to {num_groups - 1} once")
    for learner, peers in table.items():
        wrong = [peer for peer in peers if peer == learner or peer not in range(num_groups)]
        if wrong or len(set(peers)) != len(peers):
            raise ValueError(
                f"topology says that {list(peers)} teach group {learner}; expected different groups of "
                f"0 to {num_groups - 1} without {learner} itself"
            )
    return sorted(table[group])
