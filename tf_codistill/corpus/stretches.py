"""A file in numbered stretches, each of which can be read without the others.

    | where 0 | where 1 | ... | where n | stretch 0 | stretch 1 | ... | stretch n - 1 |
      little-endian int64: the byte at which each stretch begins, and at last the end of the file

So the tasks of one stage sort what they write by the task of the next stage that will want it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from tf_codistill import files

_WHERE = np.dtype("<i8")
_CHUNK_BYTES = 1 << 22


def write(path: str, sizes: npt.ArrayLike, chunks: Iterable[bytes]) -> None:
    """Writes a file in stretches, atomically.

    Args:
        path: The file.
        sizes: Length of each stretch in bytes.
        chunks: What they hold, in order, in pieces of any length.
    """
    where = np.concatenate([[0], np.cumsum(np.asarray(sizes, _WHERE))])
    with files.writing(path) as file:
        file.write((where + where.size * _WHERE.itemsize).astype(_WHERE).tobytes())
        for chunk in chunks:
            file.write(chunk)


def read(path: str, first: int, last: int | None = None) -> bytes:
    """Some neighbouring stretches.

    Args:
        path: A file that `write` wrote.
        first: Number of the first stretch.
        last: Number of the stretch before which to stop; None reads only the first.

    Returns:
        Their bytes.
    """
    return b"".join(chunks(path, first, last))


def read_each(path: str, first: int, last: int) -> list[bytes]:
    """Some neighbouring stretches, one by one.

    Args:
        path: A file that `write` wrote.
        first: Number of the first stretch.
        last: Number of the stretch before which to stop.

    Returns:
        The bytes of each.
    """
    size = _WHERE.itemsize
    where = np.frombuffer(files.read(path, size * first, size * (last - first + 1)), _WHERE).tolist()
    content = files.read(path, where[0], where[-1] - where[0])
    return [content[start - where[0] : end - where[0]] for start, end in itertools.pairwise(where)]


def chunks(
    path: str, first: int, last: int | None = None, piece_bytes: int = _CHUNK_BYTES
) -> Iterator[bytes]:
    """What `read` returns, in pieces.

    Args:
        path: A file that `write` wrote.
        first: Number of the first stretch.
        last: Number of the stretch before which to stop; None reads only the first.
        piece_bytes: Length of all pieces but the last.

    Yields:
        A piece at a time.
    """
    last = first + 1 if last is None else last
    size = _WHERE.itemsize
    where = np.frombuffer(files.read(path, size * first, size * (last - first + 1)), _WHERE)
    for position, after in itertools.pairwise(
        [*range(int(where[0]), int(where[-1]), piece_bytes), int(where[-1])]
    ):
        yield files.read(path, position, after - position)
