"""A sample of a crawl: its WET files, fetched or read as they come.

Crawl("CC-MAIN-2017-26", num_files=100, download_dir="/data/wet")

there is no corpus yet                       list and WET files are fetched, or read as they come
there is one of this very sample             nobody is asked for anything
there is one, and it is not told of what     the list alone is asked for: does it give the same files?

What a sample is does not depend on where its files lie: the same one from a mirror is the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import gin
from absl import logging

from tf_codistill import files
from tf_codistill.corpus.crawl import fetching
from tf_codistill.corpus.crawl.fetching import BASE_URL, PAPER_CRAWL
from tf_codistill.corpus.sources.wet_files import LeadsToWetFiles, WetFiles


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Crawl(LeadsToWetFiles):
    """Some WET files of a crawl, or all of them.

    Attributes:
        crawl: Identifier of the crawl, or path or URL of a list, see `fetching.fetch_crawl`; None for the
            paper's.
        num_files: How many files; None for all of a crawl that is named.
        download_dir: Local directory to fetch them to; None to read them as they come.
        base_url: What precedes the paths of the list.

    Raises:
        ValueError: Neither a crawl is named nor a number.
    """

    crawl: str | None = None
    num_files: int | None = None
    download_dir: str | None = None
    base_url: str = BASE_URL

    def __post_init__(self) -> None:
        if self.crawl is None and self.num_files is None:
            raise ValueError("Crawl has neither crawl nor num_files; give one, by --crawl or --num_files")

    @property
    def _crawl(self) -> str:
        return PAPER_CRAWL if self.crawl is None else self.crawl

    def resolved(self, fetch: bool = True) -> WetFiles:
        """Its WET files: drawn from the list, and fetched if there is a directory for them.

        Args:
            fetch: Whether to do so; otherwise no more than the list is read.

        Returns:
            Those files, among them the addresses of files that arrive damaged.

        Raises:
            ValueError: The crawl, its list, or `num_files` is wrong, or the directory cannot be written to.
            OSError: The list or a file is out of reach.
        """
        arguments = (self._crawl, self.num_files, self.download_dir)
        if not fetch:
            return WetFiles(fetching.draw(*arguments, base_url=self.base_url))
        fetched = fetching.fetch_crawl(*arguments, base_url=self.base_url)
        if fetched.failures:
            logging.warning("%s", fetched.summary().rstrip())
        return WetFiles(fetched.of_all())

    def list_source(self) -> str:
        """Path or URL of the crawl's list; a `ValueError` if `crawl` is none."""
        return fetching.list_source(self._crawl, self.base_url)

    def identity(self) -> Mapping[str, Any]:
        """The crawl, or the checksum of a local list, and the number of files; no server is asked for it."""
        source = self.list_source()
        is_local = source == self._crawl and not files.is_remote(source)
        name = f"sha256:{files.checksum(source)}" if is_local else self._crawl
        return {"crawl": name, "num_files": self.num_files}
