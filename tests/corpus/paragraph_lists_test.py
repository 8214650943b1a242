"""Lists of paragraphs: what is written is read again, and what is wrong is told."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf_codistill.corpus.paragraph_ids import lists

HEADER = "file name,encoded_paragraph_list\n"
ROWS = [("a.warc.wet.gz", [0, 2, 3, 9]), ("b, c.warc.wet.gz", []), ("d.warc.wet", [5, 4_294_967_295])]


def read(path: Path) -> list[tuple[str, list[int]]]:
    return [(wet_file, numbers.tolist()) for wet_file, numbers in lists.read(str(path))]


def write(path: Path, rows: list[tuple[str, list[int]]]) -> Path:
    content = lists.encode((name, np.array(numbers, np.uint32)) for name, numbers in rows)
    lists.write(str(path), [content])
    return path


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w:bz2") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def test_a_list_is_written_as_the_published_one(tmp_path: Path) -> None:
    path = write(tmp_path / "paragraph_ids.csv", ROWS)
    assert path.read_text() == (
        HEADER + 'a.warc.wet.gz,0 2 1 6\n"b, c.warc.wet.gz",\nd.warc.wet,5 4294967290\n'
    )
    assert read(path) == ROWS
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (tmp_path / "paragraph_ids.csv.sha256").read_text() == f"{sha256}  paragraph_ids.csv\n"
    assert lists.check(str(path)) == sha256


def test_a_list_of_unwrapped_text_says_so(tmp_path: Path) -> None:
    content = lists.encode([("a.warc.wet.gz", np.array([3, 4], np.uint32))])
    names = {False: "lines.csv", True: "paragraphs.csv"}
    for is_unwrapped, name in names.items():
        lists.write(str(tmp_path / name), [content], is_unwrapped)
        assert lists.is_unwrapped(str(tmp_path / name)) == is_unwrapped
        assert read(tmp_path / name) == [("a.warc.wet.gz", [3, 4])]
    assert (tmp_path / names[False]).read_text().startswith(HEADER)
    # Whoever does not know of it finds no column of the name that he looks for.
    assert (tmp_path / names[True]).read_text().startswith("file name,encoded_unwrapped_paragraph_list\n")
    both = {name: (tmp_path / name).read_bytes() for name in names.values()}
    mixed = write_tar(tmp_path / "mixed.tar.bz2", both)
    with pytest.raises(
        ValueError, match="has columns encoded_paragraph_list and encoded_unwrapped_paragraph"
    ):
        read(mixed)


@given(st.lists(st.sets(st.integers(0, 2**32 - 1)), min_size=1, max_size=5))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, sets: list[set[int]]) -> None:
    rows = [(f"{index}.warc.wet.gz", sorted(numbers)) for index, numbers in enumerate(sets)]
    assert read(write(tmp_path_factory.getbasetemp() / "list.csv", rows)) == rows


@pytest.mark.parametrize(
    "text",
    ["1 2 3", '"1,2,3"', "1,2,3", '"[1, 2, 3]"', "1;2;3", "(1 2 3)", '" 1\t2\n3 "'],
)
def test_separators_are_taken_as_they_come(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f"{HEADER}some/where/a.warc.wet.gz,{text}\n")
    assert read(path) == [("a.warc.wet.gz", [1, 3, 6])]


def test_rows_may_name_addresses(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f"{HEADER}https://example.org/wet/a.warc.wet.gz?key=x/y,1 2\n")
    assert read(path) == [("a.warc.wet.gz", [1, 3])]


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes('\ufeffrow,encoded_paragraph_list,file name\r\n0,"4 1",a.warc.wet.gz\r\n'.encode())
    assert read(path) == [("a.warc.wet.gz", [4, 5])]


def test_packed_lists_and_archives_of_several(tmp_path: Path) -> None:
    content = write(tmp_path / "list.csv", ROWS).read_bytes()
    (tmp_path / "list.csv.gz").write_bytes(gzip.compress(content))
    (tmp_path / "list.csv.bz2").write_bytes(bz2.compress(content))
    other = f"{HEADER}z.warc.wet.gz,7\n".encode()
    members = {"ids/README": b"no list", "ids/0.csv": content, "ids/1.csv": other}
    write_tar(tmp_path / "list.tar.bz2", members)
    write_tar(tmp_path / "list.tar", members, "w")
    assert read(tmp_path / "list.csv.gz") == read(tmp_path / "list.csv.bz2") == ROWS
    assert read(tmp_path / "list.tar.bz2") == read(tmp_path / "list.tar") == [*ROWS, ("z.warc.wet.gz", [7])]


@pytest.mark.parametrize("ending", [".csv.gz", ".csv.bz2", ".tar.bz2"])
def test_a_damaged_archive_is_told(tmp_path: Path, ending: str) -> None:
    content = write(tmp_path / "plain.csv", ROWS).read_bytes()
    path = tmp_path / f"list{ending}"
    if ending == ".tar.bz2":
        write_tar(path, {"0.csv": content})
    else:
        path.write_bytes((gzip if ending == ".csv.gz" else bz2).compress(content))
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (
        whole[:-5],
        whole[:middle],
        whole[:middle] + b"zzzz" + whole[middle + 4 :],
        b"no archive",
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"list{ending}.*(damaged|truncated)"):
            read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"begins with \[\]; expected the columns file name, encoded_paragraph_list"),
        ("CC-MAIN-0.warc.wet.gz,1 2\n", "expected the columns"),
        (HEADER, "names no WET file"),
        (f"{HEADER}a.warc.wet.gz\n", r"row \['a.warc.wet.gz'\]"),
        (f"{HEADER},1 2\n", "has the row"),
        (
            f"{HEADER}a.warc.wet.gz,-1 2\n",
            "'a.warc.wet.gz': difference -1 at position 0 leads to paragraph -1",
        ),
        (f"{HEADER}a.warc.wet.gz,7 2 -3 5\n", "difference -3 at position 2 leads to paragraph 6"),
        (f"{HEADER}a.warc.wet.gz,7 0\n", "difference 0 at position 1"),
        (f"{HEADER}a.warc.wet.gz,4294967295 1\n", "paragraph 4294967296"),
        (f"{HEADER}a.warc.wet.gz,99999999999999999999 1\n", "at position 0"),
        (f"{HEADER}a.warc.wet.gz,1 2.5\n", "'.5' is no number"),
        (f"{HEADER}a.warc.wet.gz,one\n", "'one' is no number"),
        (f"{HEADER}a.warc.wet.gz,- 1\n", "'- 1' is no number"),
        (f"{HEADER}a.warc.wet.gz,3-4\n", "'-4' is no number"),
        (f"{HEADER}a.warc.wet.gz,١\n", "'١' is no number"),
    ],
)
def test_what_is_no_list_is_told(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read(path)


def test_names_and_lengths_without_sense_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"list\.txt.*ending in \.csv or \.tar\.bz2"):
        read(tmp_path / "list.txt")
    with pytest.raises(FileNotFoundError, match=r"absent\.csv"):
        read(tmp_path / "absent.csv")
    monkeypatch.setattr(lists, "_LONGEST_LINE", 64)
    path = tmp_path / "list.csv"
    path.write_text(f"{HEADER}{'x' * 100}")
    with pytest.raises(ValueError, match="a line of more than 64 bytes"):
        read(path)
    with pytest.raises(ValueError, match="names no WET file"):
        read(write_tar(tmp_path / "list.tar.bz2", {"README": b"no list"}))


def test_a_wrong_checksum_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", ROWS)
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    beside = tmp_path / "list.csv.sha256"
    for text in (f"{right.upper()} *list.csv", right, f"{'0' * 64}  other.csv\n{right}  some/list.csv\n"):
        beside.write_text(text)
        assert lists.check(str(path)) == right
    for text in ("", "deadbeef  list.csv", f"{right}  other.csv"):
        beside.write_text(text)
        with pytest.raises(ValueError, match=r"list\.csv\.sha256' holds no SHA-256 of 'list\.csv'"):
            lists.check(str(path))
    beside.write_text(f"{'0' * 64}  list.csv\n")
    with pytest.raises(ValueError, match=rf"list\.csv' is damaged.*{right}, expected 0000"):
        lists.check(str(path))
    beside.unlink()
    assert lists.check(str(path)) == right


def test_the_checksum_of_the_published_list_is_known(tmp_path: Path) -> None:
    path = tmp_path / lists.PUBLISHED
    path.write_bytes(b"another one")
    with pytest.raises(
        ValueError, match="expected 2694ae96685810d2a5c81f2dc9b3d2956d0543fa226ccbe9b26f0ffd81fa8292"
    ):
        lists.check(str(path))
