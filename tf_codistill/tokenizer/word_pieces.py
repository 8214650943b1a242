r"""The tokenizer: text to ids of word pieces and back, without loss.

    text      It rains. We stay.\nGood.
    encode    <p> <s> _It _rain s. </s> <s> _We _stay . </s> </p> <p> <s> _Good . </s> </p>
    ids       0 .. 5                        special tokens (see `tokens`): sentence, paragraph, ...
              6 .. vocabulary_size - 1      word pieces, learned from the corpus
              vocabulary_size + 0 .. 255    the bytes of characters that no piece covers

    pieces = WordPieces.train(texts, num_pieces=24_000, path="corpus/word_pieces.model")
    pieces.decode(pieces.encode(text)) == text       for every string
    pieces.encode_document(text)                     what a model is trained on: every id < vocabulary_size
    pieces.in_graph().encode_document(texts)         the same by TensorFlow ops

A paragraph is a line; `sentences` says where a sentence ends.

A model never sees bytes: in training documents each run of them is one OUT_OF_VOCABULARY, as in the
paper (section 3.1), so they take no room in the softmax.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow
import sentencepiece
from pyarrow import compute

from tf_codistill import files, tokens
from tf_codistill.tokenizer import model_proto, score_quantization, sentences
from tf_codistill.tokenizer.base import REMEDY, Ids, by_paragraph
from tf_codistill.tokenizer.score_quantization import MAX_WORD
from tf_codistill.tokenizer.word_cache import WordCache

if TYPE_CHECKING:
    from tf_codistill.tokenizer.in_graph import GraphWordPieces

_NOTHING = pyarrow.scalar("", pyarrow.large_string())
_NUM_BYTES = 256
_FIRST_PIECE = 1 + _NUM_BYTES  # SentencePiece's own ids: unknown, the 256 bytes, then the pieces
_COVERAGE = 0.9995  # of the characters of a corpus, by pieces
_PRINTABLE_ASCII = "".join(map(chr, range(0x21, 0x7F)))
_MAX_TRAINING_SENTENCE_BYTES = 1 << 16
_LONG_WORD = re.compile(f"[^ ]{{{MAX_WORD}}}")


class WordPieces:
    """A learned vocabulary of word pieces.

    Args:
        path: Path or URL of the model's file.
        content: What is in it, if it has been read.

    Attributes:
        vocabulary_size: Number of ids that a model predicts: the special tokens and the word pieces.
        model: The content of the model's file.
        fingerprint: SHA-256 of it, 64 hexadecimal digits.
        surfaces: What each id after the special tokens stands for: the word pieces, then the single bytes.
        ids: The id for each of SentencePiece's own.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a model that `train` wrote.
    """

    marks_sentences = True

    def __init__(self, path: str, content: bytes | None = None) -> None:
        self.model = files.read(path) if content is None else content
        try:
            model = model_proto.parse(self.model)
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=self.model)
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"tokenizer {path!r} is no SentencePiece model; {REMEDY}") from error
        if foreign := _foreign(model):
            raise ValueError(
                f"tokenizer {path!r} has {foreign}; it was not written by WordPieces.train; {REMEDY}"
            )
        learned = [piece.piece for piece in model.pieces[_FIRST_PIECE:]]
        self.vocabulary_size = tokens.NUM_SPECIAL + len(learned)
        self.fingerprint = hashlib.sha256(self.model).hexdigest()
        self.surfaces = [piece.replace(sentences.SPACE_SIGN, " ").encode("utf-8") for piece in learned]
        self.surfaces += [bytes([byte]) for byte in range(_NUM_BYTES)]
        first, end = tokens.NUM_SPECIAL, self.vocabulary_size
        self.ids = np.r_[end - 1 : end + _NUM_BYTES, first:end].astype(np.int32)
        self._ids = self.ids.tolist()
        begins_word = [piece.startswith(sentences.SPACE_SIGN) for piece in learned]
        self._begins_word = np.array([False] * _FIRST_PIECE + begins_word)
        self._cache = WordCache(self._encode_words)

    @staticmethod
    def recognizes(content: bytes) -> bool:
        """Whether a file's content is a model that `train` wrote."""
        try:
            return not _foreign(model_proto.parse(content))
        except ValueError:
            return False

    @classmethod
    def train(cls, texts: Iterable[str], num_pieces: int, path: str) -> WordPieces:
        """Learns a vocabulary; the same texts give the same file.

        Args:
            texts: Documents.
            num_pieces: Size of the vocabulary without the special tokens; 24,000 in the paper.
            path: Where to write the model's file.

        Returns:
            The tokenizer.

        Raises:
            ValueError: The texts cannot fill a vocabulary of that size.
        """
        # All at once, since SentencePiece would take Ctrl-C between two of them for an error of its own.
        training = list(_training_sentences(texts))
        model = _learn(training, num_pieces, _COVERAGE)
        learned = {piece.piece for piece in model_proto.parse(model).pieces}
        if sentences.SPACE_SIGN not in learned:  # but one of the rare characters that are left to the bytes
            model = _learn(training, num_pieces, 1.0)
        files.write(path, score_quantization.quantize(model))
        return cls(path)

    def encode(self, text: str) -> list[int]:
        """The ids of any string, below ``vocabulary_size + 256``, from which `decode` restores it."""
        return self._cache.encode([sentences.to_words(text)])[0].tolist()

    def encode_document(self, text: str) -> Ids:
        """The ids of a document as a model sees it, one row: each run of bytes is one OUT_OF_VOCABULARY."""
        return self.encode_documents([text])[0]

    def encode_documents(self, texts: Iterable[str]) -> list[Ids]:
        """What `encode_document` returns for each of some documents, faster: a word that recurs costs little.

        Some megabytes of text are enough for the full speed.
        """
        words = [sentences.to_words(text) + sentences.END for text in texts]
        return [self._without_bytes(ids) for ids in self._cache.encode(words)] if words else []

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of ids, see `Tokenizer.decode`; they may be up to ``vocabulary_size + 255``.

        OUT_OF_VOCABULARY and bytes that form no character are U+FFFD; other ids are a `ValueError`.
        """
        paragraphs = [b"".join(map(self._surface, paragraph)) for paragraph in by_paragraph(ids)]
        return "\n".join(_text(paragraph).removeprefix(" ") for paragraph in paragraphs)

    def piece(self, index: int) -> str:
        """An id as a table shows it, with the space that a word begins with."""
        return self._surface(index).decode("utf-8", "replace")

    def in_graph(self) -> GraphWordPieces:
        """The same ids by TensorFlow ops, with a copy of the vocabulary."""
        from tf_codistill.tokenizer.in_graph import GraphWordPieces  # few need its ops

        return GraphWordPieces(self.model, self.vocabulary_size, self.ids, self.surfaces)

    def _surface(self, index: int) -> bytes:
        if index == tokens.OUT_OF_VOCABULARY:
            return "\ufffd".encode()
        if not 0 <= index < self.vocabulary_size + _NUM_BYTES:
            raise ValueError(
                f"id {index} is not of this vocabulary; expected 0 to {self.vocabulary_size + _NUM_BYTES - 1}"
            )
        return self.surfaces[index - tokens.NUM_SPECIAL]

    def _encode_words(self, words: pyarrow.Array) -> pyarrow.ListArray:
        """The ids of different words, each with the space before it; then those where a sentence ends."""
        num_bytes = compute.binary_length(words).to_numpy()
        is_plain = (num_bytes <= MAX_WORD) & sentences.is_plain(words)
        parts = np.cumsum(num_bytes[is_plain]) // MAX_WORD
        ends = np.unique([0, *(1 + np.flatnonzero(np.diff(parts))), len(parts)])
        plain = _lists(ends, words.filter(pyarrow.array(is_plain)))
        own = self._find(compute.binary_join(plain, _NOTHING).to_pylist())
        found = np.fromiter(itertools.chain.from_iterable(own), np.int32)
        # A piece has a space only as its first character, so each of them begins another word.
        ids, bounds = self.ids[found], np.append(np.flatnonzero(self._begins_word[found]), len(found))
        end, num_plain = sentences.SPECIAL_TOKENS["/"], len(bounds) - 1
        with_end = np.insert(ids, np.repeat(bounds[1:], len(end)), np.tile(end, num_plain))
        others = self._encode_others(words.filter(pyarrow.array(~is_plain)).to_pylist())
        rows = pyarrow.concat_arrays(
            [
                _lists(bounds, ids),
                _lists(bounds + len(end) * np.arange(len(bounds)), with_end),
                pyarrow.array(others, pyarrow.list_(pyarrow.int32())),
            ]
        )
        positions = np.empty((len(words), 2), np.int32)
        positions[is_plain] = np.arange(num_plain)[:, None] + [0, num_plain]
        positions[~is_plain] = 2 * num_plain + np.arange(len(others)).reshape(-1, 2)
        return rows.take(pyarrow.array(positions.ravel()))

    def _encode_others(self, words: Sequence[str]) -> list[Ids]:
        """The two rows of each word that may have signs or other white space in it, or be long."""
        has_space = [word[-1].isspace() for word in words]  # a sentence ends before it
        amid = self._encode_forms(map(sentences.amid_sentence, words))
        spaced = itertools.compress(words, has_space)
        before = iter(self._encode_forms(map(sentences.before_sentence, spaced)))
        end = np.array(sentences.SPECIAL_TOKENS["/"], np.int32)
        pairs = (
            (row, next(before) if ends_with_space else np.append(row, end))
            for row, ends_with_space in zip(amid, has_space, strict=True)
        )
        return list(itertools.chain.from_iterable(pairs))

    def _encode_forms(self, forms: Iterable[str]) -> list[Ids]:
        """The ids of words with signs in them."""
        parsed = [sentences.SIGN.split(form) for form in forms]
        texts = list({part for form in parsed for text in form[::3] for part in _cut(text)})
        found = dict(zip(texts, self._find(texts), strict=True)) if texts else {}
        rows = []
        for form in parsed:
            row: list[int] = []
            for text, sign, foreign in zip(form[::3], [*form[1::3], ""], [*form[2::3], ""], strict=True):
                row += [self._ids[index] for part in _cut(text) for index in found[part]]
                if sign:
                    row += sentences.SPECIAL_TOKENS[sign]
                elif foreign:
                    content = chr(int(foreign, 16)).encode("utf-8", "surrogatepass")
                    row += [self.vocabulary_size + byte for byte in content]
            rows.append(np.array(row, np.int32))
        return rows

    def _find(self, texts: list[str]) -> list[list[int]]:
        """SentencePiece's own ids of texts that are short enough for exact sums of scores."""
        return self._processor.EncodeAsIds(texts, num_threads=1)

    def _without_bytes(self, ids: Ids) -> Ids:
        """Makes each run of bytes one OUT_OF_VOCABULARY."""
        is_byte = ids >= self.vocabulary_size
        if not is_byte.any():
            return ids.copy()  # it is part of that of many texts
        ids = np.where(is_byte, np.int32(tokens.OUT_OF_VOCABULARY), ids)
        is_byte[1:] &= is_byte[:-1].copy()
        return ids[~is_byte]


def _cut(text: str) -> list[str]:
    """The parts of a text that may be long, or empty."""
    if len(text) > MAX_WORD:
        return _LONG_WORD.sub("\\g<0>\0", text).split("\0")
    return [text] if text else []


def _lists(bounds: npt.NDArray[np.integer], values: pyarrow.Array | Ids) -> pyarrow.ListArray:
    return pyarrow.ListArray.from_arrays(bounds.astype(np.int32), values)


def _learn(training: Iterable[str], num_pieces: int, coverage: float) -> bytes:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(training),
            model_writer=model,
            vocab_size=num_pieces + _FIRST_PIECE,
            model_type="unigram",
            byte_fallback=True,
            character_coverage=coverage,
            required_chars=_PRINTABLE_ASCII,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            max_sentence_length=_MAX_TRAINING_SENTENCE_BYTES,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=1,  # the order in which threads add up their sums would show in the scores
            minloglevel=2,
        )
    except (RuntimeError, StopIteration) as error:
        raise ValueError(
            f"word pieces: num_pieces = {num_pieces} does not suit this corpus ({_reason(str(error))}); "
            "use more text or another number"
        ) from error
    return model.getvalue()


def _reason(message: str) -> str:
    """The message of SentencePiece, in numbers of pieces as we count them."""
    most = re.search(r"set it to a value <= (\d+)", message)
    if most:
        return f"it has text for {int(most[1]) - _FIRST_PIECE:,} at most"
    return message.strip().splitlines()[-1] if message.strip() else "it is empty"


def _foreign(model: Any) -> str:
    """What a model has that is not as `train` writes it, nothing if all is."""
    learned = [piece.piece for piece in model.pieces[_FIRST_PIECE:]]
    types = [piece.type for piece in model.pieces]
    normalizer = model_proto.Normalizer.FromString(model.normalizer)
    if types[:_FIRST_PIECE] != [model_proto.UNKNOWN] + [model_proto.BYTE] * _NUM_BYTES:
        return "no byte pieces, or others before them"
    if any(sentences.SPACE_SIGN in piece[1:] for piece in learned):
        return "pieces of several words"
    if sentences.SPACE_SIGN not in learned:
        return "no piece for a space"
    if normalizer.charsmap or normalizer.add_dummy_prefix or normalizer.remove_spaces:
        return "rules that change a text"
    return ""


def _training_sentences(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for paragraph in text.split("\n"):
            for index, sentence in enumerate(sentences.split_sentences(paragraph)):
                plain = sentences.plain(sentence)
                yield plain if index else " " + plain


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return content.decode("utf-8", "replace")
