"""Which documents belong to which group (section 3.3.2 of the paper compares the first two switches).

documents             0 1 2 3 4 5 6 7
disjoint, group 0     0   2   4   6          each document is read by one group only
disjoint, group 1       1   3   5   7
same, either group    0 1 2 3 4 5 6 7        every group reads all, each in an order of its own
same_batches          0 1 2 3 4 5 6 7        all in one order, so that they can exchange predictions
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SWITCHES = ("disjoint", "same", "same_batches")
"""Whose examples a group visits: its own part; all, in its own order; all, in the order of the others."""


def check_switch(data: str) -> None:
    """Checks that `data` is one of `SWITCHES`; a `ValueError` if it is not."""
    if data not in SWITCHES:
        raise ValueError(f"data is {data!r}; expected one of {', '.join(map(repr, SWITCHES))}")


def order_seed(seed: int, group: int, data: str) -> tuple[int, ...]:
    """What fixes the order in which a group visits its examples; of the same batches no group's number."""
    return (seed,) if data == "same_batches" else (seed, group)


def check_group(group: int, num_groups: int, data: str) -> None:
    """Checks that there is a part of the data for a group; one that joins others has none of its own.

    Args:
        group: Index of the group, from 0.
        num_groups: Number of groups that the data is dealt out to.
        data: What they read; all but ``disjoint`` gives every group all of it.

    Raises:
        ValueError: There is none.
    """
    if num_groups < 1 or group < 0 or (data == "disjoint" and group >= num_groups):
        raise ValueError(
            f"group is {group} of num_groups={num_groups}; expected 0 <= group < num_groups: a group that "
            "joins later has no part of data='disjoint'"
        )


def documents_of(num_documents: int, group: int, num_groups: int, data: str) -> npt.NDArray[np.int64]:
    """The documents that a group reads.

    Args:
        num_documents: Number of documents in the split.
        group: Index of the group, from 0.
        num_groups: Number of groups that train together.
        data: ``disjoint`` deals the documents out in turn; the others give all of them to every group.

    Returns:
        int64 ``[num_documents_of_the_group]``: indices of the documents, increasing.

    Raises:
        ValueError: The group is out of range, the switch is unknown, or the partition is empty.
    """
    check_switch(data)
    check_group(group, num_groups, data)
    first, stride = (group, num_groups) if data == "disjoint" else (0, 1)
    partition = np.arange(first, num_documents, stride, dtype=np.int64)
    if partition.size == 0:
        raise ValueError(
            f"the partition of group {group} of {num_groups} is empty: the split has {num_documents} "
            "documents; use a larger corpus, fewer groups, or data='same'"
        )
    return partition
