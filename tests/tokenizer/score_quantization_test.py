"""Score quantization: sums without rounding, and ids that hardly change."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from tf_codistill.tokenizer import score_quantization
from tf_codistill.tokenizer.word_pieces import WordPieces

TEXT = Path(__file__).read_text(encoding="utf-8").encode("ascii", "ignore").decode("ascii")


@pytest.fixture(scope="module")
def model() -> bytes:
    model = io.BytesIO()
    lines = iter(TEXT.splitlines())
    sentencepiece.SentencePieceTrainer.Train(sentence_iterator=lines, model_writer=model, vocab_size=200)
    return model.getvalue()


def scores(model: bytes) -> np.ndarray:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return np.array([processor.GetScore(index) for index in range(processor.vocab_size())])


def test_scores_move_little_and_add_up_exactly(model: bytes) -> None:
    before, after = scores(model), scores(score_quantization.quantize(model))
    assert (before != after).any()
    assert np.abs(before - after).max() < 1e-3
    worst = after.min() - 10
    for first in (worst, *after[::10]):
        row = np.full(score_quantization.MAX_CHARACTERS, worst, np.float32)
        row[0] = first
        assert np.cumsum(row, dtype=np.float32)[-1] == np.sum(row, dtype=np.float64)


def test_pieces_and_size_stay(model: bytes) -> None:
    quantized = score_quantization.quantize(model)
    assert len(quantized) == len(model)
    processors = [sentencepiece.SentencePieceProcessor(model_proto=m) for m in (model, quantized)]
    pieces = [[p.IdToPiece(index) for index in range(p.vocab_size())] for p in processors]
    assert pieces[0] == pieces[1]
    assert score_quantization.quantize(quantized) == quantized


def test_learned_pieces_have_quantized_scores(tmp_path: Path) -> None:
    path = tmp_path / "word_pieces.model"
    WordPieces.train([TEXT], 200, str(path))
    assert score_quantization.quantize(path.read_bytes()) == path.read_bytes()


@pytest.mark.parametrize("content", [b"no model", b"\x0a\xff", b"\xff" * 20, b"\x0b"])
def test_what_is_no_model_is_told(content: bytes) -> None:
    with pytest.raises(ValueError, match="no SentencePiece model"):
        score_quantization.quantize(content)
