"""Stretches: each can be read alone."""

from __future__ import annotations

from pathlib import Path

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


def test_a_file_without_stretches_is_a_file(tmp_path: Path) -> None:
    partitioned.write(str(tmp_path / "empty"), [], [])
    assert (tmp_path / "empty").stat().st_size == 8
