r"""The tokenizer: text to ids of word pieces and back, without loss.

    text      It rains. We stay.\nGood.
    encode    <p> <s> _It _rain s. </s> <s> _We _stay . </s> </p> <p> <s> _Good . </s> </p>
    ids       0 .. 5                        marks (see tokens.py): sentence, paragraph, out of vocabulary, ...
              6 .. vocabulary_size - 1      word pieces, learned from the corpus
              vocabulary_size + 0 .. 255    the bytes of characters that no piece covers

    pieces = WordPieces.train(texts, num_pieces=24_000, path="corpus/word_pieces.model")
    pieces.decode(pieces.encode(text)) == text       for every string
    pieces.encode_document(text)                     what a model is trained on: every id < vocabulary_size

A paragraph is a line. A sentence ends after ``.``, ``!``, ``?`` or an ellipsis, with the quotes and brackets
that close there, if white space and then a capital letter or a digit follow, perhaps in quotes or brackets,
unless the word before a full stop is a single letter or a common abbreviation such as ``Mr``. White space
belongs to the sentence that it precedes. A model never sees bytes: in training documents each run of them is
one mark for "out of vocabulary", as in the paper (section 3.1), so they take no room in the softmax.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import sentencepiece

from tf_codistill import files, tokens

_SPACE_SIGN = "\u2581"  # how SentencePiece writes a space inside a piece
_NUM_BYTES = 256
_FIRST_PIECE = 1 + _NUM_BYTES  # SentencePiece's own ids: unknown, the 256 bytes, then the pieces
_REMEDY = "prepare the corpus again"
_PRINTABLE_ASCII = "".join(map(chr, range(0x21, 0x7F)))
_MAX_TRAINING_SENTENCE_BYTES = 1 << 16

# SentencePiece reads its own sign for a space as a space, and takes neither NUL nor half surrogate pairs.
_NOT_FOR_SENTENCEPIECE = re.compile("([\x00\u2581\ud800-\udfff]+)")
_SENTENCE_END = re.compile(r"""(\b\w+)?(?:[.!?…]+)["'”’)\]]*(?=\s+["'“‘(\[]*[A-Z0-9])""")
_ABBREVIATIONS = frozenset(
    ("Capt", "Dr", "Eq", "Fig", "Messrs", "Mme", "Mr", "Mrs", "Ms", "No", "Prof", "Rev", "St")
    + ("cf", "eg", "etc", "ie", "vs")
)


class WordPieces:
    """A learned vocabulary of word pieces.

    Args:
        path: Path or URL of the model's file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a model that `train` wrote.
    """

    def __init__(self, path: str) -> None:
        model = files.read(path)
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise ValueError(f"tokenizer {path!r} is no SentencePiece model; {_REMEDY}") from error
        size = self._processor.vocab_size()
        if size <= _FIRST_PIECE or not self._processor.IsByte(1) or not self._processor.IsByte(_NUM_BYTES):
            raise ValueError(
                f"tokenizer {path!r} has no byte pieces; it was not written by WordPieces.train; {_REMEDY}"
            )
        self.vocabulary_size = tokens.NUM_SPECIAL + size - _FIRST_PIECE
        """Number of ids that a model predicts: the marks and the word pieces."""
        self.fingerprint = hashlib.sha256(model).hexdigest()
        """SHA-256 of the model's file, 64 hexadecimal digits."""
        self._surfaces = [
            self._processor.IdToPiece(index).replace(_SPACE_SIGN, " ") for index in range(_FIRST_PIECE, size)
        ]

    @classmethod
    def train(cls, texts: Iterable[str], num_pieces: int, path: str) -> WordPieces:
        """Learns a vocabulary; the same texts give the same file.

        Args:
            texts: Documents.
            num_pieces: Size of the vocabulary without the marks; 24,000 in the paper.
            path: Where to write the model's file.

        Returns:
            The tokenizer.

        Raises:
            ValueError: The texts cannot fill a vocabulary of that size.
        """
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.Train(
                sentence_iterator=_training_sentences(texts),
                model_writer=model,
                vocab_size=num_pieces + _FIRST_PIECE,
                model_type="unigram",
                byte_fallback=True,
                character_coverage=0.9995,
                required_chars=_PRINTABLE_ASCII,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                add_dummy_prefix=False,
                max_sentence_length=_MAX_TRAINING_SENTENCE_BYTES,
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                num_threads=1,  # the order in which threads add up their shares would show in the scores
                minloglevel=2,
            )
        except (RuntimeError, StopIteration) as error:
            raise ValueError(
                f"word pieces: num_pieces = {num_pieces} does not suit this corpus "
                f"({str(error).strip().splitlines()[-1] if str(error).strip() else 'it is empty'}); "
                "use more text or another number"
            ) from error
        files.write(path, model.getvalue())
        return cls(path)

    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        Args:
            text: Any string.

        Returns:
            Ids below ``vocabulary_size + 256``, from which `decode` restores the text.
        """
        paragraphs = [split_sentences(paragraph) for paragraph in text.split("\n")]
        encoded = self._encode_sentences(
            [sentence if index else " " + sentence for p in paragraphs for index, sentence in enumerate(p)]
        )
        ids: list[int] = []
        for sentences in paragraphs:
            ids.append(tokens.PARAGRAPH_START)
            for _ in sentences:
                ids.append(tokens.SENTENCE_START)
                ids.extend(next(encoded))
                ids.append(tokens.SENTENCE_END)
            ids.append(tokens.PARAGRAPH_END)
        return ids

    def encode_document(self, text: str) -> npt.NDArray[np.int32]:
        """The ids of a document as a model sees it.

        Args:
            text: The document, one paragraph per line.

        Returns:
            int32, one row. Each run of bytes is one OUT_OF_VOCABULARY, and the last id is END_OF_DOCUMENT.
        """
        ids = np.array([*self.encode(text), tokens.END_OF_DOCUMENT], np.int32)
        is_byte = ids >= self.vocabulary_size
        ids[is_byte] = tokens.OUT_OF_VOCABULARY
        continues = is_byte.copy()
        continues[1:] &= is_byte[:-1]
        continues[:1] = False
        return ids[~continues]

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of ids, marks left out and paragraphs on lines of their own.

        Args:
            ids: Any ids below ``vocabulary_size + 256``, also ones that begin or end in the middle of a text.

        Returns:
            The text; OUT_OF_VOCABULARY and bytes that form no character are U+FFFD.

        Raises:
            ValueError: An id is outside that range.
        """
        paragraphs: list[list[bytes]] = []
        is_open = False
        for index in map(int, ids):
            if index == tokens.PARAGRAPH_START or (not is_open and self._is_content(index)):
                paragraphs.append([])
                is_open = True
            if index == tokens.PARAGRAPH_END:
                is_open = False
            elif self._is_content(index):
                paragraphs[-1].append(self._surface(index))
        return "\n".join(_text(b"".join(paragraph)).removeprefix(" ") for paragraph in paragraphs)

    def _is_content(self, index: int) -> bool:
        return index >= tokens.NUM_SPECIAL or index == tokens.OUT_OF_VOCABULARY or index < 0

    def _surface(self, index: int) -> bytes:
        if index == tokens.OUT_OF_VOCABULARY:
            return "\ufffd".encode()
        if not 0 <= index < self.vocabulary_size + _NUM_BYTES:
            raise ValueError(
                f"id {index} is not of this vocabulary; expected 0 to {self.vocabulary_size + _NUM_BYTES - 1}"
            )
        if index >= self.vocabulary_size:
            return bytes([index - self.vocabulary_size])
        return self._surfaces[index - tokens.NUM_SPECIAL].encode("utf-8")

    def _encode_sentences(self, sentences: list[str]) -> Iterator[list[int]]:
        """Yields the ids of each sentence."""
        chunks = [_NOT_FOR_SENTENCEPIECE.split(sentence) for sentence in sentences]
        plain = [part for parts in chunks for part in parts[::2]]
        encoded = iter(self._processor.EncodeAsIds(plain, num_threads=1))
        shift = self.vocabulary_size - 1
        to_piece = tokens.NUM_SPECIAL - _FIRST_PIECE
        for parts in chunks:
            ids: list[int] = []
            for position, part in enumerate(parts):
                if position % 2:
                    ids.extend(self.vocabulary_size + byte for byte in part.encode("utf-8", "surrogatepass"))
                else:
                    ids.extend(i + to_piece if i >= _FIRST_PIECE else i + shift for i in next(encoded))
            yield ids


def split_sentences(paragraph: str) -> list[str]:
    """Cuts a paragraph into sentences by the rule at the top of this module.

    Args:
        paragraph: A line of text.

    Returns:
        Its sentences, which joined give the paragraph again; none for an empty one.
    """
    sentences = []
    start = 0
    for match in _SENTENCE_END.finditer(paragraph):
        word = match.group(1) or ""
        if match.group().endswith(".") and (len(word) == 1 or word in _ABBREVIATIONS):
            continue
        sentences.append(paragraph[start : match.end()])
        start = match.end()
    if start < len(paragraph):
        sentences.append(paragraph[start:])
    return sentences


def _training_sentences(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for paragraph in text.split("\n"):
            for index, sentence in enumerate(split_sentences(paragraph)):
                plain = _NOT_FOR_SENTENCEPIECE.sub("", sentence)
                yield plain if index else " " + plain


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return content.decode("utf-8", "replace")
