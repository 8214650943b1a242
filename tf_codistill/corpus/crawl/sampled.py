"""A corpus of a sample of a crawl, which needs no network once it is there.

    sample = Sample("CC-MAIN-2017-26", num_files=100, directory="/data/wet")
    mark = prepare(sample, "/data/corpus", CorpusSettings(), engines.Local())

    there is no corpus yet                       list and WET files are fetched, or read as they come
    there is one of this very sample             nobody is asked for anything
    there is one, and it is not told of what     the list alone is asked for: does it give the same files?

What a sample is does not depend on where its files lie: the same one from a mirror is the same.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import logging

from tf_codistill import files
from tf_codistill.corpus import pipeline
from tf_codistill.corpus.crawl import fetching
from tf_codistill.corpus.crawl.fetching import BASE_URL, PAPER_CRAWL
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.jobs import stages


@dataclasses.dataclass(frozen=True)
class Sample:
    """Some WET files of a crawl, or all of them.

    Attributes:
        crawl: Identifier of the crawl, or path or URL of a list, see `fetching.fetch_crawl`.
        num_files: How many files; None for all of them.
        directory: Local directory to fetch them to; None to read them as they come.
        base_url: What precedes the paths of the list.
    """

    crawl: str = PAPER_CRAWL
    num_files: int | None = None
    directory: str | None = None
    base_url: str = BASE_URL

    def list_source(self) -> str:
        """Path or URL of the crawl's list; a `ValueError` if `crawl` is none."""
        return fetching.list_source(self.crawl, self.base_url)

    def identity(self) -> dict[str, Any]:
        """What tells the sample from others; no server is asked for it.

        Returns:
            What JSON takes. A local list is known by what it holds.

        Raises:
            FileNotFoundError: There is no such list.
        """
        source = self.list_source()
        is_local = source == self.crawl and not files.is_remote(source)
        name = f"sha256:{files.checksum(source)}" if is_local else self.crawl
        return {"crawl": name, "num_files": self.num_files}

    def draw(self) -> list[str]:
        """Where the WET files are; reads no more than the list. Raises the errors of `fetching.draw`."""
        return fetching.draw(self.crawl, self.num_files, self.directory, base_url=self.base_url)

    def fetch(self) -> list[str]:
        """Fetches the WET files, if there is a directory for them.

        Returns:
            Paths and URLs, among them those of files that arrive damaged.

        Raises:
            ValueError: The crawl, its list, or `num_files` is wrong, or the directory cannot be written to.
            OSError: The list or a file is out of reach.
        """
        fetched = fetching.fetch_crawl(self.crawl, self.num_files, self.directory, base_url=self.base_url)
        if fetched.failures:
            logging.warning("%s", fetched.summary().rstrip())
        return fetched.of_all()


def prepare(
    sample: Sample,
    output_dir: str,
    settings: CorpusSettings | None = None,
    engine: stages.Engine | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Prepares a corpus of a sample, unless `output_dir` holds it already.

    Args:
        sample: Which WET files.
        output_dir: Directory of the corpus.
        settings: Vocabulary, filters and sizes.
        engine: What runs the tasks.
        **more: ``tokenizer``, ``quarantine_dir`` and ``paragraph_ids`` as `pipeline.prepare` takes them.

    Returns:
        The mark of the corpus.

    Raises:
        ValueError: `output_dir` holds something else, or what `pipeline.prepare` tells.
        OSError: The list or a file is out of reach.
    """
    identity = sample.identity()
    found = pipeline.check(output_dir, settings, **more)  # before hours of fetching
    if found is not None and found.is_of(identity):
        return found.mark
    wet_files = sample.fetch() if found is None else sample.draw()
    return pipeline.prepare(wet_files, output_dir, settings, engine, sample=identity, **more)
