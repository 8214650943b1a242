"""Exchanged predictions make a step that teaches cost hardly more than a plain one: no teacher is computed.

    python -m benchmarks.prediction_exchange                             the quickstart's size
    python -m benchmarks.prediction_exchange --num_units=256             2 x 256

Two groups, half of the cores and GPUs each, train side by side: in turns plainly, with a teacher's forward
pass (what snapshots cost), and with predictions exchanged in each form. Printed are medians over turns of the
ratio to the plain step of the same turn, with the wait for the other group and without it, and the bytes that
a group sends in a step beside those of its gradients. Wanted is at most 1.12 of a plain step without waiting.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from benchmarks import two_groups
from tf_codistill import program, recurrent_state
from tf_codistill.batches import Keyed
from tf_codistill.exchange.predictions.forms import Form, Logits, Probabilities, SampledClasses, TopK
from tf_codistill.exchange.snapshot import Ref, Snapshot
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.teaching.base import Teaching
from tf_codistill.teaching.frozen import FrozenTeachers
from tf_codistill.teaching.predictions import PredictionExchange
from tf_codistill.training.codistillation import CodistillationModel

NUM_LANES = flags.DEFINE_integer("num_lanes", 32, "Rows of a batch.")
WINDOW_TOKENS = flags.DEFINE_integer("window_tokens", 32, "Tokens in a window.")
NUM_UNITS = flags.DEFINE_integer("num_units", 128, "Units of each of two layers, and width of the embedding.")
VOCABULARY_SIZE = flags.DEFINE_integer("vocabulary_size", 1006, "Number of ids.")
NUM_TURNS = flags.DEFINE_integer("num_turns", 15, "Turns of each kind of step.")
TURN_STEPS = flags.DEFINE_integer("turn_steps", 10, "Steps of a turn.")
GROUP = flags.DEFINE_integer("group", None, "Which group this process is; the benchmark itself says it.")
DIRECTORY = flags.DEFINE_string("directory", None, "The exchange; the benchmark itself says it.")

FORMS: dict[str, Form] = {
    "logits, float16": Logits(),
    "logits, int8": Logits("int8"),
    "probabilities, int8": Probabilities("int8"),
    "top 16 and tail": TopK(16),
    "16 draws": SampledClasses(16),
}


def language_model() -> keras.Model:
    """Makes the student, and the teacher."""
    units = NUM_UNITS.value
    return LanguageModel(VOCABULARY_SIZE.value, units, 2, units, batch_size=NUM_LANES.value)


def batches() -> tf.data.Dataset:
    """Random ids, the same for both groups."""
    ids = np.random.default_rng(1).integers(0, VOCABULARY_SIZE.value, (NUM_LANES.value, WINDOW_TOKENS.value))
    ids, keys = ids.astype(np.int32), np.stack([np.arange(NUM_LANES.value)] * 2, 1).astype(np.int64)
    return tf.data.Dataset.from_tensors(Keyed((ids, ids), keys)).repeat()


def step_of(teachers: Teaching | None) -> Callable[[], object]:
    """The step that `fit` runs."""
    model = CodistillationModel(language_model, teachers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.001), loss, jit_compile=False)
    model.build_for_data(batches().element_spec)
    if isinstance(teachers, PredictionExchange):
        teachers.begin(model.distribute_strategy, 0)
    if isinstance(teachers, FrozenTeachers):
        states = recurrent_state.values(recurrent_state.variables(teachers.frozen[0]))
        teachers.refresh(0, Snapshot(Ref(1), 0, 0.0, model.student.get_weights(), states, 0))
    model.make_train_function()
    step, data = model.train_function, iter(batches())
    return lambda: float(step(data)["loss"])


def turns(group: int, directory: str) -> Iterator[tuple[str, float, float, int]]:
    """One group: kind of step, seconds of a step, those of them spent waiting, and bytes sent."""
    two_groups.take_half(group)
    kinds: dict[str, Teaching | None] = {"plain": None, "a teacher's pass": FrozenTeachers(1)}
    for name, form in FORMS.items():
        place = os.path.join(directory, name.replace(" ", "_"))
        kinds[name] = PredictionExchange(place, group, 2, form, run_id="benchmark", wait_secs=600.0)
    steps = {name: step_of(teachers) for name, teachers in kinds.items()}
    for turn, (name, step) in itertools.product(range(NUM_TURNS.value + 1), steps.items()):
        costs = getattr(kinds[name], "costs", None)
        before = (costs.waited_secs, costs.sent_bytes) if costs else (0.0, 0)
        began = time.perf_counter()
        for _ in range(TURN_STEPS.value):
            step()
        secs = time.perf_counter() - began
        after = (costs.waited_secs, costs.sent_bytes) if costs else (0.0, 0)
        if turn:  # the first one traces
            waited, sent = (one - other for one, other in zip(after, before, strict=True))
            yield name, secs / TURN_STEPS.value, waited / TURN_STEPS.value, int(sent / TURN_STEPS.value)


def main() -> None:
    """Runs both groups and prints what the first one measures."""
    if GROUP.value is not None:
        print(json.dumps(list(turns(GROUP.value, DIRECTORY.value))))
        return
    with tempfile.TemporaryDirectory() as directory:
        printed = two_groups.outputs("benchmarks.prediction_exchange", directory)
    rows = json.loads(printed[0].splitlines()[-1])
    found = {
        name: np.array([row[1:] for row in rows if row[0] == name])
        for name in dict.fromkeys(r[0] for r in rows)
    }
    plain = found["plain"][:, 0]
    num_weights = sum(int(np.prod(weight.shape)) for weight in language_model().trainable_weights)
    print(f"plain step {1000 * np.median(plain):.1f} ms; its gradients have {4 * num_weights:,} bytes")
    for name, (secs, waited, sent) in ((name, values.T) for name, values in found.items()):
        print(
            f"{name:20s} {np.median((secs - waited) / plain):.2f} of a plain step, "
            f"{np.median(secs / plain):.2f} with waiting; {int(np.median(sent)):,} bytes"
        )


if __name__ == "__main__":
    program.run(main)
