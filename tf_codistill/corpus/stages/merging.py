"""The documents of a token shard in the order of their keys, merged as they are read.

    <read>/a.warc.wet.gz.documents     the shard's partition, sorted by key  --+
    <read>/b.warc.wet.gz.documents     ...                                 --+-->  all, sorted by key
    <read>/c.warc.wet.gz.documents     ...                                 --+

Of each partition a piece is in memory, and nothing is copied. Where there are more WET files than there is
room for pieces, neighbouring ones are merged to runs first, in a directory that is gone with the last
document:

    <write>/train-00000.5f0c....runs/000, 001, ...
"""

from __future__ import annotations

import heapq
import math
import uuid
from collections.abc import Iterable, Iterator, Sequence

from tf_codistill import files
from tf_codistill.corpus.stages import partitioned

_MEMORY_BYTES = 1 << 27  # of all pieces together
_PIECE_BYTES = (1 << 10, 1 << 22)  # of one, least and most
_MOST_AT_A_TIME = 512  # with pieces of a quarter of a megabyte
_POSITION_BYTES = 4

Entry = tuple[bytes, int, bytes]
"""Key of a document in hexadecimal digits, position of its WET file, and the document, serialized."""


def in_key_order(paths: Sequence[str], part: int, runs: str | None = None) -> Iterator[tuple[int, bytes]]:
    """Merges the documents of a token shard. Those with equal keys come in the order of their files.

    Args:
        paths: Files of partitions of serialized documents, each sorted by key.
        part: Number of the partition to take of each.
        runs: Prefix of the directory for what is merged beforehand, if that is necessary. None does without
            it, in ever smaller pieces: for whoever takes the first documents alone.

    Yields:
        The position among `paths` of the file that a document is in, and the document, serialized.
    """
    positions = range(len(paths))
    if runs is None or len(paths) <= _MOST_AT_A_TIME:
        for _, position, content in _merged(paths, part, positions):
            yield position, content
        return
    directory = f"{runs}.{uuid.uuid4().hex}.runs"
    files.make_directory(directory)
    try:
        group = 1 + math.isqrt(len(paths) - 1)
        named = [files.join(directory, f"{number:03d}") for number in range(-(-len(paths) // group))]
        for number, path in enumerate(named):
            _write_run(path, _merged(paths, part, positions[number * group : (number + 1) * group]))
        piece_bytes = _piece_bytes(len(named))
        for _, position, content in heapq.merge(*(_run(path, piece_bytes) for path in named)):
            yield position, content
    finally:
        files.remove(directory)


def _piece_bytes(number: int) -> int:
    least, most = _PIECE_BYTES
    return min(most, max(least, _MEMORY_BYTES // max(number, 1)))


def _merged(paths: Sequence[str], part: int, positions: Sequence[int]) -> Iterator[Entry]:
    piece_bytes = _piece_bytes(len(positions))
    return heapq.merge(*(_partition(paths[position], part, position, piece_bytes) for position in positions))


def _partition(path: str, part: int, position: int, piece_bytes: int) -> Iterator[Entry]:
    for content in partitioned.split(partitioned.chunks(path, part, piece_bytes=piece_bytes)):
        yield content[: partitioned.KEY_DIGITS], position, content


def _write_run(path: str, entries: Iterable[Entry]) -> None:
    with files.writing(path) as file:
        for _, position, content in entries:
            file.write(position.to_bytes(_POSITION_BYTES, "big") + content)
        file.write(b"")


def _run(path: str, piece_bytes: int) -> Iterator[Entry]:
    for entry in partitioned.split(partitioned.pieces(path, piece_bytes), _POSITION_BYTES):
        content = entry[_POSITION_BYTES:]
        yield content[: partitioned.KEY_DIGITS], int.from_bytes(entry[:_POSITION_BYTES], "big"), content
