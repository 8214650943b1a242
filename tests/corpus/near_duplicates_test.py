"""Near duplicates: the first of near copies stays, against a search through all pairs; nothing else goes."""

from __future__ import annotations

import dataclasses
import itertools
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.toy_copies import changed, grams, jaccard, places_in, text, write_pages
from tests.toy_crawls import SETTINGS, contents
from tf_codistill.corpus.filters import LongParagraphs
from tf_codistill.corpus.pipeline import check, prepare
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.corpus.sources.wet_files import WetFiles
from tf_codistill.corpus.stages import contamination, near_duplicates, shingles
from tf_codistill.jobs.engines import Beam, Local

NEAR = dataclasses.replace(
    SETTINGS, num_pieces=100, near_duplicates=0.7, decontaminate=False, filters=(LongParagraphs(),)
)


def clusters(seed: int) -> list[list[str]]:
    """Three files of pages, some of which are copies, near or less near, of pages of any file."""
    rng = random.Random(seed)
    texts = [text(rng) for _ in range(24)]
    for _ in range(36):
        texts.append(changed(rng.choice(texts), rng, rng.choice([0, 1, 2, 12, 40])))
    rng.shuffle(texts)
    pages = [" ".join(words) for words in texts]
    return [pages[:20], pages[20:40], pages[40:]]


@pytest.mark.parametrize("seed", range(4))
def test_against_a_search_through_all_pairs(tmp_path: Path, seed: int) -> None:
    pages = clusters(seed)
    paths = write_pages(tmp_path / "crawl", pages)
    mark = prepare(WetFiles(paths), str(tmp_path / "corpus"), NEAR)
    places = [(index, number) for index in range(3) for number in range(20)]
    sets = {(index, number): grams(pages[index][number], 5) for index, number in places}
    exact_copies, near, unsure = set[tuple[int, int]](), set[tuple[int, int]](), set[tuple[int, int]]()
    for (a, b), (c, d) in itertools.combinations(places, 2):
        one, other = pages[a][b], pages[c][d]
        if one == other:
            exact_copies.add((c, d))
        elif (a, b) not in exact_copies:
            similarity = jaccard(sets[a, b], sets[c, d])
            near |= {(c, d)} if similarity >= 0.85 else set()
            unsure |= {(c, d)} if 0.55 < similarity < 0.85 else set()  # the estimate decides
    kept = places_in(tmp_path / "corpus", "*")
    assert not kept & exact_copies
    assert not kept & (near - exact_copies)
    assert set(places) - exact_copies - near - unsure <= kept
    counts = mark["counts"]
    assert counts["dropped"]["near_duplicate"] == 60 - len(kept) - len(exact_copies) > 5
    assert counts["read"] == 60 == counts["kept"] + sum(counts["dropped"].values())


def test_a_near_copy_goes_within_a_file_across_files_and_across_splits(tmp_path: Path) -> None:
    rng = random.Random(1)
    first = text(rng)
    pages = [[" ".join(first)] + [" ".join(changed(first, rng, 1)) for _ in range(12)]]
    pages += [
        [" ".join(changed(first, rng, 1)) for _ in range(12)] + [" ".join(text(rng)) for _ in range(30)]
    ]
    paths = write_pages(tmp_path / "crawl", pages)
    mark = prepare(WetFiles(paths), str(tmp_path / "corpus"), NEAR)
    assert places_in(tmp_path / "corpus", "*") == {(0, 0), *((1, number) for number in range(12, 42))}
    assert mark["counts"]["dropped"] == {"near_duplicate": 24}
    prepare(WetFiles(paths), str(tmp_path / "all"), dataclasses.replace(NEAR, near_duplicates=None))
    copies = {(0, number) for number in range(13)} | {(1, number) for number in range(12)}
    assert 3 < len(copies & places_in(tmp_path / "all", "validation")) < 12


def test_a_menu_in_common_makes_no_near_copy(tmp_path: Path) -> None:
    rng = random.Random(2)
    menu = " ".join(f"entry{number}" for number in range(40))
    pages = [[menu + " " + " ".join(text(rng)) for _ in range(40)]]
    mark = prepare(WetFiles(write_pages(tmp_path / "crawl", pages)), str(tmp_path / "corpus"), NEAR)
    assert mark["counts"]["dropped"] == {}


def test_pages_without_words_are_no_copies_of_each_other(tmp_path: Path) -> None:
    rng = random.Random(4)
    pages = [["", "...", "!?", " ", "", *(" ".join(text(rng)) for _ in range(40))]]
    settings = dataclasses.replace(NEAR, filters=(), decontaminate=True)
    counts = prepare(WetFiles(write_pages(tmp_path / "crawl", pages)), str(tmp_path / "corpus"), settings)[
        "counts"
    ]
    assert (counts["kept"], counts["dropped"]) == (45, {})


def test_every_engine_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in (near_duplicates.SketchStage, near_duplicates.MatchStage):
        monkeypatch.setattr(stage, "units_per_process", 1)
    for stage in (contamination.HeldOutStage, contamination.ContaminationStage):
        monkeypatch.setattr(stage, "units_per_process", 1)
    settings = dataclasses.replace(NEAR, decontaminate=True, near_duplicates=0.9)
    paths = write_pages(tmp_path / "crawl", clusters(7))
    mark = prepare(WetFiles(paths), str(tmp_path / "one"), settings, Local(1))
    assert {"near_duplicate", "contaminated"} <= mark["counts"]["dropped"].keys()
    prepare(WetFiles(paths[::-1]), str(tmp_path / "two"), settings, Local(2))
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    monkeypatch.setattr(near_duplicates, "_ENTRIES_PER_TASK", 100)
    monkeypatch.setattr(shingles, "_BATCH_BYTES", 2000)
    monkeypatch.setattr(near_duplicates, "_SKETCHES_PER_CHUNK", 2)
    monkeypatch.setattr(contamination, "_ENTRIES_AT_A_TIME", 100)
    monkeypatch.setattr(shingles, "_ENTRIES_PER_RUN", 100)
    prepare(WetFiles(paths), str(tmp_path / "in_pieces"), settings, Local(1))
    assert contents(tmp_path / "in_pieces") == contents(tmp_path / "one")


def test_beam_gives_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("apache_beam")
    settings = dataclasses.replace(NEAR, decontaminate=True, near_duplicates=0.9)
    paths = write_pages(tmp_path / "crawl", clusters(7))
    prepare(WetFiles(paths), str(tmp_path / "one"), settings, Local(1))
    prepare(WetFiles(paths[1:] + paths[:1]), str(tmp_path / "beam"), settings, Beam())
    assert contents(tmp_path / "beam") == contents(tmp_path / "one")


class StoppedError(Exception):
    """In place of a signal."""


@pytest.mark.parametrize(
    "stage",
    [
        near_duplicates.SketchStage,
        near_duplicates.MatchStage,
        contamination.HeldOutStage,
        contamination.ContaminationStage,
    ],
)
def test_a_run_that_was_stopped_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: type[near_duplicates.SketchStage]
) -> None:
    settings = dataclasses.replace(NEAR, decontaminate=True, near_duplicates=0.9, test_share=0.2)
    monkeypatch.setattr(near_duplicates, "_ENTRIES_PER_TASK", 500)
    paths = write_pages(tmp_path / "crawl", clusters(7))
    prepare(WetFiles(paths), str(tmp_path / "whole"), settings)
    do, done = stage.do, list[str]()

    def stopped(self: near_duplicates.SketchStage, task: str, advance: object) -> object:
        if done and "stop" not in done:
            done.append("stop")
            raise StoppedError
        assert task not in done
        done.append(task)
        return do(self, task, advance)  # type: ignore[arg-type]

    monkeypatch.setattr(stage, "do", stopped)
    with pytest.raises(StoppedError):
        prepare(WetFiles(paths), str(tmp_path / "corpus"), settings)
    prepare(WetFiles(paths), str(tmp_path / "corpus"), settings)
    assert contents(tmp_path / "corpus") == contents(tmp_path / "whole")
    assert not (tmp_path / "corpus.work").exists()


def test_each_document_is_compared_with_all_before_it() -> None:
    rng = np.random.default_rng(0)
    for number in (0, 1, 2, 9, 30):
        rows = rng.integers(0, 3, (number, 8)).astype(np.uint16)
        expected = [any(np.sum(rows[i] == rows[j]) >= 5 for j in range(i)) for i in range(number)]
        assert near_duplicates.are_near_to_one_before(rows, 5).tolist() == expected


@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.8, 0.95, 1.0])
def test_bands_find_most_pairs_at_the_threshold(threshold: float) -> None:
    bands, rows = near_duplicates.bands_and_rows(threshold)
    assert bands * rows <= 128
    assert 1 - (1 - threshold**rows) ** bands >= 0.95
    assert rows == 128 or 1 - (1 - threshold ** (rows + 1)) ** (128 // (rows + 1)) < 0.95


def test_estimates_are_near_to_what_they_estimate() -> None:
    """Within four standard deviations of a mean of 128 trials, of pairs of any similarity."""
    rng = random.Random(3)
    for number in (1, 2, 4, 8, 16, 32, 64):
        one = text(rng, 400)
        pair = [" ".join(words).encode() for words in (one, changed(one, rng, number))]
        minima = near_duplicates.signatures(*shingles.hashes(pair, 5)).astype(np.uint16)
        estimate = float(np.mean(minima[0] == minima[1]))
        exact = jaccard(*(grams(page.decode(), 5) for page in pair))
        assert abs(estimate - exact) < 4 * (exact * (1 - exact) / 128) ** 0.5


def test_the_library_is_asked_for_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rensa", None)
    paths = write_pages(tmp_path / "crawl", clusters(0))
    for ask in (
        lambda: prepare(WetFiles(paths), str(tmp_path / "corpus"), NEAR),
        lambda: check(WetFiles(paths), str(tmp_path / "corpus"), NEAR),
    ):
        with pytest.raises(
            ValueError, match=r"near_duplicates = 0\.7 needs rensa .*pip install .*near_duplicates"
        ):
            ask()
    assert [path.name for path in tmp_path.iterdir()] == ["crawl"]
    prepare(WetFiles(paths), str(tmp_path / "corpus"), dataclasses.replace(NEAR, near_duplicates=None))


@pytest.mark.parametrize("value", [0, -0.1, 1.5, "0.8", True])
def test_a_threshold_without_sense_is_refused(value: object) -> None:
    with pytest.raises(
        ValueError, match="near_duplicates is .*; expected more than 0 and at most 1, or None"
    ):
        CorpusSettings(near_duplicates=value)  # type: ignore[arg-type]
