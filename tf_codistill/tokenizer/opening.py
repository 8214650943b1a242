"""Any tokenizer by its file, whatever kind it is of.

    open_tokenizer("corpus/word_pieces.model")      ours, learned from the corpus
    open_tokenizer("llama.model")                   any other SentencePiece model
    open_tokenizer("tokenizer.json")                any file of the package `tokenizers`
    open_tokenizer("tokenizer_class.json")          a class of one's own, see `own_class`

Its content says which it is. Where a file is kept beside token shards or a model, its name does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

from tf_codistill import files, tokens
from tf_codistill.tokenizer import own_class
from tf_codistill.tokenizer.base import Tokenizer
from tf_codistill.tokenizer.sentencepiece_model import SentencePieceModel
from tf_codistill.tokenizer.tokenizers_file import TokenizersFile
from tf_codistill.tokenizer.word_pieces import WordPieces


class _Kind(NamedTuple):
    name: str
    recognizes: Callable[[bytes], bool]
    open: Callable[[str, bytes], Tokenizer]


_KINDS = (  # the first that recognizes a content
    _Kind("tokenizer_class.json", own_class.recognizes, own_class.make),
    _Kind("tokenizer.json", lambda content: content.lstrip()[:1] == b"{", TokenizersFile),
    _Kind(tokens.TOKENIZER, WordPieces.recognizes, WordPieces),
    _Kind("sentencepiece.model", lambda _: True, SentencePieceModel),
)


class TokenizerFile(NamedTuple):
    """A tokenizer as corpora and models keep it.

    Attributes:
        name: Name of the file, by which people know what it is.
        content: What is in it.
    """

    name: str
    content: bytes

    @property
    def checksum(self) -> str:
        """SHA-256 of the content, the fingerprint of the tokenizer."""
        return hashlib.sha256(self.content).hexdigest()


def open_tokenizer(path: str) -> Tokenizer:
    """Opens the tokenizer of a file; a `ValueError` if it is none, or one that cannot be used here."""
    content = files.read(path)
    return _kind(content).open(path, content)


def as_file(tokenizer: str | Tokenizer) -> TokenizerFile:
    """A tokenizer, by path, URL or a dataclass of one's own, as a file that can surely be opened.

    What is no tokenizer, or one that no file can describe, is a `ValueError`.
    """
    if isinstance(tokenizer, str):
        path, content = tokenizer, files.read(tokenizer)
    else:
        path, content = type(tokenizer).__qualname__, own_class.content_of(tokenizer)
    kind = _kind(content)
    kind.open(path, content)
    return TokenizerFile(kind.name, content)


def _kind(content: bytes) -> _Kind:
    return next(kind for kind in _KINDS if kind.recognizes(content))
