"""A crawl: the list of its WET files, and a sample of them.

    crawl-data/CC-MAIN-2017-26/wet.paths.gz                         one path per line
        crawl-data/CC-MAIN-2017-26/segments/.../wet/CC-MAIN-...-00000.warc.wet.gz
        ...

    paths = read_paths("CC-MAIN-2017-26")                           or a list of your own: file, gs://, https://
    fetched = fetch_crawl("CC-MAIN-2017-26", num_files=100, directory="/data/crawl")
    for source in fetched.of_all():                                 an error if a file is out of reach
        read_wet(source)

A sample depends on the seed and on the files' names, not on their order, and a larger sample holds the
smaller one: whoever goes from 100 files to 200 fetches another 100.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Iterable
from typing import BinaryIO, cast

from tf_codistill import files
from tf_codistill.corpus.crawl.download import Fetched, check_local, fetch, fetch_file
from tf_codistill.corpus.crawl.http_file import RetryPolicy
from tf_codistill.corpus.crawl.opening import file_name, is_http, open_source

PAPER_CRAWL = "CC-MAIN-2017-26"
"""The crawl of June 2017, from which the paper takes its documents."""

BASE_URL = "https://data.commoncrawl.org/"
"""Where Common Crawl keeps its files."""

_LIST_NAME = "wet.paths.gz"
_CRAWL_ID = re.compile(r"CC-MAIN-\d{4}-\d\d")
_WET_FILE = re.compile(r"\S+\.wet(\.gz)?")
_LONGEST_LINE = 4096
_GZIP_MAGIC = b"\x1f\x8b"


def fetch_crawl(
    crawl: str = PAPER_CRAWL,
    num_files: int | None = None,
    directory: str | None = None,
    *,
    seed: int = 0,
    base_url: str = BASE_URL,
    retry_policy: RetryPolicy | None = None,
) -> Fetched:
    """Draws WET files of a crawl and fetches them.

    Args:
        crawl: Identifier such as ``CC-MAIN-2017-26``, or path or URL of a list in the form of `read_paths`.
        num_files: How many files; None for all of them.
        directory: Local directory that gets the files, and the list of a crawl named by its identifier; what
            it holds already is not fetched again. None to fetch nothing: the sources are then addresses.
        seed: Another seed draws other files.
        base_url: What precedes the paths: another server, ``gs://bucket/mirror``, a local directory.
        retry_policy: How often and how soon the server is asked again.

    Returns:
        Sources for `open_source`, in the order of the paths, and what could not be fetched.

    Raises:
        ValueError: The crawl, its list, or `num_files` is wrong, or `directory` cannot be written to.
        OSError: The list cannot be read, or not one of the files could be fetched.
    """
    paths = draw(crawl, num_files, directory, seed=seed, base_url=base_url, retry_policy=retry_policy)
    if directory is None:
        return Fetched(tuple(paths), {})
    fetched = fetch(paths, directory, retry_policy=retry_policy)
    if not fetched.sources:
        raise OSError(
            f"none of {len(paths)} WET files could be fetched; the first: "
            f"{next(iter(fetched.failures.values()))}"
        )
    return fetched


def draw(
    crawl: str = PAPER_CRAWL,
    num_files: int | None = None,
    directory: str | None = None,
    *,
    seed: int = 0,
    base_url: str = BASE_URL,
    retry_policy: RetryPolicy | None = None,
) -> list[str]:
    """The paths or URLs, sorted, of what `fetch_crawl` would fetch; fetches no more than the list."""
    if num_files is not None and num_files < 1:
        raise ValueError(f"num_files is {num_files}; expected at least 1")
    source = list_source(crawl, base_url)
    if directory is not None and source != crawl and is_http(source):
        check_local(directory)
        files.make_directory(directory)
        kept = os.path.join(directory, f"{crawl}.{_LIST_NAME}")
        fetch_file(source, kept, retry_policy)
        source = kept
    return sample(read_paths(source, base_url, retry_policy), num_files, seed)


def list_source(crawl: str, base_url: str = BASE_URL) -> str:
    """Path or URL of the list of a crawl, named as for `fetch_crawl`; a `ValueError` if that is none."""
    if _CRAWL_ID.fullmatch(crawl):
        return _join(base_url, f"crawl-data/{crawl}/{_LIST_NAME}")
    if is_http(crawl) or "/" in crawl or files.exists(crawl):
        return crawl
    raise ValueError(
        f"crawl {crawl!r} is neither an identifier such as {PAPER_CRAWL!r} nor a list of paths that exists; "
        "the identifiers are at https://commoncrawl.org/overview"
    )


def read_paths(
    crawl: str = PAPER_CRAWL, base_url: str = BASE_URL, retry_policy: RetryPolicy | None = None
) -> list[str]:
    """Path or URL of each WET file of a crawl, named as for `fetch_crawl`, in the order of its list.

    The list has one path per line, may be packed, and a path may be a whole URL. One that is no such list, is
    damaged, or names a file twice is a `ValueError`, one that cannot be read an `OSError`.
    """
    source = list_source(crawl, base_url)
    with open_source(source, retry_policy) as file:
        is_packed = file.peek(len(_GZIP_MAGIC)).startswith(_GZIP_MAGIC)
        lines = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if is_packed else file
        try:
            paths = _parse(lines, source)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(
                f"list {source!r} is truncated or damaged: {error}; delete it if it is a copy, and "
                "fetch it again"
            ) from error
    return [path if "://" in path or path.startswith("/") else _join(base_url, path) for path in paths]


def sample(paths: Iterable[str], num_files: int | None, seed: int = 0) -> list[str]:
    """Draws so many of the paths, None for all, and sorts them; a `ValueError` if there are fewer."""
    everything = list(paths)
    if num_files is None:
        return sorted(everything)
    if not 1 <= num_files <= len(everything):
        raise ValueError(f"num_files is {num_files}; expected 1 to {len(everything)}, which the list has")
    # By its own name, so that a mirror gives the same files.
    lots = {path: hashlib.sha256(f"{seed} {file_name(path)}".encode()).digest() for path in everything}
    return sorted(sorted(everything, key=lambda path: (lots[path], path))[:num_files])


def _parse(lines: BinaryIO, source: str) -> list[str]:
    """The paths of a list, line by line: what is no list is told at its first line, whatever its size."""
    numbers: dict[str, int] = {}
    for number, line in enumerate(iter(lambda: lines.readline(_LONGEST_LINE), b""), 1):
        path = line.decode("utf-8-sig", errors="replace").strip()
        if not path:
            continue
        if not _WET_FILE.fullmatch(path):
            raise ValueError(
                f"line {number} of list {source!r} is {path[:80]!r}; expected the path of a WET file, ending "
                f"in .warc.wet.gz and without spaces: a crawl's list is called {_LIST_NAME}"
            )
        if path in numbers:
            raise ValueError(
                f"line {number} of list {source!r} repeats line {numbers[path]}, {path!r}; "
                "take one of them out"
            )
        numbers[path] = number
    if not numbers:
        raise ValueError(f"list {source!r} is empty; expected one path of a WET file per line")
    return list(numbers)


def _join(base_url: str, path: str) -> str:
    return f"{base_url.rstrip('/')}/{path}"
