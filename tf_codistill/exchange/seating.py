"""Which peer each teacher of a group stands for: as the topology says, or whoever is there.

    Fixed(group=0, num_groups=3, topology="ring")     group 2, whether it is there or not
    Elastic(group=0, max_teachers=2)                  whoever has announced itself: seats are given and freed

    members     {0, 1}      {0, 1, 2}     {0, 2, 3}
    seats       1, -        1, 2          3, 2          a group keeps its seat as long as it is a member

A member has announced itself, has published a snapshot, and has not left since (`Store.members`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from tf_codistill.exchange.topology import RandomPeers, Topology, candidates_of, seats, teachers_of


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Groups that are all known beforehand.

    Attributes:
        group: The learning group, from 0.
        num_groups: How many groups there are.
        topology: Who teaches whom, see `topology.teachers_of`.
    """

    group: int
    num_groups: int
    topology: Topology = "fully_connected"
    is_elastic = False

    def candidates(self) -> list[list[int]]:
        """For each teacher the groups that it may come to stand for."""
        return candidates_of(self.group, self.num_groups, self.topology)

    def is_read(self) -> bool:
        """Whether anybody may come to learn from this group."""
        return any(
            self.group in peers
            for other in range(self.num_groups)
            for peers in candidates_of(other, self.num_groups, self.topology)
        )

    def peers(
        self,
        exchange: int,
        held: Sequence[int],
        members: Collection[int] | None = None,
        outdated: Collection[int] = (),
    ) -> list[int]:
        """The peer that each teacher shall stand for.

        Args:
            exchange: Number of the exchange.
            held: The peer that each teacher stands for now; `NO_PEER` before its first snapshot.
            members: Who is there; None if that is not known yet.
            outdated: Those of `held` whose snapshots are out of date.

        Returns:
            For each teacher a group, or `NO_PEER`.
        """
        peers = teachers_of(self.group, self.num_groups, self.topology, exchange)
        return seats(held, peers) if isinstance(self.topology, RandomPeers) else peers


@dataclasses.dataclass(frozen=True)
class Elastic:
    """Groups that join and leave while others train; all train the same model.

    Attributes:
        group: The learning group, from 0.
        max_teachers: How many teachers it has at most, which are built beforehand.
        topology: ``"fully_connected"``: everybody who is there; or `RandomPeers`.
    """

    group: int
    max_teachers: int
    topology: Topology = "fully_connected"
    is_elastic = True

    def __post_init__(self) -> None:
        if self.max_teachers < 1 or self.group < 0:
            raise ValueError(
                f"max_teachers is {self.max_teachers!r} and group is {self.group}; expected at least 1 and 0"
            )
        is_random = isinstance(self.topology, RandomPeers)
        if not is_random and self.topology != "fully_connected":
            raise ValueError(
                f"topology is {self.topology!r}, but max_teachers lets groups join that it does not know; "
                "use 'fully_connected' or RandomPeers, or leave out max_teachers"
            )
        if isinstance(self.topology, RandomPeers) and self.topology.num_peers > self.max_teachers:
            raise ValueError(
                f"num_peers of RandomPeers is {self.topology.num_peers}; expected at most max_teachers, "
                f"which is {self.max_teachers}"
            )

    def candidates(self) -> list[list[int]]:
        """For each teacher an empty list: it may come to stand for any group."""
        return [[] for _ in range(self.max_teachers)]

    def is_read(self) -> bool:
        """Always: whoever joins may learn from this group, or start from its snapshot."""
        return True

    def peers(
        self,
        exchange: int,
        held: Sequence[int],
        members: Collection[int] | None = None,
        outdated: Collection[int] = (),
    ) -> list[int]:
        """As `Fixed.peers`; where seats are scarce those that are out of date lose theirs first."""
        if members is None:
            return list(held)
        others = sorted(set(members) - {self.group})
        if isinstance(self.topology, RandomPeers):
            return seats(held, self.topology.sample(others, self.group, exchange))
        rank = dict.fromkeys(held, 0) | dict.fromkeys(outdated, 2)
        return seats(held, sorted(others, key=lambda peer: rank.get(peer, 1))[: self.max_teachers])


Seating = Fixed | Elastic


def seating(group: int, num_groups: int, topology: Topology, max_teachers: int | None = None) -> Seating:
    """How the teachers of a group are seated.

    Args:
        group: The learning group, from 0.
        num_groups: How many groups there are, or, where groups may join, begin together.
        topology: Who teaches whom.
        max_teachers: How many teachers a group has at most where groups may join; None where all are known.

    Returns:
        The seating.

    Raises:
        ValueError: The topology does not fit.
    """
    if max_teachers is None:
        return Fixed(group, num_groups, topology)
    return Elastic(group, max_teachers, topology)
