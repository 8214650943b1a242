"""Messages: every byte as it was sent, or refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_codistill.exchange.predictions.message import MessageFormat, Predicted, rows_by_key
from tf_codistill.files import CorruptError

LAYOUT = MessageFormat("run", [((3, 4), "float16"), ((3, 1), "float32"), ((3, 2), "uint16")])


def predicted(rows: int, step: int = 7, first_id: int = 0) -> Predicted:
    rng = np.random.default_rng(rows)
    keys = np.stack([first_id + np.arange(rows), np.full(rows, 2)], axis=1)
    parts = [(100 * rng.random((rows, *shape))).astype(dtype) for shape, dtype in LAYOUT.specs]
    return Predicted(step, step - 3, keys, parts)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_what_is_sent_arrives(rows: int) -> None:
    sent = predicted(rows)
    content = LAYOUT.encode(sent)
    assert len(content) == LAYOUT.num_bytes(rows)
    found = LAYOUT.decode("here", content)
    assert (found.step, found.weights_step) == (7, 4)
    for one, other in zip([found.keys, *found.parts], [sent.keys, *sent.parts], strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


CONTENT = LAYOUT.encode(predicted(4))
LAST = len(CONTENT) - 1


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.integers(0, LAST) | st.tuples(st.integers(0, LAST)))
def test_anything_else_is_refused(change: bytes | int | tuple[int]) -> None:
    """Whatever bytes, a part of a message, or one with a bit changed."""
    damaged = bytearray(CONTENT)
    if isinstance(change, bytes):
        damaged = bytearray(change)
    elif isinstance(change, int):
        damaged = damaged[:change]
    else:
        damaged[change[0]] ^= 1 << change[0] % 8
    with pytest.raises(CorruptError, match=r"^here (is|has) "):
        LAYOUT.decode("here", bytes(damaged))


def test_other_runs_and_forms_are_refused() -> None:
    for other, complaint in [
        (MessageFormat("another", LAYOUT.specs), "is of another run"),
        (MessageFormat("run", [((3, 5), "float16")]), "predictions in another form"),
    ]:
        with pytest.raises(CorruptError, match=complaint):
            other.decode("here", CONTENT)


def test_rows_are_found_by_their_keys() -> None:
    first, second = predicted(3), predicted(2, first_id=10)
    keys = np.array([[11, 2], [0, 2], [0, 1], [2, 2], [99, 2]])
    parts, present = rows_by_key(keys, [first, second])
    assert present.tolist() == [1, 1, 0, 1, 0]
    for part, one, other in zip(parts, first.parts, second.parts, strict=True):
        expected = [other[1], one[0], 0 * one[0], one[2], 0 * one[0]]
        np.testing.assert_array_equal(part, expected)
    parts, present = rows_by_key(first.keys, [first])
    assert present.tolist() == [1, 1, 1]
    assert parts[0] is first.parts[0], "where groups are alike nothing is copied"
