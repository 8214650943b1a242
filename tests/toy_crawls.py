"""Small crawls: WET files of pages that are quickly read, learned and written."""

from __future__ import annotations

import os
import pathlib
import random
import re
import time

from tf_codistill.corpus.document import Document
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.corpus.wet import WetWriter

SETTINGS = CorpusSettings(num_pieces=120, num_shards=3, validation_share=0.2)
WORDS = re.findall(r"\w+", "the quick brown fox jumps over lazy dogs while many small birds sing old songs")


PAUSE_SECS = "TOY_PAUSE_SECS"
"""Variable of the environment: how long a `pause` takes. It is no parameter, for it changes no corpus."""


def pause(document: Document) -> Document:
    """A filter that lets every page pass, after a while."""
    time.sleep(float(os.environ.get(PAUSE_SECS, "0")))
    return document


def page_text(number: int) -> str:
    """A page with a menu and two long paragraphs."""
    rng = random.Random(number)
    sentences = [" ".join(rng.choices(WORDS, k=8)).capitalize() + "." for _ in range(12)]
    return f"Home\nPage {number} tells this. " + " ".join(sentences[:6]) + "\n" + " ".join(sentences[6:])


def write_crawl(directory: pathlib.Path, num_files: int = 2, num_good: int = 60) -> list[str]:
    """Writes WET files; of each, besides the good pages, one is foreign, one has only links, one is short."""
    directory.mkdir(exist_ok=True)
    paths = [str(directory / f"crawl-{index}.warc.wet.gz") for index in range(num_files)]
    for index, path in enumerate(paths):
        with WetWriter(path, description="pages of a test") as writer:
            for number in range(index, num_good, num_files):
                writer.write(f"https://example.org/{number}", page_text(number), "eng")
            writer.write(f"https://example.org/foreign/{index}", page_text(0), "deu")
            writer.write(f"https://example.org/links/{index}", "Home\nNext\nContact 3\n" * 20, "eng")
            writer.write(f"https://example.org/short/{index}", "One short sentence.", "eng")
    return paths


def write_chain(path: pathlib.Path, num_pages: int = 20) -> str:
    """Writes a WET file of pages, each of which shares a paragraph with the next; one alone is too little.

    Every second page has to be dropped, and it takes all those before it to know which.
    """
    rng = random.Random(7)
    lines = [f"Paragraph {n} tells " + " ".join(rng.choices(WORDS, k=22)) + "." for n in range(num_pages + 1)]
    with WetWriter(str(path), description="pages of a test") as writer:
        for number in range(num_pages):
            writer.write(f"https://example.org/chain/{number}", "\n".join(lines[number : number + 2]), "eng")
    return str(path)


def contents(directory: pathlib.Path | str) -> dict[str, bytes]:
    """The files of a corpus."""
    return {path.name: path.read_bytes() for path in sorted(pathlib.Path(directory).iterdir())}
