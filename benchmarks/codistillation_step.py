"""Codistillation is cheap: time of a training step with a teacher over that of a step without.

    python -m benchmarks.codistillation_step            2 x 192 units; another size, for example:
    python -m benchmarks.codistillation_step --num_teachers=3 --num_units=256
    python -m benchmarks.codistillation_step --teacher_precision=int8    also against teachers of float32

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
from tf_codistill.exchange.precision import PRECISIONS
from tf_codistill.exchange.snapshot import Snapshot
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.teaching.frozen import FrozenTeachers
from tf_codistill.training.codistillation import CodistillationModel

NUM_TEACHERS = flags.DEFINE_integer("num_teachers", 1, "Teachers of the codistilling model.")
TEACHER_PRECISION = flags.DEFINE_enum(
    "teacher_precision", "float32", PRECISIONS, "How teachers hold weights."
)
NUM_LANES = flags.DEFINE_integer("num_lanes", 64, "Rows of a batch.")
WINDOW_TOKENS = flags.DEFINE_integer("window_tokens", 32, "Tokens in a window.")
NUM_UNITS = flags.DEFINE_integer("num_units", 192, "Units of each of two layers, and width of the embedding.")
VOCABULARY_SIZE = flags.DEFINE_integer("vocabulary_size", 1006, "Number of ids.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 60, "Steps of each model that are timed.")


def language_model() -> keras.Model:
    """Makes the student and each teacher."""
    units = NUM_UNITS.value
    return LanguageModel(VOCABULARY_SIZE.value, units, 2, units, batch_size=NUM_LANES.value)


def training_step(num_teachers: int, precision: str = "float32") -> Callable[[], object]:
    """The step that `fit` runs, on random ids, with every teacher in place."""
    teachers = FrozenTeachers(num_teachers, precision)
    model = CodistillationModel(language_model, teachers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.001), loss, jit_compile=False)
    ids = np.random.default_rng(1).integers(0, VOCABULARY_SIZE.value, (NUM_LANES.value, WINDOW_TOKENS.value))
    dataset = tf.data.Dataset.from_tensors((ids.astype("int32"), ids.astype("int32"))).repeat()
    model.build_for_data(dataset.element_spec)
    for index, teacher in enumerate(teachers.frozen):
        states = recurrent_state.values(recurrent_state.variables(teacher))
        teachers.refresh(index, Snapshot(1 + index, 0, 0.0, teacher.get_weights(), states, 0))
    print(f"{num_teachers} teacher(s) of {precision}: {teachers.num_bytes() / 1e6:.2f} MB")
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
    number, precision = NUM_TEACHERS.value, TEACHER_PRECISION.value
    steps = {
        f"{number} teacher(s) of {precision}": training_step(number, precision),
        "no teacher": training_step(0),
    }
    if precision != "float32":
        steps[f"{number} teacher(s) of float32"] = training_step(number)
    for name, step in steps.items():
        print(f"first call, {name}: {seconds(step):.1f} s")
    rounds = [[seconds(step) for step in steps.values()] for _ in range(NUM_STEPS.value)]
    times = dict(zip(steps, zip(*rounds, strict=True), strict=True))
    first, *others = times
    print(f"training step, {first}: {1000 * statistics.median(times[first]):.1f} ms")
    for other in others:
        ratio = statistics.median(one / two for one, two in zip(times[first], times[other], strict=True))
        print(f"training step, {other}: {1000 * statistics.median(times[other]):.1f} ms, ratio {ratio:.2f}")


if __name__ == "__main__":
    program.run(main)
