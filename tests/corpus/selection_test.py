"""Selections: a list written with a corpus rebuilds it, and one that does not fit is told."""

from __future__ import annotations

import dataclasses
import gzip
import logging
import re
from pathlib import Path

import numpy as np
import pytest

from tests.toy_crawls import SETTINGS, contents, page_text, write_crawl
from tf_codistill import files, tokens
from tf_codistill.corpus import pipeline
from tf_codistill.corpus.document import Document
from tf_codistill.corpus.paragraph_ids import lists, selection
from tf_codistill.corpus.paragraph_ids.selection import Selected, Selection
from tf_codistill.corpus.pipeline import prepare
from tf_codistill.corpus.report.counts import summary
from tf_codistill.corpus.sources.wet_files import WetFiles
from tf_codistill.corpus.stages import listing
from tf_codistill.corpus.wet import WetWriter, read_wet
from tf_codistill.jobs import engines

HEADER = "file name,encoded_paragraph_list\n"
ANOTHER_PAGE = "https://example.org/another"


@pytest.fixture
def wet_files(tmp_path: Path) -> list[str]:
    """A crawl in which a page is there twice, and another is half the same."""
    paths = write_crawl(tmp_path / "crawl", num_files=3)
    with WetWriter(str(tmp_path / "crawl" / "crawl-9.warc.wet.gz"), description="repeats") as writer:
        writer.write("https://example.org/copy", page_text(1), "eng")
        writer.write(ANOTHER_PAGE, "\n\n" + page_text(2) + "\n" + page_text(1000), "eng")
    return [*paths, str(tmp_path / "crawl" / "crawl-9.warc.wet.gz")]


def rebuilt(directory: Path) -> dict[str, bytes]:
    """What a list says of a corpus: not how it came to be, which is in the manifest and the preparation."""
    return {name: content for name, content in contents(directory).items() if not name.endswith(".json")}


def write_list(path: Path, rows: str) -> Selection:
    path.write_text(HEADER + rows)
    return Selection.open(str(path))


def test_a_list_names_what_is_in_the_corpus(tmp_path: Path, wet_files: list[str]) -> None:
    mark = prepare(WetFiles(wet_files), str(tmp_path / "corpus"), SETTINGS)
    assert mark["counts"]["dropped"]["duplicate"] == 1
    listed = dict(lists.read(str(tmp_path / "corpus" / listing.LIST)))
    assert list(listed) == [Path(path).name for path in wet_files]
    lines = [line for record in read_wet(wet_files[3]) for line in record.text.split("\n")]
    assert [lines[number] for number in listed["crawl-9.warc.wet.gz"]] == page_text(1000).split("\n")[1:]
    pages = [record.text for record in read_wet(wet_files[0])]
    lines = [line for text in pages for line in text.split("\n")[: text.count("\n") + (text[-1] != "\n")]]
    kept = [line for text in pages[:-3] for line in text.split("\n")[1:]]
    assert [lines[number] for number in listed["crawl-0.warc.wet.gz"]] == kept
    assert lists.check(str(tmp_path / "corpus" / listing.LIST))


def test_a_list_rebuilds_the_corpus(tmp_path: Path, wet_files: list[str]) -> None:
    prepare(WetFiles(wet_files), str(tmp_path / "corpus"), SETTINGS)
    listed = Selection.open(str(tmp_path / "corpus" / listing.LIST))
    # Neither filters nor the search for duplicates have any say.
    settings = dataclasses.replace(SETTINGS, filters=[lambda document: "nothing_pleases"])
    mark = prepare(
        WetFiles(wet_files[::-1]), str(tmp_path / "rebuilt"), settings, engines.Local(2), paragraph_ids=listed
    )
    assert rebuilt(tmp_path / "rebuilt") == rebuilt(tmp_path / "corpus")
    counts = mark["counts"]
    assert counts["dropped"] == {"not_selected": 3 * 3 + 1}
    assert counts["read"] == counts["kept"] + 10
    preparation = files.read_json(str(tmp_path / "rebuilt" / "preparation.json"))
    assert (preparation["filters"], preparation["duplicates"]) == ([], "none")
    assert preparation["paragraph_ids"] == listed.sha256
    assert prepare(WetFiles(wet_files), str(tmp_path / "rebuilt"), settings, paragraph_ids=listed) == mark
    with pytest.raises(ValueError, match="prepared with"):
        prepare(WetFiles(wet_files), str(tmp_path / "rebuilt"), SETTINGS)


def test_a_list_rebuilds_a_corpus_of_some_tokens(tmp_path: Path, wet_files: list[str]) -> None:
    settings = dataclasses.replace(SETTINGS, max_tokens=3000, max_validation_tokens=900)
    assert prepare(WetFiles(wet_files), str(tmp_path / "corpus"), settings)["counts"]["dropped"][
        "over_max_tokens"
    ]
    listed = Selection.open(str(tmp_path / "corpus" / listing.LIST))
    tokenizer = str(tmp_path / "corpus" / tokens.TOKENIZER)
    prepare(
        WetFiles(wet_files), str(tmp_path / "rebuilt"), settings, tokenizer=tokenizer, paragraph_ids=listed
    )
    assert rebuilt(tmp_path / "rebuilt") == rebuilt(tmp_path / "corpus")


def test_a_file_that_cannot_be_read_has_an_empty_row(
    tmp_path: Path, wet_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(wet_files[1]).write_bytes(b"no WET file")
    settings = dataclasses.replace(SETTINGS, max_unreadable_share=0.5)
    prepare(WetFiles(wet_files), str(tmp_path / "corpus"), settings)
    path = str(tmp_path / "corpus" / listing.LIST)
    listed = dict(lists.read(path))
    assert list(listed) == [Path(name).name for name in wet_files]
    assert [bool(numbers.size) for numbers in listed.values()] == [True, False, True, True]
    prepare(WetFiles(wet_files), str(tmp_path / "rebuilt"), settings, paragraph_ids=Selection.open(path))
    assert rebuilt(tmp_path / "rebuilt") == rebuilt(tmp_path / "corpus")

    # Whoever is stopped at the end, and goes on without that file, does not mix up the others.
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_commit", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(WetFiles(wet_files), str(tmp_path / "stopped"), settings)
    prepare(WetFiles([wet_files[0], *wet_files[2:]]), str(tmp_path / "stopped"), settings)
    left = dict(lists.read(str(tmp_path / "stopped" / listing.LIST)))
    assert left.keys() == listed.keys() - {Path(wet_files[1]).name}
    assert all(np.array_equal(numbers, listed[name]) for name, numbers in left.items())


def test_unpacked_wet_files_are_known_by_the_same_name(tmp_path: Path, wet_files: list[str]) -> None:
    prepare(WetFiles(wet_files), str(tmp_path / "corpus"), SETTINGS)
    plain = [path.removesuffix(".gz") for path in wet_files]
    for path, name in zip(wet_files, plain, strict=True):
        Path(name).write_bytes(gzip.decompress(Path(path).read_bytes()))
    listed = Selection.open(str(tmp_path / "corpus" / listing.LIST))
    prepare(WetFiles(plain), str(tmp_path / "rebuilt"), SETTINGS, paragraph_ids=listed)
    ours, theirs = rebuilt(tmp_path / "rebuilt"), rebuilt(tmp_path / "corpus")
    assert {name: ours[name] for name in ours if name.endswith((".tokens", ".model"))} == {
        name: theirs[name] for name in theirs if name.endswith((".tokens", ".model"))
    }


def test_listed_files_that_are_not_given_are_counted(
    tmp_path: Path, wet_files: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    prepare(WetFiles(wet_files), str(tmp_path / "corpus"), SETTINGS)
    listed = Selection.open(str(tmp_path / "corpus" / listing.LIST))
    with caplog.at_level(logging.WARNING, "absl"):
        mark = prepare(WetFiles(wet_files[:1]), str(tmp_path / "part"), SETTINGS, paragraph_ids=listed)
    assert mark["counts"]["wet_files_not_given"] == 3
    assert (
        "3 files or other parts not given: crawl-1.warc.wet.gz, crawl-2.warc.wet.gz, crawl-9" in caplog.text
    )
    assert "listed but were not given: 3" in summary(mark, "part", SETTINGS)
    assert "wet_files_not_given" not in files.read_manifest(str(tmp_path / "corpus"))["counts"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("crawl-0.warc.wet.gz,1 99999\n", "number 100000 of 'crawl-0.warc.wet.gz' does not exist"),
        ("crawl-0.warc.wet.gz,1 -1\n", "WET file 'crawl-0.warc.wet.gz': difference -1"),
        ("crawl-1.warc.wet.gz,1\n", "'crawl-0.warc.wet.gz' is not in the list"),
        ("crawl-0.warc.wet.gz,1\ncrawl-0.warc.wet,2\n", "names 'crawl-0.warc.wet' twice"),
    ],
)
def test_a_list_that_does_not_fit_is_told(
    tmp_path: Path, wet_files: list[str], rows: str, message: str
) -> None:
    listed = write_list(tmp_path / "list.csv", rows)
    with pytest.raises(ValueError, match=message):
        prepare(WetFiles(wet_files[:1]), str(tmp_path / "corpus"), SETTINGS, paragraph_ids=listed)
    assert files.read_manifest(str(tmp_path / "corpus")) is None


def test_a_listed_file_that_the_crawl_does_not_have_is_told(tmp_path: Path, wet_files: list[str]) -> None:
    paths = tmp_path / "wet.paths"
    paths.write_text("crawl-data/crawl-0.warc.wet.gz\ncrawl-data/crawl-1.warc.wet.gz\n")
    rows = "crawl-0.warc.wet.gz,1 1\ncrawl-1.warc.wet.gz,1\n"
    listed = dataclasses.replace(write_list(tmp_path / "list.csv", rows), crawl=str(paths))
    listed.unpack(str(tmp_path / "listed"), ["crawl-0.warc.wet.gz"])
    assert selection.num_others(str(tmp_path / "listed")) == 1
    (tmp_path / "list.csv").unlink()  # what is unpacked is not read again
    listed.unpack(str(tmp_path / "listed"), ["crawl-0.warc.wet.gz"])
    listed = write_list(tmp_path / "list.csv", f"{rows}elsewhere.warc.wet.gz,1\n")
    listed = dataclasses.replace(listed, crawl=str(paths))
    with pytest.raises(
        ValueError, match=r"names 'elsewhere\.warc\.wet\.gz', which crawl '.*paths' does not have"
    ):
        prepare(WetFiles(wet_files[:1]), str(tmp_path / "corpus"), SETTINGS, paragraph_ids=listed)


def test_a_list_with_a_wrong_checksum_is_told(tmp_path: Path, wet_files: list[str]) -> None:
    prepare(WetFiles(wet_files), str(tmp_path / "corpus"), SETTINGS)
    path = tmp_path / "corpus" / listing.LIST
    path.write_text(path.read_text().replace(" 1 ", " 2 ", 1))
    with pytest.raises(ValueError, match=r"paragraph_ids\.csv' is damaged or another one: its SHA-256 is"):
        Selection.open(str(path))


def test_blank_lines_and_lines_beyond_the_end_are_told() -> None:
    pages = [Document.of_text("one\n\nthree", first=0), Document.of_text("\n", first=3)]
    pages.append(Document.of_text("five\n\n", first=4))

    def select(*listed: int) -> list[object]:
        selected = Selected("a.warc.wet.gz", np.array(listed, np.uint32))
        found = [selected(page) for page in pages]
        selected.check_end(6)
        return [page if isinstance(page, str) else page.numbers for page in found]

    assert select(0, 2, 4) == [(0, 2), "not_selected", (4,)]
    assert select(2) == [(2,), "not_selected", "not_selected"]
    assert select() == ["not_selected"] * 3
    for listed, message in (
        ((0, 1), "number 1 of 'a.warc.wet.gz' is a blank line"),
        ((3, 4), "number 3 .* is a blank line"),
        ((5,), "number 5 .* is a blank line"),
        ((4, 6), "number 6 .* does not exist: it has 6"),
    ):
        with pytest.raises(ValueError, match=message):
            select(*listed)


def damaged(content: bytes, way: str) -> bytes:
    middle = content.index(b"\x1f\x8b\x08", len(content) // 2)  # where a page begins
    return {
        "bits": content[: middle - 50] + bytes(9) + content[middle - 41 :],
        "end": content[: middle - 50],
        "noise": content[:middle] + b"between two pages" + content[middle:],  # no page is lost
    }[way]


@pytest.mark.parametrize("way", ["bits", "end", "noise"])
def test_nothing_is_taken_from_a_damaged_file(
    tmp_path: Path, wet_files: list[str], way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Behind the damage the numbers of a list mean other paragraphs."""
    prepare(WetFiles(wet_files), str(tmp_path / "corpus"), SETTINGS)
    listed = Selection.open(str(tmp_path / "corpus" / listing.LIST))
    whole = Path(wet_files[1]).read_bytes()
    Path(wet_files[1]).write_bytes(damaged(whole, way))
    sentence = r"'crawl-1\.warc\.wet\.gz' is damaged \(\w+ at byte \d+\), so that numbers of a list"
    with pytest.raises(ValueError, match=sentence):
        prepare(WetFiles(wet_files), str(tmp_path / "rebuilt"), SETTINGS, paragraph_ids=listed)
    settings = dataclasses.replace(SETTINGS, max_unreadable_share=0.5)
    quarantine, stopped = tmp_path / "quarantine", dataclasses.replace(settings, num_pieces=20_000)
    for output_dir in ("rebuilt", "mended"):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "absl"), pytest.raises(ValueError, match="num_pieces"):
            prepare(WetFiles(wet_files), str(tmp_path / output_dir), stopped, paragraph_ids=listed)
        assert re.search(sentence, caplog.text)
    mark = prepare(
        WetFiles(wet_files),
        str(tmp_path / "rebuilt"),
        settings,
        quarantine_dir=str(quarantine),
        paragraph_ids=listed,
    )
    counts = mark["counts"]
    assert (counts["unreadable_files"], counts["unreadable"]) == (["crawl-1.warc.wet.gz"], {})
    assert counts["read"] == counts["kept"] + sum(counts["dropped"].values())
    assert len((quarantine / "crawl-1.warc.wet.gz.jsonl").read_text().splitlines()) == 1
    meant, taken = (dict(lists.read(str(tmp_path / name / listing.LIST))) for name in ("corpus", "rebuilt"))
    assert not taken.pop("crawl-1.warc.wet.gz").size
    assert taken
    assert all(np.array_equal(numbers, meant[name]) for name, numbers in taken.items())
    # Whoever goes on with a whole file misses nothing.
    Path(wet_files[1]).write_bytes(whole)
    prepare(WetFiles(wet_files), str(tmp_path / "mended"), SETTINGS, paragraph_ids=listed)
    assert rebuilt(tmp_path / "mended") == rebuilt(tmp_path / "corpus")
