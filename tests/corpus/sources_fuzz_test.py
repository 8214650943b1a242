"""Damaged JSON lines and Parquet files: no crash, no document that was not written, sums that fit.

Each seed damages a file in one to three ways, as `wet_fuzz_test` does to WET files. A third of the files of
JSON lines each is packed by gzip, by Zstandard with checksums, or not; Parquet has checksums of its pages. In
JSON lines that are not packed nothing protects the text: there lines that no damage touched have to be read.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from tests.corpus.wet_fuzz_test import WORDS, damage
from tests.toy_crawls import SETTINGS
from tests.toy_sources import PACKING, table
from tf_codistill.corpus.document import Record
from tf_codistill.corpus.paragraph_ids.selection import Selected
from tf_codistill.corpus.sources.base import Reading, UnreadableError
from tf_codistill.corpus.sources.file_source import Files
from tf_codistill.corpus.sources.json_lines import JsonLines
from tf_codistill.corpus.sources.parquet import Parquet
from tf_codistill.corpus.stages.reading import ReadStage, judge_pages
from tf_codistill.jobs.engines import Local
from tf_codistill.jobs.quarantine import Damage

ENDINGS = tuple(PACKING)
KEEP_ALL = dataclasses.replace(SETTINGS, filters=(), unwrap=False, duplicates="none")


@functools.cache
def pages() -> dict[str, str]:
    rng = random.Random(1)
    texts = [" ".join(rng.choices(WORDS, k=size)) for size in (3, 40, 300, 30, 900, 60, 5, 120) * 2]
    texts[3:3] = ["", "\r\n\r\n", '{"text": "quoted"}\n{"text": "twice"}', "\x00\x1b\x85 controls \ufffd"]
    return {f"https://example.org/{number}": text for number, text in enumerate(texts)}


def lines_of(ending: str) -> bytes:
    """Some lines in each member or frame."""
    rows = [json.dumps({"url": url, "text": text}).encode() + b"\n" for url, text in pages().items()]
    return b"".join(PACKING[ending](b"".join(rows[at : at + 3])) for at in range(0, len(rows), 3))


def rows_of(compression: str) -> bytes:
    file = io.BytesIO()
    parquet.write_table(
        table(pages()), file, row_group_size=3, write_page_checksum=True, compression=compression
    )
    return file.getvalue()


def written(form: str, seed: int) -> tuple[bytes, Files, bool]:
    """A file, a source of it, and whether all its bytes are protected by checksums."""
    if form == "JSON lines":
        ending = ENDINGS[seed % len(ENDINGS)]
        return lines_of(ending), JsonLines([f"pages.jsonl{ending}"]), bool(ending)
    return rows_of(("none", "snappy", "zstd")[seed % 3]), Parquet(["pages.parquet"]), True


def read(source: Files) -> tuple[list[Record], list[Damage]]:
    """All that can be read, and what cannot; checks what holds for any file."""
    (path,) = source.files
    items: list[Record | Damage] = []
    sizes: list[int] = []
    with Reading(sizes.append) as reading:
        try:
            items += reading.of(source, Path(path).name)
        except UnreadableError:
            assert not any(isinstance(item, Record) for item in items)
        else:
            assert sum(sizes) == os.path.getsize(path) == reading.facts()["bytes"]
    records = [item for item in items if isinstance(item, Record)]
    damages = [item for item in items if isinstance(item, Damage)]
    offsets = [item.offset for item in damages]
    assert offsets == sorted(offsets)
    assert all(item.num_bytes > 0 and item.kind and item.offset >= 0 for item in damages)
    return records, damages


def check(form: str, seed: int, directory: Path) -> None:
    rng = random.Random(seed)
    content, source, is_protected = written(form, seed)
    whole = content
    for _ in range(rng.randint(1, 3)):
        content = damage(content, rng, rng.choice((whole, whole[: len(whole) // 2]))) or b"\x00"
    source = dataclasses.replace(source, files=[str(directory / source.files[0])])
    Path(source.files[0]).write_bytes(content)
    records, damages = read(source)
    if is_protected:
        assert {one.text for one in records} <= set(pages().values()), "nothing is invented"
    else:
        intact = {line for line in whole.splitlines() if b"\n" + line + b"\n" in b"\n" + content}
        assert {json.loads(line)["text"] for line in intact} <= {one.text for one in records}
        assert len(records) + len(damages) <= content.count(b"\n") + 1
    check_counts(source, records, damages, directory / f"read-{seed}")
    check_list(source, bool(damages))


def check_counts(source: Files, records: list[Record], damages: list[Damage], directory: Path) -> None:
    stage = ReadStage(str(directory), KEEP_ALL, source, source.parts())
    for facts in stage.run(Local(1)).values():
        counts = facts["counts"]
        assert counts["read"] == len(records) + len(damages)
        assert counts["passed"] + sum(counts["dropped"].values()) == len(records)
        assert sum(counts["unreadable"].values()) == len(damages)


def check_list(source: Files, is_damaged: bool) -> None:
    """Under a list whatever is damaged fails; of what is whole there are the documents that are listed."""
    (part,) = source.parts()
    judged = functools.partial(judge_pages, settings=KEEP_ALL, part=part)
    with Reading() as reading:
        try:
            found = [page.document for page in judged(reading.of(source, part))]
        except UnreadableError:
            return
    listed = found[::2]
    numbers = np.array([number for one in listed for number in one.numbers], np.uint32)
    with Reading() as reading:
        again = judged(reading.of(source, part), selected=Selected(part, numbers))
        if is_damaged:
            with pytest.raises(UnreadableError, match="is damaged"):
                list(again)
        else:
            kept = [page.verdict for page in again if page.verdict != "not_selected"]
            assert kept == [one for one in listed if one.numbers]


FORMS = ["JSON lines", "Parquet"]


@pytest.mark.parametrize("form", FORMS)
def test_undamaged_files_are_read(form: str, tmp_path: Path) -> None:
    for seed in range(3):
        content, source, _ = written(form, seed)
        source = dataclasses.replace(source, files=[str(tmp_path / source.files[0])])
        Path(source.files[0]).write_bytes(content)
        records, damages = read(source)
        assert {one.url: one.text for one in records} == pages()
        assert damages == []


@pytest.mark.parametrize("form", FORMS)
def test_damaged_files(form: str, tmp_path: Path) -> None:
    for seed in range(200):
        check(form, seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("first", range(1000, 4000, 500))
def test_many_damaged_files(form: str, first: int, tmp_path: Path) -> None:
    for seed in range(first, first + 500):
        check(form, seed, tmp_path)


def test_a_flipped_bit_anywhere_costs_what_it_touches(tmp_path: Path) -> None:
    content = lines_of(".gz")
    source = JsonLines([str(tmp_path / "pages.jsonl.gz")])
    check_each: Callable[[int], None] = functools.partial(_flip, content, source)
    for at in range(0, len(content), 7):
        check_each(at)


def _flip(content: bytes, source: Files, at: int) -> None:
    flipped = bytearray(content)
    flipped[at] ^= 1 << at % 8
    Path(source.files[0]).write_bytes(bytes(flipped))
    records, _ = read(source)
    assert len(records) >= len(pages()) - 3
    assert {(one.url, one.text) for one in records} <= pages().items()
