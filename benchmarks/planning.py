"""The planner against runs: what `plan` foretells from one run of two groups, over what others then take.

    make quickstart                  prepares the corpus
    python -m benchmarks.planning

One run of two groups is measured: 600 steps of the quickstart's model, 200 of them without teachers. From it
the minutes of three others are told, which are then made: one group, two groups with half as many steps more,
and two groups that begin to teach late. Every group has one thread, so that a group alone has no more of the
machine than one of two. Ratios within 10 % of 1 are wanted; the machine must do nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from absl import flags

from tf_codistill import files, planning, program, runs

CORPUS_DIR = flags.DEFINE_string("corpus_dir", "runs/quickstart/corpus/tokens", "Corpus to train on.")

_MEASURED = (2, 600, 200)
_OTHERS = {
    "one group, 600 steps": (1, 600, 0),
    "two groups, 900 steps": (2, 900, 200),
    "two groups, 600 steps, burn-in 450": (2, 600, 450),
}


def train(workdir: str, num_groups: int, num_steps: int, burn_in_steps: int) -> float:
    """Trains a run and returns the hours that its slowest group took."""
    bindings = [f"LanguageTask.corpus_dir = {CORPUS_DIR.value!r}", f"num_steps = {num_steps}"]
    bindings += [f"BurnIn.steps = {burn_in_steps}", "Experiment.checkpoint_every_steps = 150"]
    command = [
        sys.executable,
        "-m",
        "tf_codistill.launch",
        f"--workdir={workdir}",
        f"--num_groups={num_groups}",
    ]
    command += ["--gin_file=gin/quickstart.gin", *(f"--gin_bindings={one}" for one in bindings)]
    one_thread = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, **one_thread})
    ends = [runs.read_metrics(runs.metrics_path(workdir, group), "end")[-1] for group in runs.groups(workdir)]
    return max(float(end["elapsed_secs"]) for end in ends) / 3600


def foretold(rates: planning.Rates, num_groups: int, num_steps: int, burn_in_steps: int) -> float:
    """The hours that the planner says."""
    scenario = planning.Scenario(num_groups=2, num_steps=num_steps, burn_in_steps=burn_in_steps)
    one, several, *_ = planning.ways(rates, scenario)
    return one.hours if num_groups == 1 else several.hours


def main() -> None:
    """Makes all runs, and prints what was told, what it took, and the ratio."""
    with tempfile.TemporaryDirectory() as directory:
        train(files.join(directory, "measured"), *_MEASURED)
        rates = planning.measure(files.join(directory, "measured"))
        for number, (name, run) in enumerate(_OTHERS.items()):
            minutes = [60 * foretold(rates, *run), 60 * train(files.join(directory, str(number)), *run)]
            ratio = minutes[0] / minutes[1]
            print(f"{name:36} told {minutes[0]:5.2f} min, taken {minutes[1]:5.2f} min, ratio {ratio:.2f}")


if __name__ == "__main__":
    program.run(main)
