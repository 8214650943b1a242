"""Which documents belong to which group (section 3.3.2 of the paper compares the two switches).

documents             0 1 2 3 4 5 6 7
disjoint, group 0     0   2   4   6          each document is read by one group only
disjoint, group 1       1   3   5   7
same, either group    0 1 2 3 4 5 6 7        every group reads all, each in an order of its own
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

DATA_SWITCHES = ("disjoint", "same")


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
        data: ``disjoint`` deals the documents out in turn, ``same`` gives all of them to every group.

    Returns:
        int64 ``[num_documents_of_the_group]``: indices of the documents, increasing.

    Raises:
        ValueError: The group is out of range, the switch is unknown, or the partition is empty.
    """
    if data not in DATA_SWITCHES:
        raise ValueError(f"data is {data!r}; expected {' or '.join(map(repr, DATA_SWITCHES))}")
    check_group(group, num_groups, data)
    first, stride = (group, num_groups) if data == "disjoint" else (0, 1)
    partition = np.arange(first, num_documents, stride, dtype=np.int64)
    if partition.size == 0:
        raise ValueError(
            f"the partition of group {group} of {num_groups} is empty: the split has {num_documents} "
            "documents; use a larger corpus, fewer groups, or data='same'"
        )
    return partition
