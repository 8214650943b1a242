"""Groups do not hold each other up: a group's rate of steps beside another one, over its rate alone.

    python -m benchmarks.side_by_side                   2 x 192 units, half of the cores for each
    python -m benchmarks.side_by_side --num_units=1024 --num_lanes=128 --vocabulary_size=24006     GPUs

Two groups of one worker exchange snapshots, with half of the GPUs for each; with four GPUs or more there are
several for a group, whose gradients NCCL adds up. In turns the first trains, the second, and both; the other
one holds its breath meanwhile, with all that it has in memory. Printed are the medians over turns.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from benchmarks import two_groups
from tf_codistill import distribution, gpus, program
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.teaching.snapshots import PeerExchange
from tf_codistill.training.codistillation import CodistillationModel

NUM_LANES = flags.DEFINE_integer("num_lanes", 64, "Rows of a batch, for each replica.")
WINDOW_TOKENS = flags.DEFINE_integer("window_tokens", 32, "Tokens in a window.")
NUM_UNITS = flags.DEFINE_integer("num_units", 192, "Units of each of two layers, and width of the embedding.")
VOCABULARY_SIZE = flags.DEFINE_integer("vocabulary_size", 1006, "Number of ids.")
NUM_TURNS = flags.DEFINE_integer("num_turns", 5, "Turns of each group alone, and of both.")
TURN_STEPS = flags.DEFINE_integer("turn_steps", 20, "Steps of a turn; one exchange falls into its middle.", 2)
GROUP = flags.DEFINE_integer("group", None, "Which group this process is; the benchmark itself says it.")
DIRECTORY = flags.DEFINE_string("directory", None, "The exchange; the benchmark itself says it.")


def language_model() -> keras.Model:
    """Makes the student and the teacher."""
    units = NUM_UNITS.value
    return LanguageModel(VOCABULARY_SIZE.value, units, 2, units, batch_size=NUM_LANES.value)


class Pace(keras.callbacks.Callback):
    """Notes when each step of a turn has ended."""

    def __init__(self) -> None:
        """Has seen nothing."""
        super().__init__()
        self.ends: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Waits for the step's loss."""
        float(logs["loss"])
        self.ends.append(time.perf_counter())


def group(number: int, directory: str) -> None:
    """One group: for each line that it is sent it trains a turn, and prints the seconds of a step."""
    two_groups.take_half(number)
    strategy, steps = distribution.create_strategy(), TURN_STEPS.value
    with strategy.scope():
        teachers = PeerExchange(directory, number, 2, steps, run_id="benchmark", keep=1, min_age_secs=0.0)
        model = CodistillationModel(language_model, teachers)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.001), loss, jit_compile=False)
    rows = NUM_LANES.value * strategy.num_replicas_in_sync
    ids = np.random.default_rng(1).integers(0, VOCABULARY_SIZE.value, (rows, WINDOW_TOKENS.value))
    ids = ids.astype("int32")
    data = tf.data.Dataset.from_tensor_slices((ids, ids)).batch(rows, drop_remainder=True).cache().repeat()
    model.fit(data, steps_per_epoch=steps // 2, verbose=0)
    while not teachers.swaps:
        model.fit(data, steps_per_epoch=steps, verbose=0)
    print("ready", flush=True)
    for _ in sys.stdin:
        pace = Pace()
        model.fit(data, steps_per_epoch=steps, verbose=0, callbacks=[pace])
        print((pace.ends[-1] - pace.ends[0]) / (steps - 1), flush=True)


def told(process: subprocess.Popen[str]) -> str:
    """The next line that a group prints.

    Args:
        process: The group.

    Returns:
        The line.

    Raises:
        ValueError: It has ended.
    """
    if process.stdout is None or not (line := process.stdout.readline()):
        raise ValueError("a group has ended before its time; what it has printed above says why")
    return line


def turn(processes: Sequence[subprocess.Popen[str]]) -> list[float]:
    """Seconds of a step of each of some groups that train at the same time."""
    for process in processes:
        print(file=process.stdin, flush=True)
    return [float(told(process)) for process in processes]


def main() -> None:
    """Runs both groups and prints their ratios."""
    if GROUP.value is not None:
        group(GROUP.value, DIRECTORY.value)
        return
    if len(gpus.visible()) == 1:
        print("one GPU: left out")
        return
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        both = [
            stack.enter_context(two_groups.started("benchmarks.side_by_side", number, directory, **pipes))
            for number in range(2)
        ]
        for process in both:
            told(process)
        secs = np.array([[*turn(both[:1]), *turn(both[1:]), *turn(both)] for _ in range(NUM_TURNS.value)])
    for number in range(2):
        alone, beside = secs[:, number], secs[:, 2 + number]
        print(
            f"group {number}: {np.median(alone / beside):.2f} of its rate alone, a step "
            f"{1000 * np.median(alone):.1f} ms alone and {1000 * np.median(beside):.1f} ms beside the other"
        )


if __name__ == "__main__":
    program.run(main)
