"""A group that is killed at any moment goes on as if nothing had happened, and its peer does not notice.

    make quickstart                  prepares the corpus
    python -m benchmarks.recovery    a quarter of an hour on two cores

Two groups of two workers, each group on a core of its own. One worker of group 1 is killed with SIGKILL
twenty times, at random moments, some of them while the group is starting. Then group 1 is trained once more
from the beginning, undisturbed, with the same snapshots at the same steps: every loss that was logged has to
be the same, bit for bit. The times of group 0's steps show whether it waited for anything: what is wanted are
no gaps of more than two steps. The time from a fault to the first step after it is compared with that of a
plain start; at most 5 s more are wanted.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from absl import flags

from tf_codistill import program, runs
from tf_codistill.launching import cluster

CORPUS_DIR = flags.DEFINE_string("corpus_dir", "runs/quickstart/corpus/tokens", "Corpus to train on.")
NUM_KILLS = flags.DEFINE_integer("num_kills", 20, "How often a worker is killed.", 1)
SEED = flags.DEFINE_integer("seed", 1, "Fixes the moments.")
LONGEST_SECS = flags.DEFINE_float(
    "longest_secs", 8.0, "Longest time from the first step after a kill to the next."
)

_SWAP = re.compile(
    r"swap at step (\d+), seat (\d+), peer (-?\d+), incarnation (\d+), serial (\d+)|resumed from step (\d+)"
)
_SETTINGS = (
    "Experiment.teaching = @TimedPeers",
    "num_steps = 1_000_000",
    "Experiment.log_every_steps = 10",
    "Experiment.validate_every_steps = 1_000_000",
    "Experiment.checkpoint_every_steps = 10",
    "BurnIn.steps = 50",
)


def command(name: str, workdir: str, directory: str, *more: str) -> list[str]:
    """The command line of a program on the experiment."""
    bindings = (*_SETTINGS, f"LanguageTask.corpus_dir = {CORPUS_DIR.value!r}")
    return [
        *(sys.executable, "-m", f"tf_codistill.{name}", f"--workdir={workdir}"),
        *("--gin_file=gin/quickstart.gin", f"--gin_file={directory}/timed.gin"),
        *(f"--gin_bindings={one}" for one in bindings),
        *more,
    ]


def times_of(directory: str, group: int) -> list[tuple[int, float]]:
    """Each step of a group and when it ended; those of a group that was killed are there several times."""
    path = pathlib.Path(directory, f"group_{group}")
    lines = path.read_text().splitlines()[:-1] if path.exists() else []
    return [(int(step), float(at)) for step, at in map(str.split, lines)]


def workers_of(workdir: str, group: int) -> list[int]:
    """The processes that train a group."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if {f"--workdir={workdir}", f"--group={group}", "tf_codistill.train"} <= set(words):
                found.append(int(path.parent.name))
    return found


def wait_until(condition: Callable[[], bool], launched: subprocess.Popen[bytes]) -> None:
    """Waits for something that a run does."""
    while not condition():
        if launched.poll() is not None:
            raise ChildProcessError(f"launch ended with {launched.returncode}")
        time.sleep(0.05)


def swaps_of(workdir: str, group: int) -> list[list[int]]:
    """The swaps that led to a group's last step: none of those after a checkpoint that it went back to."""
    kept: list[list[int]] = []
    for *swap, resumed in _SWAP.findall(pathlib.Path(runs.log_path(workdir, group, 0)).read_text()):
        if resumed:
            kept = [one for one in kept if one[0] <= int(resumed)]
        else:
            kept.append([int(number) for number in swap])
    return kept


@contextlib.contextmanager
def run(workdir: str, directory: str) -> Iterator[subprocess.Popen[bytes]]:
    """Two groups of two workers."""
    size = ("--num_groups=2", "--workers_per_group=2")
    with open(f"{directory}/launch.log", "wb") as log:
        launched = subprocess.Popen(command("launch", workdir, directory, *size), stdout=log, stderr=log)
        try:
            yield launched
        finally:
            launched.send_signal(signal.SIGTERM)  # which, unlike SIGINT, nobody ignores
            launched.wait()


def kill_often(workdir: str, directory: str) -> tuple[float, list[tuple[float, float]]]:
    """Trains, kills, and stops.

    Args:
        workdir: Directory of the run.
        directory: Where the times of steps are.

    Returns:
        Seconds from start to the first step of group 1; when it was killed, and when its first step after
        that ended, of each kill that another one did not overtake.
    """
    draw, recovered = random.Random(SEED.value), list[tuple[float, float]]()
    began = time.time()
    with run(workdir, directory) as launched:
        for number in range(NUM_KILLS.value + 1):
            killed_at = time.time()
            wait_until(lambda: times_of(directory, 1)[-1:] > [], launched)
            if number == 0:
                start_secs = times_of(directory, 1)[0][1] - began
            is_early = number % 4 == 3  # before it has made a step
            if not is_early:
                since = killed_at if number else 0.0
                wait_until(lambda: times_of(directory, 1)[-1][1] > since, launched)  # noqa: B023
                after = [at for _, at in times_of(directory, 1) if at > since]
                if number:
                    recovered.append((killed_at, after[0]))
                    print(f"kill {number}: first step after {after[0] - killed_at:.1f} s", flush=True)
            if number == NUM_KILLS.value:
                break
            time.sleep(draw.uniform(0.0, start_secs if is_early else LONGEST_SECS.value))
            wait_until(lambda: len(workers_of(workdir, 1)) == 2, launched)
            with contextlib.suppress(ProcessLookupError):
                os.kill(draw.choice(workers_of(workdir, 1)), signal.SIGKILL)
        last = times_of(directory, 1)[-1][0]
        wait_until(lambda: times_of(directory, 1)[-1][0] > last + 60, launched)
    return start_secs, recovered


def undisturbed(workdir: str, directory: str, num_steps: int) -> str:
    """Trains group 1 once more, with the same snapshots at the same steps; returns its workdir."""
    again = f"{directory}/again"
    shutil.copytree(runs.exchange_dir(workdir), f"{directory}/exchange")
    pathlib.Path(directory, "swaps.json").write_text(json.dumps(swaps_of(workdir, 1)))
    more = (
        *("--group=1", "--num_groups=2", f"--exchange_dir={directory}/exchange"),
        f"--run_id={runs.run_id(workdir)}",
        f"--gin_bindings=Experiment.num_steps = {num_steps}",
        f"--gin_bindings=TimedPeers.replay_path = '{directory}/swaps.json'",
    )
    threads = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}  # as `launch` gives four workers
    ports = random.sample(range(20000, 30000), 2)
    processes = []
    for worker in range(2):
        config = cluster.tf_config([f"127.0.0.1:{port}" for port in ports], worker)
        with open(f"{directory}/again_{worker}.log", "wb") as log:
            environment = {**os.environ, **threads, "TF_CONFIG": config}
            words = command("train", again, directory, *more)
            processes.append(subprocess.Popen(words, stdout=log, stderr=log, env=environment))
    if sum(process.wait() != 0 for process in processes):
        raise ChildProcessError(pathlib.Path(directory, "again_0.log").read_text()[-3000:])
    return again


def losses(workdir: str) -> dict[int, float]:
    """What group 1 has logged, by step."""
    records = runs.read_metrics(runs.metrics_path(workdir, 1), "train")
    return {record["step"]: record["loss"] for record in records}


def gaps(directory: str, recovered: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Times between steps of group 0, in usual ones: while group 1 was down, and otherwise."""
    ends = [at for _, at in sorted(dict(times_of(directory, 0)).items())][20:]  # both workers write
    between = [(later - earlier, later) for earlier, later in zip(ends, ends[1:], strict=False)]
    usual = statistics.median(secs for secs, _ in between)
    down: list[float] = []
    up: list[float] = []
    for secs, at in between:
        is_down = any(killed <= at <= back for killed, back in recovered)
        (down if is_down else up).append(secs / usual)
    return down, up


def main() -> None:
    """Prints what is to be judged."""
    with tempfile.TemporaryDirectory() as directory:
        text = f"import benchmarks.timed_peers\nTimedPeers.times_dir = {directory!r}\n"
        pathlib.Path(directory, "timed.gin").write_text(text)
        workdir = f"{directory}/run"
        start_secs, recovered = kill_often(workdir, directory)
        down, up = gaps(directory, recovered)
        found = losses(workdir)
        straight = losses(undisturbed(workdir, directory, max(found)))
        equal = [step for step in found if found[step] == straight.get(step)]
        secs = [back - killed for killed, back in recovered]
        resumes = len(runs.read_metrics(runs.metrics_path(workdir, 1), "restart"))
    print(f"{NUM_KILLS.value} kills, {resumes} restarts of group 1, {max(found)} steps")
    print(f"losses that are those of an undisturbed run, bit for bit: {len(equal)} of {len(found)}")
    print(
        f"from fault to the first step after it: median {statistics.median(secs):.1f} s, "
        f"at most {max(secs):.1f} s; a plain start {start_secs:.1f} s"
    )
    for name, ratios in (("down", down), ("up", up)):
        longer = sum(ratio > 3 for ratio in ratios)
        print(
            f"group 0 while group 1 is {name}: {len(ratios)} steps, longest {max(ratios, default=0):.1f} "
            f"usual ones, {longer} with a gap of more than two steps"
        )


if __name__ == "__main__":
    program.run(main)
