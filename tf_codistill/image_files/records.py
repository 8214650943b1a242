"""Records of images: where in a TFRecord file the bytes of each image are, found without reading the images.

    train-00000-of-00008.tfrecord
        length, crc | Example {image/encoded: <bytes>, image/class/label: 7, ...} | crc
                                              ^ offset, num_bytes         ^ label

    found = scan("train-00000-of-00008.tfrecord")
    found.rows            int64 [N, 3]: offset, num_bytes, label of each image
    found.damaged         what has no image or no label: [(4, "missing_label"), ...] by number of the record
    files.read(path, offset, num_bytes)     the JPEG

Others write such files too: ImageNet as TFRecord of the TensorFlow models has a thousand of them. Only the
headers are read, and the few bytes around each image: some thousand images a second and disk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from tf_codistill import files

IMAGE, LABEL, FILENAME = "image/encoded", "image/class/label", "image/filename"
"""Names of the features of an example: bytes of an image file, number of its class, where it came from."""

CLASS_TEXTS = ("image/class/synset", "image/class/text")
"""Names of features that say how a class is called; the first that is there counts."""

ENDING, INDEX = ".tfrecord", ".index"
"""Endings of the files of a record shard that we write."""

_INDEX_DTYPE = np.dtype("<i8")
_HEADER_BYTES, _FOOTER_BYTES = 12, 4
_LOCAL_PIECE_BYTES, _REMOTE_PIECE_BYTES = 1 << 12, 1 << 23
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_KEY_BYTES = 256

Read = Callable[[int, int], bytes]


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a record file holds.

    Attributes:
        rows: Offset, number of bytes and label of each image, int64 [N, 3].
        damaged: Number and kind of each record that is none: ``missing_image``, ``missing_label`` or
            ``bad_example``.
        texts: How the file calls its classes, by label; empty if it does not.
    """

    rows: npt.NDArray[np.int64]
    damaged: list[tuple[int, str]]
    texts: dict[int, str]


class _BadError(Exception):
    """An example is not what it should be; says of which kind it is."""


def scan(path: str) -> Scan:
    """Finds the images of a record file.

    Args:
        path: A TFRecord file, not compressed.

    Returns:
        Where they are.

    Raises:
        ValueError: It is not a TFRecord file, or ends inside a record.
    """
    size = files.size_bytes(path)
    read = _in_pieces(path)
    texts: dict[int, str] = {}
    rows, damaged = [], []
    for number, (start, end) in enumerate(_spans(path, size, read)):
        try:
            offset, num_bytes, label, text = _example(read, start, end)
            rows.append((offset, num_bytes, label))
            if text:
                texts.setdefault(label, text)
        except _BadError as error:
            damaged.append((number, str(error)))
    return Scan(np.array(rows, np.int64).reshape(-1, 3), damaged, texts)


def write_index(path: str, rows: npt.NDArray[np.int64]) -> None:
    """Writes the index of a record file.

    Args:
        path: The index.
        rows: Offset, number of bytes and label of each image, int64 [N, 3].
    """
    files.write(path, rows.astype(_INDEX_DTYPE).tobytes())


def read_index(path: str) -> npt.NDArray[np.int64]:
    """Reads the index of a record file.

    Args:
        path: The index.

    Returns:
        Offset, number of bytes and label of each image, int64 [N, 3].

    Raises:
        ValueError: The file is damaged.
    """
    content = files.read(path)
    if len(content) % (3 * _INDEX_DTYPE.itemsize):
        raise files.CorruptError(
            f"index {path!r} has {len(content)} bytes, no whole rows; prepare the images again"
        )
    return np.frombuffer(content, _INDEX_DTYPE).reshape(-1, 3).astype(np.int64)


def _in_pieces(path: str) -> Read:
    """Reads a file here and there, a piece at a time."""
    piece_bytes = _REMOTE_PIECE_BYTES if files.is_remote(path) else _LOCAL_PIECE_BYTES
    first, piece = 0, b""

    def read(start: int, num_bytes: int) -> bytes:
        nonlocal first, piece
        if not first <= start <= start + num_bytes <= first + len(piece):
            first, piece = start, files.read(path, start, max(num_bytes, piece_bytes))
        return piece[start - first : start - first + num_bytes]

    return read


def _spans(path: str, size: int, read: Read) -> Iterator[tuple[int, int]]:
    """Where each record begins and ends."""
    position = 0
    while position < size:
        header = read(position, _HEADER_BYTES)
        length = int.from_bytes(header[:8], "little")
        if len(header) == _HEADER_BYTES and _masked_crc(header[:8]) != int.from_bytes(header[8:], "little"):
            raise ValueError(
                f"{path!r} is no TFRecord file, or damaged, at byte {position}; expected the header of a "
                "record "
                "(compressed files have to be unpacked)"
            )
        start = position + _HEADER_BYTES
        position = start + length + _FOOTER_BYTES
        if position > size:
            raise ValueError(
                f"{path!r} ends at byte {size} inside a record that ends at byte {position}; copy the file "
                "again"
            )
        yield start, start + length


def _example(read: Read, start: int, end: int) -> tuple[int, int, int, str]:
    """Offset, number of bytes, label and name of the class of an example."""
    image: tuple[int, int] | None = None
    label: int | None = None
    texts = {}
    for key, first, last in _features(read, start, end):
        if key == IMAGE:
            image = _first_bytes(read, first, last)
        elif key == LABEL:
            label = _first_integer(read, first, last)
        elif key in CLASS_TEXTS and (span := _first_bytes(read, first, last)):
            texts[key] = read(span[0], min(span[1], _KEY_BYTES)).decode("utf-8", "replace")
    if image is None or not image[1]:
        raise _BadError("missing_image")
    if label is None:
        raise _BadError("missing_label")
    return (*image, label, next((texts[key] for key in CLASS_TEXTS if texts.get(key)), ""))


def _features(read: Read, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Name of each feature, and where its value begins and ends."""
    for _, first, last in _messages(read, start, end, 1):  # Features
        for _, entry, entry_end in _messages(read, first, last, 1):  # an entry of a map
            key, value = "", (0, 0)
            for number, part, part_end in _messages(read, entry, entry_end):
                if number == 1:
                    key = read(part, min(part_end - part, _KEY_BYTES)).decode("utf-8", "replace")
                elif number == 2:
                    value = (part, part_end)
            yield key, *value


def _first_bytes(read: Read, start: int, end: int) -> tuple[int, int] | None:
    """Offset and number of the first bytes of a feature; None if it has none."""
    for _, first, last in _messages(read, start, end, 1):  # bytes_list
        for _, value, value_end in _messages(read, first, last, 1):
            return value, value_end - value
    return None


def _first_integer(read: Read, start: int, end: int) -> int | None:
    """The first integer of a feature; None if it has none."""
    for _, first, last in _messages(read, start, end, 3):  # int64_list
        if first == last:
            return None
        tag, position = _varint(read, first, last)
        if tag >> 3 == 1 and tag & 7 == _BYTES:  # packed
            length, position = _varint(read, position, last)
            if not length:
                return None
        value, _ = _varint(read, position, last)
        return value - (1 << 64) if value >> 63 else value
    return None


def _messages(read: Read, start: int, end: int, wanted: int | None = None) -> Iterator[tuple[int, int, int]]:
    """The fields of a message that have a length: number, where the value begins and ends."""
    position = start
    while position < end:
        tag, position = _varint(read, position, end)
        number, kind = tag >> 3, tag & 7
        if kind == _BYTES:
            length, position = _varint(read, position, end)
            if position + length > end:
                raise _BadError("bad_example")
            if wanted in (None, number):
                yield number, position, position + length
            position += length
        elif kind == _VARINT:
            _, position = _varint(read, position, end)
        elif kind in (_FIXED32, _FIXED64):
            position += 4 if kind == _FIXED32 else 8
        else:
            raise _BadError("bad_example")


def _varint(read: Read, start: int, end: int) -> tuple[int, int]:
    """An integer of variable length, and where it ends."""
    value = 0
    for number, byte in enumerate(read(start, min(10, end - start))):
        value |= (byte & 127) << (7 * number)
        if byte < 128:
            return value, start + number + 1
    raise _BadError("bad_example")


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC_TABLE = _crc_table()


def _masked_crc(content: bytes) -> int:
    """CRC-32C as TFRecord files have it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
