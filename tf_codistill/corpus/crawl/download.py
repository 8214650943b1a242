"""Fetches files of a server into a local directory, several at a time.

    <directory>/
        CC-MAIN-....-00000.warc.wet.gz                    whole and checked; not fetched again
        CC-MAIN-....-00001.warc.wet.gz.partial            what has arrived so far ...
        CC-MAIN-....-00001.warc.wet.gz.partial.json       ... and of which version of the file

    fetched = fetch(urls, "/data/crawl")
    fetched.sources                                       paths of the files that are there
    fetched.failures                                      {url: reason and remedy}
    fetched.damaged                                       those of them that arrive, but damaged, each time

Whoever is stopped, by Ctrl-C or by force, goes on from what has arrived. A file is there under its own
name once its size is right and, if it is packed, the checksum of each gzip member.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import fcntl
import gzip
import os
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

from tf_codistill import files
from tf_codistill.corpus.crawl.http_file import ChangedError, HttpFile, RetryPolicy, Version
from tf_codistill.corpus.crawl.opening import file_name, is_http
from tf_codistill.jobs.progress import Progress

_CHUNK_BYTES = 1 << 16
_NUM_BEGINNINGS = 3  # a file that changes, or arrives damaged, is fetched from its first byte so often
_LEAVE_SECS = 1.0  # then a connection that still waits for its server is left behind


class _DamagedError(OSError):
    """A file arrives to its end, but each time damaged: that is how the server has it."""


class _Stopped(Exception):  # noqa: N818
    """The other connections have been told to stop."""


@dataclasses.dataclass(frozen=True)
class Fetched:
    """What came of fetching files.

    Attributes:
        sources: What `open_source` takes for each file that can be read, in the order of the addresses.
        failures: For each other file by its address, why it cannot be read and what to do.
        damaged: Addresses of those that arrive damaged, each time, in the same order.
    """

    sources: tuple[str, ...]
    failures: Mapping[str, str]
    damaged: tuple[str, ...] = ()

    def of_all(self) -> list[str]:
        """Paths, and behind them the addresses of files that arrive damaged, for whoever counts what is.

        A file that is out of reach, since the server does not have it, refuses, or cannot be reached, is an
        `OSError`.
        """
        lost = [reason for url, reason in self.failures.items() if url not in self.damaged]
        if lost:
            raise OSError(
                f"{len(lost)} of {len(self.sources) + len(self.failures)} files could not be fetched; the "
                f"first: {lost[0]}; what has arrived is kept, and the same command goes on from there; if a "
                "file is gone for good, leave it out of the list of files that is named"
            )
        return [*self.sources, *self.damaged]

    def summary(self) -> str:
        """What could not be fetched, a headline and a line for each; empty if there is none."""
        if not self.failures:
            return ""
        number = len(self.failures)
        headline = f"{number} of {number + len(self.sources)} files could not be fetched:\n"
        return headline + "".join(f"  {reason}\n" for reason in self.failures.values())


def fetch(
    urls: Sequence[str], directory: str, *, num_connections: int = 4, retry_policy: RetryPolicy | None = None
) -> Fetched:
    """Fetches files, each under the last part of its path.

    A file that cannot be had does not hold up the others.

    Args:
        urls: Addresses, ``https://`` or ``http://``. What is none, such as ``gs://``, need not be fetched and
            comes back as it is.
        directory: Local directory.
        num_connections: How many files are fetched at a time.
        retry_policy: How often and how soon the server is asked again.

    Returns:
        Where the files are, and which could not be fetched.

    Raises:
        ValueError: Two files have one name, `directory` is not local or cannot be written to, or
            `num_connections` is below 1.
        OSError: This machine cannot store the files, for instance because the disk is full.
    """
    if num_connections < 1:
        raise ValueError(f"num_connections is {num_connections}; expected at least 1")
    paths = _paths([url for url in urls if is_http(url)], directory)
    if not paths:
        return Fetched(tuple(urls), {})
    files.make_directory(directory)
    with Progress(f"fetching {len(paths)} files", 1, "bytes") as progress:
        shared = (retry_policy or RetryPolicy(), _Display(progress, len(paths)), stop := threading.Event())
        transfers = {url: _Transfer(url, path, *shared) for url, path in paths.items()}
        errors = _fetch_all(transfers, stop, min(num_connections, len(paths)))
    return Fetched(
        tuple(paths.get(url, url) for url in urls if url not in errors),
        {url: str(error) for url, error in errors.items()},
        tuple(url for url, error in errors.items() if isinstance(error, _DamagedError)),
    )


def fetch_file(url: str, path: str, retry_policy: RetryPolicy | None = None) -> None:
    """Fetches one file to a local path, unless it is there; an `OSError` if it is out of reach or damaged."""
    with Progress(f"fetching {os.path.basename(path)}", 1, "bytes") as progress:
        display = _Display(progress, 1)
        _Transfer(url, path, retry_policy or RetryPolicy(), display, threading.Event()).run()


class _Display:
    """The bytes of several transfers on one display; sizes that are not known yet are taken for the mean."""

    def __init__(self, progress: Progress, num_files: int) -> None:
        self._progress = progress
        self._num_files = num_files
        self._expected: dict[str, int] = {}
        self._done: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    def expect(self, url: str, num_bytes: int) -> None:
        """Says how many bytes of a file are still to come."""
        with self._lock:
            self._expected[url] = self._done[url] + num_bytes
            # A file that is there already says nothing about the size of the others.
            sizes = [size for size in self._expected.values() if size]
            unknown = (self._num_files - len(self._expected)) * sum(sizes) // max(len(sizes), 1)
            self._progress.expect(sum(sizes) + unknown)

    def advance(self, url: str, num_bytes: int) -> None:
        with self._lock:
            self._done[url] += num_bytes
            self._progress.advance(num_bytes)


def _fetch_all(
    transfers: Mapping[str, _Transfer], stop: threading.Event, num_connections: int
) -> dict[str, BaseException]:
    """Works until all files are there or have failed; returns why, by address.

    Trouble of this machine, such as a full disk, concerns every file: it stops all transfers, and is raised.
    """
    failures: dict[str, BaseException] = {}
    trouble: list[BaseException] = []
    waiting = iter(transfers.items())  # shared by all threads

    def work() -> None:
        for url, transfer in waiting:
            try:
                transfer.run()
            except _Stopped:
                return
            except BaseException as error:
                # Only what the operating system says has a number.
                if isinstance(error, ValueError | OSError) and getattr(error, "errno", None) is None:
                    failures[url] = error
                else:
                    trouble.append(error)
                    stop.set()
            if stop.is_set():
                return

    # Daemons: one that waits for a server must not keep a program from ending.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(num_connections)]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads) and not stop.wait(0.1):
            pass
    finally:
        stop.set()
        deadline = time.monotonic() + _LEAVE_SECS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
    if trouble:
        raise trouble[0]
    return {url: failures[url] for url in transfers if url in failures}


class _Transfer:
    """One file on its way."""

    def __init__(
        self, url: str, path: str, retry_policy: RetryPolicy, display: _Display, stop: threading.Event
    ) -> None:
        self._url, self._path = url, path
        self._partial, self._facts = f"{path}.partial", f"{path}.partial.json"
        self._retry_policy, self._display, self._stop = retry_policy, display, stop

    def run(self) -> None:
        try:
            if not os.path.exists(self._path):
                with self._open() as file:
                    if os.path.exists(self._path):  # another program was faster
                        self._forget()
                    else:
                        self._fetch(file)
        finally:
            self._display.expect(self._url, 0)

    @contextlib.contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        with open(self._partial, "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OSError(
                    f"{self._url} is being fetched into {self._path!r} by another program; wait for it, or "
                    "name another directory"
                ) from error
            try:
                yield file
            finally:
                file.flush()
                if not os.fstat(file.fileno()).st_size:
                    self._forget()

    def _fetch(self, file: BinaryIO) -> None:
        kind: type[OSError] = _DamagedError
        for _ in range(_NUM_BEGINNINGS):
            try:
                self._receive(file)
                reason = gzip_damage(self._partial) if self._path.endswith(".gz") else None
            except ChangedError as error:
                reason, kind = str(error), OSError
            if reason is None:
                # Without it a power cut could leave an empty file under the name of a whole one.
                os.fsync(file.fileno())
                os.rename(self._partial, self._path)
                self._forget()
                return
            self._start_over(file)
        raise kind(
            f"{self._url} did not arrive whole, {_NUM_BEGINNINGS} times from its beginning: {reason}; "
            "leave it out, or try again later"
        )

    def _receive(self, file: BinaryIO) -> None:
        version = self._version()
        size = os.fstat(file.fileno()).st_size
        if version is None or (version.num_bytes is not None and size > version.num_bytes):
            self._start_over(file)
            size, version = 0, None
        with HttpFile(self._url, self._retry_policy, start=size, version=version) as source:
            source.connect()
            version = source.version or Version()
            if source.takes_ranges:
                files.write_json(self._facts, {"url": self._url, **dataclasses.asdict(version)})
            self._display.expect(self._url, max(0, (version.num_bytes or 0) - size))
            while chunk := source.read(_CHUNK_BYTES):
                if self._stop.is_set():
                    raise _Stopped
                file.write(chunk)
                self._display.advance(self._url, len(chunk))
        file.flush()

    def _version(self) -> Version | None:
        """The version of which the partial file is a part, or None if nobody knows."""
        try:
            facts = files.read_json(self._facts)
            version = Version(**{key: facts[key] for key in vars(Version())})
            return version if facts["url"] == self._url else None
        except (FileNotFoundError, files.CorruptError, KeyError, TypeError):
            return None

    def _start_over(self, file: BinaryIO) -> None:
        file.truncate(0)
        files.remove(self._facts)

    def _forget(self) -> None:
        files.remove(self._partial)
        files.remove(self._facts)


def check_local(directory: str) -> None:
    """Checks that files can be fetched into a directory; a `ValueError` if it is on remote storage."""
    if files.is_remote(directory):
        raise ValueError(
            f"directory {directory!r} is not local, files cannot be fetched into it; name a local one, or "
            "none to read the files from the server"
        )


def gzip_damage(path: str) -> str | None:
    """What is wrong with a local gzip file; None if each member is whole, with its size and its CRC."""
    if not os.path.getsize(path):
        return "the file is empty"
    try:
        with gzip.open(path, "rb") as content:
            while content.read(_CHUNK_BYTES):
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        return f"the gzip file is damaged ({error})"
    return None


def _paths(urls: Sequence[str], directory: str) -> dict[str, str]:
    """The local path of each file, by address."""
    owners: dict[str, str] = {}
    for url in urls:
        check_local(directory)
        if (other := owners.setdefault(file_name(url), url)) != url:
            name = file_name(url)
            raise ValueError(f"{other} and {url} would both be fetched as {name!r}; fetch them separately")
    return {url: os.path.join(directory, name) for name, url in owners.items()}
