"""Pages of one paragraph, some of them copies of others in which words are changed, and where they end up."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.toy_crawls import WORDS
from tf_codistill.corpus.wet import WetWriter


def text(rng: random.Random, num_words: int = 150) -> list[str]:
    return [rng.choice(WORDS) for _ in range(num_words)]


def changed(words: list[str], rng: random.Random, number: int) -> list[str]:
    """A copy in which some words are others."""
    words = list(words)
    for place in rng.sample(range(len(words)), number):
        words[place] = f"other{rng.randrange(10**6)}"
    return words


def grams(page: str, length: int) -> set[tuple[str, ...]]:
    """The sequences of so many words of a page without signs, or all of a shorter one."""
    words = page.lower().split()
    return {tuple(words[i : i + length]) for i in range(max(1, len(words) - length + 1))}


def jaccard(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    return len(a & b) / len(a | b)


def write_pages(directory: Path, pages: list[list[str]]) -> list[str]:
    directory.mkdir(parents=True, exist_ok=True)
    paths = [str(directory / f"crawl-{index}.warc.wet.gz") for index in range(len(pages))]
    for index, path in enumerate(paths):
        with WetWriter(path, description="pages of a test") as writer:
            for number, page in enumerate(pages[index]):
                writer.write(f"https://example.org/{index}/{number}", page, "eng")
    return paths


def places_in(directory: Path, split: str) -> set[tuple[int, int]]:
    """Which pages are in a split: file and line."""
    lines = [
        line for path in directory.glob(f"{split}-*.paragraphs") for line in path.read_text().splitlines()
    ]
    places = [(place["wet_file"], number) for place in map(json.loads, lines) for number in place["numbers"]]
    return {(int(name.removeprefix("crawl-")[0]), number) for name, number in places}
