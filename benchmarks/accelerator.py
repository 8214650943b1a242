"""Every ratio of this project on the machine at hand, as a table for docs/results.md.

    python -m benchmarks.accelerator                    where there is a GPU: 2 x 1024 units
    python -m benchmarks.accelerator --num_units=64 --num_lanes=16 --vocabulary_size=1006       on two cores
    python -m benchmarks.accelerator --only=exchange,side_by_side

Other benchmarks measure, one after another, each in processes of its own, with these sizes. Of one that
fails, for want of memory or of a kernel, the table has the reason in place of figures; the others go on.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from absl import flags

from tf_codistill import program

NUM_LANES = flags.DEFINE_integer("num_lanes", 128, "Rows of a batch.")
WINDOW_TOKENS = flags.DEFINE_integer("window_tokens", 32, "Tokens in a window.")
NUM_UNITS = flags.DEFINE_integer(
    "num_units", 1024, "Units of each of two layers, and width of the embedding."
)
VOCABULARY_SIZE = flags.DEFINE_integer("vocabulary_size", 24006, "Number of ids.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 80, "Steps of each kind that are timed.", 8)
ONLY = flags.DEFINE_list("only", None, "Names of the benchmarks that are run; all if not given.")

MOST_LETTERS = 100


class Measurement(NamedTuple):
    """A benchmark, and what is taken from what it prints.

    Attributes:
        module: Its name.
        options: Its flags beside the sizes, in which ``{steps}`` stands for what ``--num_steps`` says,
            ``{quarter}`` for a fourth of it, ``{units}`` and ``{cores}`` for those that there are.
        ratios: For each ratio, by its name in the table, a regular expression whose group is the figure.
    """

    module: str
    options: str
    ratios: Mapping[str, str]


OF_PLAIN = r"([\d.]+) of a plain one"
BESIDE = "rate of steps of group {} beside another group, over its rate alone"

MEASUREMENTS = (
    Measurement(
        "layer_norm_lstm",
        "--num_steps={steps}",
        {
            "layer-normalised LSTM over Keras's (on a GPU cuDNN's), training step": r"step: .*ratio ([\d.]+)",
            "the same, forward only": r"only: .*ratio ([\d.]+)",
        },
    ),
    Measurement(
        "layer_norm_lstm",
        "--num_steps={steps} --jit_compile",
        {
            "layer-normalised LSTM by XLA over Keras's, training step": r"step: .*ratio ([\d.]+)",
            "the same by XLA, forward only": r"only: .*ratio ([\d.]+)",
        },
    ),
    Measurement(
        "codistillation_step",
        "--num_steps={steps} --teaching_share=0.25",
        {
            "step with a snapshot's teacher over a plain step": rf"of float32: .*?{OF_PLAIN}",
            "over plain step and forward pass": r"([\d.]+) of plain step and forward pass",
            "step of the burn-in over a plain step": f"burn-in: {OF_PLAIN}",
            "with a teaching share of 0.25, in the mean": f"share of 0.25: {OF_PLAIN}",
        },
    ),
    *(
        Measurement(
            "codistillation_step",
            f"--num_steps={{steps}} --teacher_precision={precision}",
            {f"step with a teacher of {precision} over a plain step": rf"of {precision}: .*?{OF_PLAIN}"},
        )
        for precision in ("bfloat16", "int8")
    ),
    Measurement(
        "codistillation_step",
        "--num_steps={steps} --saved",
        {
            "step with a saved teacher over a plain step, no recurrent state": rf"of float32: .*?{OF_PLAIN}",
            "the same, predictions kept": f"kept predictions: {OF_PLAIN}",
        },
    ),
    Measurement(
        "one_process",
        "--num_steps={steps}",
        {"step of two fellow students on the same batch over two plain steps": r"ratio ([\d.]+)"},
    ),
    Measurement(
        "prediction_exchange",
        "--num_turns={quarter} --turn_steps=4",
        {
            "step with exchanged predictions (float16) over a plain step, without the wait": (
                r"logits, float16 +([\d.]+) of a plain step"
            ),
            "the same, with the wait": r"logits, float16 .*?([\d.]+) with waiting",
        },
    ),
    Measurement(
        "exchange",
        "--num_steps={steps} --chunk_steps={steps} --every_steps={quarter} --embedding_dim={units} "
        "--cores={cores} --bytes_per_sec=1e12",
        {
            "training stands still for an exchange, in plain copies of the weights on the host": (
                r"for each exchange: ([\d.]+) of a copy"
            ),
            "the same, in steps": r"for each exchange: .*?([\d.]+) of a step",
        },
    ),
    Measurement(
        "side_by_side",
        "--num_turns={quarter} --turn_steps=4",
        {BESIDE.format(group): rf"group {group}: ([\d.]+) of its rate alone" for group in range(2)},
    ),
)


def figures(measurement: Measurement) -> Iterator[tuple[str, str]]:
    """Runs a benchmark: its ratios by name, or why they are not there."""
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    steps, units = NUM_STEPS.value, NUM_UNITS.value
    options = measurement.options.format(steps=steps, quarter=steps // 4, units=units, cores=cores).split()
    sizes = [f"--{flag.name}={flag.value}" for flag in (NUM_LANES, WINDOW_TOKENS, NUM_UNITS, VOCABULARY_SIZE)]
    command = [sys.executable, "-m", f"benchmarks.{measurement.module}", *sizes, *options]
    print(" ".join(command[1:]), file=sys.stderr, flush=True)
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    for name, pattern in measurement.ratios.items():
        found = None if ran.returncode else re.search(pattern, ran.stdout)
        yield name, found[1] if found else reason(ran)


def reason(ran: subprocess.CompletedProcess[str]) -> str:
    """Why a benchmark has not printed a ratio, fit for a cell of a table."""
    said = re.search(r"^(.* left out)$", ran.stdout, re.MULTILINE)
    said = said or re.search(r"^(?:\w+\.)*(\w*(?:Error|Exception|error): .*)$", ran.stderr, re.MULTILINE)
    text = said[1] if said else f"no figure, exit status {ran.returncode}"
    return text.replace("|", "/")[:MOST_LETTERS]


def main() -> None:
    """Prints the table, row by row."""
    import keras
    import tensorflow as tf

    names = {measurement.module for measurement in MEASUREMENTS}
    if unknown := set(ONLY.value or ()) - names:
        raise ValueError(f"--only names {', '.join(unknown)}; expected some of {', '.join(sorted(names))}")
    found = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    if not found:
        print("TensorFlow finds no GPU: these are ratios of the CPU.")
    print(
        f"TensorFlow {tf.__version__}, Keras {keras.__version__}; 2 x {NUM_UNITS.value} units, "
        f"{NUM_LANES.value} rows of {WINDOW_TOKENS.value} tokens, {VOCABULARY_SIZE.value:,} ids, "
        f"{NUM_STEPS.value} steps.\n\n"
        f"| | {', '.join(found) or f'CPU, {len(os.sched_getaffinity(0))} cores'} |\n|---|---:|"
    )
    for measurement in MEASUREMENTS:
        if measurement.module in (ONLY.value or names):
            for name, figure in figures(measurement):
                print(f"| {name} | {figure} |", flush=True)


if __name__ == "__main__":
    program.run(main)
