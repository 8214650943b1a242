"""How ids are stored."""

import numpy as np

from tf_codistill import tokens
from tf_codistill.tokens import special_tokens


def test_ids_take_two_bytes_while_they_fit() -> None:
    assert special_tokens.token_dtype(65_536) == np.dtype("<u2")
    assert special_tokens.token_dtype(65_537) == np.dtype("<u4")


def test_special_tokens_are_the_ids_below_the_word_pieces() -> None:
    all_special = [
        getattr(tokens, name)
        for name in (
            *("SENTENCE_START", "SENTENCE_END", "PARAGRAPH_START", "PARAGRAPH_END"),
            *("OUT_OF_VOCABULARY", "END_OF_DOCUMENT"),
        )
    ]
    assert all_special == list(range(tokens.NUM_SPECIAL))
