"""The token shards that corpus preparation writes and training reads.

A corpus is a committed directory:

    <corpus>/
        word_pieces.model                  the tokenizer
        train-00000-of-00004.tokens        ids, little-endian uint16 (uint32 from 65,537 pieces on)
        train-00000-of-00004.starts        little-endian int64, where each document begins
        ...
        validation-00000-of-00001.tokens   held-out documents
        validation-00000-of-00001.starts
        manifest.json                      the mark: facts, and every file with size and SHA-256

    tokens   | 2 0 57 9 1 3 5 | 2 0 88 1 3 5 | 2 0 ...      each document ends with END_OF_DOCUMENT
    starts     0                7              13

A split is read as one row of tokens, its shards one after another, at any positions:

    corpus = open_corpus("/data/docs")
    split = corpus.split("train")
    ids = split.gather(np.arange(split.starts[3], split.starts[4]))       the fourth document
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tf_codistill import files

SENTENCE_START = 0
SENTENCE_END = 1
PARAGRAPH_START = 2
PARAGRAPH_END = 3
OUT_OF_VOCABULARY = 4
END_OF_DOCUMENT = 5
NUM_SPECIAL = 6
"""Ids below this one are marks; word pieces follow. The marks are those of section 3.1 of the paper."""

FORMAT_VERSION = 1
TOKENIZER = "word_pieces.model"

_STARTS_DTYPE = np.dtype("<i8")
_REMEDY = "prepare the corpus again"

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


class ShardWriter:
    """Writes one token shard, document by document; a context manager.

    Nothing is to be seen under the shard's own names before `close`, which leaving the ``with`` block calls;
    an exception inside the block discards what was written.

    Args:
        directory: Directory of the corpus; exists.
        split: Name of the split, such as ``train``.
        index: Number of this shard among the split's shards, from 0.
        num_shards: How many shards the split has.
        vocabulary_size: Every id is below this.

    Raises:
        ValueError: `index` is not below `num_shards`, or the vocabulary has no room beside the marks.
    """

    def __init__(self, directory: str, split: str, index: int, num_shards: int, vocabulary_size: int) -> None:
        if not 0 <= index < num_shards:
            raise ValueError(f"index of a {split!r} shard is {index}; expected 0 to {num_shards - 1}")
        if vocabulary_size <= NUM_SPECIAL:
            raise ValueError(
                f"vocabulary_size is {vocabulary_size}; {NUM_SPECIAL} ids are marks, so it must be larger"
            )
        self.name = f"{split}-{index:05d}-of-{num_shards:05d}"
        self._path = files.join(directory, self.name)
        self._vocabulary_size = vocabulary_size
        self._dtype = _token_dtype(vocabulary_size)
        self._file = tf.io.gfile.GFile(f"{self._path}.tokens.partial", "wb")
        self._starts = array("q")
        self._num_tokens = 0
        self._closed = False

    def add(self, document: Sequence[int] | npt.NDArray[np.integer[Any]]) -> None:
        """Appends a document.

        Args:
            document: Its ids; the last one is END_OF_DOCUMENT, no other is.

        Raises:
            ValueError: The ids do not end so, or one is outside the vocabulary.
        """
        ids = np.asarray(document)
        where = f"document {len(self._starts)} of token shard {self.name!r}"
        if ids.ndim != 1 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(
                f"{where} has shape {ids.shape} and type {ids.dtype}; expected a row of integers that ends "
                "with END_OF_DOCUMENT"
            )
        if ids.min() < 0 or ids.max() >= self._vocabulary_size:
            raise ValueError(
                f"{where} has ids from {ids.min()} to {ids.max()}; expected 0 to "
                f"{self._vocabulary_size - 1}: use the tokenizer that the shard is written for"
            )
        if ids[-1] != END_OF_DOCUMENT or np.count_nonzero(ids == END_OF_DOCUMENT) != 1:
            raise ValueError(
                f"{where} ends with id {ids[-1]}; expected END_OF_DOCUMENT ({END_OF_DOCUMENT}) there and "
                "nowhere else"
            )
        self._file.write(ids.astype(self._dtype).tobytes())
        self._starts.append(self._num_tokens)
        self._num_tokens += ids.size

    def close(self) -> dict[str, Any]:
        """Puts the shard under its own names; a second call only returns the facts again.

        Returns:
            ``name`` (without suffix), ``num_documents`` and ``num_tokens``, as `commit_corpus` wants them.
        """
        if not self._closed:
            self._file.write(b"")  # a shard without documents is a file too
            self._file.close()
            files.write(f"{self._path}.starts", np.array(self._starts, dtype=_STARTS_DTYPE).tobytes())
            tf.io.gfile.rename(f"{self._path}.tokens.partial", f"{self._path}.tokens", overwrite=True)
            self._closed = True
        return {"name": self.name, "num_documents": len(self._starts), "num_tokens": self._num_tokens}

    def __enter__(self) -> Self:
        """Returns the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the shard, or discards it after an exception."""
        if kind is None:
            self.close()
            return
        self._file.close()
        files.remove(f"{self._path}.tokens.partial")


def commit_corpus(
    directory: str,
    *,
    vocabulary_size: int,
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    counts: Mapping[str, Any],
    tokenizer: str = TOKENIZER,
) -> dict[str, Any]:
    """Marks a corpus directory as whole.

    Args:
        directory: Directory in which the tokenizer and all shards have been written.
        vocabulary_size: Number of ids, marks included.
        splits: For each split by name what `ShardWriter.close` returned for each of its shards, in order.
        counts: Documents read, kept, and dropped by reason; stored as given.
        tokenizer: Name of the tokenizer's file in `directory`.

    Returns:
        The mark, as `Corpus.mark` has it later.
    """
    facts = {
        "format_version": FORMAT_VERSION,
        "vocabulary_size": vocabulary_size,
        "vocabulary_fingerprint": files.checksum(files.join(directory, tokenizer)),
        "tokenizer": tokenizer,
        "splits": {
            name: {
                "num_documents": sum(shard["num_documents"] for shard in shards),
                "num_tokens": sum(shard["num_tokens"] for shard in shards),
                "shards": [shard["name"] for shard in shards],
            }
            for name, shards in splits.items()
        },
        "counts": dict(counts),
    }
    return files.commit(directory, facts)


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The tokens of one split, its shards one after another.

    Attributes:
        name: Name of the split.
        starts: int64 ``[num_documents + 1]``: position of each document's first token, then `num_tokens`.
        shards: The ids of each shard, mapped from the file where it is local.
        offsets: int64 ``[num_shards + 1]``: position of each shard's first token, then `num_tokens`.
    """

    name: str
    starts: Int64Array
    shards: tuple[npt.NDArray[np.unsignedinteger[Any]], ...]
    offsets: Int64Array

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        return len(self.starts) - 1

    @property
    def num_tokens(self) -> int:
        """Number of tokens, marks included."""
        return int(self.starts[-1])

    def gather(self, positions: Int64Array) -> Int32Array:
        """The ids at any positions.

        Args:
            positions: int64 of any shape, each at least 0 and below `num_tokens`.

        Returns:
            int32 ids of the same shape.

        Raises:
            ValueError: A position is outside the split.
        """
        positions = np.asarray(positions)
        if positions.size and not (positions.min() >= 0 and positions.max() < self.num_tokens):
            raise ValueError(
                f"positions reach from {positions.min()} to {positions.max()}; split {self.name!r} has "
                f"positions 0 to {self.num_tokens - 1}"
            )
        if len(self.shards) == 1:
            return self.shards[0][positions].astype(np.int32)
        ids = np.empty(positions.shape, np.int32)
        holders = np.searchsorted(self.offsets, positions, side="right") - 1
        for shard in np.unique(holders):
            held = holders == shard
            ids[held] = self.shards[shard][positions[held] - self.offsets[shard]]
        return ids


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """A committed corpus directory, checked and open for reading.

    Attributes:
        directory: Where it is.
        mark: Its mark: the facts of `commit_corpus`, and the files.
        splits: Its splits by name.
    """

    directory: str
    mark: dict[str, Any]
    splits: Mapping[str, Split]

    @property
    def vocabulary_size(self) -> int:
        """Number of ids, marks included."""
        return int(self.mark["vocabulary_size"])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer's file, 64 hexadecimal digits."""
        return str(self.mark["vocabulary_fingerprint"])

    @property
    def tokenizer_path(self) -> str:
        """Path of the tokenizer's file."""
        return files.join(self.directory, self.mark["tokenizer"])

    def split(self, name: str) -> Split:
        """The split of that name.

        Args:
            name: ``train``, ``validation``, or what else the corpus was written with.

        Returns:
            The split.

        Raises:
            ValueError: The corpus has no such split.
        """
        if name not in self.splits:
            raise ValueError(
                f"split {name!r} is not in corpus {self.directory!r}; it has {', '.join(sorted(self.splits))}"
            )
        return self.splits[name]


def open_corpus(directory: str, verify_contents: bool = False) -> Corpus:
    """Opens a corpus directory after checking that it is what its mark says.

    Args:
        directory: The corpus directory.
        verify_contents: Whether to read every token as well, for the checksums and for ids outside the
            vocabulary; otherwise sizes, vocabulary fingerprint, document starts and ends are checked.

    Returns:
        The corpus. Local shards are mapped into memory, others are read whole.

    Raises:
        ValueError: There is no corpus at `directory`, or one of another format version.
        files.CorruptError: A file does not fit the mark, the vocabulary or the format.
    """
    mark = files.read_mark(directory)
    if mark is None:
        state = "is not finished: it has no manifest.json" if files.exists(directory) else "does not exist"
        raise ValueError(
            f"corpus {directory!r} {state}; run prepare_local_docs or prepare_common_crawl first"
        )
    if mark.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"corpus {directory!r} has format_version {mark.get('format_version')!r}; this program reads "
            f"{FORMAT_VERSION}: {_REMEDY}"
        )
    try:
        files.verify(directory, mark, contents=verify_contents)
        _check_vocabulary(directory, mark)
        splits = {name: _open_split(directory, mark, name) for name in mark["splits"]}
        if verify_contents:
            for split in splits.values():
                _check_ids(split, mark["vocabulary_size"])
    except files.CorruptError as error:
        raise files.CorruptError(f"{error}; {_REMEDY}") from error
    except (KeyError, TypeError) as error:
        raise files.CorruptError(
            f"manifest of corpus {directory!r} is damaged ({error!r}); {_REMEDY}"
        ) from error
    return Corpus(directory, mark, splits)


def _token_dtype(vocabulary_size: int) -> np.dtype[Any]:
    return np.dtype("<u2" if vocabulary_size <= 1 << 16 else "<u4")


def _check_vocabulary(directory: str, mark: dict[str, Any]) -> None:
    path = files.join(directory, mark["tokenizer"])
    found = files.checksum(path) if files.exists(path) else "missing"
    if found != mark["vocabulary_fingerprint"]:
        raise files.CorruptError(
            f"tokenizer {path!r} is not the one that the token shards were written with: its SHA-256 is "
            f"{found}, the manifest says {mark['vocabulary_fingerprint']}"
        )


def _open_split(directory: str, mark: dict[str, Any], name: str) -> Split:
    dtype = _token_dtype(mark["vocabulary_size"])
    facts = mark["splits"][name]
    shards = [_open_shard(files.join(directory, shard), dtype) for shard in facts["shards"]]
    offsets = np.cumsum([0, *(len(ids) for ids, _ in shards)], dtype=np.int64)
    starts = [starts + offset for (_, starts), offset in zip(shards, offsets[:-1], strict=True)]
    split = Split(name, np.concatenate([*starts, offsets[-1:]]), tuple(ids for ids, _ in shards), offsets)
    for count, found in (("num_documents", split.num_documents), ("num_tokens", split.num_tokens)):
        if found != facts[count]:
            raise files.CorruptError(
                f"split {name!r} of corpus {directory!r} has {count} {found}, "
                f"its manifest says {facts[count]}"
            )
    return split


def _open_shard(path: str, dtype: np.dtype[Any]) -> tuple[npt.NDArray[Any], Int64Array]:
    ids = _open_array(f"{path}.tokens", dtype)
    starts = _open_array(f"{path}.starts", _STARTS_DTYPE).astype(np.int64)
    if len(starts) == len(ids) == 0:
        return ids, starts
    if len(starts) == 0 or starts[0] != 0 or starts[-1] >= len(ids) or np.any(np.diff(starts) <= 0):
        raise _damaged(f"{path}.starts", f"documents must start at 0, increasing, below {len(ids)} tokens")
    if ids[-1] != END_OF_DOCUMENT:
        raise _damaged(f"{path}.tokens", f"its last id is {ids[-1]}, not END_OF_DOCUMENT ({END_OF_DOCUMENT})")
    return ids, starts


def _open_array(path: str, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    if not files.exists(path):
        raise files.CorruptError(f"file {path!r} is missing although the manifest names its shard")
    num_bytes = files.size_bytes(path)
    if num_bytes % dtype.itemsize:
        raise _damaged(path, f"{num_bytes} bytes is no multiple of the {dtype.itemsize} of one entry")
    if num_bytes and "://" not in path:
        return np.asarray(np.memmap(path, dtype, mode="r"))
    return np.frombuffer(files.read(path), dtype)


def _check_ids(split: Split, vocabulary_size: int) -> None:
    largest = max((int(ids.max()) for ids in split.shards if ids.size), default=0)
    if largest >= vocabulary_size:
        raise files.CorruptError(
            f"split {split.name!r} has id {largest}, but the vocabulary has ids 0 to {vocabulary_size - 1}"
        )
    if np.any(split.gather(split.starts[1:] - 1) != END_OF_DOCUMENT):
        raise files.CorruptError(
            f"split {split.name!r} has a document that does not end with END_OF_DOCUMENT ({END_OF_DOCUMENT})"
        )


def _damaged(path: str, why: str) -> files.CorruptError:
    return files.CorruptError(f"file {path!r} is damaged: {why}")
