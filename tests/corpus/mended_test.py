"""WET files that changed, but not in size: read again, or told where the corpus is finished."""

from __future__ import annotations

import dataclasses
import gzip
import os
from pathlib import Path

import pytest

from tests.toy_crawls import SETTINGS, contents, page_text, write_crawl
from tf_codistill import files
from tf_codistill.corpus.finished import Finished
from tf_codistill.corpus.pipeline import prepare
from tf_codistill.corpus.sources.wet_files import WetFiles
from tf_codistill.corpus.stages.reading import ReadStage
from tf_codistill.corpus.wet import WetWriter

TOO_MANY = dataclasses.replace(SETTINGS, num_pieces=20_000)  # which is told once all files are read


@pytest.fixture
def wet_files(tmp_path: Path) -> list[str]:
    """Three files, the last of which is not packed, so that pages of one length give files of one size."""
    paths = write_crawl(tmp_path / "crawl")
    return [*paths, replace(tmp_path / "crawl" / "crawl-9.warc.wet", page_text(900))]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read."""
    read: list[str] = []
    do = ReadStage.do
    monkeypatch.setattr(
        ReadStage, "do", lambda stage, task, advance: read.append(task) or do(stage, task, advance)
    )
    return read


@pytest.fixture
def summed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the WET files whose checksums are asked for."""
    summed: list[str] = []
    checksum = files.checksum

    def noted(path: str) -> str:
        if ".wet" in path:
            summed.append(os.path.basename(path))
        return checksum(path)

    monkeypatch.setattr(files, "checksum", noted)
    return summed


def replace(path: Path, text: str) -> str:
    """Writes a file of one page."""
    with WetWriter(str(path), description="one page") as writer:
        writer.write("https://example.org/nine", text, "eng")
    path.write_bytes(gzip.decompress(path.read_bytes()))
    return str(path)


def mend(path: str) -> None:
    """Another page in place of the one that is there, of the same length, and at another time."""
    before = os.stat(path)
    replace(Path(path), page_text(900).replace("quick", "quiet"))
    assert os.path.getsize(path) == before.st_size
    move_time(path, before.st_mtime + 100)


def move_time(path: str, secs: float) -> None:
    os.utime(path, (secs, secs))


@pytest.mark.parametrize("scheme", ["", "file://"], ids=["local", "as on other storage"])
def test_a_file_that_was_mended_is_read_again_by_whoever_goes_on(
    tmp_path: Path, wet_files: list[str], read: list[str], summed: list[str], scheme: str
) -> None:
    sources = [scheme + path for path in wet_files]
    for _ in range(2):
        with pytest.raises(ValueError, match="num_pieces"):
            prepare(WetFiles(sources), str(tmp_path / "corpus"), TOO_MANY)
    assert len(read) == 3
    assert summed == [], "their times are what they were"
    mend(wet_files[-1])
    prepare(WetFiles(sources), str(tmp_path / "corpus"), SETTINGS)
    assert read[3:] == summed == ["crawl-9.warc.wet"]
    prepare(WetFiles(sources), str(tmp_path / "fresh"), SETTINGS)
    assert contents(tmp_path / "corpus") == contents(tmp_path / "fresh")


def test_a_file_that_was_only_touched_is_summed_up_once(
    tmp_path: Path, wet_files: list[str], read: list[str], summed: list[str]
) -> None:
    with pytest.raises(ValueError, match="num_pieces"):
        prepare(WetFiles(wet_files), str(tmp_path / "corpus"), TOO_MANY)
    move_time(wet_files[0], 1e9)
    for _ in range(2):
        with pytest.raises(ValueError, match="num_pieces"):
            prepare(WetFiles(wet_files), str(tmp_path / "corpus"), TOO_MANY)
    assert len(read) == 3
    assert summed == ["crawl-0.warc.wet.gz"]


def test_a_finished_corpus_is_told_from_one_of_mended_files(
    tmp_path: Path, wet_files: list[str], summed: list[str]
) -> None:
    corpus = str(tmp_path / "corpus")
    for path in wet_files:
        move_time(path, 1e9)
    mark = prepare(WetFiles(wet_files), corpus, SETTINGS)
    before = contents(corpus)
    assert prepare(WetFiles(wet_files), corpus, SETTINGS) == mark
    assert summed == [], "they are older than the corpus"
    in_an_hour = os.stat(tmp_path / "corpus" / files.MANIFEST).st_mtime + 3600
    move_time(wet_files[0], in_an_hour)
    assert prepare(WetFiles(wet_files), corpus, SETTINGS) == mark
    assert summed == ["crawl-0.warc.wet.gz"]
    mend(wet_files[-1])
    move_time(wet_files[-1], in_an_hour)
    with pytest.raises(
        ValueError, match="other WET files: WET file '.*crawl-9.warc.wet' has another size or checksum now"
    ):
        prepare(WetFiles(wet_files), corpus, SETTINGS)
    Path(wet_files[-1]).write_bytes(b"")
    with pytest.raises(ValueError, match="crawl-9.warc.wet' has another size"):
        prepare(WetFiles(wet_files), corpus, SETTINGS)
    assert contents(corpus) == before


@pytest.mark.parametrize("damage", ["member", "all"])
def test_a_finished_corpus_is_told_from_one_of_damaged_files_fetched_anew_with_their_times(
    tmp_path: Path, wet_files: list[str], damage: str
) -> None:
    whole = Path(wet_files[1]).read_bytes()
    half = len(whole) // 2
    broken = whole[:half] + bytes(64) + whole[half + 64 :]
    Path(wet_files[1]).write_bytes(broken if damage == "member" else bytes(len(whole)))
    move_time(wet_files[1], 1e9)
    settings = dataclasses.replace(SETTINGS, max_unreadable_share=0.5)
    mark = prepare(WetFiles(wet_files), str(tmp_path / "corpus"), settings)
    assert mark["counts"]["unreadable"] or mark["counts"]["unreadable_files"]
    assert prepare(WetFiles(wet_files), str(tmp_path / "corpus"), settings) == mark
    Path(wet_files[1]).write_bytes(whole)
    move_time(wet_files[1], 1e9)
    with pytest.raises(ValueError, match="'.*crawl-1.warc.wet.gz' has another size or checksum now"):
        prepare(WetFiles(wet_files), str(tmp_path / "corpus"), settings)


def test_a_corpus_that_never_noted_the_checksum_of_what_could_not_be_read_is_taken_as_it_is(
    tmp_path: Path,
) -> None:
    (tmp_path / files.MANIFEST).write_text("{}")
    (tmp_path / "a.wet").write_bytes(b"noise")
    record = {"wet_files": {"a.wet": {"bytes": 5, "unreadable": "all of it"}}}
    Finished(str(tmp_path), {}, record).mark_of(WetFiles([str(tmp_path / "a.wet")]), {"a.wet": 5})
