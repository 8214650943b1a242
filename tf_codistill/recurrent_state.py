"""The hidden state that a stateful model carries from batch to batch, one row per lane.

                      lane 0   h_0 c_0  |
    model.layers[1]   lane 1   h_1 c_1  |  `variables(model)` of one replica; another has its own lanes
                      ...               |

State is not a weight: it belongs to the lanes that a replica reads, is neither averaged nor served, and Keras
leaves it out of ``model.weights``. Every Keras layer with an attribute ``states`` that holds variables takes
part, as ``keras.layers.LSTM(stateful=True)`` and `LayerNormLSTM` do.

A model often has to read other text than its lanes (validation, in the middle of training). A `SecondState`
lends it another state for that time, and to the bit the lanes know nothing of it:

    second = SecondState(model)
    second.start()                            # a copy of the lanes' state
    with second.in_use():
        model(validation_batch)               # reads and writes the second state
    model(next_training_batch)                # continues from the lanes' own
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from tf_codistill import keras_private, weights


def variables(model: keras.Model) -> list[keras.Variable]:
    """The state variables of a built model, layer by layer; empty for a model without memory."""
    found: list[keras.Variable] = []
    for layer in keras_private.layers(model):
        states = getattr(layer, "states", None)
        if states is not None:
            found += [state for state in tf.nest.flatten(states) if isinstance(state, keras.Variable)]
    return found


class SecondState:
    """A recurrent state beside that of a model's lanes; every replica has its own.

    Attributes:
        states: Its variables, in the order of those of the model.
    """

    def __init__(self, model: keras.Model) -> None:
        """Creates it, all zero; call it in the scope of the strategy, with a built model."""
        self._lanes = variables(model)
        self.states = [
            keras.Variable(
                np.zeros(state.shape, "float32"),
                dtype=state.dtype,
                trainable=False,
                autocast=False,
                synchronization="on_read",
                name="second_state",
            )
            for state in self._lanes
        ]

    def start(self) -> None:
        """Copies the state of the lanes, replica by replica; called outside ``strategy.run``."""
        for lanes, own in zip(self._lanes, self.states, strict=True):
            pairs = zip(weights.local_copies(lanes), weights.local_copies(own), strict=True)
            for from_copy, to_copy in pairs:
                to_copy.assign(from_copy)

    def follow(self, model: keras.Model) -> None:
        """Copies the state of the lanes of a model of the same kind; called on a replica."""
        for own, lanes in zip(self.states, variables(model), strict=True):
            own.assign(lanes.value)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Within it the model reads and writes this state; called on a replica."""
        kept = [tf.identity(state.value) for state in self._lanes]
        for state, own in zip(self._lanes, self.states, strict=True):
            state.assign(own.value)
        try:
            yield
        finally:
            for state, own, value in zip(self._lanes, self.states, kept, strict=True):
                own.assign(state.value)
                state.assign(value)


def is_finite(states: Sequence[keras.Variable]) -> bool:
    """Whether the state of every lane of this worker is free of NaN and infinity."""
    return all(bool(np.isfinite(lanes).all()) for lanes in values(states))


def values(states: Sequence[keras.Variable]) -> list[np.ndarray]:
    """This worker's lanes of each state variable: [local replicas x B, ...], in the order of the lanes."""
    return [np.concatenate([copy.numpy() for copy in weights.local_copies(state)]) for state in states]


def restore(states: Sequence[keras.Variable], lanes: Sequence[np.ndarray]) -> None:
    """Gives each lane of this worker the state that `values` returned of it.

    Args:
        states: State variables, each [B, ...] on every local replica.
        lanes: For each variable an array with a row for each lane of this worker.

    Raises:
        ValueError: They do not fit; then no state has changed.
    """
    check(states, lanes)
    for state, rows in zip(states, lanes, strict=True):
        expected = len(weights.local_copies(state)) * state.shape[0]
        if len(rows) != expected:
            raise ValueError(
                f"recurrent state of {len(rows)} lanes does not fit the {expected} of this worker"
            )
    assign(states, lanes)


def check(states: Sequence[keras.Variable], lanes: Sequence[np.ndarray]) -> None:
    """Checks what `assign` is to be given.

    Args:
        states: State variables.
        lanes: The arrays.

    Raises:
        ValueError: The number of arrays, or their shape behind the first axis, does not fit, or an array has
            no rows.
    """
    if len(states) != len(lanes):
        raise ValueError(f"{len(lanes)} arrays of recurrent state do not fit {len(states)} state variables")
    for state, rows in zip(states, lanes, strict=True):
        if len(rows) == 0 or tuple(rows.shape[1:]) != tuple(state.shape[1:]):
            raise ValueError(
                f"recurrent state of shape {rows.shape} does not fit lanes of shape {tuple(state.shape)}"
            )


def assign(states: Sequence[keras.Variable], lanes: Sequence[np.ndarray], worker: int = 0) -> None:
    """Gives each lane of this worker a state.

    Args:
        states: State variables, each [B, ...] on every local replica.
        lanes: For each variable an array [any number of lanes, ...]; used again from its first row where it
            has fewer rows than there are lanes.
        worker: This worker, if `lanes` are those of all workers of a group in order.

    Raises:
        ValueError: As `check`; then no state has changed.
    """
    check(states, lanes)
    for state, rows in zip(states, lanes, strict=True):
        copies = weights.local_copies(state)
        for replica, replica_copy in enumerate(copies):
            indices = np.arange(state.shape[0]) + (worker * len(copies) + replica) * state.shape[0]
            replica_copy.assign(tf.cast(rows[indices % len(rows)], replica_copy.dtype))
