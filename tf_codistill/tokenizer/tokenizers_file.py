"""Any file of the package `tokenizers`: byte-level BPE, WordPiece, and what else it has.

    tokenizer = TokenizersFile("tokenizer.json")           needs the extra, tf_codistill[tokenizers]
    tokenizer.encode_documents(["It rains."])              each paragraph as the file itself would have it

What the file adds around a text, cuts off it or drops by chance is left away. Its special tokens are no
text's: where ``[SEP]`` stands in one, the letters count, or it is OUT_OF_VOCABULARY.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

from tf_codistill import files, tokens
from tf_codistill.tokenizer.paragraphs import UNKNOWN, ParagraphTokenizer, looks_special

_BETWEEN = " \ufffd "  # for what has no piece


class TokenizersFile(ParagraphTokenizer):
    """A tokenizer of the package `tokenizers`.

    Args:
        path: Path or URL of the JSON file.
        content: What is in it, if it has been read.

    Raises:
        ValueError: The package is not installed, or does not take the file.
    """

    def __init__(self, path: str, content: bytes | None = None) -> None:
        self._path = path
        self.content = files.read(path) if content is None else content
        try:
            import tokenizers
        except ImportError as error:
            raise ValueError(
                f"tokenizer {path!r} needs the package tokenizers; run: pip "
                "install 'tf_codistill[tokenizers]'"
            ) from error
        try:
            described = json.loads(self.content)
            for token in described["added_tokens"]:
                token["special"] |= looks_special(token["content"])
            described["model"]["dropout"] = None
            self._engine = tokenizers.Tokenizer.from_str(json.dumps(described))
        except Exception as error:  # it has no type of its own
            raise ValueError(f"tokenizer {path!r} is no file of the package tokenizers: {error!r}") from error
        self._engine.no_truncation()
        self._engine.no_padding()
        self._engine.encode_special_tokens = True  # as text, if a text has them
        vocabulary = self._engine.get_vocab(with_added_tokens=True)
        self.num_pieces = 1 + max(vocabulary.values())  # numbers may be left out
        special = {token["id"] for token in described["added_tokens"] if token["special"]}
        unknown = {described["model"].get("unk_id"), vocabulary.get(described["model"].get("unk_token"))}
        self.special_pieces = sorted((special | unknown) - {None})

    def __reduce__(self) -> tuple[Any, ...]:
        # The package forgets when it is copied that special tokens are text.
        return TokenizersFile, (self._path, self.content)

    def encode_paragraphs(self, paragraphs: Sequence[str]) -> list[list[int]]:
        """The file's own ids."""
        return [self._engine.encode(paragraph, add_special_tokens=False).ids for paragraph in paragraphs]

    def decode_paragraph(self, ids: Sequence[int]) -> str:
        """The text of some of them."""
        parts = itertools.groupby(ids, lambda index: index == UNKNOWN)
        return "".join(
            _BETWEEN if is_unknown else self._engine.decode(list(part)) for is_unknown, part in parts
        )

    def piece(self, index: int) -> str:
        """An id as a table shows it, spelled as in the file."""
        return self._engine.id_to_token(index - tokens.NUM_SPECIAL) or ""
