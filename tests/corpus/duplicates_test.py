"""Duplicates: the first occurrence of a long paragraph stays, dialogue stays, the counts tell the rest."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pytest

from tests.toy_crawls import SETTINGS, contents, page_text
from tf_codistill.corpus import duplicates, writing
from tf_codistill.corpus.document import Document
from tf_codistill.corpus.filters import Length, LongParagraphs
from tf_codistill.corpus.pipeline import prepare
from tf_codistill.corpus.reading import ReadStage
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.corpus.wet import WetWriter
from tf_codistill.jobs import stages
from tf_codistill.jobs.engines import Local

ANSWER = "Yes, sir, most certainly, sir."
NOTICE = (
    "All rights reserved by the owners of these pages, who ask you to copy nothing of them without a word. "
    * 2
)


def paragraphs(number: int) -> list[str]:
    return page_text(number).split("\n")[1:]


@pytest.fixture
def wet_files(tmp_path: Path) -> list[str]:
    """Pages that share a notice and an answer; each file copies a page of its own and one of the other."""
    paths = [str(tmp_path / f"crawl-{index}.warc.wet.gz") for index in range(2)]
    for index, path in enumerate(paths):
        with WetWriter(path, description="pages of a test") as writer:
            for number in range(index, 40, 2):
                lines = [*paragraphs(number), ANSWER, NOTICE.strip()]
                writer.write(f"https://example.org/{number}", "\n".join(lines), "eng")
            writer.write(f"https://copies.org/{index}/own", "\n".join([*paragraphs(index), ANSWER]), "eng")
            writer.write(f"https://copies.org/{index}/other", "\n".join(paragraphs(1 - index)), "eng")
    return paths


def kept(wet_files: list[str], tmp_path: Path, settings: CorpusSettings) -> list[Document | str]:
    """What stages 1 and 2 leave of all documents."""
    sources = {Path(path).name: path for path in wet_files}
    read = ReadStage(str(tmp_path / "read"), settings, sources, dict.fromkeys(sources, 0))
    facts = stages.run(read, Local(1))
    number = sum(task["paragraphs"] for task in facts.values())
    repeated = duplicates.DuplicatesStage(
        str(tmp_path / "repeated"), settings, read.directory, tuple(facts), number
    )
    stages.run(repeated, Local(1))
    parts = range(settings.num_shards + 1)
    return [d for part in parts for d in writing.Kept(settings, repeated).in_key_order(part)]


@pytest.mark.parametrize(
    ("scope", "num_notices", "num_answers", "num_dropped"),
    [("none", 40, 42, 0), ("file", 2, 40, 2), ("corpus", 1, 39, 4)],
)
def test_scope(
    wet_files: list[str], tmp_path: Path, scope: str, num_notices: int, num_answers: int, num_dropped: int
) -> None:
    found = kept(wet_files, tmp_path, dataclasses.replace(SETTINGS, duplicates=scope))
    documents = [document for document in found if isinstance(document, Document)]
    assert len(found) == 44
    assert found.count("duplicate") == num_dropped
    assert sum(NOTICE.strip() in document.paragraphs for document in documents) == num_notices
    assert sum(ANSWER in document.paragraphs for document in documents) == num_answers


def test_the_first_in_the_order_of_files_and_lines_stays(wet_files: list[str], tmp_path: Path) -> None:
    found = kept(wet_files, tmp_path, SETTINGS)
    (holder,) = [d for d in found if isinstance(d, Document) and NOTICE.strip() in d.paragraphs]
    assert (holder.url, holder.wet_file) == ("https://example.org/0", "crawl-0.warc.wet.gz")
    assert holder.numbers == (0, 1, 2, 3)


def test_it_does_not_matter_how_hashes_are_shared_out(
    wet_files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = kept(wet_files, tmp_path, SETTINGS)
    monkeypatch.setattr(duplicates, "_ENTRIES_PER_TASK", 10)
    monkeypatch.setattr(duplicates, "_ENTRIES_PER_CHUNK", 7)
    (tmp_path / "shared").mkdir()
    assert kept(wet_files, tmp_path / "shared", SETTINGS) == whole
    assert len(list((tmp_path / "shared" / "repeated").glob("*.json"))) > 5


def test_against_a_slow_search(tmp_path: Path) -> None:
    """Random pages of few paragraphs, compared with a set that has seen them all."""
    rng = random.Random(5)
    texts = [f"{letter} " + "and so on " * 12 + letter for letter in "abcdefghij"]
    paths, seen, expected = [], set(), {}
    for index in range(3):
        paths.append(str(tmp_path / f"crawl-{index}.warc.wet"))
        with WetWriter(paths[-1], description="pages of a test") as writer:
            for number in range(4):
                lines = rng.choices([*texts, "Short lines may be repeated, always."], k=4)
                url = f"https://example.org/{index}/{number}"
                writer.write(url, "\n".join(lines), "eng")
                is_new = [len(line) < 100 or not (line in seen or seen.add(line)) for line in lines]
                left = tuple(line for line, keep in zip(lines, is_new, strict=True) if keep)
                if any(len(line) >= 100 for line in left):
                    expected[url] = left
    found = kept(paths, tmp_path, dataclasses.replace(SETTINGS, filters=(LongParagraphs(),)))
    assert {d.url: d.paragraphs for d in found if isinstance(d, Document)} == expected


def test_what_is_left_must_still_have_enough_long_paragraphs() -> None:
    document = Document(
        "", "eng", (("x" * 9 + " ") * 12, ("y" * 9 + " ") * 12, "short"), (0, 1, 2), "crawl.warc.wet"
    )
    repeats = duplicates.np.array([(7 << 32) + 1], dtype=duplicates.np.uint64)
    two = dataclasses.replace(SETTINGS, filters=(LongParagraphs(min_paragraphs=2),))
    assert duplicates.without_repeats(document, 7, repeats, two) == "duplicate"
    one = dataclasses.replace(SETTINGS, filters=(LongParagraphs(),))
    left = duplicates.without_repeats(document, 7, repeats, one)
    assert isinstance(left, Document)
    assert left.numbers == (0,)  # the short line goes by the filter's own rule
    assert duplicates.without_repeats(document, 6, repeats, two) is document
    for least, expected in ((126, "duplicate"), (125, document.only((True, False, True)))):
        settings = dataclasses.replace(SETTINGS, filters=(Length(min_characters=least, min_words=0),))
        assert duplicates.without_repeats(document, 7, repeats, settings) == expected


def test_counts_and_places_of_the_corpus(wet_files: list[str], tmp_path: Path) -> None:
    mark = prepare(wet_files, str(tmp_path / "corpus"), SETTINGS)
    counts = mark["counts"]
    assert counts["dropped"] == {"duplicate": 4}
    assert counts["read"] == 44 == counts["kept"] + 4
    assert counts["repeated_paragraphs"] == 39 + 8
    names = [name for name in contents(tmp_path / "corpus") if name.endswith(".paragraphs")]
    lines = [line for name in names for line in (tmp_path / "corpus" / name).read_text().splitlines()]
    places = {(place["wet_file"], n) for place in map(json.loads, lines) for n in place["numbers"]}
    assert len(places) == 39 * 3 + 1 + 2
    assert ("crawl-0.warc.wet.gz", 3) in places
    assert ("crawl-0.warc.wet.gz", 7) not in places
