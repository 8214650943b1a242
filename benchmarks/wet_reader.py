"""Our WET reader and the default filters against the same done with warcio.

    python -m benchmarks.wet_reader --wet_files='crawl/*.warc.wet.gz'

Both unpack every page, check its checksum and judge it, with the same verdict on each. They are timed in
turns in one run, in seconds of this process; rates are of unpacked text. At least 4 times as fast was wanted.

What both have to do is in the way of that: the filters are the same for both, and the language detector takes
more time than anything else, so that there is also a line in which every page tells its language, and one
without filters. The last line is the bound for any reader in front of these filters, one that takes no time
but to unpack with the fastest library and to check by SHA-1.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

from absl import flags
from isal import igzip
from warcio.archiveiterator import ArchiveIterator

from tf_codistill import files, program
from tf_codistill.corpus.document import Document
from tf_codistill.corpus.filters import Filter, judge
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.corpus.wet import Record, read_wet

WET_FILES = flags.DEFINE_string("wet_files", None, "Pattern of the WET files.", required=True)
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
    pages: Callable[[str], Iterator[Page]], filters: Sequence[Filter], language: str | None
) -> tuple[float, list[Document | str]]:
    """Seconds that it takes, and the verdict on each page; `language` stands for one that is not told."""
    start = time.process_time()
    verdicts = [
        judge(Document.of_text(text, url=url, language=told or language), filters)
        for path in files.glob(WET_FILES.value)
        for url, told, text in pages(path)
    ]
    return time.process_time() - start, verdicts


def unpacking_secs() -> float:
    """Seconds without which nobody reads the files and checks what is in them."""
    start = time.process_time()
    for path in files.glob(WET_FILES.value):
        with igzip.open(path) as file:
            hashlib.sha1(file.read())
    return time.process_time() - start


def main() -> None:
    """Prints the median rates and ratios."""
    texts = (text for path in files.glob(WET_FILES.value) for _, _, text in our_pages(path))
    num_bytes = sum(len(text.encode()) for text in texts)
    filters = CorpusSettings().filters
    ways = {"reading alone": ((), None), "and filters": (filters, None), "languages told": (filters, "eng")}
    own: dict[str, float] = {}
    others: dict[str, float] = {}
    for title, (steps, language) in ways.items():
        times = []
        for _ in range(NUM_TIMES.value):
            (secs, verdicts), (other_secs, other) = (
                judged(pages, steps, language) for pages in (our_pages, warcio_pages)
            )
            if verdicts != other:
                raise ValueError("our reader and warcio differ; expected the same verdict on each page")
            times.append((secs, other_secs))
        own[title], others[title] = (statistics.median(column) for column in zip(*times, strict=True))
        rates = [num_bytes / secs / 1e6 for secs in (own[title], others[title])]
        ratio = others[title] / own[title]
        print(f"{title:16} ours {rates[0]:4.0f} MB/s, warcio {rates[1]:4.0f} MB/s, ratio {ratio:.2f}")
    least = statistics.median(unpacking_secs() for _ in range(NUM_TIMES.value))
    bound = others["and filters"] / (least + own["and filters"] - own["reading alone"])
    print(f"a reader that only unpacks and checks would have, with filters, ratio {bound:.2f}")


if __name__ == "__main__":
    program.run(main)
