"""Which peer each teacher stands for, where groups are fixed and where they come and go."""

from __future__ import annotations

import re

import pytest

from tf_codistill.exchange.seating import Elastic, Fixed, seating
from tf_codistill.exchange.topology import NO_PEER, RandomPeers


def test_without_room_for_others_groups_are_those_of_the_topology() -> None:
    fixed = seating(1, 4, "ring")
    assert fixed == Fixed(1, 4, "ring")
    assert fixed.candidates() == [[0]]
    assert fixed.peers(0, [NO_PEER], members=set()) == [0], "whether it is there or not"
    assert fixed.is_read()
    assert not Fixed(2, 3, {0: [1], 1: [0], 2: [0]}).is_read()


def test_seats_are_given_and_freed_and_who_stays_keeps_its_own() -> None:
    seats = seating(0, 2, "fully_connected", max_teachers=2)
    assert seats.candidates() == [[], []]
    held = [NO_PEER, NO_PEER]
    for members, expected in (
        (None, [NO_PEER, NO_PEER]),  # nobody has looked
        ({0}, [NO_PEER, NO_PEER]),
        ({0, 1}, [1, NO_PEER]),
        ({0, 1, 7}, [1, 7]),
        ({0, 1, 3, 7}, [1, 7]),  # group 3 finds no seat
        ({0, 3, 7}, [3, 7]),
        ({0, 7}, [NO_PEER, 7]),
        (None, [NO_PEER, 7]),
        (set(), [NO_PEER, NO_PEER]),
    ):
        held = seats.peers(0, held, members)
        assert held == expected


def test_a_peer_that_is_out_of_date_makes_room_for_one_without_a_seat_alone() -> None:
    seats = Elastic(0, max_teachers=2)
    assert seats.peers(0, [1, 2], {0, 1, 2}, outdated=[1]) == [1, 2]
    assert seats.peers(0, [1, 2], {0, 1, 2, 3}, outdated=[1]) == [3, 2]
    assert seats.peers(0, [1, 2], {0, 1, 2, 3}) == [1, 2]


def test_random_peers_are_some_of_those_who_are_there() -> None:
    seats, held, seen = Elastic(0, 3, RandomPeers(2, seed=1)), [NO_PEER] * 3, set()
    assert seats.peers(0, held, {0, 5}) == [5, NO_PEER, NO_PEER]
    for exchange in range(20):
        held = seats.peers(exchange, held, {0, 1, 2, 3, 4})
        taught = set(held) - {NO_PEER}
        assert len(taught) == 2
        seen |= taught
        assert held == seats.peers(exchange, held, {0, 1, 2, 3, 4}), "as the number of the exchange says"
    assert seen == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("topology", "max_teachers", "sentence"),
    [
        ("fully_connected", 0, "max_teachers is 0"),
        ("ring", 2, "topology is 'ring', but max_teachers lets groups join that it does not know"),
        ({0: [1], 1: [0]}, 2, "but max_teachers lets groups join"),
        (RandomPeers(3), 2, "num_peers of RandomPeers is 3; expected at most max_teachers, which is 2"),
    ],
)
def test_what_groups_cannot_join_is_refused(topology: object, max_teachers: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        seating(0, 2, topology, max_teachers)  # type: ignore[arg-type]
