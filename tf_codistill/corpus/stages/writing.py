"""Stage 3: token shards, each from the documents of all WET files in the order of their keys.

    <corpus>/
        train-00000-of-00004.tokens        see tokens.py
        train-00000-of-00004.starts
        train-00000-of-00004.paragraphs    JSON lines, one for each document: where its text comes from
            {"wet_file": "CC-MAIN-00000.warc.wet.gz", "numbers": [12, 14]}
        ...
        validation-00000-of-00001.tokens

Before it, word pieces are learned from the documents with the smallest keys, a sample of all files.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tf_codistill import files, tokens
from tf_codistill.corpus.document import Document
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.corpus.stages import dropped, duplicates, merging, partitioned, reading
from tf_codistill.corpus.stages.listing import Listed
from tf_codistill.jobs.progress import Progress
from tf_codistill.jobs.stages import Advance, Stage
from tf_codistill.jobs.written import Written
from tf_codistill.tokenizer import opening
from tf_codistill.tokenizer.word_pieces import WordPieces

PARAGRAPHS = ".paragraphs"
"""Ending of the file that says where the documents of a token shard come from."""

ENDINGS = (".tokens", ".starts", PARAGRAPHS)
"""Endings of the files of a token shard."""

_BATCH_CHARACTERS = 1 << 23
_TO_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class Dropping(Protocol):
    """Says which documents are dropped that the filters and stage 2 have left."""

    @property
    def reason(self) -> str:
        """Why they are."""

    def dropped(self, part: int) -> npt.NDArray[np.uint64]:
        """The places of those of a token shard.

        Each is the position of the WET file times 2 ** 32, plus the number of the first paragraph of stage 1.
        """


@dataclasses.dataclass(frozen=True)
class Kept:
    """What stages 1 and 2, and those that look at whole documents, have left.

    Attributes:
        settings: How the corpus is prepared.
        repeated: Stage 2, done.
        also_dropped: What says which other documents are dropped, each for a reason of its own, done.
    """

    settings: CorpusSettings
    repeated: duplicates.DuplicatesStage
    also_dropped: Sequence[Dropping] = ()

    def in_key_order(self, part: int, runs: str | None = None) -> Iterator[tuple[Document, Document | str]]:
        """Yields each document of a token shard, and what is left of it or the reason for dropping it.

        For `part` see `CorpusSettings.part`, for `runs` `merging.in_key_order`.
        """
        for _, wet_file, content, repeated in self._stored(part, runs):
            found = partitioned.unpack(content, wet_file)
            if isinstance(repeated, str):
                yield found, repeated
            else:
                yield found, duplicates.without(found, repeated, self.settings)

    def texts(self, part: int, runs: str | None = None) -> Iterator[tuple[int, bytes | None]]:
        """Yields the place of each document, see `Dropping`, and its text in UTF-8, None if it is dropped."""
        for place, wet_file, content, repeated in self._stored(part, runs):
            if isinstance(repeated, str):
                yield place, None
            elif not repeated.any():
                yield place, partitioned.text(content)
            else:
                left = duplicates.without(partitioned.unpack(content, wet_file), repeated, self.settings)
                text = None if isinstance(left, str) else _text(left).encode("utf-8", "surrogatepass")
                yield place, text

    def _stored(
        self, part: int, runs: str | None
    ) -> Iterator[tuple[int, str, bytes, npt.NDArray[np.bool_] | str]]:
        """Place, WET file and content of each document, and its repeated paragraphs or why it is dropped."""
        repeats = self.repeated.repeats(part)
        gone = {place: why.reason for why in self.also_dropped for place in why.dropped(part).tolist()}
        wet_files = self.repeated.wet_files
        paths = [files.join(self.repeated.read_dir, wet_file + reading.DOCUMENTS) for wet_file in wet_files]
        for position, content in merging.in_key_order(paths, part, runs):
            numbers = partitioned.numbers(content)
            place = position << 32 | int(numbers[0]) if numbers.size else -1
            repeated = gone.get(place) or duplicates.is_repeated(numbers, position, repeats)
            yield place, wet_files[position], content, repeated


def learn(kept: Kept, path: str) -> None:
    """Learns word pieces from training documents, unless the model's file is there already.

    A ValueError says that there is not enough text.
    """
    if files.exists(path):
        return
    parts = range(kept.settings.num_shards)
    sample: list[str] = []
    num_characters = 0
    for _, left in itertools.chain.from_iterable(map(kept.in_key_order, parts)):
        if num_characters >= kept.settings.max_learning_characters:
            break
        if isinstance(left, Document):
            sample.append(_text(left))
            num_characters += len(sample[-1])
    with Progress("learning word pieces", num_characters, "characters") as progress:
        WordPieces.train(sample, kept.settings.num_pieces, path)
        progress.advance(num_characters)


@dataclasses.dataclass(frozen=True)
class WriteStage(Stage):
    """Writes token shards; a task is one of them.

    Attributes:
        directory: The folder of its results, apart from the shards.
        kept: The documents, and how the corpus is prepared.
        tokenizer: Path of the tokenizer's file.
        output: The directory of the corpus.
        num_documents: Number of documents kept in each split.
        wet_files: Names of all WET files, also of those that cannot be read.
        dropped_dir: Where to keep what is dropped, see `dropped`; None keeps nothing.
    """

    title = "writing tokens"
    unit = "documents"
    units_per_process = 1000
    preload = (__name__,)

    kept: Kept
    tokenizer: str
    output: Written
    num_documents: Mapping[str, int]
    wet_files: Sequence[str]
    dropped_dir: str | None = None

    def sizes(self) -> Mapping[str, int]:
        """The tasks with the number of documents expected in each."""
        return {
            task: self.num_documents[split] // len(tasks)
            for split, tasks in self.splits().items()
            for task in tasks
        }

    def done(self) -> set[str]:
        """Names of the tasks whose facts, shards and, if asked for, dropped documents are there."""
        there = set(files.names(self.output.directory))
        facts = {task: self.facts(task) for task in super().done()}
        return {
            task
            for task, one in facts.items()
            if there.issuperset(one["sha256"])
            and dropped.has_all(self.dropped_dir, one["shard"]["name"], one["dropped"])
        }

    def do(self, task: str, advance: Advance) -> Mapping[str, Any]:
        """Writes a token shard."""
        # Whoever writes the same shard at the same time does so elsewhere. The work may be on another disk,
        # from which no file can be renamed.
        aside = files.make_directory(self.output.claim(f"{task}.{uuid.uuid4().hex}.partial"))
        facts = self._write(task, aside, advance)
        checksums = {}
        for ending in ENDINGS:
            name = facts["shard"]["name"] + ending
            checksums[name] = files.checksum(files.join(aside, name))
            files.move(files.join(aside, name), self.output.claim(name))
        files.remove(aside)
        return {**facts, "sha256": checksums}

    def splits(self) -> dict[str, list[str]]:
        """Names of the tasks of each split, in order."""
        return {
            split: [f"train-{index:05d}" for index in range(len(parts))] if split == "train" else [split]
            for split, parts in self.kept.settings.splits.items()
        }

    def listed(self, task: str) -> str:
        """Path of the file with the paragraphs of a token shard, see `listing.Listed`."""
        return self.path(task, ".listed")

    def _write(self, task: str, directory: str, advance: Advance) -> dict[str, Any]:
        tokenizer = open_tokenizer(self.tokenizer)
        settings, split = self.kept.settings, task.partition("-")[0]
        tasks = self.splits()[split]
        index, num_shards = tasks.index(task), len(tasks)
        part = settings.splits[split][index]
        limit = settings.max_tokens if split == "train" else settings.max_validation_tokens
        most = sys.maxsize if limit is None else limit // num_shards
        num_tokens = 0
        listed = Listed(self.wet_files)
        with (
            tokens.ShardWriter(directory, split, index, num_shards, tokenizer.vocabulary_size) as shard,
            files.writing(files.join(directory, shard.name + PARAGRAPHS)) as places,
            dropped.DroppedDocuments(self.dropped_dir, shard.name, self.directory) as gone,
        ):
            for batch in _batches(self.kept.in_key_order(part, self.path(task, ""))):
                advance(len(batch))
                documents = []
                for document, left in batch:
                    if isinstance(left, str):
                        gone.add(document, left)
                    else:
                        documents.append(left)
                rows = tokenizer.encode_documents(map(_text, documents)) if num_tokens <= most else []
                written = 0
                for ids in rows:
                    num_tokens += len(ids)
                    if num_tokens <= most:
                        shard.add(ids)
                        written += 1
                for document in documents[written:]:
                    gone.add(document, "over_max_tokens")
                places.write("".join(map(_place, documents[:written])).encode("utf-8"))
                listed.add(documents[:written])
            facts = shard.close()
            gone.write()
        num_listed = listed.write(self.listed(task))
        return {"shard": facts, "dropped": gone.counts, "paragraphs": num_listed}


def _batches(
    documents: Iterable[tuple[Document, Document | str]],
) -> Iterator[list[tuple[Document, Document | str]]]:
    """Documents in lists that are long enough to be encoded fast."""
    batch: list[tuple[Document, Document | str]] = []
    num_characters = 0
    for document, left in documents:
        batch.append((document, left))
        num_characters += sum(map(len, document.paragraphs))
        if num_characters >= _BATCH_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    yield batch


def _text(document: Document) -> str:
    return "\n".join(document.paragraphs)


def _place(document: Document) -> str:
    return _TO_JSON.encode({"wet_file": document.wet_file, "numbers": document.numbers}) + "\n"


open_tokenizer = functools.lru_cache(maxsize=1)(opening.open_tokenizer)
"""Opens the tokenizer of a file; the last one is kept."""
