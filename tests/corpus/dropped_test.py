"""Dropped documents: all of them are kept, by reason, the same whoever does it and however often."""

from __future__ import annotations

import dataclasses
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.toy_crawls import SETTINGS, contents, page_text, write_chain, write_crawl
from tf_codistill.corpus import pipeline
from tf_codistill.corpus.document import Document
from tf_codistill.corpus.pipeline import check, prepare
from tf_codistill.corpus.sources.json_lines import JsonLines
from tf_codistill.corpus.sources.wet_files import WetFiles
from tf_codistill.corpus.stages import reading
from tf_codistill.corpus.stages.dropped import DroppedDocuments
from tf_codistill.corpus.wet import WetWriter
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


def test_what_later_stages_drop_is_kept_by_token_shard(
    tmp_path: Path, wet_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rensa")
    settings = dataclasses.replace(SETTINGS, near_duplicates=0.8, max_tokens=9000, test_share=0.1)
    wet_files.append(write_chain(tmp_path / "crawl" / "crawl-2.warc.wet.gz"))
    wet_files.append(str(tmp_path / "crawl" / "crawl-3.warc.wet.gz"))
    with WetWriter(wet_files[-1], description="pages of a test") as writer:
        for number in range(60):  # one word of a paragraph is another
            text = page_text(number).replace("fox", "wolf", 1).replace("the dogs", "the cats", 1)
            writer.write(f"https://example.org/copies/{number}", text + " The end.", "eng")
    corpus, found = tmp_path / "corpus", tmp_path / "dropped"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_commit", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(WetFiles(wet_files), str(corpus), settings)
    counts = prepare(WetFiles(wet_files), str(corpus), settings, dropped_dir=str(found))["counts"]
    late = {"contaminated", "duplicate", "near_duplicate", "over_max_tokens"}
    assert late | set(REASONS) == counts["dropped"].keys()
    kept_rows = {
        reason: [row for path in (found / reason).iterdir() for row in rows(path)]
        for reason in counts["dropped"]
    }
    assert {reason: len(one) for reason, one in kept_rows.items()} == counts["dropped"]
    assert all(row["reason"] == reason for reason, one in kept_rows.items() for row in one)
    assert {path.name.partition("-")[0] for reason in late for path in (found / reason).iterdir()} <= {
        "train",
        "validation",
        "test",
    }
    (row,) = [row for row in kept_rows["duplicate"] if row["url"].endswith("chain/1")]
    assert (row["text"].count("Paragraph"), row["numbers"], row["wet_file"]) == (
        2,
        [2, 3],
        "crawl-2.warc.wet.gz",
    )
    assert prepare(WetFiles(wet_files), str(corpus), settings, dropped_dir=str(found))
    shutil.rmtree(found / "contaminated")
    with pytest.raises(
        ValueError, match="nothing of what was dropped of the corpus as contaminated, and so on for 1 "
    ):
        check(WetFiles(wet_files), str(corpus), settings, dropped_dir=str(found))


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
