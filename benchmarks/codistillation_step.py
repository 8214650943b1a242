"""Codistillation is cheap: time of a training step with a teacher over that of a step without.

    python -m benchmarks.codistillation_step            the quickstart's size; another one, for example:
    python -m benchmarks.codistillation_step --num_teachers=3 --num_units=256

Both models are timed in turns in one run, so that whatever else runs on the machine falls on both. A teacher
adds a forward pass to one forward and one backward pass. On a machine that the plain step keeps busy at most
1.3 is wanted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from tf_codistill import program, recurrent_state
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.peers.exchange import Snapshot
from tf_codistill.training.codistillation import CodistillationModel

NUM_TEACHERS = flags.DEFINE_integer("num_teachers", 1, "Teachers of the codistilling model.")
NUM_LANES = flags.DEFINE_integer("num_lanes", 64, "Rows of a batch.")
WINDOW_TOKENS = flags.DEFINE_integer("window_tokens", 32, "Tokens in a window.")
NUM_UNITS = flags.DEFINE_integer("num_units", 192, "Units of each of two layers, and width of the embedding.")
VOCABULARY_SIZE = flags.DEFINE_integer("vocabulary_size", 1006, "Number of ids.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 60, "Steps of each model that are timed.")


def language_model() -> keras.Model:
    """Makes the student and each teacher."""
    units = NUM_UNITS.value
    return LanguageModel(VOCABULARY_SIZE.value, units, 2, units, batch_size=NUM_LANES.value)


def training_step(num_teachers: int) -> Callable[[], object]:
    """The step that `fit` runs, on random ids, with every teacher in place."""
    model = CodistillationModel(language_model, num_teachers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.001), loss, jit_compile=False)
    ids = np.random.default_rng(1).integers(0, VOCABULARY_SIZE.value, (NUM_LANES.value, WINDOW_TOKENS.value))
    dataset = tf.data.Dataset.from_tensors((ids.astype("int32"), ids.astype("int32"))).repeat()
    model.build_for_data(dataset.element_spec)
    for index, teacher in enumerate(model.teachers.models):
        states = recurrent_state.values(recurrent_state.variables(teacher))
        model.teachers.refresh(index, Snapshot(1 + index, 0, 0.0, teacher.get_weights(), states, 0), False)
    model.make_train_function()
    step, batches = model.train_function, iter(dataset)
    return lambda: step(batches)["loss"].numpy()


def seconds(function: Callable[[], object]) -> float:
    """Time of one call, until its result is there."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Prints the median times and the median of their ratios."""
    steps = [training_step(NUM_TEACHERS.value), training_step(0)]
    first = [seconds(step) for step in steps]
    print(f"first call: with {NUM_TEACHERS.value} teacher(s) {first[0]:.1f} s, without {first[1]:.1f} s")
    pairs = [[seconds(step) for step in steps] for _ in range(NUM_STEPS.value)]
    ms = [1000 * statistics.median(times) for times in zip(*pairs, strict=True)]
    ratio = statistics.median(taught / plain for taught, plain in pairs)
    print(f"training step: {ms[0]:.1f} ms, without teachers {ms[1]:.1f} ms, ratio {ratio:.2f}")


if __name__ == "__main__":
    program.run(main)
