"""Copies in one process teach each other almost for free: time of their step over that of plain steps.

    python -m benchmarks.one_process                    2 x 192 units; another size, for example:
    python -m benchmarks.one_process --num_units=256 --num_students=3

Each forward pass serves as prediction and as teaching (footnote 1 of Anil et al. 2018). The step of the
students and the steps of as many models that train alone, one after another, are timed in turns in one run,
so that whatever else runs on the machine falls on both. At most 1.1 is wanted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from tf_codistill import program
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.teaching.base import Teaching
from tf_codistill.teaching.fellows import FellowStudents
from tf_codistill.training.codistillation import CodistillationModel

NUM_STUDENTS = flags.DEFINE_integer("num_students", 2, "Students, and models that train alone.")
NUM_LANES = flags.DEFINE_integer("num_lanes", 64, "Rows of a batch.")
WINDOW_TOKENS = flags.DEFINE_integer("window_tokens", 32, "Tokens in a window.")
NUM_UNITS = flags.DEFINE_integer("num_units", 192, "Units of each of two layers, and width of the embedding.")
VOCABULARY_SIZE = flags.DEFINE_integer("vocabulary_size", 1006, "Number of ids.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 60, "Steps of each that are timed.")

Step = Callable[[], object]


def language_model() -> keras.Model:
    """Makes each student."""
    units = NUM_UNITS.value
    return LanguageModel(VOCABULARY_SIZE.value, units, 2, units, batch_size=NUM_LANES.value)


def training_step(teachers: Teaching | None = None) -> Step:
    """The step that `fit` runs, on random ids."""
    model = CodistillationModel(language_model, teachers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.001), loss, jit_compile=False)
    ids = np.random.default_rng(1).integers(0, VOCABULARY_SIZE.value, (NUM_LANES.value, WINDOW_TOKENS.value))
    dataset = tf.data.Dataset.from_tensors((ids.astype("int32"), ids.astype("int32"))).repeat()
    model.build_for_data(dataset.element_spec)
    model.make_train_function()
    step, batches = model.train_function, iter(dataset)
    return lambda: step(batches)["loss"].numpy()


def seconds(steps: list[Step]) -> float:
    """Time of one call of each, until all results are there."""
    start = time.perf_counter()
    for step in steps:
        step()
    return time.perf_counter() - start


def main() -> None:
    """Prints the median times and the median of their ratios."""
    number = NUM_STUDENTS.value
    together = [training_step(FellowStudents(number))]
    alone = [training_step() for _ in range(number)]
    first = [seconds(steps) for steps in (together, alone)]
    print(f"first call: {number} students {first[0]:.1f} s, {number} models alone {first[1]:.1f} s")
    pairs = [[seconds(steps) for steps in (together, alone)] for _ in range(NUM_STEPS.value)]
    ms = [1000 * statistics.median(times) for times in zip(*pairs, strict=True)]
    ratio = statistics.median(taught / plain for taught, plain in pairs)
    print(f"codistilling step: {ms[0]:.1f} ms, {number} plain steps {ms[1]:.1f} ms, ratio {ratio:.2f}")


if __name__ == "__main__":
    program.run(main)
