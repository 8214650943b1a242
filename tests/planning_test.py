"""Plans by hand: steps, hours, bytes and dollars from a metrics file whose every number is known."""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tf_codistill import planning, runs
from tf_codistill.learning_curves import Curve
from tf_codistill.planning import Rates, Scenario
from tf_codistill.run_matrix import Setting
from tf_codistill.sweeps import results
from tf_codistill.sweeps.results import Result

SETTING = Setting(gin_files=["a.gin"])
RATES = Rates(100, plain_secs=0.2, taught_secs=0.3, other_secs=0.1, model_bytes=1000, every_steps=50)
SCENARIO = Scenario(num_groups=2, workers_per_group=4, num_steps=10_000, share=0.7, burn_in_steps=1000)


def write_run(workdir: pathlib.Path, group: int = 0, slower: float = 1.0, has_ended: bool = True) -> None:
    """Intervals of ten steps: four without teachers, six with, of which one has a validation in it."""
    path = runs.metrics_path(str(workdir), group)
    pathlib.Path(path).parent.mkdir(parents=True)
    elapsed = 5.0  # until the end of the first interval, in which things were compiled
    for number in range(10):
        weight = 0.0 if number < 4 else 1.0
        elapsed += 0.0 if number == 0 else slower * (3.0 if weight else 2.0) + (2.0 if number == 7 else 0.0)
        runs.append_metrics(
            path, "train", 10 * (number + 1), elapsed_secs=elapsed, distillation_weight=weight
        )
    if has_ended:
        runs.append_metrics(path, "end", 100, elapsed_secs=elapsed)
        (workdir / f"group_{group}" / "student.keras").write_bytes(bytes(1000))
        (workdir / f"group_{group}" / "config.gin").write_text("PeerExchange.every_steps = 20\n")


def test_rates_of_a_run(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path)
    write_run(tmp_path, group=1, slower=1.5)
    write_run(tmp_path, group=2, slower=9.0, has_ended=False)
    found = planning.measure(str(tmp_path))
    assert (found.plain_secs, found.taught_secs) == (pytest.approx(0.3), pytest.approx(0.45))
    assert (found.num_steps, found.model_bytes, found.every_steps) == (100, 1000, 20)
    elapsed = 5 + 3 * 3.0 + 6 * 4.5 + 2.0
    of_steps = (3 * 0.3 + 5 * 0.45) * 100 / 8  # one interval begins untaught and ends taught
    assert found.other_secs == pytest.approx((elapsed - of_steps) / 100)
    assert max(elapsed, of_steps) == elapsed


def test_a_plan_for_the_run_itself_takes_what_it_took(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path)
    rates = planning.measure(str(tmp_path))
    scenario = Scenario(num_groups=2, num_steps=100, burn_in_steps=40)
    (_, codistilling, *_) = planning.ways(rates, scenario)
    assert codistilling.hours * 3600 == pytest.approx(5 + 3 * 2.0 + 6 * 3.0 + 2.0, rel=0.03)


def test_ways_by_hand() -> None:
    alone, groups, best, worst = planning.ways(RATES, dataclasses.replace(SCENARIO, dollars_per_hour=2.0))
    assert (alone.num_workers, alone.steps) == (4, 10_000)
    assert alone.hours == pytest.approx(10_000 * 0.3 / 3600)
    assert alone.dollars == pytest.approx(alone.hours * 4 * 2.0)
    assert (alone.exchanged_bytes, alone.gradient_bytes) == (0, 1500 * 10_000)
    assert (groups.num_workers, groups.steps) == (8, 7000)
    assert groups.hours == pytest.approx((1000 * 0.2 + 6000 * 0.3 + 7000 * 0.1) / 3600)
    assert groups.exchanged_bytes == 140 * (2 + 2) * 1000, "two written and two read at each exchange"
    assert groups.gradient_bytes == 1500 * 7000
    assert (best.num_workers, best.steps, worst.steps) == (8, 5000, 10_000)
    assert best.gradient_bytes == 1750 * 5000
    assert worst.hours == pytest.approx(alone.hours)
    (_, _, known) = planning.ways(RATES, dataclasses.replace(SCENARIO, larger_batch_share=0.6))
    assert known.steps == 6000


def test_at_the_share_that_breaks_even_both_take_as_long() -> None:
    alone, groups, *rivals = planning.ways(RATES, SCENARIO)
    assert groups.break_even_share is None
    for rival in (alone, *rivals):
        scenario = dataclasses.replace(SCENARIO, share=rival.break_even_share)
        assert planning.ways(RATES, scenario)[1].hours == pytest.approx(rival.hours, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_groups": 1}, "num_groups is 1; expected at least 2"),
        ({"share": 0.0}, "share is 0.0; expected more than 0"),
        ({"larger_batch_share": -1.0}, "larger_batch_share is -1.0"),
        ({"dollars_per_hour": -1.0}, "dollars_per_hour is -1.0"),
        ({"dollars_per_hour": float("nan")}, "dollars_per_hour is nan"),
        ({"share": float("inf")}, "share is inf"),
    ],
)
def test_what_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SCENARIO, **changes)


def test_a_run_that_does_not_say_enough_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="no group in .* exchanges snapshots and has come to its end"):
        planning.measure(str(tmp_path))
    with pytest.raises(ValueError, match="no two log intervals with teachers"):
        planning.ways(dataclasses.replace(RATES, taught_secs=None), SCENARIO)


def test_the_program_takes_the_share_from_a_sweep(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / "run")
    path = str(tmp_path / "results.jsonl")
    steps, secs = np.array([10, 20, 30, 40]), np.array([1.0, 2.0, 3.0, 4.0])
    losses = {"alone": [4.0, 3.0, 2.0, 1.0], "two": [3.0, 2.0, 1.0, 0.5], "slow": [4.0, 3.0, 2.0, 1.5]}
    results.write(
        path,
        [
            Result(
                setting=name,
                seed=1,
                trained_with=SETTING,
                curves=[Curve(0, steps, secs, np.array(values), True)],
            )
            for name, values in losses.items()
        ],
    )

    def run(*flags: str) -> str:
        command = [sys.executable, "-m", "tf_codistill.plan", f"--workdir={tmp_path / 'run'}", *flags]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "Traceback" not in ended.stderr
        return ended.stdout + ended.stderr

    assert "| 2 groups | 2 | 75 |" in run(f"--results={path}", "--setting=two")
    assert "--setting is None; expected one of ['alone', 'two', 'slow']" in run(f"--results={path}")
    told = run(f"--results={path}", "--setting=slow")
    assert "'slow' passes the best loss of 'alone' in 0 of 1 seeds that both have" in told
    assert "--share has an effect only without --results" in run(f"--results={path}", "--share=0.5")
    assert "| one group | 1 | 100 |" in run("--share=0.5")
