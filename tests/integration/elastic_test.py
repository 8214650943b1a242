"""A group joins another while that trains, and leaves again."""

from __future__ import annotations

import os
import pathlib
import re
import signal
from collections.abc import Callable

import numpy as np
import pytest

from tests.integration.programs import Programs, Running, experiment, log_of, metrics

PEERS = ("Experiment.teaching = @UnhurriedPeers", "UnhurriedPeers.max_teachers = 2")
NUM_STEPS, JOINS_AT, LEAVES_AT = 600, 200, 400
SWAP = re.compile(r"swap at step (\d+), seat (\d+), peer (-?\d+),")


def swaps(workdir: pathlib.Path) -> list[tuple[int, int, int]]:
    """Step, seat and peer of what group 0 took."""
    found = SWAP.findall(log_of(workdir, 0))
    return [(int(step), int(seat), int(peer)) for step, seat, peer in found]


@pytest.mark.slow
def test_a_group_joins_and_leaves_and_the_other_goes_on(
    programs: Programs, corpus: str, tmp_path: pathlib.Path
) -> None:
    workdir, hurry = tmp_path / "run", tmp_path / "hurry"
    flags = experiment(
        tmp_path,
        corpus,
        f"UnhurriedPeers.hurry = {str(hurry)!r}",
        f"Experiment.num_steps = {NUM_STEPS}",
        "Experiment.validate_every_steps = 100",
        "Experiment.checkpoint_every_steps = 100",
        teaching=PEERS,
    )
    toy = tmp_path / "toy.gin"
    toy.write_text(f"import tests.integration.unhurried_peers\n{toy.read_text()}")
    hurry.touch()

    def until(running: Running, condition: Callable[[], bool]) -> None:
        hurry.unlink(missing_ok=True)
        running.wait_until(condition)
        hurry.touch()

    def reached(step: int) -> Callable[[], bool]:
        return lambda: max(metrics(workdir, 0, "train"), default=0) >= step

    with programs.started("launch", *flags, f"--workdir={workdir}", "--num_groups=1") as other:
        other.wait_until(reached(JOINS_AT))
        late = (f"--workdir={workdir}", "--num_groups=1", "--first_group=1", "--start_from=peer")
        more = (
            "--gin_bindings=Experiment.num_steps = 1_000_000",
            f"--gin_bindings=UnhurriedPeers.hurry = {__file__!r}",
        )
        hurry.unlink()
        with programs.started("launch", *flags, *late, *more) as joining:
            until(other, lambda: any(peer == 1 for _, _, peer in swaps(workdir)))
            other.wait_until(reached(LEAVES_AT))
            os.kill(joining.pid, signal.SIGTERM)
            until(other, lambda: any(peer == -1 for _, _, peer in swaps(workdir)))
            assert joining.wait().status == 75
        assert other.wait().status == 0, other.wait()

    begun = re.search(r"group 1 starts from a snapshot of group 0, step (\d+)", log_of(workdir, 1))
    assert begun is not None
    assert int(begun[1]) >= JOINS_AT
    first = min(metrics(workdir, 1, "train"))
    assert int(begun[1]) < first <= int(begun[1]) + 10, "it counts on from the step of the snapshot"
    taken = swaps(workdir)
    joined, left = taken[0][0], taken[-1][0]
    assert [peer for _, _, peer in taken] == [1] * (len(taken) - 1) + [-1]
    train = metrics(workdir, 0, "train")
    assert list(train) == list(range(5, NUM_STEPS + 1, 5)), "each step once"
    weighed = {step for step, record in train.items() if record["distillation_loss"] > 0}
    assert weighed == {step for step in train if joined < step and step - 5 < left}
    losses = np.array([record["loss"] for record in train.values()])
    window = 4  # times 5 steps
    means = np.convolve(losses, np.ones(window) / window, "valid")
    rises = means[window:] - means[:-window]
    quiet = rises[JOINS_AT // 10 :]
    for step in (joined, left):
        assert rises[step // 5 - window] < max(3 * np.std(quiet), 0.05), (step, rises.tolist())
