"""Duplicates: a long paragraph stays in the first document that is kept, dialogue stays, all is counted."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import random
import string
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.toy_crawls import SETTINGS, contents, page_text
from tf_codistill import files
from tf_codistill.corpus.document import Document
from tf_codistill.corpus.filters import Length, LongParagraphs
from tf_codistill.corpus.pipeline import prepare
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.corpus.sources.wet_files import WetFiles
from tf_codistill.corpus.stages import duplicates, first_holders, shingles, writing
from tf_codistill.corpus.stages.reading import ReadStage
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
    source = WetFiles(wet_files)
    read = ReadStage(str(tmp_path / "read"), settings, source, source.parts())
    facts = stages.run(read, Local(1))
    number = sum(task["paragraphs"] for task in facts.values())
    runs = [task["runs"] for task in facts.values()]
    repeated = duplicates.DuplicatesStage(
        str(tmp_path / "repeated"), settings, read.directory, tuple(facts), runs, number
    )
    repeated, _ = first_holders.find(repeated, sum(f["counts"]["passed"] for f in facts.values()), Local(1))
    parts = range(settings.num_shards + 1)
    return [d for part in parts for _, d in writing.Kept(settings, repeated).in_key_order(part)]


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
    monkeypatch.setattr(shingles, "_ENTRIES_PER_RUN", 7)
    (tmp_path / "shared").mkdir()
    assert kept(wet_files, tmp_path / "shared", SETTINGS) == whole
    assert len(list((tmp_path / "shared" / "repeated").glob("*.json"))) > 5


TEXTS = [f"{letter} " + "and so on " * 12 + letter for letter in string.ascii_lowercase]
"""Paragraphs of 123 characters."""


def settings_for(min_characters: int) -> CorpusSettings:
    filters = (LongParagraphs(), Length(min_characters=min_characters, min_words=0))
    return dataclasses.replace(SETTINGS, filters=filters)


def write_pages(tmp_path: Path, pages: list[list[list[str]]]) -> list[str]:
    """Writes WET files of pages of paragraphs; of each page the address says where it is."""
    tmp_path.mkdir(exist_ok=True)
    paths = []
    for index, texts in enumerate(pages):
        paths.append(str(tmp_path / f"crawl-{index}.warc.wet"))
        with WetWriter(paths[-1], description="pages of a test") as writer:
            for number, lines in enumerate(texts):
                writer.write(f"https://example.org/{index}/{number}", "\n".join(lines), "eng")
    return paths


def lines_by_url(found: list[Document | str]) -> dict[str, tuple[str, ...]]:
    return {document.url: document.paragraphs for document in found if isinstance(document, Document)}


def test_a_paragraph_of_two_pages_is_in_one(tmp_path: Path) -> None:
    """The first page that has it has too little of its own besides, and is dropped."""
    a, b, c, d, *_ = TEXTS
    paths = write_pages(tmp_path, [[[a, b], [a, c], [c, d]]])
    found = kept(paths, tmp_path, settings_for(200))
    assert lines_by_url(found) == {"https://example.org/0/0": (a, b), "https://example.org/0/2": (c, d)}
    assert found.count("duplicate") == 1


def test_a_page_that_repeats_itself_takes_nothing_from_others(tmp_path: Path) -> None:
    a, b, *_ = TEXTS
    paths = write_pages(tmp_path, [[[a, a], [a, a, b]]])
    assert lines_by_url(kept(paths, tmp_path, settings_for(200))) == {"https://example.org/0/1": (a, b)}
    facts = files.read_json(str(tmp_path / "read" / "crawl-0.warc.wet.json"))
    assert (facts["repeats"], facts["counts"]["dropped"]) == (2, {"duplicate": 1})


def test_whether_a_page_stays_may_hang_on_all_before_it(tmp_path: Path) -> None:
    pages = [[TEXTS[number : number + 2] for number in range(start, start + 8)] for start in (0, 8, 16)]
    found = kept(write_pages(tmp_path, pages), tmp_path, settings_for(200))
    expected = [f"https://example.org/{index}/{number}" for index in range(3) for number in (0, 2, 4, 6)]
    assert sorted(lines_by_url(found)) == expected
    assert (tmp_path / "repeated" / "decided").is_dir()


@pytest.mark.parametrize("scope", ["file", "corpus"])
@pytest.mark.parametrize("min_characters", [0, 130, 250])
def test_against_a_slow_search(tmp_path: Path, scope: str, min_characters: int) -> None:
    """Random pages of few paragraphs, compared with going through them one by one."""
    settings = dataclasses.replace(settings_for(min_characters), duplicates=scope)

    def is_enough(lines: Sequence[str]) -> bool:
        return any(len(line) >= 100 for line in lines) and sum(map(len, lines)) >= min_characters

    num_steps = collections.Counter[str]()
    for seed in range(8):
        rng = random.Random(seed)
        texts = [*TEXTS[: rng.randint(6, 26)], "Short lines may be repeated, always."]
        pages = [[rng.choices(texts, k=rng.randint(1, 4)) for _ in range(12)] for _ in range(3)]
        expected, held = {}, set[str]()
        for index, number in itertools.product(range(3), range(12)):
            lines = pages[index][number]
            held = held if number or scope == "corpus" else set()
            left = [
                line
                for place, line in enumerate(lines)
                if len(line) < 100 or not (line in held or line in lines[:place])
            ]
            if is_enough(lines) and is_enough(left):
                expected[f"https://example.org/{index}/{number}"] = tuple(left)
                held.update(line for line in left if len(line) >= 100)
        place = tmp_path / str(seed)
        assert lines_by_url(kept(write_pages(place, pages), place, settings)) == expected
        num_steps.update(path.name for path in (place / "repeated").iterdir() if path.is_dir())
    assert num_steps["doubtful"] == 8
    assert bool(num_steps["decided"]) == (min_characters > 0)


def without_repeats(
    document: Document, position: int, repeats: duplicates.Repeats, settings: CorpusSettings
) -> Document | str:
    repeated = duplicates.is_repeated(document.numbers, position, repeats)
    return duplicates.without(document, repeated, settings)


def test_what_is_left_must_still_have_enough_long_paragraphs() -> None:
    document = Document(
        "", "eng", (("x" * 9 + " ") * 12, ("y" * 9 + " ") * 12, "short"), (0, 1, 2), "crawl.warc.wet"
    )
    repeats = duplicates.np.array([(7 << 32) + 1], dtype=duplicates.np.uint64)
    two = dataclasses.replace(SETTINGS, filters=(LongParagraphs(min_paragraphs=2),))
    assert without_repeats(document, 7, repeats, two) == "duplicate"
    one = dataclasses.replace(SETTINGS, filters=(LongParagraphs(),))
    left = without_repeats(document, 7, repeats, one)
    assert isinstance(left, Document)
    assert left.numbers == (0,)  # the short line goes by the filter's own rule
    assert without_repeats(document, 6, repeats, two) is document
    for least, expected in ((126, "duplicate"), (125, document.only((True, False, True)))):
        settings = dataclasses.replace(SETTINGS, filters=(Length(min_characters=least, min_words=0),))
        assert without_repeats(document, 7, repeats, settings) == expected


def test_counts_and_places_of_the_corpus(wet_files: list[str], tmp_path: Path) -> None:
    mark = prepare(WetFiles(wet_files), str(tmp_path / "corpus"), SETTINGS)
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
