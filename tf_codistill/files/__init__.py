"""Directories and files that are either complete or not there.

The only module that knows how something is committed, listed and checked. A path may be local, which needs no
TensorFlow, or of a scheme that TensorFlow has: ``gs://``, ``ram://`` for tests, and what tensorflow-io adds.

    snapshot_00000050/            a directory is written file by file ...
        weights.data-00000-of-00001
        manifest.json             ... and exists for readers from the moment that this does

A single file is written aside and then renamed. A directory is committed by its manifest, written last: JSON
with size and SHA-256 of every file. Without one nobody looks at it; if one does not fit, `verify` says why.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, TypeAlias, cast

from tf_codistill.files import documents, storage
from tf_codistill.files.documents import CorruptError as CorruptError
from tf_codistill.files.storage import is_remote as is_remote
from tf_codistill.files.storage import scratch as scratch

MANIFEST = "manifest.json"

Listing: TypeAlias = dict[str, dict[str, Any]]  # size in bytes and SHA-256 of files, by name

_PIECE_BYTES = 1 << 20


def join(*parts: str) -> str:
    """Joins path parts; works for local paths and for URLs such as ``gs://bucket/folder``."""
    return os.path.join(*parts)


def exists(path: str) -> bool:
    """Whether a file or directory is there, committed or not."""
    with _os_errors(path):
        return bool(storage.of(path).exists(path))


def is_directory(path: str) -> bool:
    """Whether a directory is there, committed or not."""
    with _os_errors(path):
        return bool(storage.of(path).isdir(path))


def check_scheme(*paths: str | None) -> None:
    """Raises a `ValueError` early if TensorFlow has no scheme such as a path has; None is passed over."""
    for path in paths:
        storage.of(path or "")


def make_directory(path: str) -> str:
    """Creates a directory with its parents, or finds that it is there, and tries to write to it.

    Args:
        path: The directory.

    Returns:
        Its path, as given.

    Raises:
        ValueError: The directory cannot be created or written to.
    """
    place, probe = storage.of(path), join(path, f".probe-{uuid.uuid4().hex}")
    try:
        place.makedirs(path)
        write(probe, b"")
        place.remove(probe)
    except storage.failures() as error:
        raise ValueError(
            f"directory {path!r} cannot be written to ({_reason(error)}); "
            "name another one or change its permissions"
        ) from error
    return path


def ensure_directory(path: str) -> str:
    """`make_directory` without the trial: for a storage that may fail (`OSError`) and be back later."""
    with _os_errors(path):
        storage.of(path).makedirs(path)
    return path


def names(directory: str) -> list[str]:
    """Names (not paths) of the entries of a directory, sorted; empty if it does not exist."""
    try:
        with _os_errors(directory):
            entries = storage.of(directory).listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(entry.rstrip("/") for entry in entries)


def glob(pattern: str) -> list[str]:
    """Paths that match a shell pattern, sorted."""
    with _os_errors(pattern):
        return sorted(storage.of(pattern).glob(pattern))


def size_bytes(path: str) -> int:
    """Size of a file in bytes."""
    with _os_errors(path):
        return int(storage.of(path).stat(path).length)


def modified_at(path: str) -> float:
    """When a file was last written, in seconds since the epoch, by the clock of the storage."""
    with _os_errors(path):
        return float(storage.of(path).stat(path).mtime_nsec) / 1e9


def read(path: str, start: int = 0, num_bytes: int | None = None) -> bytes:
    """The content of a file, or a byte range of it.

    Args:
        path: The file.
        start: Where the range begins, in bytes.
        num_bytes: Its length; None reads to the end of the file.

    Returns:
        All its bytes; fewer where the file ends before.

    Raises:
        FileNotFoundError: There is no such file.
    """
    with _os_errors(path), storage.of(path).GFile(path, "rb") as file:
        if start:
            file.seek(start)
        return cast(bytes, file.read(-1 if num_bytes is None else num_bytes))


def write(path: str, content: bytes) -> None:
    """Writes a file aside and renames it, so that a reader sees the old content or the new, never a part."""
    with writing(path) as file:
        file.write(content)


def append(path: str, content: bytes) -> None:
    """Appends to a small file, which is created if it is not there.

    On a disk a process that is killed may leave a part of the content. Object stores cannot append: there the
    file is read and written again as a whole, so that the old content is there or all of the new, at a price
    that grows with the file.

    Args:
        path: The file; nobody else writes it.
        content: What to add.

    Raises:
        OSError: The file cannot be written.
    """
    if is_remote(path):
        write(path, (read(path) if exists(path) else b"") + content)
        return
    with _os_errors(path), storage.of(path).GFile(path, "ab") as file:
        file.write(content)


class PartialFile:
    """A file that `writing` writes, there once it is complete.

    Args:
        path: Its path when it is complete.
        file: Where it is written aside.
    """

    def __init__(self, path: str, file: IO[bytes]) -> None:
        self._path = path
        self._file = file

    def write(self, content: bytes) -> None:
        """Appends bytes; an `OSError` if they cannot be written."""
        with _os_errors(self._path):
            self._file.write(content)


@contextlib.contextmanager
def writing(path: str) -> Iterator[PartialFile]:
    """Writes a file piece by piece, as `write` does at once: it is there when the ``with`` block ends.

    Something has to be written, if only no bytes: without that there is no file. An exception of the block
    passes unchanged, and the file is as it was.

    Args:
        path: The file.

    Yields:
        What takes the bytes.

    Raises:
        OSError: The file cannot be written.
    """
    aside = f"{path}.{uuid.uuid4().hex}.partial"
    place = storage.of(path)
    with _os_errors(path):
        file = place.GFile(aside, "wb")
    try:
        yield PartialFile(path, file)
        with _os_errors(path):
            file.close()
            place.rename(aside, path, overwrite=True)
    except BaseException:
        with contextlib.suppress(*storage.failures()):
            file.close()
        with contextlib.suppress(*storage.failures()):
            place.remove(aside)
        raise


def move(path: str, target: str) -> None:
    """Renames a file, in place of another one of that name."""
    with _os_errors(path):
        storage.of(path).rename(path, target, overwrite=True)


def read_json(path: str) -> Any:
    """The content of a JSON file.

    Args:
        path: The file.

    Returns:
        What it holds, as Python objects.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptError: The file is not JSON.
    """
    return documents.decode(path, read(path))


def write_json(path: str, content: Any) -> None:
    """Writes a JSON file atomically, indented, with sorted keys and a final newline."""
    write(path, documents.encode(content))


def read_into(path: str, buffers: Sequence[memoryview], sha256: str | None) -> None:
    """Reads a file once, and checks it while it does.

    Args:
        path: The file.
        buffers: What its bytes fill, one after another.
        sha256: What the manifest says of them.

    Raises:
        CorruptError: The file is missing, longer or shorter than all buffers, or has another checksum.
    """
    digest, total = hashlib.sha256(), 0
    try:
        with _os_errors(path), storage.of(path).GFile(path, "rb") as file:
            for buffer in buffers:
                filled = 0
                while filled < len(buffer) and (chunk := file.read(min(_PIECE_BYTES, len(buffer) - filled))):
                    digest.update(chunk)
                    buffer[filled : filled + len(chunk)] = chunk
                    filled += len(chunk)
                total += filled
            is_longer = bool(file.read(1))
    except FileNotFoundError as error:
        raise CorruptError(f"file {path!r} is missing although its manifest lists it") from error
    promised = sum(len(buffer) for buffer in buffers)
    _compare(path, "bytes", promised, lambda _: total + is_longer)
    _compare(path, "sha256", sha256, lambda _: digest.hexdigest())


def metadata_of(path: str) -> dict[str, Any]:
    """What a manifest says of a file: its size in bytes and SHA-256."""
    return {"bytes": size_bytes(path), "sha256": checksum(path)}


def checksum(path: str) -> str:
    """SHA-256 of a file as 64 hexadecimal digits, read in pieces."""
    digest = hashlib.sha256()
    with _os_errors(path), storage.of(path).GFile(path, "rb") as file:
        while chunk := file.read(_PIECE_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def remove(path: str) -> None:
    """Removes a file or a whole directory, its manifest first; does nothing if it is not there.

    Of a symbolic link, also within the directory, the link goes, and what it leads to stays.
    """
    place, manifest = storage.of(path), join(path, MANIFEST)
    with _os_errors(path):
        is_tree = storage.kind(path) != "link" and place.isdir(path)
        if is_tree:
            if place.exists(manifest):
                place.remove(manifest)
            storage.remove_tree(path)
    if not is_tree:
        with contextlib.suppress(FileNotFoundError), _os_errors(path):
            place.remove(path)


def commit(
    directory: str,
    metadata: dict[str, Any],
    known: Listing | None = None,
    seal: bool = False,
    only: Iterable[str] | None = None,
) -> dict[str, Any]:
    """Commits a directory: writes its manifest.

    Args:
        directory: A directory in which every file has been written.
        metadata: What readers want to know without opening the files; becomes part of the manifest.
        known: What is known of files already, by name; the others are read.
        seal: Whether the manifest gets a checksum of itself, see `documents.sealed`.
        only: Names of the files that belong to it; by default all files that are there do.

    Returns:
        The manifest: `metadata` and, under ``files``, the size in bytes and SHA-256 of each file by name.
    """
    listing = dict(known or {})
    there = names(directory) if only is None else only
    left = [name for name in there if name not in {MANIFEST, *listing} and not name.endswith(".partial")]
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # a corpus has a thousand large files
        listing |= zip(left, threads.map(metadata_of, [join(directory, name) for name in left]), strict=True)
    manifest = {**metadata, "files": listing}
    write_json(join(directory, MANIFEST), documents.sealed(manifest) if seal else manifest)
    return manifest


def read_manifest(directory: str) -> dict[str, Any] | None:
    """What the commit of a directory left in it.

    Args:
        directory: A directory, there or not.

    Returns:
        The manifest, or None if the directory is absent or not committed.

    Raises:
        CorruptError: There is a manifest, but it cannot be read.
    """
    path = join(directory, MANIFEST)
    try:
        manifest = read_json(path)
    except FileNotFoundError:
        return None
    listing = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(listing, dict) or not all(isinstance(entry, dict) for entry in listing.values()):
        raise CorruptError(f"manifest {path!r} lists no files; delete {directory!r} or write it again")
    return cast(dict[str, Any], manifest)


def verify(directory: str, manifest: dict[str, Any], contents: bool = True) -> None:
    """Checks a committed directory against its manifest.

    Args:
        directory: The committed directory.
        manifest: What `read_manifest` returned for it.
        contents: Whether to read every file for its checksum, not only its size.

    Raises:
        CorruptError: A file is missing, or has another size or checksum than the manifest says.
    """
    for name, promised in manifest["files"].items():
        path = join(directory, name)
        try:
            _compare(path, "bytes", promised.get("bytes"), size_bytes)
            if contents:
                _compare(path, "sha256", promised.get("sha256"), checksum)
        except FileNotFoundError as error:
            raise CorruptError(f"file {path!r} is missing although its manifest lists it") from error


def _compare(path: str, what: str, promised: object, measure: Callable[[str], object]) -> None:
    found = measure(path)
    if found != promised:
        raise CorruptError(f"file {path!r} is damaged: {what} is {found}, its manifest says {promised}")


@contextlib.contextmanager
def _os_errors(path: str) -> Iterator[None]:
    """Raises `OSError` that names the file, also for an error of TensorFlow's own, which is none."""
    try:
        yield
    except storage.not_found() as error:
        raise FileNotFoundError(f"file {path!r} does not exist") from error
    except storage.refusals() as error:
        raise PermissionError(f"file {path!r} cannot be used: {_reason(error)}") from error
    except storage.failures() as error:
        raise OSError(f"file {path!r} cannot be used: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The first line of what an error of TensorFlow or of the system says, without the file's name."""
    message = getattr(error, "message", None) or getattr(error, "strerror", None) or str(error)
    return (message or type(error).__name__).splitlines()[0]
