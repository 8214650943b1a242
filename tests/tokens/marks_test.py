"""How ids are stored."""

import numpy as np

from tf_codistill import tokens
from tf_codistill.tokens import marks


def test_ids_take_two_bytes_while_they_fit() -> None:
    assert marks.token_dtype(65_536) == np.dtype("<u2")
    assert marks.token_dtype(65_537) == np.dtype("<u4")


def test_marks_are_the_ids_below_the_word_pieces() -> None:
    all_marks = [
        getattr(tokens, name)
        for name in (
            *("SENTENCE_START", "SENTENCE_END", "PARAGRAPH_START", "PARAGRAPH_END"),
            *("OUT_OF_VOCABULARY", "END_OF_DOCUMENT"),
        )
    ]
    assert all_marks == list(range(tokens.NUM_SPECIAL))
