"""Where bytes come from: a file of any scheme, opened for reading.

open_source("/data/CC-MAIN-00000.warc.wet.gz")         a local file
open_source("gs://bucket/CC-MAIN-00000.warc.wet.gz")   what tf.io.gfile knows
open_source("https://data.commoncrawl.org/...")        a server, asked again where it drops the connection

A file is known by its name, wherever it lies: `file_name` is the one rule, also for addresses with a query.
"""

from __future__ import annotations

import io
import os
import urllib.parse
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tf_codistill import files

if TYPE_CHECKING:  # whoever reads from disk, as filters do, need not wait for what speaks to servers
    from tf_codistill.corpus.crawl.http_file import RetryPolicy

_BUFFER_BYTES = 1 << 16


def is_http(source: str) -> bool:
    """Whether a source is the address of a file on a server."""
    return source.lower().startswith(("https://", "http://"))


def file_name(source: str) -> str:
    """The last part of a path, URL or address, of this one unquoted; a `ValueError` if it names no file."""
    path = urllib.parse.unquote(urllib.parse.urlsplit(source).path) if is_http(source) else source
    name = os.path.basename(path)
    if name not in ("", ".", ".."):
        return name
    what = "address" if is_http(source) else "path"
    raise ValueError(f"{what} {source!r} names no file; expected one that ends in a file's name")


def modified_at(source: str) -> float | None:
    """When a file was last written, see `files.modified_at`; None of one on a server, which is not asked."""
    return None if is_http(source) else files.modified_at(source)


def matching(patterns: Iterable[str], endings: Sequence[str] = ()) -> list[str]:
    """The files that paths, URLs or shell patterns mean, each once, those of each pattern sorted.

    Of a folder these are the files, at any depth, that have one of the endings. Without endings no folder is
    looked into. A pattern or a folder of which no file is meant is a `ValueError`.
    """
    paths: list[str] = []
    for pattern in patterns:
        found = [path for path in _named(pattern, endings) if not os.path.isdir(path)]
        if not found and os.path.isdir(pattern):
            inside = files.join(pattern, "*.warc.wet.gz")
            raise ValueError(f"{pattern!r} is a directory; name the files in it, as by {inside!r}")
        if not found:
            raise ValueError(f"{pattern!r} matches no file; check the path, and quote the pattern")
        paths += found
    return list(dict.fromkeys(paths))


def _named(pattern: str, endings: Sequence[str]) -> list[str]:
    if is_http(pattern):
        return [pattern]
    if endings and files.is_directory(pattern):
        return [path for path in _below(pattern) if path.endswith(tuple(endings))]
    is_file = not set("*?[").intersection(pattern) or os.path.isfile(pattern)  # whose name may look like one
    return [pattern] if is_file else files.glob(pattern)


def _below(directory: str) -> list[str]:
    """The files in a folder, at any depth, sorted; hidden ones are left out."""
    found: list[str] = []
    for name in files.names(directory):
        path = files.join(directory, name)
        if not name.startswith("."):
            found += _below(path) if files.is_directory(path) else [path]
    return found


def open_source(source: str, retry_policy: RetryPolicy | None = None) -> io.BufferedReader:
    """Opens a file for reading from its beginning, wherever it is.

    Args:
        source: Local path, URL of any scheme of ``tf.io.gfile``, or ``https://`` address.
        retry_policy: How often and how soon a server is asked again.

    Returns:
        A binary file that can be read but not wound back; to be closed, as by ``with``. Reading from it
        raises the errors of `HttpFile.connect`, too.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be read, or TensorFlow does not know its scheme.
    """
    if is_http(source):
        return stream(source, retry_policy)
    try:
        files.size_bytes(source)
    except ValueError as error:
        raise OSError(
            f"{error}; or install tensorflow-io, or name the file by its https:// address "
            "(s3://commoncrawl/ is https://data.commoncrawl.org/)"
        ) from error
    if "://" not in source:
        return open(source, "rb")
    return io.BufferedReader(_RemoteFile(source), _BUFFER_BYTES)


def stream(url: str, retry_policy: RetryPolicy | None = None) -> io.BufferedReader:
    """What `open_source` returns for an address; it goes on by itself after a dropped connection."""
    from tf_codistill.corpus.crawl.http_file import HttpFile

    source = HttpFile(url, retry_policy)
    try:
        source.connect()
    except BaseException:
        source.close()
        raise
    return io.BufferedReader(source, _BUFFER_BYTES)


class _RemoteFile(io.RawIOBase):
    """A file of tf.io.gfile, with errors that are `OSError`."""

    def __init__(self, path: str) -> None:
        import tensorflow as tf

        super().__init__()
        self._path = path
        self._file = tf.io.gfile.GFile(path, "rb")
        self._error = tf.errors.OpError

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        try:
            content = self._file.read(len(buffer))
        except self._error as error:
            raise OSError(f"file {self._path!r} cannot be read: {error.message}") from error
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
