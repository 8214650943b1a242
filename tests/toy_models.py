"""Small models under Keras that learn something within a few steps, and data for them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_codistill import recurrent_state, weights
from tf_codistill.exchange.snapshot import Ref, Snapshot
from tf_codistill.exchange.store import Store
from tf_codistill.teaching.base import Teaching
from tf_codistill.training.codistillation import CodistillationModel

NUM_FEATURES, NUM_CLASSES, BATCH = 5, 4, 8


def regression() -> keras.Model:
    """Logistic regression."""
    return keras.Sequential([keras.Input((NUM_FEATURES,)), keras.layers.Dense(NUM_CLASSES)])


def deep() -> keras.Model:
    """Another architecture for the same data."""
    return keras.Sequential(
        [keras.Input((NUM_FEATURES,)), keras.layers.Dense(7, "relu"), keras.layers.Dense(NUM_CLASSES)]
    )


def lstm() -> keras.Model:
    """A model with a memory for as many lanes as a batch has."""
    return keras.Sequential(
        [
            keras.Input(batch_shape=(BATCH, 3, NUM_FEATURES)),
            keras.layers.LSTM(6, stateful=True),
            keras.layers.Dense(NUM_CLASSES),
        ]
    )


def compiled(
    teachers: Teaching | None,
    weight: Any = 1.0,
    rate: float = 0.5,
    model_fn: Any = regression,
    **options: Any,
) -> CodistillationModel:
    """Gradient descent; options that `CodistillationModel` does not take are for `compile`."""
    names = ("measure_every_steps", "teaching_share")
    own = {name: options.pop(name) for name in names if name in options}
    model = CodistillationModel(model_fn, teachers, distillation_weight=weight, **own)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate), loss, **{"jit_compile": False, **options})
    return model


def examples(seed: int, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and classes that have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_steps * BATCH, NUM_FEATURES)).astype("float32")
    return x, rng.integers(0, NUM_CLASSES, num_steps * BATCH).astype("int32")


def batches(x: np.ndarray, y: np.ndarray) -> tf.data.Dataset:
    """Whole batches in order."""
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH, drop_remainder=True)


def snapshot_of(model: keras.Model, step: int = 50, group: int = 0) -> Snapshot:
    """What a peer would have published."""
    states = recurrent_state.values(recurrent_state.variables(model))
    return Snapshot(Ref(group), step, 0.0, weights.values(model.weights), states, num_bytes=0)


def publish(
    directory: str, group: int, step: int, model: keras.Model, states: Any = None, **settings: Any
) -> Store:
    """A peer starts at a step and publishes what it has."""
    peer, described = Store(directory, group, **settings), weights.description(model)
    peer.announce(described, step)
    own = recurrent_state.values(recurrent_state.variables(model))
    peer.publish(step, described, model.get_weights(), own if states is None else states)
    return peer


def snapshots_in(directory: str, group: int, model: keras.Model) -> list[Snapshot]:
    """All snapshots of a group, in order."""
    store = Store(directory, group)
    return [store.read(ref, weights.description(model)) for ref in store._refs(group)]
