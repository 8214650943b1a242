"""Lines of plain and compressed files: each in exactly one part, damaged files named."""

from __future__ import annotations

import gzip
import hashlib
import pathlib

import pytest

from tf_codistill.tables import lines
from tf_codistill.tables.lines import DamagedFileError, Lines

CONTENT = b"".join(b"%d\t%s\n" % (index, b"x" * (index % 37)) for index in range(400)) + b"\n\nlast"


def read(path: pathlib.Path, *where: int | None) -> bytes:
    return b"".join(block.content for block in Lines(str(path), *where).blocks())


@pytest.mark.parametrize("size", [1, 7, 100, 4096, 1 << 20])
def test_parts_of_a_file_have_each_line_once(tmp_path: pathlib.Path, size: int) -> None:
    path = tmp_path / "rows"
    path.write_bytes(CONTENT)
    whole = CONTENT + b"\n"
    parts = [read(path, start, start + size) for start in range(0, len(CONTENT), size)]
    assert b"".join(parts) == whole
    assert all(part.endswith(b"\n") for part in parts if part)


def test_blocks_tell_where_they_are_and_what_was_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 512)
    path = tmp_path / "rows"
    path.write_bytes(CONTENT)
    reader, told = Lines(str(path), 1000, 3000), []
    blocks = list(reader.blocks(told.append))
    assert len(blocks) > 2
    for block in blocks:
        assert (CONTENT + b"\n")[block.offset : block.offset + len(block.content)] == block.content
    assert sum(told) == 2000
    assert reader.sha256 == hashlib.sha256(b"".join(block.content for block in blocks)).hexdigest()


def test_compressed_files_of_several_members_read_like_plain_ones(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "rows.gz"
    packed = gzip.compress(CONTENT[:1001]) + b"\0" * 20 + gzip.compress(b"") + gzip.compress(CONTENT[1001:])
    path.write_bytes(packed + b"\0" * 512)
    told: list[int] = []
    assert b"".join(block.content for block in Lines(str(path)).blocks(told.append)) == CONTENT + b"\n"
    assert sum(told) == len(packed) + 512
    assert lines.first_line(str(path)) == b"0\t"


@pytest.mark.parametrize(
    ("change", "sentence"), [("cut", "ends in the middle"), ("wrong", "is damaged near")]
)
def test_a_damaged_file_is_named_after_what_can_be_read(
    tmp_path: pathlib.Path, change: str, sentence: str
) -> None:
    packed = gzip.compress(CONTENT)
    packed = packed[:-100] if change == "cut" else packed[:-5] + bytes([packed[-5] ^ 1]) + packed[-4:]
    path = tmp_path / "rows.gz"
    path.write_bytes(packed)
    found = b""
    blocks = Lines(str(path)).blocks()

    def read_on() -> None:
        nonlocal found
        for block in blocks:
            found += block.content

    with pytest.raises(DamagedFileError, match=sentence) as caught:
        read_on()
    assert str(path) in str(caught.value)
    assert CONTENT.startswith(found)


@pytest.mark.parametrize("size", [256, 1 << 20])
def test_a_line_without_end_is_cut_and_the_next_ones_are_not(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 64)
    monkeypatch.setattr(lines, "_PACKED_BYTES", 64)
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 100)
    path = tmp_path / "rows"
    path.write_bytes(b"a\n" + b"b" * 1000 + b"\nc\nd\n")
    parts = [read(path, start, start + size) for start in range(0, 1010, size)]
    found = b"".join(parts).split(b"\n")
    assert [found[0], *found[2:]] == [b"a", b"c", b"d", b""]
    assert 100 < len(found[1]) < 300
    assert set(found[1]) == {ord("b")}
