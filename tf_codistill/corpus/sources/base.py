r"""Where documents come from: a source has parts, and each part is read on its own, by whatever process.

    source = WetFiles(["crawl/*.warc.wet.gz"]).resolved()
    source.parts()                                  {"CC-MAIN-00000.warc.wet.gz": 164012345, ...}, by name

    with Reading() as reading:
        for item in reading.of(source, "CC-MAIN-00000.warc.wet.gz"):
            ...                                     a Record for a document, Damage for what is none
        reading.facts()                             {"bytes": 164012345, "sha256": ..., "modified_at": ...}

    source.renewed(part, facts)                     None: it is no longer what was read then

A source of your own says what its parts are and reads one:

    @gin.configurable
    @dataclasses.dataclass(frozen=True)
    class Blog(Source):
        path: str

        def parts(self):
            return {"posts": 0}                     # how many bytes, 0 where nobody knows

        def read(self, part, reading):
            for number, text in enumerate(open(self.path).read().split("\f")):
                yield record(text, url=f"blog/{number}")

One of files is a subclass of `file_source.Files`.
"""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, ClassVar, Self, cast

from tf_codistill.corpus.crawl.opening import modified_at, open_source
from tf_codistill.corpus.document import Record
from tf_codistill.corpus.filters import fingerprints
from tf_codistill.jobs.quarantine import Damage

MAX_DOCUMENT_BYTES = 1 << 26
"""A longer line, file or value is no document but damage."""

_CONTROLS = dict.fromkeys({*range(0x20), 0x7F} - set(b"\t\n\r"))
_LANGUAGES = {"en": "eng"}  # other codes of two letters are no English either way


class OutOfReachError(OSError):
    """A part cannot be had, or not to its end, from where it is: no damage, but the end of this run."""


class UnreadableError(ValueError):
    """Nothing can be read of a part, or not as a list of paragraphs counts it."""


class Source(abc.ABC):
    """Documents in parts. Can be pickled: an engine may send it anywhere."""

    noun: ClassVar[str] = "part"
    """What a part is, as it is told to people."""

    @abc.abstractmethod
    def parts(self) -> Mapping[str, int]:
        """Names of the parts, sorted and fit for files, with sizes in bytes, 0 where nobody knows it."""

    @abc.abstractmethod
    def read(self, part: str, reading: Reading) -> Iterator[Record | Damage]:
        """Reads a part, the same in the same order each time.

        Args:
            part: Its name.
            reading: Opens files and is told of progress.

        Returns:
            An iterator of documents, and of what is none; each line of a document counts as a paragraph, on
            through the part. It raises a `ValueError` at its end if there is no document, although there
            should be one, and an `OSError` if the part is out of reach.
        """

    def resolved(self, fetch: bool = True) -> Source:
        """The source itself, once it is known where its parts are.

        Args:
            fetch: Whether they are to be read, so that what is to be fetched is.

        Returns:
            What `parts` and `read` are asked of.

        Raises:
            ValueError: Something is wrong with what names the parts.
            OSError: What names or holds them is out of reach.
        """
        return self

    def told(self, part: str) -> str:
        """A part as it is told to people, with where it is."""
        return f"{self.noun} {part!r}"

    def describe(self) -> str | None:
        """What results depend on, beside what the parts hold; None for WET files, which need nothing.

        That is its name and its fields, but for those that say where it is; of one of yours also a
        fingerprint of its code.
        """
        described = fingerprints.describe(self)
        is_ours = type(self).__module__.partition(".")[0] == __name__.partition(".")[0]
        return described if is_ours else f"{described} {fingerprints.code_of(type(self))}"

    def identity(self) -> Mapping[str, Any] | None:
        """What tells it from other sources without a look at its parts, as JSON; None if nothing does."""
        return None

    def list_source(self) -> str | None:
        """Path or URL of the list that must have all parts of a list of paragraphs; None if there is none."""
        return None

    def renewed(
        self, part: str, facts: Mapping[str, Any], since: float | None = None
    ) -> Mapping[str, Any] | None:
        """Looks whether a part is still what was read.

        Args:
            part: Its name.
            facts: What `Reading.facts` noted of it, and ``unreadable``, counts of what was damaged.
            since: When that was, at the latest; None if the facts tell.

        Returns:
            The facts, as they would be noted now; None if it has changed.
        """
        return facts


class Reading:
    """What is known of a part while it is read: how far that is, and what tells it from another version.

    Args:
        advance: Called with the number of bytes done since the last call.
    """

    def __init__(self, advance: Callable[[int], None] = lambda number: None) -> None:
        self.advance = advance
        self._digest = hashlib.sha256()
        self._num_bytes = 0
        self._modified_at: float | None = None
        self._files: list[_Summed] = []

    def open(self, path: str) -> BinaryIO:
        """A binary file that is summed up while it is read to its end, and closed with the reading.

        Errors of its place, a path, URL or address, are `OutOfReachError`.
        """
        self._files.append(_Summed(path, self))
        return cast(BinaryIO, self._files[-1])

    def of(self, source: Source, part: str) -> Iterator[Record | Damage]:
        """Reads a part of a source; an `UnreadableError` or an `OutOfReachError` if that fails."""
        try:
            for item in source.read(part, self):
                if not self._files and isinstance(item, Record):
                    self.add(f"{item.url}\0{item.text}\0".encode("utf-8", "surrogatepass"))
                yield item
        except (UnreadableError, OutOfReachError):
            raise
        except ValueError as error:
            raise UnreadableError(str(error)) from error
        except OSError as error:
            raise OutOfReachError(str(error)) from error

    def add(self, content: bytes) -> None:
        """Adds bytes to size and checksum."""
        self._num_bytes += len(content)
        self._digest.update(content)

    def begin(self, path: str) -> None:
        """Notes when a file was written, before it is read, so that a change while it is shows later."""
        self._modified_at = latest(self._modified_at, modified_at(path))

    def facts(self) -> dict[str, Any]:
        """Size and checksum of what has been read, and from when it is."""
        sha256 = self._digest.hexdigest()
        return {"bytes": self._num_bytes, "sha256": sha256, "modified_at": self._modified_at}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()


class _Summed:
    """A file of a reading; open from when its first byte is asked for to when its end is seen."""

    def __init__(self, path: str, reading: Reading) -> None:
        self.name = path  # for messages
        self._reading = reading
        self._file: BinaryIO | None = None
        self._is_over = False

    def read(self, size: int = -1) -> bytes:
        if self._is_over:
            return b""
        try:
            if self._file is None:
                self._reading.begin(self.name)
                self._file = open_source(self.name)
            content = self._file.read(size)
        except (OSError, ValueError) as error:  # an address that is none is no damage either
            place = "" if self.name in str(error) else f"{self.name!r} cannot be read: "
            raise OutOfReachError(f"{place}{error}") from error
        self._reading.add(content)
        if not content:  # a part may have more files than a process may hold open
            self.close()
        return content

    def close(self) -> None:
        self._is_over = True
        if self._file is not None:
            self._file.close()


def with_documents(items: Iterable[Record | Damage], name: str) -> Iterator[Record | Damage]:
    """Passes on what is read of something; raises a `ValueError` with its name if that is damage alone."""
    num_found, first = 0, None
    for item in items:
        num_found += isinstance(item, Record)
        first = first or (item if isinstance(item, Damage) else None)
        yield item
    if first and not num_found:
        raise ValueError(
            f"{name} has no document that can be read: {first.kind} at {first.offset}, and so on; fetch it "
            "again or leave it out"
        )


def record(text: str, url: str, language: Any = None, dirt: Sequence[str] = ()) -> Record:
    """A document as sources of any form have it, with what is odd about it beside `dirt`.

    Half surrogate pairs of its text, which no file can have, become U+FFFD. Its address is whatever tells it
    from others, its language an ISO 639-3 or 639-1 code, None where nobody told.
    """
    odd = list(dirt)
    clean = text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if clean != text and "bad_utf8" not in odd:
        odd.append("bad_utf8")
    if clean.translate(_CONTROLS) != clean:
        odd.append("control_characters")
    if not clean or clean.isspace():
        odd.append("empty")
    told = language.strip() if isinstance(language, str) else ""
    return Record(url, clean, _LANGUAGES.get(told, told) or None, "", tuple(odd))


def decoded(content: bytes) -> tuple[str, Sequence[str]]:
    """Text from bytes, and what is odd about it: bytes that are not UTF-8 are U+FFFD, as in WET files."""
    try:
        return content.decode("utf-8"), ()
    except UnicodeDecodeError:
        return content.decode("utf-8", "replace"), ("bad_utf8",)


def latest(*times: float | None) -> float | None:
    """The latest of the times that are known, None where none is."""
    return max((time for time in times if time is not None), default=None)
