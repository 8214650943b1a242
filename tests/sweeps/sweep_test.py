"""Which runs a sweep needs, and what becomes of their results."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import pytest

from tf_codistill import run_matrix, runs
from tf_codistill.run_matrix import Setting, Trial
from tf_codistill.sweeps import results, sweep
from tf_codistill.sweeps.results import Result
from tf_codistill.sweeps.sweep import Sweep

LONE = Setting(gin_files=["one.gin"])
TWO = Setting(gin_files=["two.gin"], bindings=["B = 2"], num_groups=2)


def example(**changes: object) -> Sweep:
    chosen = {"settings": {"lone": LONE, "two": TWO}, "ensembles": {"pair": "lone"}, "seeds": [1, 2]}
    return Sweep(**{**chosen, "bindings": ["A = 1"], "measured_with": ["C = 3"], **changes})


def test_what_is_expected_and_what_it_needs() -> None:
    expected = example().expected()
    assert [(one.setting, one.seed) for one in expected] == [
        *(("lone", 1), ("pair", 1), ("two", 1), ("lone", 2), ("pair", 2), ("two", 2))
    ]
    assert expected[1].members == [["lone", 1], ["lone", 1001]]
    assert expected[2].trained_with.bindings == ["A = 1", "B = 2"]
    trials = sweep.trials(expected, "out")
    assert [(one.name, one.seed) for one in trials] == [
        *(("lone", 1), ("lone", 1001), ("two", 1), ("lone", 2), ("lone", 1002), ("two", 2))
    ]
    setting = dataclasses.replace(TWO, bindings=["A = 1", "B = 2"])
    assert trials[2] == Trial("two", setting, 1, "out/two/seed_1")
    only = [(one.name, one.seed) for one in sweep.trials(expected[1:2], "out")]
    assert only == [("lone", 1), ("lone", 1001)]


def test_results_stand_as_they_are_expected_whichever_run_ended_first() -> None:
    expected = example(seeds=[1]).expected()
    other = dataclasses.replace(expected[0], setting="other")
    assert sweep.in_order([other, *reversed(expected)], expected) == [*expected, other]


def test_axes_are_bound_in_all_combinations() -> None:
    axes = {"W.factor": [0.1, 0.2], "L.name": ["a/b"]}
    expected = example(axes=axes, ensembles={}, settings={"lone": LONE}, seeds=[1]).expected()
    assert [one.setting for one in expected] == [
        f"lone, factor = {value}, name = 'a_b'" for value in (0.1, 0.2)
    ]
    ambiguous = example(axes={"W.factor": [0.1], "L.factor": [2]}, ensembles={}, settings={"lone": LONE})
    assert ambiguous.expected()[0].setting == "lone, W.factor = 0.1, L.factor = 2"
    assert expected[1].trained_with.bindings == ["A = 1", "W.factor = 0.2", "L.name = 'a/b'"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"seeds": []}, r"seeds is \[\]; expected one or more"),
        ({"seeds": [1, 1]}, r"seeds is \[1, 1\]; expected one or more, each once"),
        ({"seeds": [1000]}, "expected 0 to 999"),
        ({"ensembles": {"pair": "alone"}}, r"ensembles\['pair'\] is 'alone'; expected one of"),
        ({"ensembles": {"two": "lone"}}, "ensembles has 'two', which is a setting"),
        ({"settings": {}, "ensembles": {}}, "settings is empty"),
        ({"axes": {"A.b": []}}, r"axes\['A.b'\] is empty"),
        ({"axes": {"A.b": ["x/y", "x_y"]}}, "several combinations named"),
        ({"bindings": "A = 1"}, "bindings is 'A = 1'; expected a list of strings"),
    ],
)
def test_what_is_refused(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        example(**wrong)


def test_results_of_runs_that_are_done(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what = example(seeds=[1])
    expected = what.expected()
    trials = sweep.trials(expected, str(tmp_path))
    for trial in (trials[0], trials[2]):  # the second member of the ensemble is not done
        for group in range(trial.setting.num_groups):
            path = runs.metrics_path(trial.workdir, group)
            pathlib.Path(path).parent.mkdir(parents=True)
            runs.append_metrics(path, "start", 0, num_steps=4)
            runs.append_metrics(path, "validation", 4, loss=0.5 + group, accuracy=0.25, elapsed_secs=3.0)
            runs.append_metrics(path, "end", 4)

    def measure(own: Sequence[Trial], measured_with: Sequence[str]) -> dict[str, dict[str, float]]:
        assert measured_with == ["C = 3"]
        return {f"group {group}": {"loss": 0.1} for group in range(own[0].setting.num_groups)}

    monkeypatch.setattr(run_matrix, "_commit", lambda: "abc1234")
    trials[0].keep_setting()
    monkeypatch.setattr(run_matrix, "_commit", lambda: "later")
    trials[0].keep_setting()
    found = list(sweep.finished(expected, str(tmp_path), measure))
    assert [one.commit for one in found] == ["abc1234", None], "what it began with"
    assert [(one.setting, one.seed) for one in found] == [("lone", 1), ("two", 1)]
    lone, two = found
    assert lone.is_of(expected[0])
    assert [curve.final for curve in two.curves] == [0.5, 1.5]
    assert two.curves[0].figures["accuracy"].tolist() == [0.25]
    assert two.held_out == {"group 0": {"loss": 0.1}, "group 1": {"loss": 0.1}}


def test_a_run_of_another_setting_gives_no_result(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trial, "is_done", lambda self: True)
    before, now = (
        example(seeds=[1], bindings=[value], ensembles={}).expected() for value in ("A = 1", "A = 2")
    )
    for trial in sweep.trials(before, str(tmp_path)):
        trial.keep_setting()
    with pytest.raises(ValueError, match=r"bindings of the run in .* was \['A = 1'\] when it began"):
        list(sweep.finished(now, str(tmp_path), lambda *_: {}))


def test_of_an_ensemble_the_ensemble_is_kept(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trial, "is_done", lambda self: True)
    what = example(seeds=[1])
    (pair,) = [one for one in what.expected() if one.members]
    row = {"seed 1, group 0": {"loss": 1.0}, "ensemble": {"loss": 0.5}}
    (found,) = sweep.finished([pair], str(tmp_path), lambda *_: row)
    assert found == dataclasses.replace(pair, held_out={"ensemble": {"loss": 0.5}})
    assert isinstance(found, Result)


def test_what_another_sweep_has_kept_meanwhile_is_kept(tmp_path: pathlib.Path) -> None:
    path, expected = str(tmp_path / "results.jsonl"), example(ensembles={}).expected()
    keeping = [dataclasses.replace(one, held_out={"group 0": {"loss": 1.0}}) for one in expected]
    mine, other = keeping[2], keeping[0]
    assert sweep.keep(path, mine, expected) == [mine]
    results.write(path, [*results.read(path), other])
    found = sweep.keep(path, keeping[1], expected)
    assert [(one.setting, one.seed) for one in found] == [("lone", 1), ("two", 1), ("lone", 2)]
    assert len(results.read(path)) == 3
