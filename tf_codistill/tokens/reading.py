"""A corpus as it is read: checked against its manifest, then ids at any positions of a split.

split = open_corpus("gs://bucket/corpus").split("train")
split.prefetch(positions_of_the_next_batches)          only matters where shards are not local
split.gather(positions)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tf_codistill import files
from tf_codistill.tokens import blocks
from tf_codistill.tokens.special_tokens import END_OF_DOCUMENT, FORMAT_VERSION, STARTS_DTYPE, token_dtype

_CHUNK_TOKENS = 1 << 20
_REMEDY = "prepare the corpus again"

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The tokens of one split, its shards one after another.

    Attributes:
        name: Name of the split.
        starts: int64 ``[num_documents + 1]``: position of each document's first token, then `num_tokens`.
        shards: The ids of each shard, mapped from the file where it is local, else read by blocks.
        offsets: int64 ``[num_shards + 1]``: position of each shard's first token, then `num_tokens`.
    """

    name: str
    starts: Int64Array
    shards: tuple[blocks.ShardIds, ...]
    offsets: Int64Array

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        return len(self.starts) - 1

    @property
    def num_tokens(self) -> int:
        """Number of tokens, special ones included."""
        return int(self.starts[-1])

    def gather(self, positions: Int64Array) -> Int32Array:
        """The ids, int32, at positions, int64 of any shape; one outside of the split is a `ValueError`."""
        positions = np.asarray(positions)
        if positions.size and not (positions.min() >= 0 and positions.max() < self.num_tokens):
            raise ValueError(
                f"positions reach from {positions.min()} to {positions.max()}; split {self.name!r} has "
                f"positions 0 to {self.num_tokens - 1}"
            )
        if len(self.shards) == 1:
            return self.shards[0].take(positions)
        ids = np.empty(positions.shape, np.int32)
        for shard, is_in_shard, indices in self._by_shard(positions):
            ids[is_in_shard] = shard.take(indices)
        return ids

    @property
    def reads_ahead(self) -> bool:
        """Whether `prefetch` does anything: whether a shard is not local."""
        return any(isinstance(shard, blocks.BlockIds) for shard in self.shards)

    def prefetch(self, positions: Int64Array) -> None:
        """Begins to read what `gather` will take; what fails is raised by `gather`."""
        for shard, _, indices in self._by_shard(positions):
            shard.prefetch(indices)

    def _by_shard(
        self, positions: Int64Array
    ) -> Iterator[tuple[blocks.ShardIds, npt.NDArray[np.bool_], Int64Array]]:
        """Each shard that has some of the positions, which ones, and their indices in the shard."""
        shards = np.searchsorted(self.offsets, positions, side="right") - 1
        for shard in np.unique(shards):
            is_in_shard = shards == shard
            yield self.shards[shard], is_in_shard, positions[is_in_shard] - self.offsets[shard]


def split_in_memory(
    name: str, documents: Iterable[npt.NDArray[np.integer[Any]]], vocabulary_size: int
) -> Split:
    """A split of documents that no corpus directory holds: ids of each, END_OF_DOCUMENT last.

    It takes two bytes per token, four if the vocabulary has more than 65,536 ids.
    """
    dtype = token_dtype(vocabulary_size)
    rows = [np.asarray(document).astype(dtype) for document in documents]
    starts = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    ids = np.concatenate([np.zeros(0, dtype), *rows])
    return Split(name, starts, (blocks.ArrayIds(ids),), starts[[0, -1]])


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """A committed corpus directory, checked and open for reading.

    Attributes:
        directory: Where it is.
        manifest: Its manifest, the metadata of `commit_corpus` and the files.
        splits: Its splits by name.
    """

    directory: str
    manifest: dict[str, Any]
    splits: Mapping[str, Split]

    @property
    def vocabulary_size(self) -> int:
        """Number of ids, special tokens included."""
        return int(self.manifest["vocabulary_size"])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer's file, 64 hexadecimal digits."""
        return str(self.manifest["vocabulary_fingerprint"])

    @property
    def tokenizer_path(self) -> str:
        """Path of the tokenizer's file."""
        return files.join(self.directory, self.manifest["tokenizer"])

    def split(self, name: str) -> Split:
        """The split ``train``, ``validation``, or what else was written; a `ValueError` if there is none."""
        if name not in self.splits:
            raise ValueError(
                f"split {name!r} is not in corpus {self.directory!r}; it has {', '.join(sorted(self.splits))}"
            )
        return self.splits[name]


def open_corpus(directory: str, verify_contents: bool = False) -> Corpus:
    """Opens a corpus directory after checking that it is what its manifest says.

    Args:
        directory: The corpus directory.
        verify_contents: Whether to read every token as well, for the checksums and for ids outside the
            vocabulary; otherwise sizes, vocabulary fingerprint, document starts and ends are checked.

    Returns:
        The corpus. Local shards are mapped into memory, others are read by blocks when they are used.

    Raises:
        ValueError: There is no corpus at `directory`, or one of another format version.
        files.CorruptError: A file does not fit the manifest, the vocabulary or the format.
    """
    manifest = files.read_manifest(directory)
    if manifest is None:
        state = "is not finished: it has no manifest.json" if files.exists(directory) else "does not exist"
        raise ValueError(f"corpus {directory!r} {state}; run prepare_corpus first")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"corpus {directory!r} has format_version {manifest.get('format_version')!r}; this program reads "
            f"{FORMAT_VERSION}: {_REMEDY}"
        )
    try:
        files.verify(directory, manifest, contents=verify_contents)
        _check_vocabulary(directory, manifest)
        splits = {name: _open_split(directory, manifest, name) for name in manifest["splits"]}
        if verify_contents:
            for split in splits.values():
                _check_ids(split, manifest["vocabulary_size"])
    except files.CorruptError as error:
        raise files.CorruptError(f"{error}; {_REMEDY}") from error
    except (KeyError, TypeError) as error:
        raise files.CorruptError(
            f"manifest of corpus {directory!r} is damaged ({error!r}); {_REMEDY}"
        ) from error
    return Corpus(directory, manifest, splits)


def _check_vocabulary(directory: str, manifest: dict[str, Any]) -> None:
    path = files.join(directory, manifest["tokenizer"])
    found = files.checksum(path) if files.exists(path) else "missing"
    if found != manifest["vocabulary_fingerprint"]:
        raise files.CorruptError(
            f"tokenizer {path!r} is not the one that the token shards were written with: its SHA-256 is "
            f"{found}, the manifest says {manifest['vocabulary_fingerprint']}"
        )


def _open_split(directory: str, manifest: dict[str, Any], name: str) -> Split:
    dtype = token_dtype(manifest["vocabulary_size"])
    metadata = manifest["splits"][name]
    cache = blocks.BlockCache()
    shards = [_open_shard(files.join(directory, shard), dtype, cache) for shard in metadata["shards"]]
    offsets = np.cumsum([0, *(len(ids) for ids, _ in shards)], dtype=np.int64)
    starts = [starts + offset for (_, starts), offset in zip(shards, offsets[:-1], strict=True)]
    split = Split(name, np.concatenate([*starts, offsets[-1:]]), tuple(ids for ids, _ in shards), offsets)
    for count, found in (("num_documents", split.num_documents), ("num_tokens", split.num_tokens)):
        if found != metadata[count]:
            raise files.CorruptError(
                f"split {name!r} of corpus {directory!r} has {count} {found}, "
                f"its manifest says {metadata[count]}"
            )
    return split


def _open_shard(
    path: str, dtype: np.dtype[Any], cache: blocks.BlockCache
) -> tuple[blocks.ShardIds, Int64Array]:
    for name, stored in ((f"{path}.tokens", dtype), (f"{path}.starts", STARTS_DTYPE)):
        _check_size(name, stored)
    ids = blocks.open_ids(f"{path}.tokens", dtype, cache)
    starts = np.frombuffer(files.read(f"{path}.starts"), STARTS_DTYPE).astype(np.int64)
    if len(starts) == len(ids) == 0:
        return ids, starts
    if len(starts) == 0 or starts[0] != 0 or starts[-1] >= len(ids) or np.any(np.diff(starts) <= 0):
        raise _damaged(f"{path}.starts", f"documents must start at 0, increasing, below {len(ids)} tokens")
    (last,) = ids.take(np.array([len(ids) - 1]))
    if last != END_OF_DOCUMENT:
        raise _damaged(f"{path}.tokens", f"its last id is {last}, not END_OF_DOCUMENT ({END_OF_DOCUMENT})")
    return ids, starts


def _check_size(path: str, dtype: np.dtype[Any]) -> None:
    if not files.exists(path):
        raise files.CorruptError(f"file {path!r} is missing although the manifest names its shard")
    num_bytes = files.size_bytes(path)
    if num_bytes % dtype.itemsize:
        raise _damaged(path, f"{num_bytes} bytes is no multiple of the {dtype.itemsize} of one entry")


def _check_ids(split: Split, vocabulary_size: int) -> None:
    last = vocabulary_size - 1
    for start in range(0, split.num_tokens, _CHUNK_TOKENS):
        largest = split.gather(np.arange(start, min(start + _CHUNK_TOKENS, split.num_tokens))).max()
        if largest > last:
            raise files.CorruptError(
                f"split {split.name!r} has id {largest}, but the vocabulary has ids 0 to {last}"
            )
    if np.any(split.gather(split.starts[1:] - 1) != END_OF_DOCUMENT):
        raise files.CorruptError(
            f"split {split.name!r} has a document that does not end with END_OF_DOCUMENT ({END_OF_DOCUMENT})"
        )


def _damaged(path: str, why: str) -> files.CorruptError:
    return files.CorruptError(f"file {path!r} is damaged: {why}")
