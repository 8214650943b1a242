"""WET files: what Common Crawl writes is read, what was damaged on the way is told."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType

from tf_codistill.corpus.wet import Record, WetWriter, read_wet

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
    assert all(record.is_whole for record in records)
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
def test_truncated_file_is_told(wet_path: str, lost_bytes: int) -> None:
    content = Path(wet_path).read_bytes()
    Path(wet_path).write_bytes(content[:-lost_bytes])
    with pytest.raises(ValueError, match=r"pages\.warc\.wet\.gz.*truncated or damaged"):
        list(read_wet(wet_path))


@pytest.mark.parametrize("lost_bytes", [30, 1000, 3050])
def test_truncated_unpacked_file_is_told(tmp_path: Path, wet_path: str, lost_bytes: int) -> None:
    path = tmp_path / "pages.warc.wet"
    path.write_bytes(gzip.decompress(Path(wet_path).read_bytes())[:-lost_bytes])
    with pytest.raises(ValueError, match=r"pages\.warc\.wet.*truncated or damaged"):
        list(read_wet(str(path)))


def test_flipped_byte_is_told(wet_path: str) -> None:
    content = bytearray(Path(wet_path).read_bytes())
    content[len(content) // 2] ^= 0xFF
    Path(wet_path).write_bytes(content)
    with pytest.raises(ValueError, match="truncated or damaged"):
        list(read_wet(wet_path))


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


def page(url: str, body: bytes, length: int | None = None, digest: str = "") -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: {url}\r\n{digest}"
    return (
        f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode()
        + body
        + b"\r\n\r\n"
    )


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("length", [0, 50, 99, 108, 190, 10_000])
def test_record_with_a_wrong_length_hides_no_other(
    tmp_path: Path, length: int, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "lengths.warc.wet"
    pages = [page("a", b"one"), page("b", "ä".encode() * 50, length), page("c", b"three")]
    path.write_bytes(b"".join(map(pack, pages)))
    records = list(read_wet(str(path)))
    assert [(record.url, record.is_whole) for record in records] == [("a", True), ("b", False), ("c", True)]
    assert [record.text for record in records] == ["one", "ä" * 50, "three"]


def test_record_with_a_wrong_checksum_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "checksums.warc.wet"
    digest = "WARC-Block-Digest: sha1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\r\n"
    path.write_bytes(page("a", b"one", digest=digest) + page("b", b"two"))
    assert [record.is_whole for record in read_wet(str(path))] == [False, True]


@pytest.mark.parametrize("size", [1, 7, 100, 350])
def test_gzip_members_need_not_end_with_records(tmp_path: Path, wet_path: str, size: int) -> None:
    content = gzip.decompress(Path(wet_path).read_bytes())
    path = tmp_path / "blocks.warc.wet.gz"
    path.write_bytes(
        b"".join(gzip.compress(content[start : start + size]) for start in range(0, len(content), size))
    )
    assert list(read_wet(str(path))) == list(read_wet(wet_path))


def test_line_ends_without_carriage_return_are_read(tmp_path: Path) -> None:
    path = tmp_path / "lines.warc.wet"
    path.write_bytes((page("a", b"one") + page("b", b"two")).replace(b"\r\n", b"\n"))
    assert [record.text for record in read_wet(str(path))] == ["one", "two"]


def test_bad_utf8_becomes_replacement_characters(tmp_path: Path) -> None:
    path = tmp_path / "bad.warc.wet"
    path.write_bytes(page("a", b"caf\xe9 au lait"))
    assert list(read_wet(str(path))) == [Record("a", "caf\ufffd au lait")]
