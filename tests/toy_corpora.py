"""Small corpora for tests, written by the library's own writer."""

from __future__ import annotations

from collections.abc import Sequence

from tf_codistill import files, tokens


def write_corpus(
    directory: str,
    documents: Sequence[Sequence[int]],
    num_shards: int = 1,
    vocabulary_size: int = 1000,
    split: str = "train",
) -> str:
    """Writes documents, given without END_OF_DOCUMENT, in contiguous shards; returns the directory."""
    files.make_directory(directory)
    files.write(files.join(directory, tokens.TOKENIZER), b"not a real tokenizer")
    shards = []
    for shard in range(num_shards):
        bounds = [len(documents) * edge // num_shards for edge in (shard, shard + 1)]
        with tokens.ShardWriter(directory, split, shard, num_shards, vocabulary_size) as writer:
            for document in documents[slice(*bounds)]:
                writer.add([*document, tokens.END_OF_DOCUMENT])
        shards.append(writer.close())
    tokens.commit_corpus(
        directory,
        vocabulary_size=vocabulary_size,
        splits={split: shards},
        counts={"read": len(documents), "kept": len(documents), "dropped": {}},
    )
    return directory


def numbered_documents(lengths: Sequence[int], first_id: int = tokens.NUM_SPECIAL) -> list[list[int]]:
    """Documents of these lengths in which no id occurs twice."""
    documents = []
    for length in lengths:
        documents.append(list(range(first_id, first_id + length)))
        first_id += length
    return documents
