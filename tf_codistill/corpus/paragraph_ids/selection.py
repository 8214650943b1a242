"""A corpus from a list of its paragraphs, and the list of the paragraphs of a corpus.

    <corpus>/paragraph_ids.csv               written with each corpus, see lists.py
    <corpus>/paragraph_ids.csv.sha256

    selection = Selection.open("corpus/paragraph_ids.csv")
    prepare(wet_files, "rebuilt", settings, selection=selection)        the same token shards, byte for byte

A list replaces filters and the search for duplicates: a document is what is listed of its paragraphs, and one
of which nothing is listed is dropped as ``not_selected``. Everything else follows the settings as ever, among
it the word pieces, unless a tokenizer is given: whoever limits the tokens needs that one, because word pieces
are learned from documents beyond the limit, too.

A list and WET files that do not belong together would give a corpus of the wrong paragraphs. So a listed
paragraph that is a blank line or lies beyond the end of its WET file is an error, and so is a WET file that
the list does not name. What the list names beside the files given is no error: whoever takes a hundred
files of a crawl needs no list of his own. It is counted. A WET file that is damaged anywhere counts as one
that cannot be read: nobody knows how many lines are lost, and so which ones the list means behind them.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
from absl import logging

from tf_codistill import files
from tf_codistill.corpus.crawl.opening import file_name
from tf_codistill.corpus.document import Document
from tf_codistill.corpus.paragraph_ids import lists
from tf_codistill.corpus.paragraph_ids.lists import Numbers
from tf_codistill.corpus.settings import CorpusSettings

REASON = "not_selected"
"""Why a document is dropped of which nothing is listed."""

_FACTS = "selection.json"
_NUMBERS = ".numbers"
_NUMBER = np.dtype("<u4")
_NUM_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Selection:
    """A list of paragraphs that a corpus is made of.

    Attributes:
        path: Path or URL of the list.
        sha256: Its SHA-256.
        crawl: The crawl that all listed files must belong to, see `fetching.read_paths`; None for any.
        is_unwrapped: Whether wrapped documents are to be joined to paragraphs before anything is selected.
    """

    path: str
    sha256: str
    crawl: str | None = None
    is_unwrapped: bool = False

    @classmethod
    def open(cls, path: str, crawl: str | None = None) -> Selection:
        """A list whose checksum is right, otherwise a `ValueError`; only its beginning is looked into yet."""
        return cls(path, lists.check(path), crawl, lists.is_unwrapped(path))

    def applied_to(self, settings: CorpusSettings) -> CorpusSettings:
        """Settings without all that drops documents, which the list does; it also decides on unwrapping."""
        return dataclasses.replace(
            settings,
            filters=(),
            duplicates="none",
            near_duplicates=None,
            decontaminate=False,
            unwrap=self.is_unwrapped,
        )

    def unpack(self, directory: str, wet_files: Iterable[str]) -> None:
        """Writes what is listed of each WET file to one file each for `Selected.load`, unless that is done.

        A `ValueError` if a WET file, named without directory, is not listed, a listed one does not belong to
        the crawl or is listed twice, or the list cannot be understood; an `OSError` if a list cannot be read.
        """
        facts = files.join(directory, _FACTS)
        if not files.exists(facts):
            files.make_directory(directory)
            others = self._unpack(directory, {stem_of(name): name for name in wet_files})
            if others:
                named = ", ".join(others[:_NUM_NAMED]) + (", ..." if len(others) > _NUM_NAMED else "")
                logging.warning(
                    "list %r names %d files or other parts not given: %s", self.path, len(others), named
                )
            files.write_json(facts, {"sha256": self.sha256, "num_others": len(others)})

    def _unpack(self, directory: str, given: Mapping[str, str]) -> list[str]:
        """Writes the numbers; returns the names of listed files that are not given."""
        in_crawl = None
        if self.crawl is not None:
            from tf_codistill.corpus.crawl import fetching  # with all that speaks to servers

            in_crawl = {stem_of(file_name(path)) for path in fetching.read_paths(self.crawl)}
        listed: dict[str, str] = {}
        for wet_file, numbers in lists.read(self.path):
            stem = stem_of(wet_file)
            if in_crawl is not None and stem not in in_crawl:
                raise ValueError(
                    f"list {self.path!r} names {wet_file!r}, which crawl {self.crawl!r} does not have; "
                    "name the crawl that the list was made from"
                )
            if stem in listed:
                raise ValueError(f"list {self.path!r} names {wet_file!r} twice; expected one row for a file")
            listed[stem] = wet_file
            if stem in given:
                files.write(files.join(directory, given[stem] + _NUMBERS), numbers.astype(_NUMBER).tobytes())
        missing = [name for stem, name in given.items() if stem not in listed]
        if missing:
            raise ValueError(
                f"{missing[0]!r} is not in the list {self.path!r}; {len(missing)} of {len(given)} "
                "are not: leave them out, or name the list that was made from them"
            )
        return [name for stem, name in listed.items() if stem not in given]


def num_others(directory: str) -> int:
    """The number of listed WET files that were not given to `Selection.unpack`, by its directory."""
    return int(files.read_json(files.join(directory, _FACTS))["num_others"])


class Selected:
    """A filter that leaves the listed paragraphs of a WET file; it wants to see all its documents in order.

    Args:
        wet_file: Name of the WET file.
        numbers: Its listed paragraphs.
    """

    def __init__(self, wet_file: str, numbers: Numbers) -> None:
        self._wet_file = wet_file
        self._numbers = numbers
        self._next = 0

    @classmethod
    def load(cls, directory: str, wet_file: str) -> Selected:
        """The filter of a WET file, by what `Selection.unpack` left in a directory."""
        content = files.read(files.join(directory, wet_file + _NUMBERS))
        return cls(wet_file, np.frombuffer(content, _NUMBER))

    def __call__(self, document: Document) -> Document | str:
        """What is listed of the next document of the WET file, or ``not_selected``.

        That a listed paragraph is a blank line is a `ValueError`.
        """
        if not document.numbers:
            return REASON
        start = self._next
        self._next = end = bisect.bisect_right(self._numbers, document.numbers[-1], start)
        listed = set(self._numbers[start:end].tolist())
        blank = listed.difference(document.numbers)
        if blank:
            self._tell(min(blank), "is a blank line")
        return document.only(number in listed for number in document.numbers) if listed else REASON

    def check_end(self, num_lines: int) -> None:
        """Checks that nothing more is listed than the lines of all pages, otherwise a `ValueError`."""
        if self._next < len(self._numbers):
            number = int(self._numbers[self._next])
            what = f"does not exist: it has {num_lines}" if number >= num_lines else "is a blank line"
            self._tell(number, what)

    def _tell(self, number: int, what: str) -> None:
        raise ValueError(
            f"list of paragraphs: number {number} of {self._wet_file!r} {what}; the list was made "
            "from another file of that name, or the file is damaged: fetch it again"
        )


def stem_of(wet_file: str) -> str:
    """The name of a WET file by which lists know it, packed or not."""
    return wet_file.removesuffix(".gz")
