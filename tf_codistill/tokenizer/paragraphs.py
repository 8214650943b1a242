r"""A tokenizer that knows nothing of our special tokens, and of which each paragraph is a text of its own.

    text    It rains.\n<s>
    ids     <p> It _rain s . </p> <p> < s > </p> <end of document>

    0 .. 5                              special tokens, see `tokens`
    6 + an id of its own                a piece
    OUT_OF_VOCABULARY                   what it has no piece for, and its own special tokens: none of a text's

A subclass says how many pieces there are, and what the ids of a paragraph are. A tokenizer of one's own is
such a class, and a dataclass, see `own_class`.
"""

from __future__ import annotations

import abc
import functools
import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tf_codistill import tokens
from tf_codistill.tokenizer import own_class
from tf_codistill.tokenizer.base import Ids, by_paragraph

if TYPE_CHECKING:
    from tf_codistill.tokenizer.base import GraphTokenizer

UNKNOWN = -1
"""Stands for OUT_OF_VOCABULARY among a tokenizer's own ids."""

_SPECIAL = re.compile(r"\s*(<[^<>]*\w[^<>]*>|\[[^\[\]]*\w[^\[\]]*\])\s*")


class ParagraphTokenizer(abc.ABC):
    """Text to ids and back, paragraph by paragraph.

    Attributes:
        num_pieces: Number of the tokenizer's own ids, which begin with 0.
        special_pieces: Those of them that are no text.
        marks_sentences: False: a paragraph is given as it is.
    """

    num_pieces: int
    special_pieces: Collection[int] = ()
    marks_sentences = False

    @abc.abstractmethod
    def encode_paragraphs(self, paragraphs: Sequence[str]) -> Iterable[Sequence[int]]:
        """The tokenizer's own ids of texts without line ends, fit for UTF-8; `UNKNOWN` where it has none."""

    @abc.abstractmethod
    def decode_paragraph(self, ids: Sequence[int]) -> str:
        """The text of some of a paragraph's own ids; U+FFFD for `UNKNOWN`."""

    @property
    def vocabulary_size(self) -> int:
        """Number of ids that a model predicts, special tokens included."""
        return tokens.NUM_SPECIAL + self.num_pieces

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer's file, 64 hexadecimal digits."""
        return hashlib.sha256(self.content).hexdigest()

    @functools.cached_property
    def content(self) -> bytes:
        """What is in the tokenizer's file."""
        return own_class.content_of(self)

    def encode_documents(self, texts: Iterable[str]) -> list[Ids]:
        """The ids of documents as a model sees them, see `Tokenizer.encode_documents`."""
        lines = [_utf8(text).split("\n") for text in texts]
        own = iter(self.encode_paragraphs([line for document in lines for line in document]))
        table, start, end = self.table(), [tokens.PARAGRAPH_START], [tokens.PARAGRAPH_END]
        rows = []
        for document in lines:
            ids = [table[np.asarray(next(own), np.int64)] for _ in document]
            flat = [part for paragraph in ids for part in (start, paragraph, end)]
            rows.append(np.concatenate([*flat, [tokens.END_OF_DOCUMENT]]).astype(np.int32))
        return rows

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of ids, see `Tokenizer.decode`; a `ValueError` if one is not of the vocabulary."""
        last = self.vocabulary_size - 1
        if wrong := [index for index in ids if not 0 <= index <= last]:
            raise ValueError(f"id {wrong[0]} is not of this vocabulary; expected 0 to {last}")
        own = ([max(index - tokens.NUM_SPECIAL, UNKNOWN) for index in row] for row in by_paragraph(ids))
        return "\n".join(map(self.decode_paragraph, own))

    def piece(self, index: int) -> str:
        """An id as a table shows it, see `Tokenizer.piece`."""
        return self.decode_paragraph([index - tokens.NUM_SPECIAL])

    def in_graph(self) -> GraphTokenizer:
        """Says that there are no ops, by a `ValueError`, where a subclass has none."""
        raise ValueError(
            f"tokenizer {type(self).__name__} has no TensorFlow ops, so that no graph and no exported model "
            "can hold it; make ids by its encode_documents, and feed those (`tokens.split_in_memory` takes "
            "them), or bring a SentencePiece model"
        )

    def table(self) -> Ids:
        """What each id of the tokenizer's own becomes; the last is for `UNKNOWN`."""
        table = np.arange(self.num_pieces + 1, dtype=np.int32) + tokens.NUM_SPECIAL
        table[[*self.special_pieces, UNKNOWN]] = tokens.OUT_OF_VOCABULARY
        return table


def looks_special(piece: str) -> bool:
    """Whether a piece to be kept in one is a name in brackets, as ``<mask>`` or ``[SEP]``, and so no text."""
    return _SPECIAL.fullmatch(piece) is not None


def _utf8(text: str) -> str:
    """A text without half surrogate pairs, which no tokenizer takes."""
    return text if text.isascii() else text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
