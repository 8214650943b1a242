"""Documents in files, wherever these are: on disk, in a bucket, on a server.

    @gin.configurable
    @dataclasses.dataclass(frozen=True)
    class Mails(Files):
        noun, endings = "mail", (".eml",)           how a file is called, and which ones of a folder count

        def read_file(self, path, reading):
            yield record(reading.open(path).read().decode(), url=path)

What a file holds is all that a source of files has to say. Patterns, names, sizes and checksums are common to
them, and so is that a file which is out of reach is no damaged one.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from tf_codistill import files
from tf_codistill.corpus.crawl.opening import file_name, is_http, matching, modified_at, open_source
from tf_codistill.corpus.document import Record
from tf_codistill.corpus.sources.base import Reading, Source, latest, with_documents
from tf_codistill.jobs.quarantine import Damage


@dataclasses.dataclass(frozen=True)
class Files(Source):
    """Documents in files, wherever these are; a part is a file, and its name that of the file.

    Attributes:
        files: Paths, URLs, addresses or shell patterns; folders where `endings` says which of their files.
    """

    # Of types that are known in the module of any subclass, where annotations are looked up.
    files: list[str] | tuple[str, ...] = ()

    noun: ClassVar[str] = "file"
    endings: ClassVar[Sequence[str]] = ()
    """How those files of a folder end that are meant, packed or not."""

    @abc.abstractmethod
    def read_file(self, path: str, reading: Reading) -> Iterator[Record | Damage]:
        """Reads a file, which `reading` opens, as for `Source.read`: all in which sources of files differ."""

    def parts(self) -> Mapping[str, int]:
        """The parts with their sizes, 0 for those on a server, which is not asked for it."""
        return {part: sum(map(_size, paths)) for part, paths in self._paths.items()}

    def read(self, part: str, reading: Reading) -> Iterator[Record | Damage]:
        """Reads the files of a part."""
        paths = self._paths[part]
        name = self.told(part)
        num_found = 0
        for item in with_documents((one for path in paths for one in self.read_file(path, reading)), name):
            num_found += 1
            yield item
        if not num_found and not reading.facts()["bytes"]:
            raise ValueError(f"{name} is empty; fetch it again or leave it out")

    def told(self, part: str) -> str:
        """The first of its files."""
        return f"{self.noun} {self._paths[part][0]!r}"

    def resolved(self, fetch: bool = True) -> Source:
        """With the paths that its patterns match."""
        resolved = dataclasses.replace(self, files=tuple(matching(self.files, self.endings)))
        if not resolved.files:
            raise ValueError(
                f"no {self.noun} was given; name at least one, by --files or {type(self).__name__}.files"
            )
        resolved.parts()
        return resolved

    def renewed(
        self, part: str, facts: Mapping[str, Any], since: float | None = None
    ) -> Mapping[str, Any] | None:
        """Compares the checksum, where size and time leave a doubt; a server is not asked."""
        paths = self._paths[part]
        if any(map(is_http, paths)):
            return facts
        time = latest(*map(modified_at, paths))
        if sum(map(_size, paths)) != facts["bytes"] or time is None:
            return None
        # Whoever fetched a damaged file anew may have given it its old time.
        is_newer = time != facts["modified_at"] if since is None else time >= since
        # Of a file of which nothing could be read the checksum was not always noted.
        is_doubtful = (is_newer or bool(facts["unreadable"])) and "sha256" in facts
        return None if is_doubtful and _checksum(paths) != facts["sha256"] else {**facts, "modified_at": time}

    def describe(self) -> str | None:
        """As for any source; where the files are does not count."""
        here = dataclasses.replace(self, files=())
        return super(Files, here).describe()

    @functools.cached_property
    def _paths(self) -> Mapping[str, Sequence[str]]:
        """The files of each part, sorted by its name."""
        named: dict[str, Sequence[str]] = {}
        owners: dict[str, str] = {}
        for path in self.files:
            name = file_name(path)
            owner = owners.setdefault(name.removesuffix(".gz"), path)
            if owner != path:
                raise ValueError(
                    f"{self.noun}s {owner!r} and {path!r} have the same name, packed or not, by which a "
                    "corpus tells them apart; give each once, or rename one"
                )
            named[name] = (path,)
        return dict(sorted(named.items()))


@dataclasses.dataclass(frozen=True)
class FilesOfRows(Files):
    """Files of rows with named fields, a document in each.

    Attributes:
        text: Field, or column, of a document's text; with points between the names where it is inside others.
        url: That of its address or id; documents without one are named by file and row.
        language: That of its language; None where the detector shall say it.
    """

    text: str = "text"
    url: str = "url"
    language: str | None = None


def _size(path: str) -> int:
    return 0 if is_http(path) else files.size_bytes(path)


def _checksum(paths: Sequence[str]) -> str:
    """That of what the files hold, one behind the other."""
    if len(paths) == 1:
        return files.checksum(paths[0])
    digest = hashlib.sha256()
    for path in paths:
        with open_source(path) as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()
