"""Teachers that predict a batch ahead, by `PeerExchange(overlap=True)`, and those that are asked in the step.

    python -m benchmarks.overlap                    one replica
    python -m benchmarks.overlap --num_workers=2    two processes, which add up their gradients

Steps of a model alone, taught in the step and taught a batch ahead are timed in turns in one run, so that
whatever else runs on the machine falls on all. Models and sizes are those of `codistillation_step`.
"""

from __future__ import annotations

import os
import sys
import tempfile

import numpy as np
from absl import flags

from benchmarks import codistillation_step as steps
from tf_codistill import distribution, gpus, program
from tf_codistill.health import logs
from tf_codistill.launching import workers
from tf_codistill.teaching.overlap import OverlappingTeachers
from tf_codistill.training.codistillation import CodistillationModel

NUM_WORKERS = flags.DEFINE_integer("num_workers", 1, "Processes of the group.")


def run_workers() -> None:
    """Runs this program in a process for each worker, and prints what the first one has found.

    Raises:
        ChildProcessError: One has failed.
    """
    number, command = NUM_WORKERS.value, [sys.executable, "-m", "benchmarks.overlap", *sys.argv[1:]]
    allocated = gpus.allocate(gpus.visible(), 1, number)
    with tempfile.TemporaryDirectory() as directory:
        (group,) = workers.plan(directory, [0], number, lambda group: command, None, allocated, directory)
        for worker in group:
            worker.start()
        for worker in group:
            worker.wait()
        if failed := [worker.failure()[0] for worker in group if worker.exit_status()]:
            raise ChildProcessError(failed[0])
        print(*logs.last_lines(group[0].log_path, 3), sep="\n")


def main() -> None:
    """Prints the median time of a step alone, and the medians of ratios to it."""
    if NUM_WORKERS.value > 1 and "TF_CONFIG" not in os.environ:
        run_workers()
        return
    number, precision = steps.NUM_TEACHERS.value, steps.TEACHER_PRECISION.value
    with distribution.create_strategy().scope():
        kinds = {"alone": steps.step_of(CodistillationModel(steps.language_model))}
        for name, overlap in (("taught", False), ("ahead", True)):
            teachers = OverlappingTeachers(number, precision, overlap=overlap)
            kinds[name] = steps.codistilling_step(teachers, 1.0)
    secs = steps.timed(kinds)
    taught, ahead = (np.median(secs[name] / secs["alone"]) for name in ("taught", "ahead"))
    print(f"{NUM_WORKERS.value} worker(s), a step alone takes {1000 * np.median(secs['alone']):.1f} ms")
    print(f"with {number} teacher(s): {taught:.2f} of it, a batch ahead {ahead:.2f}")
    print(f"overlap / no overlap: {np.median(secs['ahead'] / secs['taught']):.3f}")


if __name__ == "__main__":
    program.run(main)
