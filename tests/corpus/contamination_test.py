"""Held-out leakage: no near copy of a held-out page is trained on, against a search through all pairs."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest

from tests.toy_copies import changed, grams, jaccard, places_in, text, write_pages
from tests.toy_crawls import SETTINGS, contents
from tf_codistill import files
from tf_codistill.corpus.filters import LongParagraphs
from tf_codistill.corpus.paragraph_ids.selection import Selection
from tf_codistill.corpus.pipeline import prepare
from tf_codistill.corpus.report import counts
from tf_codistill.corpus.sources.wet_files import WetFiles
from tf_codistill.corpus.stages import contamination, shingles

CLEAN = dataclasses.replace(SETTINGS, num_pieces=100, filters=(LongParagraphs(),), test_share=0.2)
AS_IT_WAS = dataclasses.replace(CLEAN, decontaminate=False)
Places = set[tuple[int, int]]


def pages_of(seed: int) -> list[list[str]]:
    """Pages of their own, and others that quote, are copies, hold one whole or are a part of one."""
    rng = random.Random(seed)
    texts = [text(rng, rng.choice([8, 12, 40, 150])) for _ in range(50)]
    for number in range(60):
        one, other = rng.choice(texts), text(rng, 100)
        start = rng.randrange(len(one))
        quote = one[start : start + rng.choice([5, 20, 60])]
        texts.append(
            [changed(one, rng, len(one) // 30), quote + other, one + other, one[start:], one * 2][number % 5]
        )
    long = [
        words + [f"stuffing{number}"] * 15 for number, words in enumerate(texts)
    ]  # each is a long paragraph
    rng.shuffle(long)
    pages = [" ".join(words) for words in long]
    return [pages[:40], pages[40:80], pages[80:]]


def contaminated(pages: list[list[str]], held_out: Places, training: Places) -> Places:
    """The rule, by sets of tuples of words."""
    sets = {(index, number): grams(pages[index][number], 13) for index, number in held_out | training}
    everything = set().union(*(sets[place] for place in held_out))
    found = set()
    for place in training:
        own = sets[place]
        if 2 * len(own & everything) >= len(own) or any(
            2 * len(own & sets[other]) >= len(sets[other]) for other in held_out
        ):
            found.add(place)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_against_a_search_through_all_pairs(tmp_path: Path, seed: int) -> None:
    pages = pages_of(seed)
    paths = write_pages(tmp_path / "crawl", pages)
    prepare(WetFiles(paths), str(tmp_path / "all"), AS_IT_WAS)
    mark = prepare(WetFiles(paths), str(tmp_path / "corpus"), CLEAN)
    held_out = places_in(tmp_path / "all", "validation") | places_in(tmp_path / "all", "test")
    training = places_in(tmp_path / "all", "train")
    expected = contaminated(pages, held_out, training)
    assert 5 < len(expected) < len(training) / 2
    assert places_in(tmp_path / "corpus", "train") == training - expected
    for split in ("validation", "test"):
        assert places_in(tmp_path / "corpus", split) == places_in(tmp_path / "all", split)
    dropped = mark["counts"]["dropped"]
    assert dropped["contaminated"] == len(expected)
    assert mark["counts"]["read"] == 110 == mark["counts"]["kept"] + sum(dropped.values())
    summary = counts.summary(mark, "corpus", CLEAN)
    assert f"dropped: contaminated{len(expected):>25}" in summary


def test_nothing_in_training_is_near_to_what_is_held_out(tmp_path: Path) -> None:
    rng = random.Random(5)
    texts = [text(rng, rng.choice([60, 150, 300])) for _ in range(40)]
    texts += [changed(rng.choice(texts), rng, number % 12) for number in range(160)]
    pages = [[" ".join(words) for words in texts]]
    paths = write_pages(tmp_path / "crawl", pages)

    def similarities(name: str) -> list[float]:
        splits = [places_in(tmp_path / name, split) for split in ("train", "validation")]
        train, validation = ([grams(pages[i][n], 13) for i, n in places] for places in splits)
        return [jaccard(one, other) for one in train for other in validation]

    prepare(WetFiles(paths), str(tmp_path / "all"), dataclasses.replace(AS_IT_WAS, test_share=0.0))
    assert sum(similarity >= 1 / 3 for similarity in similarities("all")) > 20
    prepare(WetFiles(paths), str(tmp_path / "corpus"), dataclasses.replace(CLEAN, test_share=0.0))
    assert max(similarities("corpus")) < 1 / 3


def test_boilerplate_in_common_is_no_copy(tmp_path: Path) -> None:
    rng = random.Random(6)
    menu = [f"entry{number}" for number in range(60)]
    pages = [[" ".join(menu + text(rng)) for _ in range(60)]]
    mark = prepare(WetFiles(write_pages(tmp_path / "crawl", pages)), str(tmp_path / "corpus"), CLEAN)
    assert mark["counts"]["dropped"] == {}


def test_near_duplicates_go_first(tmp_path: Path) -> None:
    """A held-out page that is dropped itself contaminates nothing."""
    rng = random.Random(8)
    one = text(rng)
    texts = [text(rng), *(changed(one, rng, 1) for _ in range(40)), *(text(rng) for _ in range(40))]
    pages = [[" ".join(words) for words in texts]]
    paths = write_pages(tmp_path / "crawl", pages)
    prepare(WetFiles(paths), str(tmp_path / "all"), AS_IT_WAS)
    assert (0, 1) in places_in(tmp_path / "all", "train")
    mark = prepare(WetFiles(paths), str(tmp_path / "corpus"), dataclasses.replace(CLEAN, near_duplicates=0.6))
    assert (0, 1) in places_in(tmp_path / "corpus", "train")
    assert mark["counts"]["dropped"] == {"near_duplicate": 39}


def test_a_list_gives_the_same_corpus_again(tmp_path: Path) -> None:
    paths = write_pages(tmp_path / "crawl", pages_of(1))
    settings = dataclasses.replace(CLEAN, near_duplicates=0.8)
    dropped = prepare(WetFiles(paths), str(tmp_path / "corpus"), settings)["counts"]["dropped"]
    assert {"contaminated", "near_duplicate"} <= dropped.keys()
    listed = Selection.open(str(tmp_path / "corpus" / "paragraph_ids.csv"))
    prepare(WetFiles(paths), str(tmp_path / "rebuilt"), settings, paragraph_ids=listed)
    one, other = (contents(tmp_path / name) for name in ("corpus", "rebuilt"))
    assert {name for name in one if one[name] != other[name]} == {"manifest.json", "preparation.json"}


def test_a_corpus_of_before_is_one_that_was_not_decontaminated(tmp_path: Path) -> None:
    paths = write_pages(tmp_path / "crawl", pages_of(1))
    mark = prepare(WetFiles(paths), str(tmp_path / "corpus"), AS_IT_WAS)
    path = str(tmp_path / "corpus" / "preparation.json")
    preparation = files.read_json(path)
    del preparation["decontaminate"], preparation["near_duplicates"]
    files.write_json(path, preparation)
    mark["files"]["preparation.json"] = files.metadata_of(path)
    files.write_json(str(tmp_path / "corpus" / files.MANIFEST), mark)
    assert prepare(WetFiles(paths), str(tmp_path / "corpus"), AS_IT_WAS) == mark
    with pytest.raises(ValueError, match=r"decontaminate = False, now it is True; .*as_published\.gin"):
        prepare(WetFiles(paths), str(tmp_path / "corpus"), CLEAN)


@pytest.mark.parametrize("bits", [27, 1])
def test_the_edges_of_the_rule(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    """With a table of two entries everything has to be looked up, and is found all the same."""
    monkeypatch.setattr(contamination, "_MOST_BITS", bits)
    rng = random.Random(0)
    one, other, third, long = ([f"w{rng.randrange(10**9)}" for _ in range(112)] for _ in range(4))
    texts = [" ".join(words).encode() for words in (one, other, one[:62] + third[:62])]
    found, bounds = shingles.hashes(texts, 13)
    own = [np.unique(each) for each in np.split(found, bounds[1:-1])]
    sizes = np.array(list(map(len, own)), np.uint32)
    assert sizes.tolist() == [100, 100, 112]
    values, owners = np.concatenate(own), np.repeat(np.arange(3, dtype=np.uint32), sizes)
    order = np.lexsort((owners, values))
    held_out = contamination.HeldOut(values[order], owners[order], sizes)

    def is_near(*parts: list[str]) -> bool:
        text = " ".join(word for part in parts for word in part).encode()
        near = held_out.near([b"nothing of it", text, text, b""])
        assert near in ([], [1, 2])
        return bool(near)

    # Half of its own, of 112 words: in 62 words in a row there are 50 of 100.
    assert [is_near(other[:n], long[: 112 - n]) for n in (61, 62)] == [False, True]
    # Half of one that is held out, of 100 or 112, though it is less than half of its own.
    assert [is_near(long, other[:n]) for n in (61, 62)] == [False, True]
    assert [is_near(long, one[10:62], third[:n]) for n in (15, 16)] == [False, True]
    assert not is_near(long)
    assert not is_near([])
    # 20 words in a row are enough to be looked at, wherever they are.
    assert all(is_near(long[:n], other[40:60]) for n in range(8))
    nothing = contamination.HeldOut(values[:0], owners[:0], sizes[:0])
    assert nothing.near(texts) == []
