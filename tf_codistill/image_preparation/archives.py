"""Files of a folder or archive, and where the bytes of each are, so that any of them is read by itself.

    for located in located_files("photos"):                 a folder
    for located in located_files("photos.zip"):             stored or deflated
    for located in located_files("ILSVRC2012_img_train.tar"):  a tar; of tars inside of it, the files in these
        located.name         "n01440764/n01440764_10026.JPEG"
        content(located)     its bytes

A compressed tar cannot be read here and there: `unpacked` writes the plain one first.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple, cast

from tf_codistill import files
from tf_codistill.jobs.progress import Progress

_BUFFER_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 20
_TAR_ENDING = ".tar"
_LOCAL_HEADER_BYTES = 30  # of a zip, before name and extra field
_ENCRYPTED = 1
_PACKERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}


class Located(NamedTuple):
    """A file, and where its bytes are.

    Attributes:
        name: Path inside the folder or archive, with ``/``; that of a folder ends with one.
        path: The file, or the archive that holds it.
        offset: Where its bytes begin there.
        num_bytes: Their number, or -1 for all that follow.
        kind: ``plain``; of a zip file ``stored`` or ``deflated``, where a header stands at `offset`.
        crc: CRC-32 of what a zip file holds.
    """

    name: str
    path: str
    offset: int = 0
    num_bytes: int = -1
    kind: str = "plain"
    crc: int = 0


class DamagedError(Exception):
    """A file inside an archive is not what the archive says; the message is a word for the kind of damage."""


def packer_of(source: str) -> Callable[..., Any] | None:
    """Tells a compressed tar.

    Args:
        source: A folder or archive.

    Returns:
        What opens it; None for a folder, a zip file and a plain tar.

    Raises:
        FileNotFoundError: It does not exist.
    """
    if files.is_directory(source):
        return None
    if not files.exists(source):
        raise FileNotFoundError(f"images {source!r} do not exist; name a folder, a zip file or a tar")
    start = files.read(source, 0, 8)
    return next((packer for magic, packer in _PACKERS.items() if start.startswith(magic)), None)


def unpacked(source: str, path: str) -> str:
    """Writes the plain tar of a compressed one, unless it is there.

    Args:
        source: The compressed tar.
        path: Where to write.

    Returns:
        The path.

    Raises:
        ValueError: It cannot be unpacked.
    """
    packer, total = packer_of(source), files.size_bytes(source)
    if files.exists(path) or packer is None:
        return path
    raw = _Range(source)
    with Progress("unpacking", total, "bytes") as progress, files.writing(path) as target:
        try:
            with packer(io.BufferedReader(raw, _BUFFER_BYTES)) as stream:
                shown = 0
                while chunk := stream.read(_CHUNK_BYTES):
                    target.write(chunk)
                    progress.advance(raw.position - shown)
                    shown = raw.position
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise ValueError(f"archive {source!r} cannot be unpacked ({error}); fetch it again") from error
    return path


def located_files(source: str) -> Iterator[Located]:
    """The files of a folder or archive, in no order that matters.

    Args:
        source: A folder, a zip file, or a tar that is not compressed.

    Yields:
        Each file, and each folder.

    Raises:
        ValueError: It is none of these, is encrypted, or ends too early.
        FileNotFoundError: It does not exist.
    """
    if files.is_directory(source):
        yield from _of_folder(source, "")
        return
    if files.read(source, 0, 2) == b"PK":
        yield from _of_zip(source)
        return
    try:
        yield from _of_tar(source, 0, files.size_bytes(source), "")
    except tarfile.TarError as error:
        raise ValueError(
            f"{source!r} is no folder, zip file or whole tar ({error}); fetch it again, or name another"
        ) from error


def content(located: Located) -> bytes:
    """The bytes of a file.

    Args:
        located: What `located_files` yields.

    Returns:
        Its content.

    Raises:
        DamagedError: It is not what its archive says.
        OSError: It cannot be read.
    """
    if located.kind == "plain":
        num_bytes = None if located.num_bytes < 0 else located.num_bytes
        found = files.read(located.path, located.offset, num_bytes)
        if num_bytes is not None and len(found) < num_bytes:
            raise DamagedError("cut_off")
        return found
    header = files.read(located.path, located.offset, _LOCAL_HEADER_BYTES)
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    found = files.read(located.path, located.offset + _LOCAL_HEADER_BYTES + lengths, located.num_bytes)
    if located.kind == "deflated":
        try:
            found = zlib.decompress(found, -zlib.MAX_WBITS)
        except zlib.error as error:
            raise DamagedError("bad_checksum") from error
    if zlib.crc32(found) != located.crc:
        raise DamagedError("bad_checksum")
    return found


def _of_folder(folder: str, prefix: str) -> Iterator[Located]:
    if prefix:
        yield Located(prefix, folder)
    for name in files.names(folder):
        path = files.join(folder, name)
        if files.is_directory(path):
            yield from _of_folder(path, f"{prefix}{name}/")
        else:
            yield Located(prefix + name, path)


def _of_zip(source: str) -> Iterator[Located]:
    try:
        with zipfile.ZipFile(cast(IO[bytes], _opened(source))) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"zip file {source!r} cannot be read ({error}); fetch it again") from error
    kinds = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
    for entry in entries:
        if entry.is_dir():
            yield Located(entry.filename, source)
            continue
        if entry.flag_bits & _ENCRYPTED or entry.compress_type not in kinds:
            raise ValueError(
                f"{entry.filename!r} in {source!r} is encrypted or of compression {entry.compress_type}; "
                "expected "
                "one that is stored or deflated: unpack it and name the folder"
            )
        kind = kinds[entry.compress_type]
        yield Located(entry.filename, source, entry.header_offset, entry.compress_size, kind, entry.CRC)


def _of_tar(source: str, start: int, num_bytes: int, prefix: str) -> Iterator[Located]:
    opened = cast(IO[bytes], _opened(source, start, num_bytes))
    with contextlib.closing(opened), tarfile.open(fileobj=opened, mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # a million of them would take a gigabyte
            name = prefix + member.name.removeprefix("./")
            if member.isdir():
                yield Located(name + "/", source)
            elif member.isfile() and name.endswith(_TAR_ENDING):
                folder = name.removesuffix(_TAR_ENDING) + "/"
                yield from _of_tar(source, start + member.offset_data, member.size, folder)
            elif member.isfile():
                yield Located(name, source, start + member.offset_data, member.size)
        opened.seek(archive.offset)
        if opened.read(tarfile.BLOCKSIZE).strip(b"\0"):  # which `tarfile` takes for the end
            raise tarfile.ReadError(f"no file begins at byte {start + archive.offset}")


def _opened(source: str, start: int = 0, num_bytes: int | None = None) -> io.BufferedReader:
    return io.BufferedReader(_Range(source, start, num_bytes), _BUFFER_BYTES)


class _Range(io.RawIOBase):
    """A part of a file, of which only what is asked for is read."""

    def __init__(self, path: str, start: int = 0, num_bytes: int | None = None) -> None:
        self._path, self._start = path, start
        self._num_bytes = files.size_bytes(path) - start if num_bytes is None else num_bytes
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self._num_bytes}[whence]
        self.position = max(0, origin + offset)
        return self.position

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer)).cast("B")
        wanted = max(0, min(len(view), self._num_bytes - self.position))
        found = files.read(self._path, self._start + self.position, wanted) if wanted else b""
        view[: len(found)] = found
        self.position += len(found)
        return len(found)
