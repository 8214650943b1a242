"""Our WET reader and the default filters against the same done with warcio.

    python -m benchmarks.wet_reader --files='crawl/*.warc.wet.gz'

Both unpack every page, check its checksum and judge it. They are timed in turns in one run, in seconds of
this process; rates are of unpacked text. At least 4 times as fast was wanted.

Behind warcio stand first the rules as one would write them down, see `plain_filters`. The detector sees whole
pages there, which changes very few verdicts.

Then our own filters stand behind both readers. What both have to do is in the way of a larger ratio: the
detector takes more time than anything else, so that there is also a line in which every page tells its
language, and one without filters. The last line is the bound for any reader in front of these filters, one
that takes no time but to unpack with the fastest library and to check by SHA-1.
"""

from __future__ import annotations

import functools
import hashlib
import operator
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags
from isal import igzip
from warcio.archiveiterator import ArchiveIterator

from benchmarks.plain_filters import judge_plainly
from tf_codistill import files, program
from tf_codistill.corpus.document import Document
from tf_codistill.corpus.filters import Filter, judge
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.corpus.wet import Record, read_wet

FILES = flags.DEFINE_string("files", None, "Pattern of the WET files.", required=True)
NUM_TIMES = flags.DEFINE_integer("num_times", 5, "How often each is timed; the medians count.")

Page = tuple[str, str | None, str]  # address, language, text


def our_pages(path: str) -> Iterator[Page]:
    """The pages by our reader."""
    return ((item.url, item.language, item.text) for item in read_wet(path) if isinstance(item, Record))


def warcio_pages(path: str) -> Iterator[Page]:
    """The pages by warcio."""
    with open(path, "rb") as file:
        for record in ArchiveIterator(file, check_digests="raise"):
            if record.rec_type == "conversion":
                text = record.content_stream().read().decode("utf-8", "replace")
                header = record.rec_headers.get_header
                yield header("WARC-Target-URI"), header("WARC-Identified-Content-Language"), text


def judged(
    pages: Callable[[str], Iterator[Page]], filters: Sequence[Filter], language: str | None = None
) -> list[Document | str]:
    """The verdict on each page; `language` stands for one that is not told."""
    return [
        judge(Document.of_text(text, url=url, language=told or language), filters)
        for path in files.glob(FILES.value)
        for url, told, text in pages(path)
    ]


def judged_plainly() -> list[list[str] | str]:
    """The verdict on each page, by warcio and the plain rules."""
    return [
        judge_plainly(text, told) for path in files.glob(FILES.value) for _, told, text in warcio_pages(path)
    ]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that something takes, and what it returns."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def unpack() -> None:
    """What nobody can do without who reads the files and checks what is in them."""
    for path in files.glob(FILES.value):
        with igzip.open(path) as file:
            hashlib.sha1(file.read())


def in_turns(own: Callable[[], Any], other: Callable[[], Any]) -> tuple[float, float, Any, Any]:
    """Median seconds of both, and what they return."""
    turns = [(timed(own), timed(other)) for _ in range(NUM_TIMES.value)]
    secs = statistics.median(turn[0][0] for turn in turns)
    other_secs = statistics.median(turn[1][0] for turn in turns)
    return secs, other_secs, turns[-1][0][1], turns[-1][1][1]


def show(title: str, num_bytes: int, secs: float, other_secs: float) -> None:
    """Prints both rates and the ratio."""
    rates = [num_bytes / one / 1e6 for one in (secs, other_secs)]
    print(f"{title:20} ours {rates[0]:4.0f} MB/s, warcio {rates[1]:4.0f} MB/s, ratio {other_secs / secs:.2f}")


def main() -> None:
    """Prints the median rates and ratios."""
    texts = (text for path in files.glob(FILES.value) for _, _, text in our_pages(path))
    num_bytes = sum(len(text.encode()) for text in texts)
    filters = CorpusSettings().filters
    secs, other_secs, own, plain = in_turns(lambda: judged(our_pages, filters), judged_plainly)
    show("plain rules", num_bytes, secs, other_secs)
    left = [verdict if isinstance(verdict, str) else list(verdict.paragraphs) for verdict in own]
    num_others = sum(map(operator.ne, left, plain))
    print(f"of {len(own)} pages {num_others} have another verdict by the plain rules")
    ways = {"reading alone": ((), None), "same filters": (filters, None), "languages told": (filters, "eng")}
    medians = {}
    for title, (steps, language) in ways.items():
        ours, theirs = (
            functools.partial(judged, pages, steps, language) for pages in (our_pages, warcio_pages)
        )
        secs, other_secs, own, other = in_turns(ours, theirs)
        if own != other:
            raise ValueError("our reader and warcio differ; expected the same verdict on each page")
        show(title, num_bytes, secs, other_secs)
        medians[title] = secs, other_secs
    least = statistics.median(timed(unpack)[0] for _ in range(NUM_TIMES.value))
    bound = medians["same filters"][1] / (least + medians["same filters"][0] - medians["reading alone"][0])
    print(f"a reader that only unpacks and checks would have, with the same filters, ratio {bound:.2f}")


if __name__ == "__main__":
    program.run(main)
