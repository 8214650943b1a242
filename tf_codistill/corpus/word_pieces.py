r"""The tokenizer: text to ids of word pieces and back, without loss.

    text      It rains. We stay.\nGood.
    encode    <p> <s> _It _rain s. </s> <s> _We _stay . </s> </p> <p> <s> _Good . </s> </p>
    ids       0 .. 5                        marks (see `tokens`): sentence, paragraph, out of vocabulary, ...
              6 .. vocabulary_size - 1      word pieces, learned from the corpus
              vocabulary_size + 0 .. 255    the bytes of characters that no piece covers

    pieces = WordPieces.train(texts, num_pieces=24_000, path="corpus/word_pieces.model")
    pieces.decode(pieces.encode(text)) == text       for every string
    pieces.encode_document(text)                     what a model is trained on: every id < vocabulary_size

A paragraph is a line. A sentence ends after ``.``, ``!``, ``?`` or an ellipsis, with the quotes and brackets
that close there, if white space and then a capital letter or a digit follow, perhaps in quotes or brackets,
unless the word before a full stop is a single letter or a common abbreviation such as ``Mr``. White space
belongs to the sentence that it precedes. A word is made of ASCII letters, digits and ``_`` and of Latin,
Greek and Cyrillic letters (U+00C0 to U+052F, U+1E00 to U+1FFF): the rule names its characters one by one,
because `graph_word_pieces` applies it by another engine, whose ``\w`` and ``\s`` know no Unicode.

A model never sees bytes: in training documents each run of them is one mark for "out of vocabulary", as in
the paper (section 3.1), so they take no room in the softmax.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import sentencepiece

from tf_codistill import files, tokens
from tf_codistill.corpus import exact_scores

_SPACE_SIGN = "\u2581"  # how SentencePiece writes a space inside a piece
_NUM_BYTES = 256
_FIRST_PIECE = 1 + _NUM_BYTES  # SentencePiece's own ids: unknown, the 256 bytes, then the pieces
_REMEDY = "prepare the corpus again"
_PRINTABLE_ASCII = "".join(map(chr, range(0x21, 0x7F)))
_MAX_TRAINING_SENTENCE_BYTES = 1 << 16

# Character classes, without their brackets, that Python and RE2 read alike; a sentence lies within a line.
ENDS = ".!?…"
CLOSERS = r"""\"'”’)\]"""
OPENERS = r"""\"'“‘(\["""
SPACES = "\t\x0b-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
LETTERS = "0-9A-Za-z_\u00c0-\u052f\u1e00-\u1fff"
_TITLES = ("Capt", "Dr", "Messrs", "Mme", "Mr", "Mrs", "Ms", "Prof", "Rev", "St")
ABBREVIATIONS = (*_TITLES, "Eq", "Fig", "No", "cf", "eg", "etc", "ie", "vs")
"""Words after which a full stop ends no sentence; nor does it after a single letter."""

MAX_WORD = exact_scores.MAX_CHARACTERS // 2
"""Characters without a space after which a word is cut, which only what is no text reaches."""
LONG = (rf"[^ \x00]{{{MAX_WORD}}}", rf"[^\x00]{{{MAX_WORD}}}[^ \x00]*")
"""After what to cut, in turn: a long word, many words. What follows the second begins with a space."""

# SentencePiece reads its own sign for a space as a space, and takes neither NUL nor half surrogate pairs.
_FOREIGN = "\x00\u2581\ud800-\udfff"
_NOT_FOR_SENTENCEPIECE = re.compile(f"[{_FOREIGN}]")
# Where text is cut. One class first, for a quick search; then what each of its characters must stand before.
_CUT = re.compile(
    rf"[{ENDS}\n{_FOREIGN}]"
    rf"(?:(?<=[{ENDS}])[{ENDS}]*[{CLOSERS}]*(?=[{SPACES}]+[{OPENERS}]*[A-Z0-9])|(?<=\n)|(?<=[{_FOREIGN}]))"
)
_EXCEPTION = re.compile(rf"(?:^|[^{LETTERS}])(?:[{LETTERS}]|{'|'.join(ABBREVIATIONS)})\Z")
_EXCEPTION_REACH = 1 + max(map(len, ABBREVIATIONS))

# Marks among SentencePiece's ids, as negative indices of the table that turns those into ours.
_SENTENCE_START = tokens.SENTENCE_START - tokens.NUM_SPECIAL
_SENTENCE_END = tokens.SENTENCE_END - tokens.NUM_SPECIAL
_PARAGRAPH_START = tokens.PARAGRAPH_START - tokens.NUM_SPECIAL
_PARAGRAPH_END = tokens.PARAGRAPH_END - tokens.NUM_SPECIAL


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
        self.model = model
        """The content of the model's file."""
        self.fingerprint = hashlib.sha256(model).hexdigest()
        """SHA-256 of the model's file, 64 hexadecimal digits."""
        learned = [self._processor.IdToPiece(index) for index in range(_FIRST_PIECE, size)]
        self.surfaces = [piece.replace(_SPACE_SIGN, " ").encode("utf-8") for piece in learned]
        """What each id after the marks stands for: the word pieces, then the single bytes."""
        self.surfaces += [bytes([byte]) for byte in range(_NUM_BYTES)]
        self.ids = np.concatenate(
            [
                np.arange(self.vocabulary_size - 1, self.vocabulary_size + _NUM_BYTES),
                np.arange(tokens.NUM_SPECIAL, self.vocabulary_size),
                np.arange(tokens.NUM_SPECIAL),
            ]
        ).astype(np.int32)
        """The id for each of SentencePiece's own; behind those, the marks."""

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
        files.write(path, exact_scores.on_a_grid(model.getvalue()))
        return cls(path)

    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        Args:
            text: Any string.

        Returns:
            Ids below ``vocabulary_size + 256``, from which `decode` restores the text.
        """
        return self._encode(text).tolist()

    def encode_document(self, text: str) -> npt.NDArray[np.int32]:
        """The ids of a document as a model sees it.

        Args:
            text: The document, one paragraph per line.

        Returns:
            int32, one row. Each run of bytes is one OUT_OF_VOCABULARY, and the last id is END_OF_DOCUMENT.
        """
        ids = np.append(self._encode(text), np.int32(tokens.END_OF_DOCUMENT))
        is_byte = ids >= self.vocabulary_size
        if not is_byte.any():
            return ids
        ids[is_byte] = tokens.OUT_OF_VOCABULARY
        is_byte[1:] &= is_byte[:-1].copy()
        return ids[~is_byte]

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
        return self.surfaces[index - tokens.NUM_SPECIAL]

    def _encode(self, text: str) -> npt.NDArray[np.int32]:
        leads, plains = _lay_out(text)
        # As lists: an array for each sentence costs more than to turn their elements into one array.
        encoded = self._processor.EncodeAsIds(plains, num_threads=1)
        in_turn = itertools.chain.from_iterable(
            itertools.chain.from_iterable(zip(leads, encoded, strict=True))
        )
        return self.ids[np.fromiter(in_turn, np.int32)]


def split_sentences(paragraph: str) -> list[str]:
    """Cuts a paragraph into sentences by the rule at the top of this module.

    Args:
        paragraph: A line of text.

    Returns:
        Its sentences, which joined give the paragraph again; none for an empty one.
    """
    ends = [end for kind, _, end in _cuts(paragraph) if kind in ENDS]
    bounds = itertools.pairwise([0, *ends, len(paragraph)])
    return [paragraph[start:end] for start, end in bounds if start < end]


def _cuts(text: str) -> Iterator[tuple[str, int, int]]:
    """The first character, start and end of each end of a sentence, line end, and foreign character."""
    for match in _CUT.finditer(text):
        start, end = match.span()
        kind = text[start]
        is_full_stop = kind in ENDS and text[end - 1] == "."
        if not (is_full_stop and _EXCEPTION.search(text, max(0, start - _EXCEPTION_REACH), start)):
            yield kind, start, end


def _lay_out(text: str) -> tuple[list[list[int]], list[str]]:
    """Cuts a text into parts that SentencePiece takes whole; also gives the codes that stand before each."""
    leads, plains = [], []
    lead, prefix = [_PARAGRAPH_START], " "
    begin, is_open = 0, False  # where the next part begins; whether a sentence has begun
    for kind, start, end in itertools.chain(_cuts(text), [("\n", len(text), len(text))]):
        stop = end if kind in ENDS else start
        is_foreign = stop == start and kind != "\n"
        if begin < stop or (is_foreign and not is_open):
            if not is_open:
                lead.append(_SENTENCE_START)
            plain = prefix + text[begin:stop]
            leads.append(lead)
            plains.append(plain)
            if len(plain) > MAX_WORD:
                plains[-1:] = _fitting(plain)
                leads += [[] for _ in range(len(plains) - len(leads))]
            lead, prefix, is_open = [], "", True
        begin = end
        if is_foreign:
            lead += [1 + byte for byte in kind.encode("utf-8", "surrogatepass")]
        elif is_open:
            lead.append(_SENTENCE_END)
            is_open = False
        if kind == "\n":
            lead += [_PARAGRAPH_END, _PARAGRAPH_START]
            prefix = " "
    return [*leads, lead[:-1]], [*plains, ""]


def _fitting(plain: str) -> list[str]:
    """Cuts what is too long for exact scores; where a space follows, that changes no piece."""
    for too_long in LONG:
        plain = re.sub(too_long, "\\g<0>\0", plain)
    return plain.split("\0")


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
