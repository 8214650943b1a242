"""Score quantization: 32-bit floats add up scores of word pieces exactly, so every engine finds the same.

SentencePiece takes the segmentation with the best sum of scores. Many strings have several with the same sum,
``...`` for one as ``..`` ``.`` and ``.`` ``..``, and then the rounding of the sums decides, which differs
between the releases of SentencePiece and the one inside tensorflow-text. Quantized, sums are exact:

    score     -10.6713  ->  -10.6709 = -10927 / 1024
    sum       of at most MAX_CHARACTERS scores: an integer below 2 ** 24, over 1024

Text is given to SentencePiece in parts of at most that many characters. Scores are quantized once, when
pieces have been learned: whatever engine reads the file finds them so.
"""

from __future__ import annotations

import math

from tf_codistill.tokenizer import model_proto

MAX_CHARACTERS = 512
"""Characters whose scores are added up without rounding."""

MAX_WORD = MAX_CHARACTERS // 2
"""Characters without a space after which a word is cut, which only what is no text reaches."""

_EXACT_INTEGERS = 1 << 24  # of a 32-bit float
_UNKNOWN_PENALTY = 10  # SentencePiece's, for a character without a piece, below the worst score


def quantize(content: bytes) -> bytes:
    """Rounds the scores of a SentencePiece model, as it was learned, to multiples of a power of two.

    With vocabularies of usual sizes each score moves by less than a thousandth.
    """
    model = model_proto.parse(content)
    worst = _UNKNOWN_PENALTY + max(abs(piece.score) for piece in model.pieces)
    step = 2.0 ** math.ceil(math.log2(MAX_CHARACTERS * worst / _EXACT_INTEGERS))
    for piece in model.pieces:
        if piece.HasField("score"):
            piece.score = round(piece.score / step) * step
    return bytes(model.SerializeToString())
