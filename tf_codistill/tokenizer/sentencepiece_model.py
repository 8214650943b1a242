"""Any SentencePiece model that somebody brings: unigram, BPE, words or characters, with bytes or without.

    tokenizer = SentencePieceModel("llama.model")
    tokenizer.encode_documents(["It rains."])           each paragraph as the model itself would have it

Two things are changed where the model is read. Pieces that its trainer was told to keep in one and that are
named in brackets, such as ``<mask>``, are taken for special tokens, which no text has: there the letters
count. And the scores of a unigram model are quantized, so that the ids in graph are the same, see
`score_quantization`; that may decide otherwise between segmentations that are equally good within 0.001.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sentencepiece

from tf_codistill import files, tokens
from tf_codistill.tokenizer import model_proto, score_quantization
from tf_codistill.tokenizer.base import REMEDY
from tf_codistill.tokenizer.paragraphs import UNKNOWN, ParagraphTokenizer, looks_special
from tf_codistill.tokenizer.sentences import SPACE_SIGN

if TYPE_CHECKING:
    from tf_codistill.tokenizer.in_graph import GraphParagraphs

_NO_TEXT = (model_proto.UNKNOWN, model_proto.CONTROL, model_proto.UNUSED)


class SentencePieceModel(ParagraphTokenizer):
    """A SentencePiece model.

    Args:
        path: Path or URL of the model's file.
        content: What is in it, if it has been read.

    Raises:
        ValueError: The file is no SentencePiece model.
    """

    def __init__(self, path: str, content: bytes | None = None) -> None:
        self._path = path
        self.content = files.read(path) if content is None else content
        try:
            model = model_proto.parse(self.content)
            self._model = _as_read(model)
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=self._model)
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"tokenizer {path!r} is no SentencePiece model; {REMEDY}") from error
        types = [piece.type for piece in model.pieces]
        self.num_pieces = len(types)
        self.special_pieces = [index for index, kind in enumerate(types) if kind in _NO_TEXT]
        self._has_ties = _is_unigram(model) and model_proto.USER_DEFINED in types

    def encode_paragraphs(self, paragraphs: Sequence[str]) -> list[list[int]]:
        """The model's own ids."""
        return self._processor.EncodeAsIds(list(paragraphs), num_threads=1)

    def decode_paragraph(self, ids: Sequence[int]) -> str:
        """The text of some of them."""
        unknown = self._processor.unk_id()
        return str(self._processor.DecodeIds([unknown if index == UNKNOWN else index for index in ids]))

    def piece(self, index: int) -> str:
        """An id as a table shows it."""
        return str(self._processor.IdToPiece(index - tokens.NUM_SPECIAL)).replace(SPACE_SIGN, " ")

    def in_graph(self) -> GraphParagraphs:
        """The same ids by TensorFlow ops, with a copy of the model.

        There are none, but a `ValueError`, for a unigram model with pieces that its trainer was told to keep
        in one, of which releases of SentencePiece make different ids.
        """
        if self._has_ties:
            raise ValueError(
                f"tokenizer {self._path!r} is a unigram model with user-defined pieces, which TensorFlow's "
                "ops read in another way, so that it has no place in a graph or an exported model; make ids "
                "by its encode_documents, and feed those (`tokens.split_in_memory` takes them)"
            )
        from tf_codistill.tokenizer.in_graph import GraphParagraphs  # few need its ops

        return GraphParagraphs(self._model, self.table())


def _as_read(model: Any) -> bytes:
    """The model in which special tokens cannot be made by text, with exact scores."""
    for piece in model.pieces:
        if piece.type == model_proto.USER_DEFINED and looks_special(piece.piece.replace(SPACE_SIGN, " ")):
            piece.type = model_proto.CONTROL
    model.trainer += model_proto.Trainer(unk_surface="\ufffd").SerializeToString()  # the last one counts
    content = bytes(model.SerializeToString())
    return score_quantization.quantize(content) if _is_unigram(model) else content


def _is_unigram(model: Any) -> bool:
    return bool(model_proto.Trainer.FromString(model.trainer).model_type == model_proto.UNIGRAM)
