"""Who teaches whom.

    fully_connected    every group learns from all others          0 <- 1 2 3
    ring               every group learns from the one before it   0 <- 3,  1 <- 0,  2 <- 1
    pairs              groups 2k and 2k + 1 learn from each other  0 <- 1,  1 <- 0,  2 <- 3
    a table            {0: [1, 2], 1: [0], 2: []}                  as written

Anil et al. (2018) train fully connected pairs and name rings as future work (section 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Topology = str | Mapping[int, Sequence[int]]

TOPOLOGIES = ("fully_connected", "ring", "pairs")


def teachers_of(group: int, num_groups: int, topology: Topology = "fully_connected") -> list[int]:
    """The groups that teach a group.

    Args:
        group: The learning group, from 0.
        num_groups: Number of groups.
        topology: One of `TOPOLOGIES`, or for each group the list of those who teach it.

    Returns:
        Group numbers in ascending order, without `group` itself; empty for a group that is alone.

    Raises:
        ValueError: The group is out of range, the topology is unknown or does not fit `num_groups`.
    """
    if num_groups < 1 or not 0 <= group < num_groups:
        raise ValueError(f"group is {group}; expected 0 <= group < num_groups, which is {num_groups}")
    if isinstance(topology, Mapping):
        return _from_table(group, num_groups, topology)
    if topology not in TOPOLOGIES:
        raise ValueError(f"topology is {topology!r}; expected one of {', '.join(TOPOLOGIES)}, or a table")
    if topology == "pairs" and num_groups % 2:
        raise ValueError(f"topology 'pairs' needs an even number of groups; num_groups is {num_groups}")
    if topology == "fully_connected":
        return [peer for peer in range(num_groups) if peer != group]
    peer = group ^ 1 if topology == "pairs" else (group - 1) % num_groups
    return [peer] if peer != group else []


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
