r"""Goodput against the mean time between failures: groups that codistil beside one synchronous group.

    python -m benchmarks.goodput --output=runs/goodput.json --picture=runs/goodput.png
    python -m benchmarks.goodput --mtbf_secs=inf,20          shorter

            seed -> kills [(17.3 s, worker 1), ...]          the same for both
    G groups of one worker       a worker is killed: its group starts again, the others go on
    one group of G workers       a worker is killed: all start again, as a collective takes in nobody later

The claim, after Anil et al. 2018: groups that exchange stale snapshots need not wait for each other, so that
a failure costs the group that has it and no other. Same network, same rows of a worker in a step, same
seconds between checkpoints, same launcher, whose delays grow between restarts with no checkpoint between.

Goodput is the share of the time that has led to useful steps: their number, times the usual seconds of a step
of the same group in the same run, so that a machine that is sometimes slower does not matter. Useful is what
the last checkpoint has, which a run that is stopped at the end of the time saves. Seconds count from when all
groups train. Each process has one thread; give as many groups as there are cores that have nothing else to
do. Ten runs of a minute and what they take to start are a quarter of an hour.
"""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from absl import flags
from rich.console import Console
from rich.table import Column, Table

from tf_codistill import files, pictures, program, runs
from tf_codistill.health import progress, signs
from tf_codistill.torturing import job, plan, victim

SECONDS = flags.DEFINE_float("seconds", 60.0, "Seconds of each run.", 1.0)
MTBF = flags.DEFINE_list("mtbf_secs", ["inf", "60", "30", "20", "10"], "Mean times between failures of all.")
NUM_GROUPS = flags.DEFINE_integer("num_groups", 2, "Groups, and workers of the one group.", 2)
SEED = flags.DEFINE_integer("seed", 0, "Fixes the failures.", 0)
CHECKPOINT = flags.DEFINE_float("checkpoint_secs", 5.0, "Seconds between checkpoints.", 0.1)
OUTPUT = flags.DEFINE_string("output", None, "JSON file for the figures.")
PICTURE = flags.DEFINE_string("picture", None, "PNG file for the curves.")

_ENDLESS = 10_000_000
_BATCH_SIZE = 1024  # so that a step is long beside a collective
_ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
_POLL_SECS = 0.05
_LINE_CHARACTERS = 120
_GROUPS, _TOGETHER = "codistilling groups", "one synchronous group"


@dataclasses.dataclass(frozen=True)
class Point:
    """What a setting makes of its time under failures.

    Attributes:
        setting: Its name.
        mtbf_secs: Mean seconds between two failures.
        kills: Failures that found a process.
        steps: Useful steps of a worker.
        checkpoint_every: Steps between checkpoints.
        goodput: Share of the time that has led to them.
    """

    setting: str
    mtbf_secs: float
    kills: int
    steps: float
    checkpoint_every: int
    goodput: float


def make(name: str, directory: str, table: str, checkpoint_every: int) -> job.Job:
    """The job of a setting."""
    number = NUM_GROUPS.value
    num_groups, workers_per_group = {_GROUPS: (number, 1), _TOGETHER: (1, number)}[name]
    return job.Job(
        workdir=directory,
        table_dir=table,
        num_groups=num_groups,
        workers_per_group=workers_per_group,
        batch_size=_BATCH_SIZE * workers_per_group,
        checkpoint_every=checkpoint_every,
        num_steps=_ENDLESS,
        is_audited=False,
    )


def train(of: job.Job, kills: Sequence[tuple[float, int]], secs: float) -> tuple[float, float, int]:
    """Trains for some time under failures.

    Args:
        of: The job.
        kills: Seconds and worker, counted over all groups.
        secs: For how long.

    Returns:
        Useful steps of a worker, the share of the time that has led to them, and how many failures found a
        process.
    """
    found, waiting, groups = 0, list(kills), range(of.num_groups)
    with victim.Victim(of, "--hang_secs=0", environment=_ONE_THREAD) as running:
        while not all(progress.read_status(of.workdir, group).step for group in groups):
            _check(running)
        first, began = [progress.read_status(of.workdir, group).step for group in groups], time.monotonic()
        while (passed := time.monotonic() - began) < secs:
            while waiting and waiting[0][0] <= passed:
                where = divmod(waiting.pop(0)[1], of.workers_per_group)
                found += running.send(*where, signal.SIGKILL) == victim.DONE
            _check(running)
        running.stop()
    last = [signs.checkpoint_step(of.workdir, group) or 0 for group in groups]
    useful = [max(0, one - before) for before, one in zip(first, last, strict=True)]
    usual = [usual_secs(of.workdir, group) for group in groups]
    share = statistics.mean(steps * each for steps, each in zip(useful, usual, strict=True)) / secs
    return statistics.mean(useful), share, found


def usual_secs(workdir: str, group: int) -> float:
    """The median seconds of a step of a group, as its lines of metrics have them."""
    lines = runs.read_metrics(runs.metrics_path(workdir, group), "train")
    if len(lines) < 2:
        raise ValueError(
            f"group {group} of {workdir} has made too few steps to be timed; give more --seconds"
        )
    pairs = zip(lines, lines[1:], strict=False)
    return statistics.median(
        (b["elapsed_secs"] - a["elapsed_secs"]) / (b["step"] - a["step"]) for a, b in pairs
    )


def _check(running: victim.Victim) -> None:
    time.sleep(_POLL_SECS)
    if running.poll() is not None:
        raise ChildProcessError(f"the launcher has ended with {running.statuses[-1]}; see {running.log_path}")


def measure(directory: str, mtbfs: Sequence[float], console: Console) -> list[Point]:
    """Makes all runs: first those without failures, then each time between them for both settings."""
    table = job.make_table(files.join(directory, "data"))
    points: list[Point] = []
    every: dict[str, int] = {}
    for number, mtbf_secs in enumerate(mtbfs):
        kills = plan.kills(SEED.value + number, SECONDS.value, mtbf_secs, NUM_GROUPS.value)
        for name in (_GROUPS, _TOGETHER):
            interval = every.get(name, job.CHECKPOINT_EVERY)
            of = make(name, files.join(directory, f"{number}_{name.split()[0]}"), table, interval)
            steps, goodput, found = train(of, kills, SECONDS.value)
            every.setdefault(name, checkpoint_every(steps))
            points.append(Point(name, mtbf_secs, found, steps, interval, goodput))
            console.print(f"MTBF {mtbf_secs:g} s, {name}: {found} kills, {steps:.0f} steps", markup=False)
    return points


def checkpoint_every(steps: float) -> int:
    """Steps between checkpoints of a setting that makes so many steps in the time."""
    return max(1, round(steps / SECONDS.value * CHECKPOINT.value / job.LOG_EVERY)) * job.LOG_EVERY


def shown(points: Sequence[Point]) -> Table:
    """The points beside each other, with the ratio of their goodputs."""
    names = [f"{name}: {what}" for name in (_GROUPS, _TOGETHER) for what in ("kills", "steps", "goodput")]
    table = Table(*(Column(name, justify="right") for name in ("MTBF", *names, "ratio")), box=None)
    for own, together in _pairs(points):
        cells = [
            cell
            for one in (own, together)
            for cell in (str(one.kills), f"{one.steps:,.0f}", f"{one.goodput:.2f}")
        ]
        ratio = own.goodput / together.goodput if together.goodput else math.inf
        table.add_row(f"{own.mtbf_secs:g} s", *cells, f"{ratio:.2f}")
    return table


def _pairs(points: Sequence[Point]) -> list[tuple[Point, Point]]:
    by_name = [[one for one in points if one.setting == name] for name in (_GROUPS, _TOGETHER)]
    return list(zip(*by_name, strict=True))


def picture(points: Sequence[Point]) -> bytes:
    """Goodput over failures in a minute, as a PNG."""
    with matplotlib.rc_context(pictures.STYLE):
        figure = pictures.new_figure("Goodput under failures: one group waits for all, several do not")
        axes = figure.subplots()
        for name, colour in ((_TOGETHER, pictures.COLOURS[0]), (_GROUPS, pictures.COLOURS[1])):
            own = [one for one in points if one.setting == name]
            axes.plot(
                [60 / one.mtbf_secs for one in own],
                [one.goodput for one in own],
                "o-",
                color=colour,
                label=name,
            )
        axes.set(xlabel="failures in a minute, all workers together", ylabel="goodput", ylim=(0, 1.1))
        axes.grid(color=pictures.GRID)
        axes.legend(frameon=False)
        return pictures.png(figure)


def figures(points: Sequence[Point]) -> dict[str, Any]:
    """All of it, for JSON, which knows no infinity."""
    rows: list[Mapping[str, Any]] = [
        dataclasses.asdict(one) | {"mtbf_secs": one.mtbf_secs if math.isfinite(one.mtbf_secs) else None}
        for one in points
    ]
    flags_of = {flag.name: flag.value for flag in (SECONDS, NUM_GROUPS, SEED, CHECKPOINT)}
    return {**flags_of, "points": rows}


def main() -> None:
    """Measures, prints, writes."""
    mtbfs = [float(text) for text in MTBF.value]
    if not mtbfs or math.isfinite(mtbfs[0]) or not all(one > 0 for one in mtbfs):
        raise ValueError(f"--mtbf_secs={','.join(MTBF.value)}; expected inf first, then seconds above 0")
    for path in filter(None, (OUTPUT.value, PICTURE.value)):
        files.make_directory(os.path.dirname(path) or ".")
    console = Console(highlight=False)
    console.width = max(console.width, _LINE_CHARACTERS)
    with tempfile.TemporaryDirectory() as directory:
        points = measure(directory, mtbfs, console)
    console.print(shown(points))
    if OUTPUT.value:
        files.write_json(OUTPUT.value, figures(points))
    if PICTURE.value:
        files.write(PICTURE.value, picture(points))


if __name__ == "__main__":
    program.run(main)
