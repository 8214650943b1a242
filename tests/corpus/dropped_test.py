"""Dropped documents: all of them are kept, by reason, the same whoever does it and however often."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.toy_crawls import SETTINGS, contents, page_text, write_crawl
from tf_codistill.corpus.document import Document
from tf_codistill.corpus.pipeline import check, prepare
from tf_codistill.corpus.sources.json_lines import JsonLines
from tf_codistill.corpus.sources.wet_files import WetFiles
from tf_codistill.corpus.stages import reading
from tf_codistill.corpus.stages.dropped import DroppedDocuments
from tf_codistill.jobs.engines import Local

REASONS = ["link_list", "no_long_paragraphs", "other_language"]
NAMES = ["crawl-0.warc.wet.gz", "crawl-1.warc.wet.gz"]


@pytest.fixture
def wet_files(tmp_path: Path) -> list[str]:
    return write_crawl(tmp_path / "crawl")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def kept(directory: Path) -> dict[str, bytes]:
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in directory.rglob("*.gz")}


def test_what_is_dropped_is_kept_by_reason_whoever_reads_it(
    tmp_path: Path, wet_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading.ReadStage, "units_per_process", 1)
    found = tmp_path / "dropped"
    counts = prepare(WetFiles(wet_files), str(tmp_path / "corpus"), SETTINGS, dropped_dir=str(found))[
        "counts"
    ]
    assert sorted(kept(found)) == [f"{reason}/{name}.jsonl.gz" for reason in REASONS for name in NAMES]
    assert counts["dropped"] == {
        reason: sum(len(rows(found / reason / f"{name}.jsonl.gz")) for name in NAMES) for reason in REASONS
    }
    assert rows(found / "link_list" / f"{NAMES[1]}.jsonl.gz") == [
        {
            "reason": "link_list",
            "url": "https://example.org/links/1",
            "language": "eng",
            "numbers": list(range(30 * 3 + 3, 30 * 3 + 3 + 60)),
            "wet_file": NAMES[1],
            "text": "\n".join(["Home", "Next", "Contact 3"] * 20),
        }
    ]
    prepare(
        WetFiles(wet_files[::-1]),
        str(tmp_path / "two"),
        SETTINGS,
        Local(2),
        dropped_dir=str(tmp_path / "again"),
    )
    assert kept(tmp_path / "again") == kept(found)
    assert contents(tmp_path / "two") == contents(tmp_path / "corpus")


def test_files_are_read_again_for_what_was_not_kept(
    tmp_path: Path, wet_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    do = reading.ReadStage.do
    monkeypatch.setattr(
        reading.ReadStage, "do", lambda stage, task, advance: read.append(task) or do(stage, task, advance)
    )
    corpus, found = str(tmp_path / "corpus"), tmp_path / "dropped"
    too_many = dataclasses.replace(SETTINGS, num_pieces=20_000)
    for directory in (None, str(found), str(found), None):
        with pytest.raises(ValueError, match="num_pieces"):
            prepare(WetFiles(wet_files), corpus, too_many, dropped_dir=directory)
    assert read == NAMES * 2
    (found / "link_list" / f"{NAMES[0]}.jsonl.gz").unlink()
    prepare(WetFiles(wet_files), corpus, SETTINGS, dropped_dir=str(found))
    assert read == [*NAMES * 2, NAMES[0]]
    assert len(kept(found)) == 6
    # A finished corpus reads nothing.
    for call in (prepare, check):
        assert call(WetFiles(wet_files), corpus, SETTINGS, dropped_dir=str(found))
        with pytest.raises(ValueError, match=r"dropped_dir '.*none' would get nothing .* '.*-0\.warc\.wet"):
            call(WetFiles(wet_files), corpus, SETTINGS, dropped_dir=str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_a_finished_corpus_of_any_source_is_asked_for_what_it_dropped(tmp_path: Path) -> None:
    texts = [*(page_text(number) for number in range(60)), "One short sentence."]
    path = tmp_path / "pages.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source, corpus = JsonLines([str(path)]), str(tmp_path / "corpus")
    prepare(source, corpus, SETTINGS)
    with pytest.raises(ValueError, match=r"dropped_dir '.*dropped' would get nothing .* 'pages\.jsonl'"):
        prepare(source, corpus, SETTINGS, dropped_dir=str(tmp_path / "dropped"))


def test_nothing_is_kept_of_a_file_that_is_not_read_to_its_end(tmp_path: Path, wet_files: list[str]) -> None:
    stage = reading.ReadStage(
        str(tmp_path),
        SETTINGS,
        WetFiles([str(tmp_path / "gone")]),
        {"gone": 0},
        dropped_dir=str(tmp_path / "dropped"),
    )
    stage("gone", lambda number: None)
    with DroppedDocuments(str(tmp_path / "dropped"), NAMES[0], str(tmp_path)) as dropped:
        dropped.add(Document.of_text("Home"), "links")
    assert not (tmp_path / "dropped").exists()


def test_a_reason_is_never_a_place_elsewhere(tmp_path: Path) -> None:
    document = Document.of_text("A line with half a \ud800 pair.")
    with DroppedDocuments(str(tmp_path / "dropped"), NAMES[0], str(tmp_path)) as dropped:
        dropped.add(document, "../../score < 0.5")
        dropped.write()
    assert [path.parent for path in tmp_path.rglob("*.gz")] == [
        tmp_path / "dropped" / "%2E%2E%2F%2E%2E%2Fscore %3C 0%2E5"
    ]
