"""The ids of one token shard at any positions, without reading the shard whole.

local     mapped into memory; the operating system keeps what is used
gs://...  | block 0 | block 1 | block 2 | ...     read by ranges of 512 KiB, those to come by a few threads
               ^ kept       ^ being read          in the background; the least recently used is dropped

cache = BlockCache()                              for all shards of a split together
ids = open_ids("gs://bucket/corpus/train-00000-of-00004.tokens", dtype, cache)
ids.prefetch(positions_of_the_next_batches)       returns at once
ids.take(positions)                               waits for what is not there yet; raises what failed
"""

from __future__ import annotations

import collections
import concurrent.futures
import threading
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tf_codistill import files

BLOCK_BYTES = 512 * 1024
"""What `tf.io.gfile` reads at once anyway."""

_NUM_THREADS = 8

Positions = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]


class BlockCache:
    """Blocks of files that were read, or are being read; one for the shards of a split.

    At most half of them are there for `prefetch` alone, so that it never drops what is in use.

    Args:
        max_bytes: Memory for blocks; at least two for each thread that reads.
    """

    def __init__(self, max_bytes: int = 256 << 20) -> None:
        self._max_blocks = max(2 * _NUM_THREADS, max_bytes // BLOCK_BYTES)
        self._lock = threading.Lock()
        self._blocks = collections.OrderedDict[tuple[str, int], concurrent.futures.Future[bytes]]()
        self._ahead: set[tuple[str, int]] = set()  # requested by `prefetch` and by nobody since
        self._pool = concurrent.futures.ThreadPoolExecutor(_NUM_THREADS, "token-blocks")  # starts none yet

    def prefetch(self, path: str, block: int) -> None:
        """Begins to read a block of a file, by its number, unless too many wait already."""
        with self._lock:
            if (path, block) not in self._blocks and len(self._ahead) < self._max_blocks // 2:
                self._ahead.add((path, block))
                self._begin(path, block)

    def read(self, path: str, block: int) -> bytes:
        """The bytes of a block, as soon as they are there.

        An `OSError` tells that it could not be read, now or by `prefetch`; the next call tries again.
        """
        with self._lock:
            coming = self._begin(path, block)
            self._ahead.discard((path, block))
        try:
            return coming.result()
        except BaseException:
            with self._lock:
                self._blocks.pop((path, block), None)
            raise

    def _begin(self, path: str, block: int) -> concurrent.futures.Future[bytes]:
        key = (path, block)
        if key not in self._blocks:
            self._blocks[key] = self._pool.submit(files.read, path, block * BLOCK_BYTES, BLOCK_BYTES)
        self._blocks.move_to_end(key)
        while len(self._blocks) > self._max_blocks:
            oldest, _ = self._blocks.popitem(last=False)
            self._ahead.discard(oldest)
        return self._blocks[key]


class ShardIds(Protocol):
    """The ids of one token shard."""

    def __len__(self) -> int:
        """Number of ids."""

    def take(self, positions: Positions) -> Ids:
        """The ids at positions of any shape, int64 and each at least 0 and below the length; int32."""

    def prefetch(self, positions: Positions) -> None:
        """Begins to read what `take` will need, where that takes time."""


class ArrayIds:
    """The ids of a shard that is in memory, or mapped into it.

    Args:
        ids: The ids, one row.
    """

    def __init__(self, ids: npt.NDArray[np.unsignedinteger[Any]]) -> None:
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids)

    def take(self, positions: Positions) -> Ids:
        """The ids at positions, see `ShardIds`."""
        return self._ids[positions].astype(np.int32)

    def prefetch(self, positions: Positions) -> None:
        """Does nothing: the operating system reads ahead."""


class BlockIds:
    """The ids of a shard that is read by blocks.

    Args:
        path: Path or URL of the file.
        dtype: How it stores an id.
        cache: Where blocks are kept.
    """

    def __init__(self, path: str, dtype: np.dtype[Any], cache: BlockCache) -> None:
        self._path = path
        self._dtype = dtype
        self._cache = cache
        self._length = files.size_bytes(path) // dtype.itemsize
        self._ids_per_block = BLOCK_BYTES // dtype.itemsize

    def __len__(self) -> int:
        return self._length

    def take(self, positions: Positions) -> Ids:
        """The ids at positions, see `ShardIds`.

        An `OSError` tells that a block could not be read, a `files.CorruptError` that the file has become
        shorter.
        """
        blocks, indices = np.divmod(positions, self._ids_per_block)
        needed = np.unique(blocks)
        ids = np.empty(positions.shape, np.int32)
        for number, block in enumerate(needed):
            for ahead in needed[number : number + _NUM_THREADS]:
                self._cache.prefetch(self._path, int(ahead))
            is_in_block = blocks == block
            content = np.frombuffer(self._cache.read(self._path, int(block)), self._dtype)
            if indices[is_in_block].max() >= len(content):
                raise files.CorruptError(f"file {self._path!r} has become shorter since it was opened")
            ids[is_in_block] = content[indices[is_in_block]]
        return ids

    def prefetch(self, positions: Positions) -> None:
        """Begins to read the blocks of positions, as far as the cache has room for them."""
        for block in np.unique(positions // self._ids_per_block):
            self._cache.prefetch(self._path, int(block))


def open_ids(path: str, dtype: np.dtype[Any], cache: BlockCache) -> ShardIds:
    """The ids of a shard, stored as `dtype`: mapped where it is local, otherwise by blocks of `cache`."""
    if files.is_remote(path):
        return BlockIds(path, dtype, cache)
    is_empty = files.size_bytes(path) == 0  # which cannot be mapped
    return ArrayIds(np.zeros(0, dtype) if is_empty else np.asarray(np.memmap(path, dtype, mode="r")))
