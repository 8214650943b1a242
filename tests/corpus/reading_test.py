"""Stage 1: every page is judged, numbered and counted; a file that cannot be read fails alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.toy_crawls import SETTINGS, page_text, write_crawl
from tf_codistill.corpus.document import Document
from tf_codistill.corpus.sources.wet_files import WetFiles
from tf_codistill.corpus.stages import partitioned, reading
from tf_codistill.corpus.stages.reading import ReadStage, read_documents
from tf_codistill.corpus.wet import WetWriter
from tf_codistill.jobs import stages
from tf_codistill.jobs.engines import Local


def read_stage(directory: Path, paths: list[str], quarantine_dir: str | None = None) -> ReadStage:
    source = WetFiles(paths)
    return ReadStage(str(directory), SETTINGS, source, dict.fromkeys(source.parts(), 0), quarantine_dir)


def kept_documents(path: str, first: int, last: int | None = None) -> dict[bytes, Document]:
    """The documents in stretches of a file, by key."""
    wet_file = Path(path).name.removesuffix(reading.DOCUMENTS)
    return {
        bytes.fromhex(content[: partitioned.KEY_DIGITS].decode()): partitioned.unpack(content, wet_file)
        for content in partitioned.split([partitioned.read(path, first, last)])
    }


def test_each_page_comes_with_its_verdict(tmp_path: Path) -> None:
    (path,) = write_crawl(tmp_path, num_files=1, num_good=2)
    found = list(read_documents(WetFiles([path]), SETTINGS))
    assert [document.url.split("/")[3] for document, _ in found] == ["0", "1", "foreign", "links", "short"]
    assert [v for _, v in found[2:]] == ["other_language", "link_list", "no_long_paragraphs"]
    verdict = found[1][1]
    assert isinstance(verdict, Document)
    assert verdict.paragraphs == tuple(page_text(1).split("\n")[1:])


def test_numbers_go_on_from_page_to_page(tmp_path: Path) -> None:
    path = str(tmp_path / "crawl.warc.wet.gz")
    texts = ["one\n\ntwo\n", "", "\n", "three", "four\r\nfive\n\n"]
    with WetWriter(path, description="pages of a test") as writer:
        for number, text in enumerate(texts):
            writer.write(f"https://example.org/{number}", text, "eng")
    found = [document for document, _ in read_documents(WetFiles([path]), SETTINGS)]
    assert [document.numbers for document in found] == [(0, 2), (), (), (4,), (5, 6)]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    assert {lines[n]: p for d in found for n, p in zip(d.numbers, d.paragraphs, strict=True)} == {
        word: word for word in ("one", "two", "three", "four", "five")
    }


def test_documents_are_sorted_by_shard_and_key(tmp_path: Path) -> None:
    (path,) = write_crawl(tmp_path, num_files=1)
    stage = read_stage(tmp_path / "read", [path])
    (facts,) = stages.run(stage, Local(1)).values()
    content = Path(path).read_bytes()
    assert facts["bytes"] == len(content)
    assert facts["sha256"] == hashlib.sha256(content).hexdigest()
    assert facts["train"] + facts["validation"] == facts["counts"]["passed"] == 60
    documents_file = stage.path("crawl-0.warc.wet.gz", reading.DOCUMENTS)
    expected = {
        reading.document_key(document): verdict
        for document, verdict in read_documents(WetFiles([path]), SETTINGS)
        if isinstance(verdict, Document)
    }
    parts = [kept_documents(documents_file, part) for part in range(4)]
    assert len(parts[3]) == facts["validation"]
    for part, found in enumerate(parts):
        assert list(found) == sorted(found)
        assert {SETTINGS.part(key) for key in found} == {part}
    assert {key: document for found in parts for key, document in found.items()} == expected


def test_the_key_does_not_depend_on_the_filters(tmp_path: Path) -> None:
    (path,) = write_crawl(tmp_path, num_files=1, num_good=1)
    document, verdict = next(read_documents(WetFiles([path]), SETTINGS))
    assert isinstance(verdict, Document)
    assert document.paragraphs != verdict.paragraphs
    stage = read_stage(tmp_path / "read", [path])
    stages.run(stage, Local(1))
    found = kept_documents(stage.path("crawl-0.warc.wet.gz", reading.DOCUMENTS), 0, 4)
    assert found == {reading.document_key(document): verdict}


def test_a_file_that_cannot_be_read_fails_alone(tmp_path: Path) -> None:
    paths = write_crawl(tmp_path, num_files=3)
    content = Path(paths[1]).read_bytes()
    Path(paths[1]).write_bytes(b"no WET file at all")
    stage = read_stage(tmp_path / "read", paths)
    facts = stage.run(Local(1))
    assert set(facts) == {"crawl-0.warc.wet.gz", "crawl-2.warc.wet.gz"}
    failures = stage.failures(facts)
    assert set(failures) == {"crawl-1.warc.wet.gz"}
    assert paths[1] in failures["crawl-1.warc.wet.gz"]
    Path(paths[1]).write_bytes(content)
    assert len(stage.run(Local(1))) == 3


def test_damage_is_counted_and_kept(tmp_path: Path) -> None:
    (path,) = write_crawl(tmp_path, num_files=1)
    content = bytearray(Path(path).read_bytes())
    content[len(content) // 2] ^= 0xFF
    Path(path).write_bytes(content)
    stage = read_stage(tmp_path / "read", [path], quarantine_dir=str(tmp_path / "quarantine"))
    (facts,) = stages.run(stage, Local(1)).values()
    counts = facts["counts"]
    num_unreadable = sum(counts["unreadable"].values())
    assert num_unreadable >= 1
    assert counts["read"] == counts["passed"] + sum(counts["dropped"].values()) + num_unreadable
    rows = (tmp_path / "quarantine" / "crawl-0.warc.wet.gz.jsonl").read_text().splitlines()
    assert len(rows) == num_unreadable


def test_errors_of_writing_are_no_fault_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    (path,) = write_crawl(tmp_path, num_files=1)
    monkeypatch.setattr(partitioned, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        stages.run(read_stage(tmp_path / "read", [path]), Local(1))
