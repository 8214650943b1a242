"""The reader is never the bottleneck: tokens/s of the input pipeline over tokens/s of the training step.

    python -m benchmarks.input_pipeline --num_lanes=64 --num_units=192

Both are timed in one run, one after the other, on a random corpus of a million tokens. At least 50 is wanted.
"""

from __future__ import annotations

import tempfile
import timeit
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from tf_codistill import files, program, tokens
from tf_codistill.inputs import language
from tf_codistill.models import language_model

NUM_LANES = flags.DEFINE_integer("num_lanes", 64, "Rows of a batch.")
NUM_UNITS = flags.DEFINE_integer("num_units", 192, "Units of each LSTM layer, and width of the embedding.")
VOCABULARY_SIZE = flags.DEFINE_integer("vocabulary_size", 1006, "Number of ids.")


def random_split(directory: str) -> tokens.Split:
    """Writes a corpus of 2000 random documents in four shards; returns its only split."""
    source = np.random.default_rng(1)
    files.write(files.join(directory, tokens.TOKENIZER), b"")
    facts = []
    for shard in range(4):
        with tokens.ShardWriter(directory, "train", shard, 4, VOCABULARY_SIZE.value) as writer:
            for num_tokens in source.integers(1, 1000, 500):
                ids = source.integers(tokens.NUM_SPECIAL, VOCABULARY_SIZE.value, num_tokens)
                writer.add([*ids, tokens.END_OF_DOCUMENT])
        facts.append(writer.close())
    tokens.commit_corpus(directory, vocabulary_size=VOCABULARY_SIZE.value, splits={"train": facts}, counts={})
    return tokens.open_corpus(directory).split("train")


def training_step() -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A compiled step of the language model under Adam."""
    units = NUM_UNITS.value
    model = language_model.LanguageModel(VOCABULARY_SIZE.value, units, 2, units, batch_size=NUM_LANES.value)
    optimizer = keras.optimizers.Adam(0.003)
    optimizer.build(model.trainable_variables)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def step(inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            value = loss(targets, model(inputs))
        optimizer.apply(tape.gradient(value, model.trainable_variables))
        return value

    return step


def main() -> None:
    """Prints both rates and their ratio."""
    with tempfile.TemporaryDirectory() as directory:
        stream = language.LaneStream(random_split(directory), seed=1, num_lanes=NUM_LANES.value)
        batches, step = iter(language.dataset(stream)), training_step()
        inputs, targets = next(batches)
        step(inputs, targets)  # compiles it
        step_secs = min(timeit.repeat(lambda: step(inputs, targets).numpy(), number=1, repeat=20))
        # Many batches at once, because a few wait ready made.
        read_secs = min(timeit.repeat(lambda: next(batches), number=200, repeat=20)) / 200
    batch_tokens = stream.num_lanes * stream.window_tokens
    print(f"training step   {batch_tokens / step_secs:12,.0f} tokens/s")
    print(f"input pipeline  {batch_tokens / read_secs:12,.0f} tokens/s")
    print(f"ratio           {step_secs / read_secs:12.1f} (at least 50 wanted)")


if __name__ == "__main__":
    program.run(main)
