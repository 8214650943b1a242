"""Codistillation is cheap: time of a training step with teachers over what it cannot do without.

    python -m benchmarks.codistillation_step            2 x 192 units; another size, for example:
    python -m benchmarks.codistillation_step --num_teachers=3 --num_units=256
    python -m benchmarks.codistillation_step --teacher_precision=int8    also against teachers of float32
    python -m benchmarks.codistillation_step --teaching_share=0.25       also with a share of the teaching
    python -m benchmarks.codistillation_step --overlap                   teachers a batch ahead, and not
    python -m benchmarks.codistillation_step --overlap --num_workers=2   the same in a group of two processes

All are timed in turns in one run, so that whatever else runs on the machine falls on all. A teacher adds a
forward pass to one forward and one backward pass. On a machine that one model keeps busy a step can take no
less than a plain step of Keras and the teachers' forward passes: at most 1.03 of both is wanted, and in the
burn-in, when nobody is asked, at most 1.02 of the plain step. With a share of 0.25 at most 1.15 of a plain
one is wanted in the mean, which is made of the median of the steps that are drawn and that of the others.

With ``--overlap`` what is compared are steps of a model alone, taught in the step, and taught a batch ahead.
Several workers are processes on a core each, which add up gradients as a group on several machines does.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from tf_codistill import distribution, program, recurrent_state, schedules
from tf_codistill.exchange.precision import PRECISIONS
from tf_codistill.exchange.snapshot import Ref, Snapshot
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.teaching.overlap import OverlappingTeachers
from tf_codistill.training.codistillation import CodistillationModel
from tf_codistill.training.sampling import Sampling

NUM_TEACHERS = flags.DEFINE_integer("num_teachers", 1, "Teachers of the codistilling model.")
TEACHER_PRECISION = flags.DEFINE_enum(
    "teacher_precision", "float32", PRECISIONS, "How teachers hold weights."
)
TEACHING_SHARE = flags.DEFINE_float("teaching_share", 1.0, "Share of the steps in which teachers are asked.")
OVERLAP = flags.DEFINE_bool("overlap", False, "Whether to compare teachers that predict a batch ahead.")
NUM_WORKERS = flags.DEFINE_integer("num_workers", 1, "Processes of the group, with --overlap.")
NUM_LANES = flags.DEFINE_integer("num_lanes", 64, "Rows of a batch on each replica.")
WINDOW_TOKENS = flags.DEFINE_integer("window_tokens", 32, "Tokens in a window.")
NUM_UNITS = flags.DEFINE_integer("num_units", 192, "Units of each of two layers, and width of the embedding.")
VOCABULARY_SIZE = flags.DEFINE_integer("vocabulary_size", 1006, "Number of ids.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 60, "Steps of each model that are timed.")


def language_model() -> keras.Model:
    """Makes the student and each teacher."""
    units = NUM_UNITS.value
    return LanguageModel(VOCABULARY_SIZE.value, units, 2, units, batch_size=NUM_LANES.value)


def dataset() -> tf.data.Dataset:
    """Random ids, the same at every step."""
    ids = np.random.default_rng(1).integers(0, VOCABULARY_SIZE.value, (NUM_LANES.value, WINDOW_TOKENS.value))
    return tf.data.Dataset.from_tensors((ids.astype("int32"), ids.astype("int32"))).repeat()


def step_of(model: keras.Model) -> Callable[[], object]:
    """The step that `fit` runs."""
    loss, data = keras.losses.SparseCategoricalCrossentropy(from_logits=True), dataset()
    model.compile(keras.optimizers.Adam(0.001), loss, jit_compile=False)
    if isinstance(model, CodistillationModel):
        feed = lambda context: model.teachers.feed(dataset())  # noqa: E731
        data = model.distribute_strategy.distribute_datasets_from_function(feed)
        model.build_for_data(data.element_spec)
    model.make_train_function()
    step, batches = model.train_function, iter(data)
    return lambda: float(step(batches)["loss"])


def codistilling_step(
    num_teachers: int, precision: str, weight: float, share: float = 1.0, overlap: bool = False
) -> Callable[[], object]:
    """A step with every teacher in place."""
    teachers = OverlappingTeachers(num_teachers, precision, overlap=overlap)
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


def timed(steps: dict[str, Callable[[], object]]) -> dict[str, np.ndarray]:
    """Seconds of each of so many steps of each kind, in turns."""
    for step in steps.values():
        for _ in range(2):  # the first one traces
            step()
    rounds = np.array([[seconds(step) for step in steps.values()] for _ in range(NUM_STEPS.value)])
    return dict(zip(steps, rounds.T, strict=True))


def compare_overlap() -> None:
    """Prints what a step takes that is taught a batch ahead, and one that is not."""
    number, precision = NUM_TEACHERS.value, TEACHER_PRECISION.value
    with distribution.create_strategy().scope():
        steps = {"alone": step_of(CodistillationModel(language_model))}
        for name, overlap in (("taught", False), ("ahead", True)):
            steps[name] = codistilling_step(number, precision, 1.0, overlap=overlap)
    secs = timed(steps)
    taught, ahead = (np.median(secs[name] / secs["alone"]) for name in ("taught", "ahead"))
    print(f"{NUM_WORKERS.value} worker(s), a step alone takes {1000 * np.median(secs['alone']):.1f} ms")
    print(f"with {number} teacher(s): {taught:.2f} of it, a batch ahead {ahead:.2f}")
    print(f"overlap / no overlap: {np.median(secs['ahead'] / secs['taught']):.3f}")


def run_workers() -> None:
    """Runs this program in a process for each worker; what the first one prints is printed."""
    number, cores = NUM_WORKERS.value, sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("localhost", 0))
        workers = [f"localhost:{one.getsockname()[1]}" for one in sockets]
    command, processes = [sys.executable, "-m", "benchmarks.codistillation_step", *sys.argv[1:]], []
    for index in range(number):
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        core = str(cores[index % len(cores)])
        environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
        processes.append(
            subprocess.Popen(
                ["taskset", "-c", core, *command], stdout=subprocess.PIPE, text=True, env=environment
            )
        )
    print(*[process.communicate()[0] for process in processes][:1], end="")


def main() -> None:
    """Prints the median times and the medians of their ratios."""
    if OVERLAP.value:
        (run_workers if NUM_WORKERS.value > 1 and "TF_CONFIG" not in os.environ else compare_overlap)()
        return
    number, precision = NUM_TEACHERS.value, TEACHER_PRECISION.value
    steps = {
        "plain": step_of(language_model()),
        "forward": forward_passes(number),
        "taught": codistilling_step(number, precision, 1.0),
        "burn-in": codistilling_step(number, precision, 0.0),
    }
    if precision != "float32":
        steps["float32"] = codistilling_step(number, "float32", 1.0)
    if TEACHING_SHARE.value < 1:
        steps["share"] = codistilling_step(number, precision, 1.0, TEACHING_SHARE.value)
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
        times = [int(Sampling(share).times(tf.constant(1 + number))) for number in range(NUM_STEPS.value)]
        ratios, is_drawn = secs["share"] / secs["plain"], np.array(times) > 0
        drawn, others = np.median(ratios[is_drawn]), np.median(ratios[~is_drawn])
        print(
            f"step with a share of {share}: {share * drawn + (1 - share) * others:.2f} of a plain one in the "
            f"mean, {drawn:.2f} if drawn, otherwise {others:.2f}"
        )
    if "float32" in secs:
        print(f"{precision} against float32: {np.median(secs['taught'] / secs['float32']):.2f}")


if __name__ == "__main__":
    program.run(main)
