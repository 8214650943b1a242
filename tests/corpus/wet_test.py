"""WET files: what Common Crawl writes is read, what was damaged on the way is told, by kind and place."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import itertools
import os
import random
import re
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType

from tf_codistill.corpus.wet import Damage, Record, WetWriter, read_wet

PAGES = [
    ("https://docs.local/a", "Ein Satz über Wörter.\nAnd a second line, 日本語 included.", "deu"),
    (
        "https://docs.local/b",
        "A page about\r\n\r\nWARC/1.0\r\nWARC-Type: conversion\r\nContent-Length: 5\r\n\r\nhello\r\n\r\n",
        "eng",
    ),
    ("https://docs.local/empty", "", "eng"),
    ("https://docs.local/c", "The last page. " * 200, "eng"),
]

MAX_HELD_BYTES = 48 << 20


@pytest.fixture
def wet_path(tmp_path: Path) -> str:
    return write_wet(tmp_path / "pages.warc.wet.gz")


def write_wet(path: Path) -> str:
    with WetWriter(str(path), description="pages of a test") as writer:
        for url, text, language in PAGES:
            writer.write(url, text, language)
    return str(path)


def test_pages_come_back_as_they_were_written(wet_path: str) -> None:
    records = list(read_wet(wet_path))
    assert [(record.url, record.text, record.language) for record in records] == PAGES
    assert [record.dirt for record in records] == [(), ("header_in_text",), ("empty",), ()]
    assert len({record.record_id for record in records}) == len(PAGES)


def test_written_file_is_a_genuine_wet_file(wet_path: str) -> None:
    content = Path(wet_path).read_bytes()
    assert content.count(b"\x1f\x8b\x08") >= 1 + len(PAGES), "one gzip member per record"
    with open(wet_path, "rb") as file:
        records = [
            (record.headers.asdict(), record.reader.read(), record.verify_block_digest())
            for record in ArchiveIterator(file, record_types=WarcRecordType.any_type)
        ]
    kinds = [headers["WARC-Type"] for headers, _, _ in records]
    assert kinds == ["warcinfo"] + ["conversion"] * len(PAGES)
    headers, body, _ = records[1]
    assert headers["WARC-Target-URI"] == PAGES[0][0]
    assert headers["WARC-Identified-Content-Language"] == "deu"
    assert headers["Content-Type"] == "text/plain"
    assert int(headers["Content-Length"]) == len(body) == len(PAGES[0][1].encode())
    assert headers["WARC-Date"].endswith("Z")
    assert headers["WARC-Refers-To"].startswith("<urn:uuid:")
    first_lines = gzip.decompress(content).split(b"\r\n", 2)
    assert first_lines[:2] == [b"WARC/1.0", b"WARC-Type: warcinfo"]


def test_same_pages_give_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first = write_wet(tmp_path / "pages.warc.wet.gz")
    second = write_wet(tmp_path / "other" / "pages.warc.wet.gz")
    assert Path(first).read_bytes() == Path(second).read_bytes()


def test_a_page_that_fails_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "pages.warc.wet.gz"
    with pytest.raises(ValueError, match="white space"), WetWriter(str(path), "test") as writer:
        writer.write("https://a b", "text", "eng")
    assert os.listdir(tmp_path) == []


def test_advance_counts_every_byte_of_the_file(wet_path: str) -> None:
    counted: list[int] = []
    list(read_wet(wet_path, counted.append))
    assert sum(counted) == os.path.getsize(wet_path)


@pytest.mark.parametrize("lost_bytes", [1, 4, 8, 9, 20, 100])
def test_truncated_file_lacks_its_last_page(wet_path: str, lost_bytes: int) -> None:
    content = Path(wet_path).read_bytes()
    starts = [match.start() for match in re.finditer(rb"\x1f\x8b\x08", content)]
    Path(wet_path).write_bytes(content[:-lost_bytes])
    *records, damage = read_wet(wet_path)
    assert [record.url for record in records] == [url for url, _, _ in PAGES[:-1]]
    assert damage == Damage("cut_off", starts[-1], len(content) - lost_bytes - starts[-1], damage.content)
    assert damage.content == content[starts[-1] : -lost_bytes]


@pytest.mark.parametrize("lost_bytes", [30, 1000, 2900])
def test_truncated_unpacked_file_lacks_its_last_page(tmp_path: Path, wet_path: str, lost_bytes: int) -> None:
    content = gzip.decompress(Path(wet_path).read_bytes())[:-lost_bytes]
    *records, damage = read_content(content)
    assert [record.url for record in records] == [url for url, _, _ in PAGES[:-1]]
    start = content.rindex(b"WARC/1.0\r\nWARC-Type")
    assert damage == Damage("cut_off", start, len(content) - start, content[start:], PAGES[-1][0])


@pytest.mark.parametrize(
    ("place", "change", "kind"),
    [
        (-6, lambda byte: byte ^ 1, "wrong_checksum"),
        (-2, lambda byte: byte ^ 1, "wrong_checksum"),
        (0, lambda byte: 0, "stray_bytes"),
        (2, lambda byte: 9, "stray_bytes"),
    ],
)
def test_damaged_member_costs_its_page_alone(
    wet_path: str, place: int, change: Callable[[int], int], kind: str
) -> None:
    content = bytearray(Path(wet_path).read_bytes())
    starts = [match.start() for match in re.finditer(rb"\x1f\x8b\x08", content)]
    at = (starts[2] if place >= 0 else starts[3]) + place
    content[at] = change(content[at])
    items = list(read_wet(io.BytesIO(content)))
    assert [item.url for item in items] == [PAGES[0][0], "", PAGES[2][0], PAGES[3][0]]
    member = bytes(content[starts[2] : starts[3]])
    assert items[1] == Damage(kind, starts[2], len(member), member)


def test_members_cut_in_the_middle_or_with_something_between_are_passed_over(wet_path: str) -> None:
    content = Path(wet_path).read_bytes()
    starts = [match.start() for match in re.finditer(rb"\x1f\x8b\x08", content)]
    cut = content[: starts[2] - 30] + content[starts[2] : starts[3]] + b"something" * 9 + content[starts[3] :]
    items = list(read_content(cut))
    assert [item.url for item in items] == ["", PAGES[1][0], "", PAGES[2][0], PAGES[3][0]]
    first, second = items[0], items[2]
    assert isinstance(first, Damage)
    assert isinstance(second, Damage)
    assert (first.offset, first.num_bytes) == (starts[1], starts[2] - 30 - starts[1])
    assert (second.kind, second.content) == ("stray_bytes", b"something" * 9)


def test_files_one_behind_another_are_read_as_one(wet_path: str) -> None:
    content = Path(wet_path).read_bytes()
    assert list(read_content(content * 3)) == list(read_content(content)) * 3
    content = gzip.decompress(content)
    assert list(read_content(content * 3)) == list(read_content(content)) * 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (gzip.compress(b""), "holds no page"),
        (b"<html>not found</html>" * 50, "truncated or damaged.*html"),
        (gzip.compress(b"<html>not found</html>" * 50), "truncated or damaged.*html"),
    ],
    ids=["empty", "empty gzip member", "another format", "another format, packed"],
)
def test_file_without_pages_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "nothing.warc.wet.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"nothing\.warc\.wet\.gz.*{message}"):
        list(read_wet(str(path)))


def test_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        list(read_wet(str(tmp_path / "absent.warc.wet.gz")))


def read_content(content: bytes) -> Iterator[Record | Damage]:
    return read_wet(io.BytesIO(content))


def checksum(text: str) -> str:
    digest = base64.b32encode(hashlib.sha1(text.encode()).digest()).decode()
    return f"WARC-Block-Digest: sha1:{digest}\r\n"


def page(url: str, body: bytes, length: int | str | None = None, digest: str = "") -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: {url}\r\n{digest}"
    return (
        f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode()
        + body
        + b"\r\n\r\n"
    )


LENGTHS = [0, 1, 50, 99, 108, 190, 10_000, 10**8, 10**30, -5, "", "many", "1e3"]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("length", LENGTHS)
def test_page_with_a_wrong_length_and_a_right_checksum_is_whole(
    length: int | str, pack: Callable[[bytes], bytes]
) -> None:
    text = "ä" * 50 + "\r\n\r\nWARC/1.0\r\nWARC-Type: conversion\r\nContent-Length: 5\r\n\r\nhello\r\n\r\n!"
    pages = [
        page("a", b"one"),
        page("b", text.encode(), length, checksum(text)),
        page("c", b"three", digest=checksum("three")),
    ]
    records = list(read_content(b"".join(map(pack, pages))))
    assert [record.url for record in records] == ["a", "b", "c"]
    assert records[1] == Record("b", text, dirt=("wrong_length", "header_in_text"))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("length", LENGTHS)
def test_page_with_a_wrong_length_and_no_checksum_hides_no_other(
    length: int | str, pack: Callable[[bytes], bytes]
) -> None:
    pages = [page("a", b"one"), page("b", b"two" * 40, length), page("c", b"three", digest=checksum("three"))]
    items = list(read_content(b"".join(map(pack, pages))))
    assert [item.url for item in items] == ["a", "b", "c"]
    assert items[1] == Damage("wrong_length", len(pack(pages[0])), len(pages[1]), pages[1], "b")


def test_quotation_in_a_page_with_a_wrong_length_is_not_taken_for_a_page() -> None:
    text = b"See:\r\n\r\n" + page("quoted", b"hello")
    items = list(read_content(page("a", text, 3) + page("b", b"two", digest=checksum("two"))))
    assert [(type(item), item.url) for item in items] == [(Damage, "a"), (Damage, "quoted"), (Record, "b")]
    assert [item.kind for item in items if isinstance(item, Damage)] == ["wrong_length", "unproven_record"]


def test_page_that_does_not_fit_its_checksum_is_not_passed_on() -> None:
    wrong = page("a", b"one", digest=checksum("two"))
    assert list(read_content(wrong + page("b", b"two", digest=checksum("two")))) == [
        Damage("wrong_digest", 0, len(wrong) - 4, wrong[:-4], "a"),
        Record("b", "two"),
    ]


@pytest.mark.parametrize("length", [None, 10**9])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_giant_page_is_passed_over(length: int | None, pack: Callable[[bytes], bytes]) -> None:
    text = b"A line of a page that goes on.\n" * 600_000
    giant = page("b", text, length)
    content = b"".join(map(pack, [page("a", b"one"), giant, page("c", b"three", digest=checksum("three"))]))
    first, damage, last = read_content(content)
    assert (first.url, damage.url, last.url) == ("a", "b", "c")
    assert isinstance(damage, Damage)
    assert (damage.kind, damage.num_bytes) == ("giant_record", len(giant))
    assert damage.content == giant[: 1 << 20]


@pytest.mark.parametrize(
    "head",
    [
        "WARC-Type: conversions\r\nWARC-Target-URI: a",
        "WARC-Type: conversion",
        "WARC-Type: conversion\r\nWARC-Target-URI: a\r\nContent-Type: application/warc-fields",
        "WARC-Type: conversion\r\nWARC-Target-URI: a\r\nWARC-Target-URI: b",
    ],
)
def test_head_that_describes_no_page_is_told(head: str) -> None:
    bad = f"WARC/1.0\r\n{head}\r\nContent-Length: 3\r\n\r\none\r\n\r\n".encode()
    damage, record = read_content(bad + page("c", b"three"))
    assert isinstance(damage, Damage)
    assert (damage.kind, damage.content, record.url) == ("bad_header", bad[:-4], "c")


def test_other_records_are_passed_over() -> None:
    other = page("a", b"one").replace(b"conversion", b"metadata")
    assert list(read_content(other + page("b", b"two") + other)) == [Record("b", "two")]


@pytest.mark.parametrize("size", [1, 7, 100, 350])
def test_gzip_members_need_not_end_with_records(tmp_path: Path, wet_path: str, size: int) -> None:
    content = gzip.decompress(Path(wet_path).read_bytes())
    path = tmp_path / "blocks.warc.wet.gz"
    path.write_bytes(
        b"".join(gzip.compress(content[start : start + size]) for start in range(0, len(content), size))
    )
    assert list(read_wet(str(path))) == list(read_wet(wet_path))


def test_line_ends_without_carriage_return_are_read() -> None:
    content = (page("a", b"one") + page("b", b"two")).replace(b"\r\n", b"\n")
    assert [record.text for record in read_content(content) if isinstance(record, Record)] == ["one", "two"]


@pytest.mark.parametrize(
    ("body", "text", "dirt"),
    [
        (b"caf\xe9 au lait", "caf\ufffd au lait", "bad_utf8"),
        (b"a\x00b\x1b", "a\x00b\x1b", "control_characters"),
        (b"", "", "empty"),
        (b" \r\n ", " \r\n ", "empty"),
        (b"WARC/1.0 is a format", "WARC/1.0 is a format", "header_in_text"),
    ],
)
def test_dirt_that_can_be_read_is_told(body: bytes, text: str, dirt: str) -> None:
    assert list(read_content(page("a", body) + page("b", b"two"))) == [
        Record("a", text, dirt=(dirt,)),
        Record("b", "two"),
    ]


class Endless(io.RawIOBase):
    """A file that is made while it is read."""

    def __init__(self, first: bytes, repeated: bytes, num_times: int) -> None:
        self._parts = itertools.chain([first], itertools.repeat(repeated, num_times))

    def read(self, size: int = -1) -> bytes:
        return next(self._parts, b"")


def endless(shape: str, num_times: int) -> Endless:
    pages = b"".join(page(str(number), b"A line of a page.\n" * 600) for number in range(100))
    packed = gzip.compress(pages)
    if shape == "members":
        return Endless(packed, packed, num_times)
    if shape == "one member":
        deflate = zlib.compressobj(wbits=31)
        first, again = (deflate.compress(pages) + deflate.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
        return Endless(first, again, num_times)
    if shape == "noise":
        return Endless(packed, random.Random(1).randbytes(10**6), num_times)
    repeated = {
        "unpacked": pages,
        "one line": b"x" * 10**6,
        "line ends": b"\n" * 10**6,
    }
    return Endless(pages, repeated[shape], num_times)


def num_pages_and_peak_bytes(file: Endless) -> tuple[int, int]:
    tracemalloc.start()
    try:
        num_pages = sum(isinstance(item, Record) for item in read_wet(file))  # type: ignore[arg-type]
        return num_pages, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", ["members", "one member", "unpacked", "noise", "one line", "line ends"])
def test_memory_does_not_grow_with_the_file(shape: str) -> None:
    num_pages, peak_bytes = num_pages_and_peak_bytes(endless(shape, 60))
    assert num_pages >= (6000 if shape in ("members", "one member", "unpacked") else 99)
    assert peak_bytes < (MAX_HELD_BYTES if shape == "one member" else MAX_HELD_BYTES // 5)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["members", "one member", "unpacked"])
def test_memory_for_a_large_file(shape: str) -> None:
    num_pages, peak_bytes = num_pages_and_peak_bytes(endless(shape, 300))
    assert num_pages >= 30_000
    assert peak_bytes < MAX_HELD_BYTES
