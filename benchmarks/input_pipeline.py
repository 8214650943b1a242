"""The reader is never the bottleneck: tokens/s of the input pipeline over tokens/s of the training step.

    python -m benchmarks.input_pipeline                               the largest model, that of the paper
    python -m benchmarks.input_pipeline --gin_file=gin/models/language_model_tiny.gin --vocabulary_size=1006

Both are timed in one run, one after the other, on a random corpus of a million tokens. 100 times is wanted:
then the reader keeps up with an accelerator a hundred times as fast as this machine.
"""

from __future__ import annotations

import tempfile
import timeit
from collections.abc import Callable

import gin
import keras
import numpy as np
import tensorflow as tf
from absl import flags

from tf_codistill import files, program, tokens
from tf_codistill.inputs import language
from tf_codistill.models import language_model

LARGEST_MODEL = "gin/models/language_model_paper.gin"

NUM_LANES = flags.DEFINE_integer("num_lanes", 64, "Rows of a batch.")
VOCABULARY_SIZE = flags.DEFINE_integer("vocabulary_size", 24_006, "Number of ids.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 3, "Training steps to time; the fastest counts.")


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
    make: Callable[..., language_model.LanguageModel] = language_model.LanguageModel  # gin has the rest
    model = make(VOCABULARY_SIZE.value, batch_size=NUM_LANES.value)
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
    gin_file = program.GIN_FILE.value or [LARGEST_MODEL]
    gin.add_config_file_search_path(".")
    gin.parse_config_files_and_bindings(gin_file, program.GIN_BINDINGS.value)
    with tempfile.TemporaryDirectory() as directory:
        stream = language.LaneStream(random_split(directory), seed=1, num_lanes=NUM_LANES.value)
        batches, step = iter(language.dataset(stream)), training_step()
        inputs, targets = next(batches)
        step(inputs, targets)  # compiles it
        step_secs = min(
            timeit.repeat(lambda: step(inputs, targets).numpy(), number=1, repeat=NUM_STEPS.value)
        )
        # Many batches at once, because a few wait ready made.
        read_secs = min(timeit.repeat(lambda: next(batches), number=200, repeat=20)) / 200
    batch_tokens = stream.num_lanes * stream.window_tokens
    print(f"model           {', '.join(gin_file)}")
    print(f"training step   {batch_tokens / step_secs:12,.0f} tokens/s")
    print(f"input pipeline  {batch_tokens / read_secs:12,.0f} tokens/s")
    print(f"ratio           {step_secs / read_secs:12.1f} (at least 100 wanted)")


if __name__ == "__main__":
    program.run(main, *program.GIN)
