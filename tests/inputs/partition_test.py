"""Who reads which documents."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf_codistill.inputs import partition


@given(num_groups=st.integers(1, 7), spare=st.integers(0, 30))
def test_disjoint_partitions_share_nothing_and_leave_nothing(num_groups: int, spare: int) -> None:
    num_documents = num_groups + spare
    partitions = [
        partition.documents_of(num_documents, group, num_groups, "disjoint") for group in range(num_groups)
    ]
    assert sorted(np.concatenate(partitions).tolist()) == list(range(num_documents))
    assert max(map(len, partitions)) - min(map(len, partitions)) <= 1


def test_the_same_data_is_all_of_it_for_every_group() -> None:
    for group in range(3):
        assert partition.documents_of(5, group, 3, "same").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((9, 2, 2, "disjoint"), "group is 2 of num_groups=2"),
        ((9, -1, 2, "same"), "group is -1"),
        ((9, 0, 0, "same"), "num_groups=0"),
        ((9, 0, 2, "shared"), "data is 'shared'; expected one of 'disjoint', 'same', 'same_batches'"),
        ((2, 2, 3, "disjoint"), "partition of group 2 of 3 is empty: the split has 2 documents"),
        ((0, 0, 1, "same"), "is empty"),
    ],
)
def test_what_cannot_be_dealt_out_is_told(arguments: tuple[int, int, int, str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        partition.documents_of(*arguments)
