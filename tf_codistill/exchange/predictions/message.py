"""Predictions of one part of a batch as bytes, and back, with suspicion.

    checksum | version, origin, step, step of the weights, rows | keys [B, 2] | parts [B, ...] one by one

A reader knows the form in which its peers predict, so that a message says no names, shapes or types that
would have to be believed: it is as long as its rows make it, or it is refused.
"""

from __future__ import annotations

import functools
import hashlib
import math
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from isal import isal_zlib

from tf_codistill.exchange.predictions.forms import Spec
from tf_codistill.files import CorruptError

_VERSION = 1
_CHECKSUM, _HEAD = struct.Struct("<I"), struct.Struct("<I16sqqq")


class Predicted(NamedTuple):
    """What was predicted for some rows of a batch.

    Attributes:
        step: The step whose batch they are of.
        weights_step: Steps that whoever predicted had done.
        keys: Names of the rows, int64 [B, 2].
        parts: What `forms.Form.compress` returned, [B, ...] each.
    """

    step: int
    weights_step: int
    keys: np.ndarray
    parts: list[np.ndarray]


class MessageFormat:
    """How messages of one run are laid out.

    Attributes:
        specs: Shape and dtype of the parts of a row.
    """

    def __init__(self, origin: str, specs: Sequence[Spec]) -> None:
        """Takes note of what is equal in all messages: the run and what is predicted; what a row becomes."""
        self.specs = [(tuple(shape), np.dtype(dtype)) for shape, dtype in specs]
        self._origin = hashlib.sha256(origin.encode()).digest()[:16]

    def num_bytes(self, rows: int) -> int:
        """Size of a message of so many rows."""
        row = 16 + sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.specs)
        return _CHECKSUM.size + _HEAD.size + rows * row

    def encode(self, predicted: Predicted) -> bytes:
        """The bytes of a message."""
        arrays = [np.ascontiguousarray(predicted.keys, np.int64), *map(np.ascontiguousarray, predicted.parts)]
        head = _HEAD.pack(_VERSION, self._origin, predicted.step, predicted.weights_step, len(arrays[0]))
        pieces = [memoryview(head), *(array.reshape(-1).view(np.uint8).data for array in arrays)]
        checksum = functools.reduce(lambda before, piece: isal_zlib.crc32(piece, before), pieces, 0)
        return b"".join([_CHECKSUM.pack(checksum), *pieces])

    def decode(self, where: str, content: bytes) -> Predicted:
        """What a message says.

        Args:
            where: Where it comes from, for the error.
            content: Its bytes, whoever wrote them.

        Returns:
            The predictions; arrays are views of `content`.

        Raises:
            CorruptError: It is damaged, of another run, or in another form.
        """
        if len(content) < _CHECKSUM.size + _HEAD.size:
            raise CorruptError(f"{where} is cut off: it has {len(content)} bytes")
        body = memoryview(content)[_CHECKSUM.size :]
        if (isal_zlib.crc32(body),) != _CHECKSUM.unpack_from(content):
            raise CorruptError(f"{where} is damaged: its checksum does not fit")
        version, origin, step, weights_step, rows = _HEAD.unpack_from(body)
        if version != _VERSION or origin != self._origin:
            raise CorruptError(
                f"{where} is of another run, another kind of prediction, or another version of this program"
            )
        if rows < 0 or self.num_bytes(rows) != len(content):
            raise CorruptError(
                f"{where} has {len(content)} bytes for {rows} rows; expected {self.num_bytes(max(rows, 0))}: "
                "predictions in another form"
            )
        offset, arrays = _HEAD.size, []
        for shape, dtype in (((2,), np.dtype(np.int64)), *self.specs):
            count = rows * math.prod(shape)
            arrays.append(np.frombuffer(body, dtype, count, offset).reshape(rows, *shape))
            offset += count * dtype.itemsize
        return Predicted(step, weights_step, arrays[0], arrays[1:])


def rows_by_key(keys: np.ndarray, predicted: Sequence[Predicted]) -> tuple[list[np.ndarray], np.ndarray]:
    """Finds what was predicted for some rows.

    Args:
        keys: Names of the rows, int64 [B, 2].
        predicted: What there is, at least one.

    Returns:
        The parts of the rows [B, ...], zeros where nobody has predicted, and which rows there are, float32
        [B].
    """
    first = predicted[0]
    if len(predicted) == 1 and np.array_equal(first.keys, keys):  # as long as groups have as many replicas
        return first.parts, np.ones(len(keys), np.float32)
    index = {tuple(key): (one, row) for one in predicted for row, key in enumerate(one.keys.tolist())}
    parts = [np.zeros((len(keys), *part.shape[1:]), part.dtype) for part in first.parts]
    present = np.zeros(len(keys), np.float32)
    for number, key in enumerate(keys.tolist()):
        if found := index.get(tuple(key)):
            one, row = found
            present[number] = 1.0
            for part, theirs in zip(parts, one.parts, strict=True):
                part[number] = theirs[row]
    return parts, present
