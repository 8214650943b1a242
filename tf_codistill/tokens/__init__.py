"""The token shards that corpus preparation writes and training reads.

A corpus is a committed directory:

    <corpus>/
        word_pieces.model                  the tokenizer; or sentencepiece.model, tokenizer.json, ...
        train-00000-of-00004.tokens        ids, little-endian uint16 (uint32 from 65,537 pieces on)
        train-00000-of-00004.starts        little-endian int64, where each document begins
        ...
        validation-00000-of-00001.tokens   held-out documents
        validation-00000-of-00001.starts
        manifest.json                      metadata, and every file with size and SHA-256; written last

    tokens   | 2 0 57 9 1 3 5 | 2 0 88 1 3 5 | 2 0 ...      each document ends with END_OF_DOCUMENT
    starts     0                7              13

A split is read as one row of tokens, its shards one after another, at any positions:

    corpus = open_corpus("/data/docs")
    split = corpus.split("train")
    ids = split.gather(np.arange(split.starts[3], split.starts[4]))       the fourth document
"""

from tf_codistill.tokens.reading import Corpus, Split, open_corpus, split_in_memory
from tf_codistill.tokens.special_tokens import (
    END_OF_DOCUMENT,
    FORMAT_VERSION,
    NUM_SPECIAL,
    OUT_OF_VOCABULARY,
    PARAGRAPH_END,
    PARAGRAPH_START,
    SENTENCE_END,
    SENTENCE_START,
    TOKENIZER,
)
from tf_codistill.tokens.writing import ShardWriter, commit_corpus

__all__ = [
    "END_OF_DOCUMENT",
    "FORMAT_VERSION",
    "NUM_SPECIAL",
    "OUT_OF_VOCABULARY",
    "PARAGRAPH_END",
    "PARAGRAPH_START",
    "SENTENCE_END",
    "SENTENCE_START",
    "TOKENIZER",
    "Corpus",
    "ShardWriter",
    "Split",
    "commit_corpus",
    "open_corpus",
    "split_in_memory",
]
