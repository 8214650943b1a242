r"""The tokenizer of `word_pieces` as TensorFlow ops: in `tf.data`, in a `tf.function`, in an exported model.

    pieces = WordPieces("corpus/word_pieces.model").in_graph()
    texts.batch(100).map(pieces.encode_document, num_parallel_calls=4)      RaggedTensor [100, None]
    pieces.decode(pieces.encode(texts))                                     the texts again

The ids are those of `WordPieces`, for every string. Text is rewritten until it can be cut at each NUL, where
the sign behind the NUL says what stands between two parts:

    text      Mr. X came. He sat.\nOh\x00
    signs     0{ Mr. X came.0| He sat.0}0/0{ Oh0*0}          0 is NUL
    tokens    <p> <s>        </s> <s>   </s> </p> <p> <s>  <0x00> </s> </p>

Strings are bytes here: UTF-8, in which half surrogate pairs may stand as Python's ``surrogatepass`` writes
them. What is no UTF-8 has no ids of its own; replace it first, as `inputs.raw_text` does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_text

from tf_codistill import tokens
from tf_codistill.tokenizer import sentences
from tf_codistill.tokenizer.score_quantization import MAX_WORD

_NUL_SIGN, _FOREIGN_SIGN, _BETWEEN_SENTENCES, _OPENING, _CLOSING, _LINE_END, _CUT = b"*^|{}/+"
_FOREIGN_BYTES = 3  # of U+2581, and of each half surrogate pair

# After what to cut, in turn: a long word, many words. What follows the second begins with a space, before
# which a cut changes no piece.
_LONG = (rf"[^ \x00]{{{MAX_WORD}}}", rf"[^\x00]{{{MAX_WORD}}}[^ \x00]*")

# Applied in turn. The signs belong to none of the classes of characters that make up the sentence rule.
_SIGN_RULES = (
    (r"\x00", "\x00*"),
    ("\u2581|[\\x{D800}-\\x{DFFF}]", "\x00^\\0\x00+"),
    (f"({sentences.ENDING})([{sentences.SPACES}]+{sentences.BEGINNING})", "\\1\x00|\\2"),
    (rf"({sentences.NO_ENDING})\x00\|", r"\1"),
    (r"[^\n]+", "\x00{ \\0\x00}"),
    (r"\n", "\x00/"),
    # A sign is no part of a word; the NUL makes the match begin there.
    *((rf"(?:\x00[*|{{}}/+])?{long}", "\\0\x00+") for long in _LONG),
)


class GraphWordPieces(tf.Module):
    """Word pieces by TensorFlow ops alone, see `WordPieces.in_graph`; can be saved with a model that uses it.

    Args:
        model: The content of the model's file, as `WordPieces.train` wrote it.
        vocabulary_size: Number of ids that a model predicts: the special tokens and the word pieces.
        ids: The id for each of SentencePiece's own.
        surfaces: What each id after the special tokens stands for.

    Attributes:
        vocabulary_size: As given.
    """

    def __init__(
        self, model: bytes, vocabulary_size: int, ids: npt.NDArray[np.int32], surfaces: Sequence[bytes]
    ) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self._tokenizer = tensorflow_text.SentencepieceTokenizer(model)
        self._surfaces = _surfaces(surfaces)
        self._ids = ids
        self._leads, self._lead_lengths = _leads(vocabulary_size)

    def encode(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """What `WordPieces.encode` returns for each of the strings ``[N]``, int32 ``[N, None]``."""
        for pattern, sign in _SIGN_RULES:
            texts = tf.strings.regex_replace(texts, pattern, sign)
        parts_by_text = tf.strings.split(texts, "\x00")
        parts = parts_by_text.flat_values
        ids = tf.concat([self._lead(parts), self._plain(parts)], axis=1)
        return _append(_joined(ids, parts_by_text), tokens.PARAGRAPH_END)

    def encode_document(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """In each row what `WordPieces.encode_document` returns, see `GraphTokenizer.encode_document`."""
        ids = self.encode(texts)
        flat = ids.flat_values
        is_byte = flat >= self.vocabulary_size
        # A row begins with a special token, so that no run of bytes continues from one row to the next.
        continues = is_byte & tf.concat([[False], is_byte[:-1]], axis=0)
        known = ids.with_flat_values(tf.where(is_byte, tokens.OUT_OF_VOCABULARY, flat))
        return _append(
            tf.ragged.boolean_mask(known, ids.with_flat_values(~continues)), tokens.END_OF_DOCUMENT
        )

    def decode(self, ids: tf.RaggedTensor | tf.Tensor) -> tf.Tensor:
        """What `WordPieces.decode` returns for each row of ids, int32 ``[N, None]``; string ``[N]``.

        But bytes that form no character stay as they are, and an id outside the vocabulary is an
        `InvalidArgumentError`.
        """
        if not isinstance(ids, tf.RaggedTensor):
            ids = tf.RaggedTensor.from_tensor(ids)
        unread = (tokens.SENTENCE_START, tokens.SENTENCE_END, tokens.END_OF_DOCUMENT)
        is_read = tf.reduce_all([tf.not_equal(ids.flat_values, special) for special in unread], axis=0)
        ids = tf.ragged.boolean_mask(ids, ids.with_flat_values(is_read))
        flat, rows = ids.flat_values, ids.value_rowids()
        is_first = tf.concat([[True], rows[1:] != rows[:-1]], axis=0)[: tf.size(rows)]
        before = tf.where(is_first, tokens.PARAGRAPH_END, tf.roll(flat, 1, 0))
        is_text = (flat != tokens.PARAGRAPH_START) & (flat != tokens.PARAGRAPH_END)
        opens = (flat == tokens.PARAGRAPH_START) | (is_text & (before == tokens.PARAGRAPH_END))
        begins = is_text & ((before == tokens.PARAGRAPH_END) | (before == tokens.PARAGRAPH_START))
        opened = tf.concat([[0], tf.cumsum(tf.cast(opens, tf.int32))], axis=0)
        opened_in_row = opened[1:] - tf.gather(opened, tf.gather(ids.row_starts(), rows))
        text = tf.gather_nd(self._surfaces, tf.stack([tf.cast(begins, tf.int32), flat], axis=1))
        text = tf.where(opens & (opened_in_row > 1), "\n" + text, text)
        return tf.strings.unsorted_segment_join(text, rows, ids.nrows())

    def _lead(self, parts: tf.Tensor) -> tf.RaggedTensor:
        """Special tokens and bytes that stand before each part."""
        bytes_N4 = tf.cast(tf.io.decode_raw(parts, tf.uint8, fixed_length=1 + _FOREIGN_BYTES), tf.int32)
        sign = bytes_N4[:, 0]
        lead = tf.where(
            (sign == _FOREIGN_SIGN)[:, None],
            self.vocabulary_size + bytes_N4[:, 1:],
            tf.gather(self._leads, sign),
        )
        return tf.RaggedTensor.from_tensor(lead, tf.gather(self._lead_lengths, sign))

    def _plain(self, parts: tf.Tensor) -> tf.RaggedTensor:
        """Word pieces and bytes of the text of each part, which follows its sign."""
        sign = tf.strings.substr(parts, 0, 1)
        is_foreign = tf.cast(sign == bytes([_FOREIGN_SIGN]), tf.int32)
        begin = tf.strings.length(sign) + _FOREIGN_BYTES * is_foreign
        encoded = self._tokenizer.tokenize(tf.strings.substr(parts, begin, tf.strings.length(parts)))
        return encoded.with_flat_values(tf.gather(self._ids, encoded.flat_values))


class GraphParagraphs(tf.Module):
    """A SentencePiece model by TensorFlow ops alone, see `SentencePieceModel.in_graph`.

    Args:
        model: The model's content, as it is read outside.
        table: What each of its ids becomes.
    """

    def __init__(self, model: bytes, table: npt.NDArray[np.int32]) -> None:
        super().__init__()
        self._tokenizer = tensorflow_text.SentencepieceTokenizer(model)
        self._table = table

    def encode_document(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """In each row what `SentencePieceModel.encode_documents` returns; what is no UTF-8 becomes U+FFFD."""
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
        lines = tf.strings.split(texts, "\n")
        own = self._tokenizer.tokenize(lines.flat_values)
        ids = _append(own.with_flat_values(tf.gather(self._table, own.flat_values)), tokens.PARAGRAPH_END)
        ids = tf.concat([tf.fill(tf.stack([ids.nrows(), 1]), tokens.PARAGRAPH_START), ids], axis=1)
        return _append(_joined(ids, lines), tokens.END_OF_DOCUMENT)


def _joined(ids: tf.RaggedTensor, parts: tf.RaggedTensor) -> tf.RaggedTensor:
    """The ids of all parts of a text in one row, as many parts as its row has."""
    splits = tf.gather(ids.row_splits, parts.row_splits)
    return tf.RaggedTensor.from_row_splits(ids.flat_values, splits, validate=False)


def _append(rows: tf.RaggedTensor, token: int) -> tf.RaggedTensor:
    return tf.concat([rows, tf.fill(tf.stack([rows.nrows(), 1]), token)], axis=1)


def _leads(vocabulary_size: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """For each sign the ids that stand for it, and how many; 0 is that of the part before the first sign."""
    leads = {
        0: [tokens.PARAGRAPH_START],
        _NUL_SIGN: [vocabulary_size],
        _FOREIGN_SIGN: [0] * _FOREIGN_BYTES,
        _BETWEEN_SENTENCES: [tokens.SENTENCE_END, tokens.SENTENCE_START],
        _OPENING: [tokens.SENTENCE_START],
        _CLOSING: [tokens.SENTENCE_END],
        _LINE_END: [tokens.PARAGRAPH_END, tokens.PARAGRAPH_START],
        _CUT: [],
    }
    table, lengths = np.zeros((256, _FOREIGN_BYTES), np.int32), np.zeros(256, np.int32)
    for sign, ids in leads.items():
        table[sign, : len(ids)], lengths[sign] = ids, len(ids)
    return table, lengths


def _surfaces(surfaces: Sequence[bytes]) -> npt.NDArray[np.object_]:
    """What each id adds to a text, ``[2, ids]``: amid a paragraph, and at its beginning."""
    amid = [b""] * tokens.NUM_SPECIAL + list(surfaces)
    amid[tokens.OUT_OF_VOCABULARY] = "\ufffd".encode()
    return np.array([amid, [surface.removeprefix(b" ") for surface in amid]], object)
