"""Token shards as they are written, and the manifest that makes a directory of them a corpus.

with ShardWriter("corpus", "train", 0, 4, vocabulary_size) as writer:
    writer.add([2, 0, 57, 9, 1, 3, END_OF_DOCUMENT])
commit_corpus("corpus", vocabulary_size=..., splits={"train": [writer.close(), ...]}, counts={...})
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tf_codistill import files
from tf_codistill.tokens.special_tokens import (
    END_OF_DOCUMENT,
    FORMAT_VERSION,
    NUM_SPECIAL,
    STARTS_DTYPE,
    TOKENIZER,
    token_dtype,
)

_CHUNK_BYTES = 1 << 20


class ShardWriter:
    """Writes one token shard, document by document; a context manager.

    Nothing is to be seen under the shard's own names before `close`, which leaving the ``with`` block calls.
    An exception inside the block before that, or a failure of `add` or `close` to write, discards the shard
    for good.

    Args:
        directory: Directory of the corpus; exists.
        split: Name of the split, such as ``train``.
        index: Number of this shard among the split's shards, from 0.
        num_shards: How many shards the split has.
        vocabulary_size: Every id is below this.

    Raises:
        ValueError: `index` is not below `num_shards`, or the vocabulary has nothing but special tokens.
    """

    def __init__(self, directory: str, split: str, index: int, num_shards: int, vocabulary_size: int) -> None:
        if not 0 <= index < num_shards:
            raise ValueError(f"index of a {split!r} shard is {index}; expected 0 to {num_shards - 1}")
        if vocabulary_size <= NUM_SPECIAL:
            raise ValueError(
                f"vocabulary_size is {vocabulary_size}; expected more than {NUM_SPECIAL}, the special tokens"
            )
        self.name = f"{split}-{index:05d}-of-{num_shards:05d}"
        self._path = files.join(directory, self.name)
        self._vocabulary_size = vocabulary_size
        self._dtype = token_dtype(vocabulary_size)
        self._aside = contextlib.ExitStack()
        self._file = self._aside.enter_context(files.writing(f"{self._path}.tokens"))
        self._waiting = bytearray()
        self._starts = array("q")
        self._num_tokens = 0
        self._is_open = True
        self._metadata: dict[str, Any] | None = None

    def add(self, document: Sequence[int] | npt.NDArray[np.integer[Any]]) -> None:
        """Appends a document.

        Args:
            document: Its ids; the last one is END_OF_DOCUMENT, no other is.

        Raises:
            ValueError: The ids do not end so, one is outside the vocabulary, or the shard has been closed or
                discarded.
            OSError: The shard cannot be written; it is discarded.
        """
        self._check_not_discarded()
        ids = np.asarray(document)
        where = f"document {len(self._starts)} of token shard {self.name!r}"
        if not self._is_open:
            raise ValueError(f"{where} comes after close; add all documents before")
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
        self._waiting += ids.astype(self._dtype).tobytes()
        if len(self._waiting) >= _CHUNK_BYTES:
            self._write()
        self._starts.append(self._num_tokens)
        self._num_tokens += ids.size

    def close(self) -> dict[str, Any]:
        """Puts the shard under its own names; a second call only returns the metadata again.

        That is ``name``, without suffix, ``num_documents`` and ``num_tokens``, as `commit_corpus` takes it.
        A shard that cannot be written is an `OSError` and discarded, one that was discarded a `ValueError`.
        """
        if self._is_open:
            self._is_open = False
            starts = np.array(self._starts, dtype=STARTS_DTYPE).tobytes()
            with contextlib.ExitStack() as undo:
                with self._aside:
                    self._write()  # a shard without documents is a file too
                    files.write(f"{self._path}.starts", starts)
                    undo.callback(files.remove, f"{self._path}.starts")
                undo.pop_all()
            counts = {"num_documents": len(self._starts), "num_tokens": self._num_tokens}
            self._metadata = {"name": self.name, **counts}
        self._check_not_discarded()
        return dict(self._metadata or {})

    def _write(self) -> None:
        try:
            self._file.write(bytes(self._waiting))
        except BaseException as error:  # a part of it may be in the file
            self._discard(error)
            raise
        self._waiting.clear()

    def _check_not_discarded(self) -> None:
        if not self._is_open and self._metadata is None:
            raise ValueError(f"token shard {self.name!r} was discarded after an error; write it anew")

    def _discard(self, error: BaseException) -> None:
        self._is_open = False
        self._aside.__exit__(type(error), error, error.__traceback__)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        if error is None:
            self.close()
        else:
            self._discard(error)


def commit_corpus(
    directory: str,
    *,
    vocabulary_size: int,
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    counts: Mapping[str, Any],
    names: Iterable[str] | None = None,
    tokenizer: str = TOKENIZER,
) -> dict[str, Any]:
    """Commits a corpus directory: writes its manifest.

    Args:
        directory: Directory in which the tokenizer and all shards have been written.
        vocabulary_size: Number of ids, special tokens included.
        splits: For each split by name what `ShardWriter.close` returned for each of its shards, in order.
        counts: Documents read, kept, and dropped by reason; stored as given.
        names: Names of its files; by default all files that are there.
        tokenizer: Name of the tokenizer's file.

    Returns:
        The manifest, as `Corpus.manifest` has it later.
    """
    metadata = {
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
    return files.commit(directory, metadata, only=names)
