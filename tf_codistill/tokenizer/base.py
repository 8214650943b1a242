"""What a tokenizer has to offer: text to ids, and back.

    tokenizer = open_tokenizer("corpus/word_pieces.model")            see `opening`
    rows = tokenizer.encode_documents(["It rains.", "We stay."])      a row of ids for each document
    tokenizer.decode(rows[0])                                         "It rains."
    texts.batch(100).map(tokenizer.in_graph().encode_document)        the same ids, inside `tf.data`

Token shards, models and corpora know a tokenizer by its fingerprint: where it is equal, ids mean the same.
The first ids are the special tokens of `tokens`, whatever the tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from tf_codistill import tokens

if TYPE_CHECKING:  # whoever needs no ops need not wait for them
    import tensorflow as tf

REMEDY = "name the tokenizer of a corpus, or prepare that corpus again"

Ids = npt.NDArray[np.int32]
"""The ids of a text, one row."""


class GraphTokenizer(Protocol):
    """A tokenizer as TensorFlow ops: in `tf.data`, in a `tf.function`, in an exported model."""

    def encode_document(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """What `Tokenizer.encode_documents` returns: of UTF-8, string ``[N]``, to int32 ``[N, None]``."""


class Tokenizer(Protocol):
    """Text to ids and back."""

    @property
    def vocabulary_size(self) -> int:
        """Number of ids that a model predicts, special tokens included."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer's file, 64 hexadecimal digits."""

    @property
    def marks_sentences(self) -> bool:
        """Whether sentences have marks of their own, SENTENCE_START and SENTENCE_END, beside paragraphs."""

    def encode_documents(self, texts: Iterable[str]) -> list[Ids]:
        """For each text, a paragraph per line, a row of ids below `vocabulary_size`, END_OF_DOCUMENT last."""

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of ids, special tokens left out and paragraphs on lines of their own.

        Args:
            ids: Any ids of the vocabulary, also ones that begin or end in the middle of a text.

        Returns:
            The text.

        Raises:
            ValueError: An id is not of the vocabulary.
        """

    def piece(self, index: int) -> str:
        """An id, no special token, as a table shows it, with the space that a word begins with."""

    def in_graph(self) -> GraphTokenizer:
        """The same ids as TensorFlow ops; a `ValueError` that says what to do instead if there are none."""


def by_paragraph(ids: Iterable[int]) -> list[list[int]]:
    """The ids of each paragraph, perhaps cut at either end; of special tokens OUT_OF_VOCABULARY alone."""
    paragraphs: list[list[int]] = []
    is_open = False
    for index in map(int, ids):
        is_content = not 0 <= index < tokens.NUM_SPECIAL or index == tokens.OUT_OF_VOCABULARY
        if index == tokens.PARAGRAPH_START or (is_content and not is_open):
            paragraphs.append([])
            is_open = True
        if is_content:
            paragraphs[-1].append(index)
        elif index == tokens.PARAGRAPH_END:
            is_open = False
    return paragraphs
