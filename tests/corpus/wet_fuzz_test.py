"""Damaged WET files: whatever happens to the bytes, no crash, no page that was not written, sums that fit.

Each seed damages a file in one to three ways: a flipped bit, a stretch cut out, zeroed, written twice or
inserted, an end cut off, another file behind it. A quarter of the files each is packed as Common Crawl does,
packed as a whole, packed without regard to records, or not packed.
"""

from __future__ import annotations

import functools
import gzip
import io
import itertools
import os
import random
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tf_codistill.corpus.wet import Damage, Record, WetWriter, read_wet

DATA = os.environ.get("TF_CODISTILL_REAL_DATA", "")
MEMBER = re.compile(rb"(?=\x1f\x8b\x08\x00{5}[\x00\x02\x04][\x00-\xff])", re.DOTALL)
QUOTATION = (
    "About files:\r\n\r\nWARC/1.0\r\nWARC-Type: conversion\r\nContent-Length: 5\r\n\r\nhello\r\n\r\nEnd."
)
WORDS = ("a", "quick", "brown", "fox", "über", "the", "lazy", "狐", "while", "many", "birds\nsing", "songs")


@functools.cache
def written() -> bytes:
    """A small file of all kinds of pages."""
    rng = random.Random(1)
    texts = [" ".join(rng.choices(WORDS, k=size)) for size in (3, 40, 300, 30, 900, 60, 5, 120)]
    texts[3:3] = [QUOTATION, "", "\r\n\r\n", "\x00\x1b\x85 controls \ufffd"]
    path = Path(os.environ.get("TMPDIR", "/tmp"), f"wet_fuzz_{os.getpid()}.warc.wet.gz")
    with WetWriter(str(path), "pages of a test") as writer:
        for number, text in enumerate(texts):
            writer.write(f"https://example.org/{number}", text, "eng" if number % 2 else "deu,eng")
    content = path.read_bytes()
    path.unlink()
    return content


@functools.cache
def crawled() -> bytes:
    """The first members of a file of the real crawl."""
    content = Path(DATA, "crawl", "CC-EXAMPLE-20261120000000-00000.warc.wet.gz").read_bytes()
    starts = [match.start() for match in MEMBER.finditer(content, 0, 1 << 18)]
    return content[: starts[12]]


def members(content: bytes) -> list[bytes]:
    """The gzip members of an undamaged file."""
    found = []
    while content:
        inflater = zlib.decompressobj(31)
        inflater.decompress(content)
        size = len(content) - len(inflater.unused_data)
        found.append(content[:size])
        content = content[size:]
    return found


def in_shape(content: bytes, shape: str) -> bytes:
    unpacked = gzip.decompress(content)
    if shape == "one member":
        return gzip.compress(unpacked, mtime=0)
    if shape == "blocks":
        return b"".join(gzip.compress(unpacked[i : i + 999], mtime=0) for i in range(0, len(unpacked), 999))
    return unpacked if shape == "unpacked" else content


def damage(content: bytes, rng: random.Random, other: bytes) -> bytes:
    """The file with something done to it."""
    start = rng.randrange(len(content))
    end = min(len(content), start + rng.choice((1, 9, 100, 3000)))
    way = rng.randrange(7)
    if way == 0:
        flipped = bytearray(content)
        flipped[start] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    return (
        content[:start] + content[end:],
        content[:start],
        content[:end] + content[start:],
        content + other,
        content[:start] + bytes(end - start) + content[end:],
        content[:start] + rng.randbytes(end - start) + content[start:],
    )[way - 1]


def read(content: bytes) -> tuple[list[Record], list[Damage]]:
    """Everything that can be read, and what cannot; checks what holds for any file."""
    items: list[Record | Damage] = []
    sizes: list[int] = []
    try:
        for item in read_wet(io.BytesIO(content), sizes.append):
            items.append(item)
    except ValueError:
        assert not [item for item in items if isinstance(item, Record)]
    assert sum(sizes) == len(content)
    records = [item for item in items if isinstance(item, Record)]
    damages = [item for item in items if isinstance(item, Damage)]
    offsets = [item.offset for item in damages]
    assert offsets == sorted(offsets)
    assert all(0 <= offset < max(len(content), 1) for offset in offsets)
    assert all(item.num_bytes > 0 and item.kind for item in damages)
    return records, damages


def check(seed: int, source: Callable[[], bytes]) -> None:
    rng = random.Random(seed)
    shape = ("members", "one member", "blocks", "unpacked")[seed % 4]
    pages, _ = read(source())
    content = whole = in_shape(source(), shape)
    for _ in range(rng.randint(1, 3)):
        content = damage(content, rng, rng.choice((whole, whole[: len(whole) // 2]))) or b"\x00"
    records, damages = read(content)
    if shape == "unpacked":  # nothing protects an address there
        assert {record.text for record in records} <= {page.text for page in pages}
    else:
        assert {(r.url, r.text, r.language) for r in records} <= {(p.url, p.text, p.language) for p in pages}
    if shape == "members":
        intact = [member for member in members(source())[1:] if member in content]
        expected = {page for member in intact for page in read(member)[0]}
        assert expected <= set(records)
        assert damages or len(records) % len(pages) == 0 or content.count(b"\x1f\x8b\x08") != len(pages) + 1


SOURCES = [
    pytest.param(written, id="written"),
    pytest.param(
        crawled,
        id="crawled",
        marks=[
            pytest.mark.real_data,
            pytest.mark.skipif(not DATA, reason="TF_CODISTILL_REAL_DATA is not set"),
        ],
    ),
]


@pytest.mark.parametrize("source", SOURCES)
def test_undamaged_file_is_read_in_every_shape(source: Callable[[], bytes]) -> None:
    expected, damages = read(source())
    assert len(expected) == 11 + (source is written)
    for shape in ("members", "one member", "blocks", "unpacked"):
        assert read(in_shape(source(), shape)) == (expected, [])
    assert damages == []


@pytest.mark.parametrize("source", SOURCES)
def test_damaged_files(source: Callable[[], bytes]) -> None:
    for seed in range(200 if source is written else 60):
        check(seed, source)


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("first", range(1000, 4000, 500))
def test_many_damaged_files(source: Callable[[], bytes], first: int) -> None:
    for seed in range(first, first + 500):
        check(seed, source)


def test_every_flipped_bit_of_a_page_is_survived() -> None:
    first, second, third = members(written())[1:4]
    (page,), _ = read(first)
    (last,), _ = read(third)
    for byte, bit in itertools.product(range(len(second)), range(8)):
        flipped = bytearray(second)
        flipped[byte] ^= 1 << bit
        records, damages = read(first + bytes(flipped) + third)
        assert len(damages) + len(records) >= 3
        assert (records[0], records[-1]) == (page, last)
