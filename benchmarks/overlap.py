"""Teachers that predict a batch ahead, by `PeerExchange(overlap=True)`, and those that are asked in the step.

    python -m benchmarks.overlap                    one replica
    python -m benchmarks.overlap --num_workers=2    two processes on a core each, which add up their gradients

Steps of a model alone, taught in the step and taught a batch ahead are timed in turns in one run, so that
whatever else runs on the machine falls on all. Models and sizes are those of `codistillation_step`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys

import numpy as np
from absl import flags

from benchmarks import codistillation_step as steps
from tf_codistill import distribution, program
from tf_codistill.teaching.overlap import OverlappingTeachers
from tf_codistill.training.codistillation import CodistillationModel

NUM_WORKERS = flags.DEFINE_integer("num_workers", 1, "Processes of the group.")


def run_workers() -> None:
    """Runs this program in a process for each worker; what the first one prints is printed."""
    number, cores = NUM_WORKERS.value, sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("localhost", 0))
        addresses = [f"localhost:{one.getsockname()[1]}" for one in sockets]
    workers = []
    for index in range(number):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        core = str(cores[index % len(cores)])
        command = ["taskset", "-c", core, sys.executable, "-m", "benchmarks.overlap", *sys.argv[1:]]
        environment = {**os.environ, "TF_CONFIG": json.dumps(task)}
        workers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
    print([worker.communicate()[0] for worker in workers][0], end="")


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
