"""Reading by blocks: the same ids as from a local file, few reads, some of them ahead of time."""

from __future__ import annotations

import collections
import threading
import time

import numpy as np
import pytest

from tests import toy_corpora
from tf_codistill import files, tokens
from tf_codistill.inputs import language
from tf_codistill.tokens import blocks

DOCUMENTS = toy_corpora.numbered_documents([150, 3, 700, 20, 41, 333, 9, 58] * 6, first_id=6)
VOCABULARY_SIZE = 20_000


class Reads:
    """Counts the reads of ranges, and can make them slow or fail."""

    def __init__(self) -> None:
        self.counts: collections.Counter[tuple[str, int]] = collections.Counter()
        self.threads: set[str] = set()
        self.error: OSError | None = None
        self._read = files.read

    def __call__(self, path: str, start: int = 0, num_bytes: int | None = None) -> bytes:
        if num_bytes is None:
            return self._read(path)
        self.counts[path, start] += 1
        self.threads.add(threading.current_thread().name)
        if self.error:
            raise self.error
        return self._read(path, start, num_bytes)

    def settle(self) -> int:
        """Waits until no read is added; returns how many there were."""
        before = -1
        while before != (before := self.counts.total()):
            time.sleep(0.05)
        return before


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    reads = Reads()
    monkeypatch.setattr(files, "read", reads)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 256)  # 128 ids
    return reads


def opened(directory: str) -> tokens.Split:
    toy_corpora.write_corpus(directory, DOCUMENTS, num_shards=3, vocabulary_size=VOCABULARY_SIZE)
    return tokens.open_corpus(directory, verify_contents=True).split("train")


def make_stream(split: tokens.Split, num_lanes: int = 6) -> language.LaneStream:
    return language.LaneStream(split, seed=3, num_lanes=num_lanes, window_tokens=8)


def test_batches_equal_those_of_local_shards(reads: Reads, tmp_path, request) -> None:
    local = make_stream(opened(str(tmp_path)))
    remote = make_stream(opened(f"ram://{request.node.name}"))
    for step in (*range(2 * local.steps_per_epoch + 3), 0, 17):
        np.testing.assert_array_equal(remote.batch(step), local.batch(step))
    lanes = range(5, 0, -2)
    np.testing.assert_array_equal(remote.batch(4, lanes), local.batch(4, lanes))


def test_each_block_is_read_once_while_there_is_room(reads: Reads, request) -> None:
    split = opened(f"ram://{request.node.name}")
    stream = make_stream(split)
    for step in range(2 * stream.steps_per_epoch):
        stream.batch(step)
    num_blocks = sum(-(-len(shard) * 2 // blocks.BLOCK_BYTES) for shard in split.shards)
    assert reads.settle() == len(reads.counts) <= num_blocks


def test_what_comes_next_is_read_in_the_background(reads: Reads, request, monkeypatch) -> None:
    monkeypatch.setattr(language, "_TOKENS_AHEAD", 64)
    split = tokens.open_corpus(opened_directory(request)).split("train")
    stream = make_stream(split)
    stream.batch(0)
    before = reads.settle()
    for step in range(1, 9):  # the 64 tokens of each lane that come next, over the end of the epoch
        split.gather(stream._positions(step, range(6))[1])
    assert reads.settle() == before
    assert all(name.startswith("token-blocks") for name in reads.threads)
    for step in range(9, 40):
        split.gather(stream._positions(step, range(6))[1])
    assert reads.settle() > before  # so not all had been read at once


def opened_directory(request: pytest.FixtureRequest) -> str:
    directory = f"ram://{request.node.name}"
    return toy_corpora.write_corpus(directory, DOCUMENTS, num_shards=3, vocabulary_size=VOCABULARY_SIZE)


def test_prefetched_ids_are_there_without_another_read(reads: Reads, request) -> None:
    split = tokens.open_corpus(opened_directory(request)).split("train")
    positions = np.array([[5, 900], [2000, 3999]])
    split.prefetch(positions)
    before = reads.settle()
    split.gather(positions)
    assert reads.settle() == before


def test_memory_is_bounded(reads: Reads, request) -> None:
    cache = blocks.BlockCache(max_bytes=0)  # which is raised to two blocks per thread
    path = f"{opened_directory(request)}/train-00000-of-00003.tokens"
    shard = blocks.BlockIds(path, np.dtype("<u2"), cache)
    expected = np.frombuffer(files.read(path), "<u2")
    shard.prefetch(np.arange(len(shard)))
    assert reads.settle() <= 8
    np.testing.assert_array_equal(shard.take(np.arange(len(shard))), expected)
    assert len(cache._blocks) <= 16
    np.testing.assert_array_equal(shard.take(np.arange(len(shard))[::-7]), expected[::-7])


def test_what_failed_in_the_background_is_told_and_tried_again(reads: Reads, request) -> None:
    split = tokens.open_corpus(opened_directory(request)).split("train")
    positions = np.array([300])
    reads.error = OSError("file 'x' cannot be used: the network is down")
    split.prefetch(positions)
    reads.settle()
    with pytest.raises(OSError, match="the network is down"):
        split.gather(positions)
    reads.error = None
    assert split.gather(positions).shape == (1,)


def test_a_file_that_became_shorter_is_told(reads: Reads, request) -> None:
    directory = opened_directory(request)
    split = tokens.open_corpus(directory).split("train")
    files.write(f"{directory}/train-00000-of-00003.tokens", b"")
    with pytest.raises(files.CorruptError, match="has become shorter"):
        split.gather(np.array([0]))
