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
import struct
from collections.abc import Iterator

MAX_CHARACTERS = 512
"""Characters whose scores are added up without rounding."""

MAX_WORD = MAX_CHARACTERS // 2
"""Characters without a space after which a word is cut, which only what is no text reaches."""

_EXACT_INTEGERS = 1 << 24  # of a 32-bit float
_UNKNOWN_PENALTY = 10  # SentencePiece's, for a character without a piece, below the worst score
_PIECES_FIELD = 1
_SCORE_FIELD = 2
_VARINT, _EIGHT_BYTES, _LENGTH_PREFIXED, _FOUR_BYTES = 0, 1, 2, 5


def quantize(model: bytes) -> bytes:
    """Rounds the scores of a model to multiples of a power of two.

    Args:
        model: A SentencePiece model, as it was learned.

    Returns:
        The same model, each score moved by less than a thousandth for vocabularies of usual sizes.

    Raises:
        ValueError: The bytes are no SentencePiece model.
    """
    try:
        positions = [
            position
            for field, begin, end in _fields(model, 0, len(model))
            if field == _PIECES_FIELD
            for inner, position, _ in _fields(model, begin, end)
            if inner == _SCORE_FIELD
        ]
        scores = [struct.unpack_from("<f", model, position)[0] for position in positions]
    except (IndexError, struct.error) as error:
        raise ValueError("these bytes are no SentencePiece model") from error
    worst = _UNKNOWN_PENALTY + max(map(abs, scores), default=0.0)
    step = 2.0 ** math.ceil(math.log2(MAX_CHARACTERS * worst / _EXACT_INTEGERS))
    quantized = bytearray(model)
    for position, score in zip(positions, scores, strict=True):
        struct.pack_into("<f", quantized, position, round(score / step) * step)
    return bytes(quantized)


def _fields(message: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of the content of each field of a protocol buffer."""
    while position < end:
        key, position = _varint(message, position)
        kind = key & 7
        begin = position
        if kind == _VARINT:
            _, position = _varint(message, position)
        elif kind == _LENGTH_PREFIXED:
            size, begin = _varint(message, position)
            position = begin + size
        elif kind in (_FOUR_BYTES, _EIGHT_BYTES):
            position += 4 if kind == _FOUR_BYTES else 8
        else:
            raise IndexError(position)
        yield key >> 3, begin, position


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
