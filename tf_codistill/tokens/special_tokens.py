"""What writer and reader of token shards agree on: special tokens, and how numbers are stored."""

from __future__ import annotations

from typing import Any

import numpy as np

SENTENCE_START = 0
SENTENCE_END = 1
PARAGRAPH_START = 2
PARAGRAPH_END = 3
OUT_OF_VOCABULARY = 4
END_OF_DOCUMENT = 5
NUM_SPECIAL = 6
"""Ids below this one are the special tokens of section 3.1 of the paper; word pieces follow."""

FORMAT_VERSION = 1
TOKENIZER = "word_pieces.model"
"""Name of the file of a tokenizer that was learned from the corpus."""

STARTS_DTYPE = np.dtype("<i8")
"""How the file beside a token shard holds where each document begins."""


def token_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """How ids are stored: in two bytes while they fit."""
    return np.dtype("<u2" if vocabulary_size <= 1 << 16 else "<u4")
