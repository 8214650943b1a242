"""In which order examples are visited: a pseudo-random permutation of which any part is computed by itself.

    order = Order(num_examples=5, seed=(1, 0))          seed and group
    position   0 1 2 3 4 | 5 6 7 8 9 | ...
    example    3 0 4 1 2 | 2 4 0 3 1 | ...              another order in each visit, every example once
    visit      0 0 0 0 0 | 1 1 1 1 1 | ...

    order.rows(4, 3)                                    ([2, 2, 4], [0, 1, 1])

Nothing has to be saved, and a hundred million examples cost the memory that five do. The permutation is a
Feistel network (Luby & Rackoff 1988) over the smallest power of two that holds the examples; what falls
outside is sent through again until it falls inside (Black & Rogaway 2002, "cycle walking").
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import numpy.typing as npt

from tf_codistill.inputs.partition import check_group, check_switch, order_seed

_ROUNDS = 6
_FEW = 1 << 12
"""Halves of fewer bits would not mix well, and these are shuffled as they are."""

Ids = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Order:
    """The endless sequence in which examples are visited.

    Attributes:
        num_examples: How many there are.
        seed: Fixes the order of each visit; None for the order in which they are stored.
        first: The first example in storage.
        stride: Distance from each to the next in storage.

    Raises:
        ValueError: There is no example.
    """

    num_examples: int
    seed: tuple[int, ...] | None = None
    first: int = 0
    stride: int = 1

    def __post_init__(self) -> None:
        if self.num_examples < 1:
            raise ValueError(f"num_examples is {self.num_examples}; expected at least 1")

    @classmethod
    def of_group(cls, num_examples: int, group: int, num_groups: int, seed: int, data: str) -> Order:
        """The order of one of several groups.

        Args:
            num_examples: Examples that are stored.
            group: Index of the group, from 0.
            num_groups: How many train together.
            seed: With the group it fixes the order.
            data: ``disjoint`` deals the examples out in turn, ``same`` gives every group all of them in an
                order of its own, ``same_batches`` in one order.

        Returns:
            The order.

        Raises:
            ValueError: The group is out of range, `data` is unknown, or the group gets no example.
        """
        check_group(group, num_groups, data)
        check_switch(data)
        if data != "disjoint":
            return cls(num_examples, order_seed(seed, group, data))
        number = len(range(group, num_examples, num_groups))
        if not number:
            raise ValueError(
                f"the part of group {group} of {num_groups} is empty: there are {num_examples} examples; use "
                "more, fewer groups, or data='same'"
            )
        return cls(number, (seed, group), group, num_groups)

    def rows(self, first: int, number: int) -> tuple[Ids, Ids]:
        """The examples at some positions.

        Args:
            first: The first position, from 0.
            number: How many positions.

        Returns:
            Index in storage and number of earlier visits of each example, int64 ``[number]`` each.
        """
        visits, indices = np.divmod(np.arange(first, first + number, dtype=np.int64), self.num_examples)
        if self.seed is not None:
            for visit in range(int(visits[0]), int(visits[-1]) + 1) if number else ():
                now = visits == visit
                indices[now] = _permuted(indices[now], self.num_examples, (*self.seed, visit))
        return self.first + self.stride * indices, visits

    def of_step(self, step: int, batch_size: int) -> tuple[Ids, Ids]:
        """The examples of a step, see `rows`; without a gap from step to step and from visit to visit."""
        return self.rows(step * batch_size, batch_size)


def _permuted(indices: Ids, number: int, seed: tuple[int, ...]) -> Ids:
    """Where a permutation of 0 to number - 1 sends some of them."""
    if number <= _FEW:
        return _shuffled(number, seed)[indices]
    bits = (number - 1).bit_length()
    found = _feistel(indices.astype(np.uint64), bits, seed)
    while (outside := found >= number).any():
        found[outside] = _feistel(found[outside], bits, seed)
    return found.astype(np.int64)


@functools.lru_cache(maxsize=64)
def _shuffled(number: int, seed: tuple[int, ...]) -> Ids:
    values = np.arange(number, dtype=np.uint64)
    for key in _keys(seed):
        values = _mixed(values + key)
    return np.argsort(values, kind="stable")


def _feistel(values: npt.NDArray[np.uint64], bits: int, seed: tuple[int, ...]) -> npt.NDArray[np.uint64]:
    """A permutation of the numbers of so many bits; halves of unequal size change places."""
    left_bits, right_bits = np.uint64(bits // 2), np.uint64(bits - bits // 2)
    for key in _keys(seed):
        right = values & ((np.uint64(1) << right_bits) - np.uint64(1))
        left = (values >> right_bits) ^ (_mixed(right + key) & ((np.uint64(1) << left_bits) - np.uint64(1)))
        values = (right << left_bits) | left
        left_bits, right_bits = right_bits, left_bits
    return values


@functools.lru_cache(maxsize=64)
def _keys(seed: tuple[int, ...]) -> npt.NDArray[np.uint64]:
    return np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64).astype(np.uint64)


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spreads every bit over all others: the finaliser of SplitMix64 (Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
