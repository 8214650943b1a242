"""How likely a trained model finds any text: the log-likelihood per word.

    paragraphs    It rains. We stay.          one line of the file each, as in a corpus; or up to a blank line
    targets       <p> <s> _It _rain s . </s> ... </p> <end of document>
    inputs        <end of document> <p> <s> _It _rain s ...
    windows       | 128 targets | 128 targets | ...              one after another, the state carried along

    score = score_file(trained, "novel.txt")
    score.row()["log_likelihood_per_word"]                       -7.9, in nats

The sum runs over all targets, special tokens included, because the model has to predict those too; a run of
characters outside the vocabulary counts as one target, as in section 3.1 of Anil et al. 2018, so that scores
of texts with many such runs look better than they are: their fraction is reported. A file may be of any size:
a block of it and a window are held in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Iterable, Iterator
from typing import IO

import numpy as np
import tensorflow as tf
from absl import logging

from tf_codistill import files, tokens
from tf_codistill.tokenizer.base import Ids
from tf_codistill.trained import Trained

MAX_PARAGRAPH_BYTES = 1 << 20
"""Longer ones are read as several."""

WINDOW_TOKENS = 128
_BLOCK_BYTES = 1 << 20
_MAX_NATS = 700.0  # whose exponential is still a number


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """A paragraph of a file.

    Attributes:
        text: Its text in one line, without surrounding white space.
        num_invalid: Byte sequences in it that are no UTF-8; in the text each is U+FFFD.
    """

    text: str
    num_invalid: int = 0


@dataclasses.dataclass
class Score:
    """What a model makes of a text, or of several together.

    Attributes:
        num_tokens: Targets, special tokens included.
        num_pieces: Those of them that are word pieces or out of vocabulary.
        num_out_of_vocabulary: Runs of characters that no word piece covers.
        num_words: Words, separated by white space.
        num_invalid: Byte sequences that are no UTF-8.
        log_likelihood: Sum over all targets, in nats.
    """

    num_tokens: int = 0
    num_pieces: int = 0
    num_out_of_vocabulary: int = 0
    num_words: int = 0
    num_invalid: int = 0
    log_likelihood: float = 0.0

    def __add__(self, other: Score) -> Score:
        """The score of both texts together."""
        fields = [field.name for field in dataclasses.fields(self)]
        return Score(*(getattr(self, name) + getattr(other, name) for name in fields))

    def row(self) -> dict[str, float | int | None]:
        """All figures by name.

        Returns:
            The attributes, then ``out_of_vocabulary_fraction`` of the pieces, ``log_likelihood_per_word`` in
            nats and ``log2_likelihood_per_word`` in bits, ``loss`` in nats per token and
            ``perplexity_per_word``; None where there is nothing to divide by.
        """
        per_word = self.log_likelihood / self.num_words if self.num_words else None
        return {
            **dataclasses.asdict(self),
            "out_of_vocabulary_fraction": self.num_out_of_vocabulary / self.num_pieces
            if self.num_pieces
            else None,
            "log_likelihood_per_word": per_word,
            "log2_likelihood_per_word": None if per_word is None else per_word / math.log(2),
            "loss": -self.log_likelihood / self.num_tokens if self.num_tokens else None,
            "perplexity_per_word": None if per_word is None else math.exp(min(-per_word, _MAX_NATS)),
        }


@contextlib.contextmanager
def opened(name: str) -> Iterator[IO[bytes]]:
    """Opens a text file.

    Args:
        name: Path or URL; ``-`` for standard input.

    Yields:
        Its bytes.

    Raises:
        OSError: It cannot be opened.
    """
    if name == "-":
        yield sys.stdin.buffer
        return
    if files.is_remote(name):
        files.size_bytes(name)  # raises when there is none
    with tf.io.gfile.GFile(name, "rb") if files.is_remote(name) else open(name, "rb") as file:
        yield file


def paragraphs(file: IO[bytes], are_wrapped: bool = False) -> Iterator[Paragraph]:
    r"""Reads a text file, block by block.

    Args:
        file: Bytes of any kind; line ends are ``\n`` or ``\r\n``.
        are_wrapped: Whether a paragraph continues until a blank line; otherwise each line is one.

    Yields:
        The paragraphs, none of them blank.
    """
    waiting: list[bytes] = []
    num_waiting = 0
    for index, line in enumerate(_lines(file)):
        line = line.removeprefix(b"\xef\xbb\xbf") if index == 0 else line
        if not are_wrapped:
            yield from _paragraph(line)
            continue
        if not line.strip() or num_waiting + len(line) > MAX_PARAGRAPH_BYTES:
            yield from _paragraph(b" ".join(waiting))
            waiting, num_waiting = [], 0
        waiting.append(line.strip())
        num_waiting += len(line) + 1
    yield from _paragraph(b" ".join(waiting))


def score_file(trained: Trained, name: str, are_wrapped: bool = False) -> Score:
    """Scores a file as a document, from the state that the model is in, and warns of what is no UTF-8.

    Args:
        trained: The model.
        name: Path or URL; ``-`` for standard input.
        are_wrapped: As for `paragraphs`.

    Returns:
        The score.

    Raises:
        OSError: The file cannot be read.
    """
    with opened(name) as file:
        score = score_text(trained, paragraphs(file, are_wrapped))
    if score.num_invalid:
        logging.warning("%s: bytes that are no UTF-8, read as U+FFFD %d times", name, score.num_invalid)
    return score


def score_text(trained: Trained, text: Iterable[Paragraph], window_tokens: int = WINDOW_TOKENS) -> Score:
    """Scores a document, from the state that the model is in.

    Args:
        trained: The model; afterwards it has read all but END_OF_DOCUMENT.
        text: The document's paragraphs.
        window_tokens: How many tokens the model reads at once; the score does not depend on it.

    Returns:
        The score.

    Raises:
        ValueError: `window_tokens` is not positive.
    """
    if window_tokens < 1:
        raise ValueError(f"window_tokens is {window_tokens}; expected at least 1")
    score = Score()
    last = np.array([tokens.END_OF_DOCUMENT], np.int32)
    for targets in _windows(_ids(trained, text, score), window_tokens):
        likelihoods = trained.log_likelihoods(np.concatenate([last, targets[:-1]]), targets)
        last = targets[-1:]
        num_unknown = int(np.count_nonzero(targets == tokens.OUT_OF_VOCABULARY))
        score.num_tokens += len(targets)
        score.num_pieces += int(np.count_nonzero(targets >= tokens.NUM_SPECIAL)) + num_unknown
        score.num_out_of_vocabulary += num_unknown
        score.log_likelihood += float(likelihoods.sum())
    return score


def _ids(trained: Trained, text: Iterable[Paragraph], score: Score) -> Iterator[Ids]:
    """The ids of each paragraph, then END_OF_DOCUMENT; counts what is in the text only."""
    for paragraph in text:
        score.num_words += len(paragraph.text.split())
        score.num_invalid += paragraph.num_invalid
        yield trained.tokenizer.encode_documents([paragraph.text])[0][:-1]
    yield np.array([tokens.END_OF_DOCUMENT], np.int32)


def _windows(parts: Iterable[Ids], window_tokens: int) -> Iterator[Ids]:
    """Cuts a row that comes in parts into windows; the last one may be shorter."""
    waiting: list[Ids] = []
    num_waiting = 0
    for part in parts:
        waiting.append(part)
        num_waiting += len(part)
        if num_waiting < window_tokens:
            continue
        row = np.concatenate(waiting)
        complete = num_waiting // window_tokens * window_tokens
        for start in range(0, complete, window_tokens):
            yield row[start : start + window_tokens]
        waiting, num_waiting = [row[complete:]], num_waiting - complete
    if num_waiting:
        yield np.concatenate(waiting)


def _paragraph(line: bytes) -> Iterator[Paragraph]:
    text = line.decode("utf-8", "replace")
    num_invalid = text.count("\ufffd") - line.count("\ufffd".encode())
    if stripped := text.strip():
        yield Paragraph(stripped, num_invalid)


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Lines, without their ends; too long ones in parts."""
    rest = b""
    while block := file.read(_BLOCK_BYTES):
        *complete, rest = (rest + block).split(b"\n")
        for line in complete:
            yield from _parts(line)
        *complete, rest = _parts(rest)
        yield from complete
    yield rest


def _parts(line: bytes) -> Iterator[bytes]:
    """Cuts a line that is too long, at spaces where there are any, else between characters."""
    start = 0
    while len(line) - start > MAX_PARAGRAPH_BYTES:
        limit = start + MAX_PARAGRAPH_BYTES
        end = line.rfind(b" ", start + 1, limit)
        if end < 0:
            end = next((e for e in range(limit, limit - 4, -1) if line[e] & 0xC0 != 0x80), limit)
        yield line[start:end]
        start = end
    yield line[start:]
