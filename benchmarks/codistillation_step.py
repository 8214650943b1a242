"""Codistillation is cheap: time of a training step with teachers over what it cannot do without.

    python -m benchmarks.codistillation_step            2 x 192 units; another size, for example:
    python -m benchmarks.codistillation_step --num_teachers=3 --num_units=256
    python -m benchmarks.codistillation_step --teacher_precision=int8    also against teachers of float32
    python -m benchmarks.codistillation_step --teaching_share=0.25       also with a share of the teaching
    python -m benchmarks.codistillation_step --saved       saved teachers, also with kept predictions

All are timed in turns in one run, so that whatever else runs on the machine falls on all. A teacher adds a
forward pass to one forward and one backward pass. On a machine that one model keeps busy a step can take no
less than a plain step of Keras and the teachers' forward passes: at most 1.03 of both is wanted, and in the
burn-in, when nobody is asked, at most 1.02 of the plain step. With a share of 0.25 at most 1.15 of a plain
one is wanted in the mean, which is made of the median of the steps that are drawn and that of the others.
Predictions can be kept of models without recurrent state: with --saved neither student nor teachers have any.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from tf_codistill import program, recurrent_state, schedules
from tf_codistill.batches import Keyed
from tf_codistill.exchange.precision import PRECISIONS
from tf_codistill.exchange.snapshot import Ref, Snapshot
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.teaching.frozen import FrozenTeachers
from tf_codistill.teaching.saved import SavedTeachers
from tf_codistill.training.codistillation import CodistillationModel
from tf_codistill.training.sampling import Sampling

NUM_TEACHERS = flags.DEFINE_integer("num_teachers", 1, "Teachers of the codistilling model.")
TEACHER_PRECISION = flags.DEFINE_enum(
    "teacher_precision", "float32", PRECISIONS, "How teachers hold weights."
)
TEACHING_SHARE = flags.DEFINE_float("teaching_share", 1.0, "Share of the steps in which teachers are asked.")
SAVED = flags.DEFINE_bool("saved", False, "Saved teachers of models that carry no state.")
NUM_LANES = flags.DEFINE_integer("num_lanes", 64, "Rows of a batch on each replica.")
WINDOW_TOKENS = flags.DEFINE_integer("window_tokens", 32, "Tokens in a window.")
NUM_UNITS = flags.DEFINE_integer("num_units", 192, "Units of each of two layers, and width of the embedding.")
VOCABULARY_SIZE = flags.DEFINE_integer("vocabulary_size", 1006, "Number of ids.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 60, "Steps of each model that are timed.")

CACHE_BYTES = 4e9


def language_model() -> keras.Model:
    """Makes the student and each teacher."""
    units, lanes = NUM_UNITS.value, None if SAVED.value else NUM_LANES.value
    return LanguageModel(VOCABULARY_SIZE.value, units, 2, units, batch_size=lanes)


def dataset(has_keys: bool = False) -> tf.data.Dataset:
    """Random ids, the same at every step; Keras's models take no keys."""
    shape = (NUM_LANES.value, WINDOW_TOKENS.value)
    ids = np.random.default_rng(1).integers(0, VOCABULARY_SIZE.value, shape).astype("int32")
    keys = np.stack([np.arange(NUM_LANES.value)] * 2, 1).astype("int64")
    return tf.data.Dataset.from_tensors(Keyed((ids, ids), keys) if has_keys else (ids, ids)).repeat()


def step_of(model: keras.Model) -> Callable[[], object]:
    """The step that `fit` runs."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.001), loss, jit_compile=False)
    data = dataset(has_keys=isinstance(model, CodistillationModel))
    if isinstance(model, CodistillationModel):
        fed = model.teachers.feed(data)
        data = model.distribute_strategy.distribute_datasets_from_function(lambda context: fed)
        model.build_for_data(data.element_spec)
    model.make_train_function()
    step, batches = model.train_function, iter(data)
    return lambda: float(step(batches)["loss"])


def teachers_of(precision: str, cache_bytes: float | None = None) -> FrozenTeachers:
    """So many teachers as are asked for, which hold nothing yet."""
    number = NUM_TEACHERS.value
    if SAVED.value:
        return SavedTeachers(["model"] * number, precision, cache_bytes=cache_bytes)
    return FrozenTeachers(number, precision)


def codistilling_step(teachers: FrozenTeachers, weight: float, share: float = 1.0) -> Callable[[], object]:
    """A step with every teacher in place."""
    burn_in = schedules.BurnIn(0, weight)
    model = CodistillationModel(language_model, teachers, distillation_weight=burn_in, teaching_share=share)
    step = step_of(model)
    for index, teacher in enumerate(teachers.frozen):
        states = recurrent_state.values(recurrent_state.variables(teacher))
        teachers.refresh(index, Snapshot(Ref(1 + index), 0, 0.0, teacher.get_weights(), states, 0))
    return step


def forward_passes(number: int) -> Callable[[], object]:
    """What so many teachers predict."""
    models = [language_model() for _ in range(number)]
    predict = tf.function(lambda ids: [model(ids, training=False) for model in models])
    ids, _ = next(iter(dataset()))
    return lambda: [logits.numpy() for logits in predict(ids)]


def seconds(function: Callable[[], object]) -> float:
    """Time of one call, until its result is there."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def timed(steps: Mapping[str, Callable[[], object]]) -> dict[str, np.ndarray]:
    """Seconds of each of so many steps of each kind, in turns."""
    for _ in range(2):  # the first one traces
        for step in steps.values():
            step()
    rounds = np.array([[seconds(step) for step in steps.values()] for _ in range(NUM_STEPS.value)])
    return dict(zip(steps, rounds.T, strict=True))


def main() -> None:
    """Prints the median times and the medians of their ratios."""
    number, precision = NUM_TEACHERS.value, TEACHER_PRECISION.value
    steps = {
        "plain": step_of(language_model()),
        "forward": forward_passes(number),
        "taught": codistilling_step(teachers_of(precision), 1.0),
        "burn-in": codistilling_step(teachers_of(precision), 0.0),
    }
    if precision != "float32":
        steps["float32"] = codistilling_step(teachers_of("float32"), 1.0)
    if TEACHING_SHARE.value < 1:
        steps["share"] = codistilling_step(teachers_of(precision), 1.0, TEACHING_SHARE.value)
    if SAVED.value:
        steps["kept"] = codistilling_step(teachers_of(precision, CACHE_BYTES), 1.0)
    secs = timed(steps)
    limit = secs["plain"] + secs["forward"]
    print(f"plain step of Keras: {1000 * np.median(secs['plain']):.1f} ms")
    print(f"forward pass of {number} teacher(s): {1000 * np.median(secs['forward']):.1f} ms")
    print(
        f"step with {number} teacher(s) of {precision}: {1000 * np.median(secs['taught']):.1f} ms, "
        f"{np.median(secs['taught'] / secs['plain']):.2f} of a plain one, "
        f"{np.median(secs['taught'] / limit):.2f} of plain step and forward pass"
    )
    print(f"step of the burn-in: {np.median(secs['burn-in'] / secs['plain']):.2f} of a plain one")
    if "share" in secs:
        share = TEACHING_SHARE.value
        times = [int(Sampling(share).times(tf.constant(2 + number))) for number in range(NUM_STEPS.value)]
        ratios, is_drawn = secs["share"] / secs["plain"], np.array(times) > 0
        drawn, others = np.median(ratios[is_drawn]), np.median(ratios[~is_drawn])
        print(
            f"step with a share of {share}: {share * drawn + (1 - share) * others:.2f} of a plain one in the "
            f"mean, {drawn:.2f} if drawn, otherwise {others:.2f}"
        )
    if "kept" in secs:
        print(f"step with kept predictions: {np.median(secs['kept'] / secs['plain']):.2f} of a plain one")
    if "float32" in secs:
        print(f"{precision} against float32: {np.median(secs['taught'] / secs['float32']):.2f}")


if __name__ == "__main__":
    program.run(main)
