"""Unwrapping: wrapped prose becomes its paragraphs again; verse, code, tables and menus stay as they are."""

from __future__ import annotations

import base64
import dataclasses
import inspect
import itertools
import random
import re
import textwrap
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.toy_crawls import SETTINGS, contents, write_crawl
from tf_codistill.corpus import filters
from tf_codistill.corpus.document import Document
from tf_codistill.corpus.filters import wrapping
from tf_codistill.corpus.filters.wrapping import unwrapped
from tf_codistill.corpus.paragraph_ids import lists
from tf_codistill.corpus.paragraph_ids.selection import Selection
from tf_codistill.corpus.pipeline import prepare
from tf_codistill.corpus.report.counts import cause, summary
from tf_codistill.corpus.report.explain import draw
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.corpus.sources.wet_files import WetFiles
from tf_codistill.corpus.stages import listing, reading
from tf_codistill.corpus.wet import WetWriter

WORDS = re.findall(r"\w+", "a the of many small birds whose songs were heard beyond hills until evening came")
ADDRESS = "https://example.org/" + "x" * 90
SONNET = """\
Shall I compare thee to a summer's day?
Thou art more lovely and more temperate:
Rough winds do shake the darling buds of May,
And summer's lease hath all too short a date;
Sometime too hot the eye of heaven shines,
And often is his gold complexion dimm'd;
And every fair from fair sometime declines,
By chance or nature's changing course untrimm'd;
But thy eternal summer shall not fade,
Nor lose possession of that fair thou ow'st;
Nor shall death brag thou wander'st in his shade,
When in eternal lines to time thou grow'st:
So long as men can breathe or eyes can see,
So long lives this, and this gives life to thee.
"""
FREE_VERSE = """\
the river has no need of us
it goes
past the mill and the sleeping houses with their lamps put out
past all that we have said
or meant to say
a heron stands
one leg in its own reflection and waits for the water to forget it
and it does
nothing is kept here
the reeds bend the way they were taught by a wind that left long ago
they go on bending
we might have learned as much
from anything
that stays where it is and lets the morning come
"""
TABLE = "\n".join(
    f"{name:<24}{count:>12}{price:>12}{'in stock':>14}"
    for name, count, price in zip(
        ["apples", "bananas", "cherries", "dates", "elderberries", "figs", "grapes"] * 4,
        range(100, 128),
        range(900, 928),
        strict=True,
    )
)
MENU = "\n".join(
    ["home", "about our company", "contact and directions", "privacy", "news", "shop", "help"] * 8
)
TEASERS = "\n".join(
    textwrap.shorten(f"Story {n}: " + " ".join(random.Random(n).choices(WORDS, k=40)), 80, placeholder=" ...")
    for n in range(30)
)
KEYS = base64.encodebytes(random.Random(1).randbytes(3000)).decode()


def prose(rng: random.Random, num_words: int) -> str:
    """A paragraph of sentences."""
    words = rng.choices(WORDS, k=num_words)
    for start in range(0, num_words, 9):
        words[start] = words[start].capitalize()
        words[start - 1] += "."  # the last word's for the first sentence
    return " ".join(words)


def full_prose(seed: int, width: int) -> str:
    """A paragraph that leaves no room in its last line."""
    while len(textwrap.wrap(text := prose(random.Random(seed), 60), width)[-1]) < width - 3:
        seed += 1000
    return text


def wrap(paragraphs: list[str], width: int, between: str = "\n\n") -> str:
    return between.join("\n".join(textwrap.wrap(text, width)) for text in paragraphs)


@settings(max_examples=60, deadline=None)
@example(5081, 129, 3)
@given(st.integers(0, 1 << 20), st.integers(44, 140), st.integers(3, 12))
def test_wrapped_prose_becomes_its_paragraphs_again(seed: int, width: int, num_paragraphs: int) -> None:
    rng = random.Random(seed)
    paragraphs = [prose(rng, rng.randrange(60, 200)) for _ in range(num_paragraphs)]
    text = wrap(paragraphs, width)
    document = Document.of_text(text, url="u", language="eng", first=7, wet_file="a.warc.wet")
    joined = unwrapped(document)
    lines = text.split("\n")
    inside = sum(bool(line) and following[:1].islower() for line, following in itertools.pairwise(lines))
    if inside < 8:  # as 3 short paragraphs of long lines may have: fewer prove nothing
        assert joined == document
        return
    assert joined.paragraphs == tuple(paragraphs)
    starts = [7 + n for n, line in enumerate(lines) if line and (n == 0 or not lines[n - 1])]
    assert joined == dataclasses.replace(document, paragraphs=joined.paragraphs, numbers=tuple(starts))


def test_a_short_line_ends_a_paragraph_where_no_blank_one_does() -> None:
    every = [prose(random.Random(n), 100) for n in range(40)]
    paragraphs = [text for text in every if len(textwrap.wrap(text, 70)[-1]) < 55]
    assert 10 < len(paragraphs) < 40
    assert unwrapped(Document.of_text(wrap(paragraphs, 70, between="\n"))).paragraphs == tuple(paragraphs)


def test_lines_that_belong_to_no_paragraph_stay_by_themselves() -> None:
    paragraphs = [prose(random.Random(n), 120) for n in range(5)]
    menu = "Home\nBooks\nAbout\n\n"
    paragraphs.append(full_prose(5, 72))
    text = f"{menu}CHAPTER I.\n\n{wrap(paragraphs, 72)}\nPrivacy policy\n\n* * *\nNext\n{ADDRESS}\n"
    joined = unwrapped(Document.of_text(text)).paragraphs
    assert joined[:4] == ("Home", "Books", "About", "CHAPTER I.")
    assert joined[4:10] == tuple(paragraphs)
    assert joined[10:] == ("Privacy policy", "* * *", "Next", ADDRESS)


def test_no_space_is_put_behind_a_hyphen_or_a_dash() -> None:
    lines = ["a well-", "known man--", "he said - ", "was here—", "and left"]
    assert (
        wrapping._joined([line.strip() for line in lines]) == "a well-known man--he said - was here—and left"
    )


@pytest.mark.parametrize(
    "text",
    [SONNET * 3, FREE_VERSE * 3, TABLE, MENU, TEASERS, KEYS, inspect.getsource(filters), "", "word " * 9],
    ids=["sonnet", "free verse", "table", "menu", "teasers", "base64", "code", "empty", "a line"],
)
def test_what_breaks_its_lines_on_purpose_is_left_alone(text: str) -> None:
    document = Document.of_text(text)
    assert unwrapped(document) is document


def test_pages_with_a_paragraph_on_each_line_are_left_alone() -> None:
    document = Document.of_text("\n".join(prose(random.Random(n), 30 + 7 * n) for n in range(30)))
    assert unwrapped(document) is document


def test_a_few_lines_prove_nothing() -> None:
    document = Document.of_text(wrap([prose(random.Random(0), 60)], 60))
    assert 5 <= len(document.paragraphs) <= 8
    assert unwrapped(document) is document


@pytest.fixture
def wet_files(tmp_path: Path) -> list[str]:
    """A crawl with wrapped pages, after a blank line and a menu, among others."""
    paths = write_crawl(tmp_path / "crawl")
    path = str(tmp_path / "crawl" / "crawl-9.warc.wet.gz")
    with WetWriter(path, description="wrapped pages") as writer:
        for number in range(30):
            rng = random.Random(1000 + number)
            text = wrap([prose(rng, 80) for _ in range(4)], 72)
            writer.write(f"https://example.org/wrapped/{number}", f"Home\nNext\n\n{text}\n", "eng")
    return [*paths, path]


def test_wrapped_pages_are_kept_counted_and_shown(tmp_path: Path, wet_files: list[str]) -> None:
    counts = (mark := prepare(WetFiles(wet_files), str(tmp_path / "corpus"), SETTINGS))["counts"]
    assert (counts["read"], counts["unwrapped"], counts["kept"]) == (96, 30, 90)
    assert "joined to paragraphs before: 30" in summary(mark, "corpus", SETTINGS)
    lines = dataclasses.replace(SETTINGS, unwrap=False)
    counts = (mark := prepare(WetFiles(wet_files), str(tmp_path / "lines"), lines))["counts"]
    assert (counts["read"], counts["unwrapped"], counts["kept"]) == (96, 0, 60)
    assert counts["dropped"]["no_long_paragraphs"] == 32
    shown = summary(mark, "corpus", lines)
    assert "joined" not in shown
    assert shown.endswith(
        "  36 dropped, most of them for one cause, no_long_paragraphs: only lines under 100 characters; "
        "is the text wrapped?"
    )
    with pytest.raises(
        ValueError, match="split would be empty.*no_long_paragraphs: only lines under 100 char"
    ):
        prepare(WetFiles(wet_files[2:]), str(tmp_path / "empty"), lines)


def test_a_cause_is_told_if_it_is_the_one_of_most_drops_and_these_are_many() -> None:
    def told(dropped: dict[str, int], num_read: int = 100) -> str:
        return cause({"read": num_read, "dropped": dropped}, CorpusSettings())

    assert told({}) == told({"link_list": 5, "too_short": 5}) == told({"link_list": 9}) == ""
    assert told({"over_max_tokens": 90}) == told({"not_selected": 90}) == ""
    assert told({"link_list": 11, "over_max_tokens": 80}) == ", most of them for one cause, link_list"
    assert told({"no_long_paragraphs": 30, "too_short": 29}).endswith("is the text wrapped?")


def test_explanations_show_paragraphs(wet_files: list[str]) -> None:
    drawn = draw(WetFiles(wet_files[2:]), SETTINGS, num_documents=3)
    assert drawn.counts == {"kept": 30}
    for sample in drawn.kept:
        assert [len(text) > 300 for text in sample.document.paragraphs] == [False, False, *[True] * 4]
        assert set(sample.taken_away.values()) == {"LongParagraphs"}


def test_the_key_of_a_page_is_that_of_its_lines(wet_files: list[str]) -> None:
    lines = dataclasses.replace(SETTINGS, unwrap=False)
    keys = [
        [
            reading.document_key(document)
            for document, _ in reading.read_documents(WetFiles(wet_files[2:]), settings)
        ]
        for settings in (SETTINGS, lines)
    ]
    assert keys[0] == keys[1]


@pytest.mark.parametrize("unwrap", [True, False])
def test_a_list_rebuilds_the_corpus_whatever_the_settings_say(
    tmp_path: Path, wet_files: list[str], unwrap: bool
) -> None:
    made, other = (dataclasses.replace(SETTINGS, unwrap=value) for value in (unwrap, not unwrap))
    prepare(WetFiles(wet_files), str(tmp_path / "corpus"), made)
    path = str(tmp_path / "corpus" / listing.LIST)
    listed = Selection.open(path)
    assert listed.is_unwrapped == lists.is_unwrapped(path) == unwrap
    prepare(WetFiles(wet_files), str(tmp_path / "rebuilt"), other, paragraph_ids=listed)
    before, after = contents(tmp_path / "corpus"), contents(tmp_path / "rebuilt")
    assert {name: content for name, content in before.items() if not name.endswith(".json")} == {
        name: content for name, content in after.items() if not name.endswith(".json")
    }


def test_without_wrapped_pages_nothing_changes(tmp_path: Path, wet_files: list[str]) -> None:
    for unwrap in (True, False):
        settings = dataclasses.replace(SETTINGS, unwrap=unwrap)
        prepare(WetFiles(wet_files[:2]), str(tmp_path / str(unwrap)), settings)
    on, off = contents(tmp_path / "True"), contents(tmp_path / "False")
    assert {name for name in on if on[name] != off[name]} == {"manifest.json", "preparation.json"}
