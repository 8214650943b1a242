"""What a model of the language task is beside a Keras model, whatever it remembers a text by.

logits_BTV = model(ids_BT)             what follows each id
model.with_lanes(64)                   the same weights, for 64 rows
reader = model.reader()                reads a text, from its beginning on
logits_TV = reader.read(ids)
reader.read(more_ids)                  the text goes on
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf


class TextReader(abc.ABC):
    """Reads one text, part by part; what it has read bears on what it predicts.

    Attributes:
        crosses_documents: Whether that goes beyond END_OF_DOCUMENT, or each document begins anew.
    """

    crosses_documents: ClassVar[bool]

    @abc.abstractmethod
    def reset(self, state: Sequence[npt.NDArray[Any]] | None = None) -> None:
        """Makes what is read next the beginning of a text.

        Args:
            state: What `state` returned after another text, which then goes on.
        """

    @abc.abstractmethod
    def state(self) -> list[npt.NDArray[Any]]:
        """What has been read, as far as it bears on what comes."""

    @abc.abstractmethod
    def read(self, ids: npt.NDArray[np.int32]) -> tf.Tensor:
        """Reads ids.

        Args:
            ids: Int32 [T], at least one.

        Returns:
            Logits of what follows each of them, [T, V].
        """


class CausalModel(keras.Model, abc.ABC):
    """A model from ids of word pieces, integers [B, T], to logits of what follows each, [B, T, V].

    Its configuration has a ``vocabulary_size``.
    """

    @abc.abstractmethod
    def with_lanes(self, num_lanes: int) -> CausalModel:
        """A model of the same weights for batches of as many rows.

        Args:
            num_lanes: Number of rows.

        Returns:
            The model; a recurrent state, if it has one, is zero.
        """

    @abc.abstractmethod
    def reader(self) -> TextReader:
        """What reads a text with these weights, at its beginning."""
