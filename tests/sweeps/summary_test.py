"""Figures over seeds against NumPy and by hand; intervals that hold the truth as often as they say."""

from __future__ import annotations

import dataclasses
import math
import pathlib

import numpy as np
import pytest

from tf_codistill.learning_curves import Curve
from tf_codistill.run_matrix import Setting
from tf_codistill.sweeps import pages, results
from tf_codistill.sweeps.results import Result
from tf_codistill.sweeps.summary import Summary, interval

STEPS = (100, 200, 300, 400)
SETTING = Setting(gin_files=["a.gin"])


def curve(*losses: float, group: int = 0, secs_per_step: float = 0.1) -> Curve:
    steps = np.array(STEPS[: len(losses)])
    accuracies = {"accuracy": 1 - np.array(losses) / 4}
    return Curve(group, steps, steps * secs_per_step, np.array(losses, float), True, accuracies)


def two(seed: int, shift: float) -> Result:
    """Two groups that pass 1.0 at steps 200 and 300."""
    curves = [
        curve(2.0 + shift, 1.0 + shift, 0.9 + shift, 0.8 + shift, secs_per_step=0.2),
        curve(2.2 + shift, 1.3 + shift, 1.0 + shift, 0.6 + shift, group=1, secs_per_step=0.2),
    ]
    held_out = {
        "group 0": {"loss": 0.8 + shift},
        "group 1": {"loss": 0.6 + shift},
        "ensemble": {"loss": 0.5},
    }
    return Result(setting="two", seed=seed, trained_with=SETTING, curves=curves, held_out=held_out)


def lone(seed: int, shift: float, rising: float = 0.1) -> Result:
    """Has its best loss, 1.0, at step 300."""
    curves = [curve(2.5 + shift, 1.5 + shift, 1.0 + shift, 1.0 + shift + rising)]
    held_out = {"group 0": {"loss": 1.1 + shift, "accuracy": 0.5, "carried_from": "checkpoint"}}
    return Result(
        setting="lone", seed=seed, trained_with=SETTING, curves=curves, held_out=held_out, commit="abc"
    )


RESULTS = [lone(1, 0.0), two(1, 0.0), lone(2, 0.3), two(2, 0.2), lone(3, 0.1)]
ENSEMBLE = Result(
    setting="ensemble of two",
    seed=1,
    trained_with=SETTING,
    members=[["lone", 1], ["lone", 1001]],
    held_out={"ensemble": {"loss": 0.7}},
)


def test_student_s_interval() -> None:
    found = interval([1.0, 2.0, 4.0])
    half = 4.302653 * np.std([1, 2, 4], ddof=1) / np.sqrt(3)  # the 97.5th percentile with two degrees
    np.testing.assert_allclose(found, (7 / 3, 7 / 3 - half, 7 / 3 + half, 3), rtol=1e-6)
    assert found.text(2) == "2.33 ± 3.79"
    assert (interval([2.0]).text(), interval([]).text()) == ("2.000", "")
    assert math.isnan(interval([]).mean)


@pytest.mark.parametrize("number", [3, 5])
def test_intervals_hold_the_truth_as_often_as_they_say(number: int) -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(1.0, 0.3, (2000, number))
    student = np.mean([low < 1.0 < high for _, low, high, _ in (interval(list(row)) for row in samples)])
    assert 0.935 < student < 0.965
    if number == 3:  # why it is not the bootstrap
        means = samples[:, rng.integers(3, size=(1000, 3))].mean(axis=-1)
        low, high = np.quantile(means, [0.025, 0.975], axis=1)
        assert np.mean((low < 1.0) & (high > 1.0)) < 0.8


def test_what_curves_say_by_hand() -> None:
    found = Summary(RESULTS)
    assert (found.baseline, found.settings) == ("lone", ["lone", "two"])
    assert found.best("lone") == interval([1.0, 1.3, 1.1])
    assert found.final("two").mean == pytest.approx(0.8)
    np.testing.assert_allclose(found.below_baseline("two"), interval([1.0 - 0.7, 1.3 - 0.9]))
    # Seed 1: 200 and 300 of 300 steps; seed 2, of which 1.3 is the target: 200 and 300, too.
    np.testing.assert_allclose(found.share_of_steps("two"), (250 / 300, 250 / 300, 250 / 300, 2))
    np.testing.assert_allclose(found.share_of_compute("two").mean, (40 + 60) / 30)


def test_a_seed_in_which_a_group_never_passes_is_not_counted() -> None:
    slow = two(3, 1.0)
    found = Summary([*RESULTS, slow]).share_of_steps("two")
    assert (found.number, found.mean) == (2, pytest.approx(250 / 300))
    assert Summary([lone(1, 0), two(1, 1.0)]).share_of_steps("two").number == 0


def test_a_seed_that_the_baseline_lacks_is_no_seed_that_never_passes(tmp_path: pathlib.Path) -> None:
    report = pages.write([lone(1, 0.0), *(two(seed, 0.0) for seed in (1, 2, 3))], str(tmp_path))
    assert "| two | 3 | 0.700 ± 0.000 | 0.700 ± 0.000 | 0.300 | 83% | 333% |" in report
    assert "| two | 1 | 1.100 | 1.100 |  |  |  |" in pages.write([lone(1, 0.0), two(2, 0.4)], str(tmp_path))


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_a_figure_that_is_not_finite_is_shown_and_ends_no_report(odd: float, tmp_path: pathlib.Path) -> None:
    assert (interval([1.0, odd, 2.0]).text(), interval([1.0, odd]).number) == (str(odd), 2)
    diverged = dataclasses.replace(lone(2, 0.0), curves=[curve(2.0, odd, 1.0, odd)])
    report = pages.write([lone(1, 0.0), diverged], str(tmp_path))
    assert f"| lone | 2 | 1.000 ± 0.000 | {odd} |" in report


def test_a_loss_that_not_all_have_says_nothing_of_the_ensemble() -> None:
    other = dataclasses.replace(two(1, 0.0), held_out={"group 0": {"carried_state_loss": 1.0}})
    found = Summary([lone(1, 0.0), other, ENSEMBLE])
    assert found.share_of_ensemble("carried_state_loss") == {}


def test_a_mean_is_of_runs_that_differ_in_their_seed_alone() -> None:
    changed = {"trained_with": Setting(gin_files=["a.gin"], bindings=["A = 2"])}
    others = (
        {"trained_with": Setting(gin_files=["a.gin"], bindings=["A = 2"])},
        {"measured_with": ["C = 3"]},
    )
    for change in others:
        with pytest.raises(
            ValueError, match="results of 'lone' with seeds 1 and 2 are of runs that were not"
        ):
            Summary([lone(1, 0.0), dataclasses.replace(lone(2, 0.0), **change)])
    assert Summary([lone(1, 5.0), dataclasses.replace(lone(1, 0.0), **changed)]).best("lone").mean == 1.0


def test_bands_against_numpy() -> None:
    band = Summary(RESULTS).band("two", "accuracy")
    seeds = [[c.figures["accuracy"] for c in one.curves] for one in RESULTS if one.setting == "two"]
    by_seed = np.array(seeds).mean(axis=1)
    np.testing.assert_allclose(band.means, by_seed.mean(axis=0))
    half = 12.7062047 * by_seed.std(axis=0, ddof=1) / np.sqrt(2)
    np.testing.assert_allclose(band.highs - band.means, half, rtol=1e-6)
    np.testing.assert_allclose(band.secs, 2 * 0.2 * np.array(STEPS))
    short = Result(setting="two", seed=3, trained_with=SETTING, curves=[curve(2.0, 1.0)])
    assert list(Summary([*RESULTS, short]).band("two").steps) == [100, 200]
    with pytest.raises(ValueError, match=r"figure is 'auc'; expected loss or one of \['accuracy'\]"):
        Summary(RESULTS).band("two", "auc")


def test_what_was_held_out() -> None:
    found = Summary([*RESULTS, ENSEMBLE])
    held_out = found.held_out()
    assert list(held_out) == ["lone", "two", "two, ensemble", "ensemble of two"]
    assert held_out["two"]["loss"] == pytest.approx(interval([0.7, 0.9]))
    assert list(held_out["lone"]) == ["loss", "accuracy"]
    difference = found.differences()["two"]["loss"]
    assert difference == pytest.approx(interval([0.7 - 1.1, 0.9 - 1.4]))
    assert found.differences()["ensemble of two"]["loss"].mean == pytest.approx(-0.4)


def test_the_share_of_what_the_ensemble_gains() -> None:
    shares = Summary([*RESULTS, ENSEMBLE]).share_of_ensemble("loss")
    assert list(shares) == ["two", "two, ensemble"]
    assert shares["two"].number == 1  # of seed 2 there is no ensemble
    assert shares["two"].mean == pytest.approx((1.1 - 0.7) / (1.1 - 0.7))
    assert shares["two, ensemble"].mean == pytest.approx((1.1 - 0.5) / (1.1 - 0.7))
    assert Summary(RESULTS).share_of_ensemble("loss") == {}
    useless = dataclasses.replace(ENSEMBLE, held_out={"ensemble": {"loss": 1.2}})
    assert Summary([*RESULTS, useless]).share_of_ensemble("loss") == {}


def test_the_last_of_equal_runs_counts() -> None:
    assert Summary([lone(1, 5.0), lone(1, 0.0)]).best("lone").mean == 1.0


@pytest.mark.parametrize("baseline", ["alone", "ensemble of two"])
def test_a_baseline_without_curves_is_named(baseline: str) -> None:
    with pytest.raises(ValueError, match=rf"'{baseline}'; expected one of .*\['lone', 'two'\]"):
        Summary([*RESULTS, ENSEMBLE], baseline)


def test_results_are_read_as_they_were_written(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "results.jsonl")
    assert results.read(path) == []
    results.write(path, [*RESULTS, ENSEMBLE])
    found = results.read(path)
    assert [(one.setting, one.seed) for one in found] == [(o.setting, o.seed) for o in [*RESULTS, ENSEMBLE]]
    assert all(one.is_of(other) for one, other in zip(found, RESULTS, strict=False))
    assert not found[0].is_of(found[2])
    assert not found[0].is_of(dataclasses.replace(found[0], trained_with=Setting(gin_files=["b.gin"])))
    assert (found[0].runs, found[-1].runs) == ([("lone", 1)], [("lone", 1), ("lone", 1001)])
    np.testing.assert_array_equal(found[1].curves[1].losses, RESULTS[1].curves[1].losses)
    assert Summary(found).band("two").means.tolist() == Summary(RESULTS).band("two").means.tolist()
    (tmp_path / "results.jsonl").write_text('{"setting": "lone"}\n')
    with pytest.raises(ValueError, match="line 1 of .* is no result of a sweep"):
        results.read(path)


def test_the_report(tmp_path: pathlib.Path) -> None:
    report = pages.write([*RESULTS, ENSEMBLE], str(tmp_path), figure="accuracy")
    assert (tmp_path / "sweep.md").read_text() == report
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "| two | 2 | 0.800 ± 1.271 |" in report
    assert "| 83% ± 0% | 333% ± 0% |" in report
    assert "| ensemble of two |  | 0.7000 (-0.4000) |  |" in report
    assert report.startswith("# lone and two\n")
    assert "| two, ensemble |  | 0.5000 ± 0.0000 (-0.7500 ± 1.9059) | 150% |" in report
    assert "commit abc" in report
    never = pages.write([lone(1, 0), two(1, 1.0)], str(tmp_path))
    assert "| in none of 1 | in none of 1 |" in never
