"""Stretches: each can be read alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tf_codistill.corpus.stages import partitioned

CONTENTS = [b"first", b"", b"the third", b"x" * 300]


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = str(tmp_path / "file")
    partitioned.write(path, list(map(len, CONTENTS)), [b"".join(CONTENTS)[:7], b"".join(CONTENTS)[7:]])
    return path


def test_each_stretch_is_read_alone(path: str) -> None:
    assert [partitioned.read(path, index) for index in range(4)] == CONTENTS


def test_neighbours_are_read_together(path: str) -> None:
    assert partitioned.read(path, 0, 4) == b"".join(CONTENTS)
    assert partitioned.read(path, 1, 3) == b"the third"
    assert partitioned.read(path, 2, 2) == b""


def test_neighbours_are_read_one_by_one(path: str) -> None:
    assert partitioned.read_each(path, 0, 4) == CONTENTS
    assert partitioned.read_each(path, 1, 3) == CONTENTS[1:3]
    assert partitioned.read_each(path, 2, 2) == []


def test_long_stretches_come_in_pieces(path: str) -> None:
    assert [len(chunk) for chunk in partitioned.chunks(path, 3, piece_bytes=128)] == [128, 128, 44]
    assert list(partitioned.chunks(path, 1)) == []


def test_ranges_cover_all_partitions_once() -> None:
    for number in (0, 1, 99, 100, 12345, 10**9):
        found = partitioned.ranges(1024, number, 100)
        assert len(found) == min(1024, 1 + number // 100)
        assert [one for span in found.values() for one in span] == list(range(1024))
        assert sum(partitioned.shares(found, 1024, number).values()) == number


def test_values_are_sorted_within_the_partition_of_their_owner(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in "ab"]
    for path, values in zip(paths, ([5, 3, 9], [4, 8, 1]), strict=True):
        partitioned.write_sorted(path, np.array([2, 2, 0]), np.array(values, "<u4"), 4)
    assert np.frombuffer(partitioned.read(paths[0], 2), "<u4").tolist() == [3, 5]
    assert [partitioned.read_sorted(paths, part, "<u4").tolist() for part in range(4)] == [
        [1, 9],
        [],
        [3, 4, 5, 8],
        [],
    ]


def test_a_file_without_stretches_is_a_file(tmp_path: Path) -> None:
    partitioned.write(str(tmp_path / "empty"), [], [])
    assert (tmp_path / "empty").stat().st_size == 8
