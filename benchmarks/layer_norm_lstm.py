"""A layer-normalised LSTM trains as fast as a plain one: step time of ours over that of Keras's LSTM.

    python -m benchmarks.layer_norm_lstm            2 x 192 units; another size, for example:
    python -m benchmarks.layer_norm_lstm --num_units=256 --vocabulary_size=4096 --num_lanes=32
    python -m benchmarks.layer_norm_lstm --jit_compile     ours by XLA

Both language models have the same sizes, carry their state and are timed in turns in one run, so that
whatever else runs on the machine falls on both. At most 1.1 is wanted; the median is over single steps. On a
GPU Keras's LSTM is that of cuDNN, which XLA cannot compile.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import keras
import tensorflow as tf
from absl import flags

from tf_codistill import program
from tf_codistill.models.language_model import LanguageModel

NUM_LANES = flags.DEFINE_integer("num_lanes", 64, "Rows of a batch.")
WINDOW_TOKENS = flags.DEFINE_integer("window_tokens", 32, "Tokens in a window.")
NUM_UNITS = flags.DEFINE_integer("num_units", 192, "Units of each of two layers, and width of the embedding.")
VOCABULARY_SIZE = flags.DEFINE_integer("vocabulary_size", 1006, "Number of ids.")
JIT_COMPILE = flags.DEFINE_bool("jit_compile", False, "Whether XLA compiles ours.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 60, "Steps of each model that are timed.")


def plain_lstm() -> keras.Model:
    """The same language model with Keras's own LSTM layers, which normalise nothing."""
    units = NUM_UNITS.value
    ids = keras.Input((WINDOW_TOKENS.value,), batch_size=NUM_LANES.value, dtype="int32")
    activations = keras.layers.Embedding(VOCABULARY_SIZE.value, units)(ids)
    for _ in range(2):
        activations = keras.layers.LSTM(units, return_sequences=True, stateful=True)(activations)
    return keras.Model(ids, keras.layers.Dense(VOCABULARY_SIZE.value)(activations))


def work(model: keras.Model, jit_compile: bool = False) -> dict[str, Callable[[], tf.Tensor]]:
    """A training step and a prediction on random ids, compiled, by XLA or not."""
    optimizer = keras.optimizers.Adam(0.001)
    optimizer.build(model.trainable_variables)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    shape = (NUM_LANES.value, WINDOW_TOKENS.value)
    ids = tf.random.stateless_uniform(shape, (1, 2), 0, VOCABULARY_SIZE.value, tf.int32)

    @tf.function(jit_compile=jit_compile)
    def train(inputs: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            value = loss(inputs, model(inputs, training=True))
        optimizer.apply(tape.gradient(value, model.trainable_variables))
        return value

    @tf.function(jit_compile=jit_compile)
    def predict(inputs: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(model(inputs, training=False))

    return {"training step": lambda: train(ids), "forward only": lambda: predict(ids)}


def seconds(function: Callable[[], tf.Tensor]) -> float:
    """Time of one call, until its result is there."""
    start = time.perf_counter()
    function().numpy()
    return time.perf_counter() - start


def main() -> None:
    """Prints the median times and their ratio."""
    units = NUM_UNITS.value
    model = LanguageModel(VOCABULARY_SIZE.value, units, 2, units, batch_size=NUM_LANES.value)
    ours = work(model, JIT_COMPILE.value)
    plain = work(plain_lstm())
    for name in ours:
        print(f"{name}: first call {seconds(ours[name]):.1f} s, plain {seconds(plain[name]):.1f} s")
        pairs = [(seconds(ours[name]), seconds(plain[name])) for _ in range(NUM_STEPS.value)]
        ms = [1000 * statistics.median(times) for times in zip(*pairs, strict=True)]
        ratio = statistics.median(mine / other for mine, other in pairs)
        print(f"{name}: {ms[0]:.1f} ms, plain {ms[1]:.1f} ms, ratio {ratio:.2f}")


if __name__ == "__main__":
    program.run(main)
