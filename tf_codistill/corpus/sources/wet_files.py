"""WET files as a source: the pages of a web crawl, see `wet`.

WetFiles(["crawl/*.warc.wet.gz"])                   paths, URLs, addresses or patterns
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from typing import ClassVar

import gin

from tf_codistill.corpus.document import Record
from tf_codistill.corpus.sources.base import Reading, Source
from tf_codistill.corpus.sources.file_source import Files
from tf_codistill.corpus.wet import read_wet
from tf_codistill.jobs.quarantine import Damage


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WetFiles(Files):
    """WET files, packed or not, each with another name."""

    noun: ClassVar[str] = "WET file"

    def read(self, part: str, reading: Reading) -> Iterator[Record | Damage]:
        """Reads a WET file."""
        return self.read_file(self._paths[part][0], reading)

    def read_file(self, path: str, reading: Reading) -> Iterator[Record | Damage]:
        """Reads a WET file; a `ValueError` at its end if there is no page in it."""
        return read_wet(reading.open(path), reading.advance)

    def describe(self) -> None:
        """Nothing: a corpus that does not say its source is one of WET files."""
        return


class LeadsToWetFiles(Source):
    """A source of WET files that has to be asked where these are, or to fetch them."""

    noun: ClassVar[str] = WetFiles.noun

    @abc.abstractmethod
    def resolved(self, fetch: bool = True) -> WetFiles:
        """Its WET files, see `Source.resolved`."""

    def parts(self) -> Mapping[str, int]:
        """Those of its WET files, which are not fetched."""
        return self.resolved(fetch=False).parts()

    def read(self, part: str, reading: Reading) -> Iterator[Record | Damage]:
        """Reads one of its WET files, from where it is."""
        return self.resolved(fetch=False).read(part, reading)

    def describe(self) -> None:
        """Nothing: it is a source of WET files."""
        return
