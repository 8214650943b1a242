"""Faults end nothing: they are told once and counted, and the next snapshot is taken."""

from __future__ import annotations

import collections
import itertools
import pathlib
from collections.abc import Callable

import numpy as np
import pytest

from tests import faults, toy_clicks, toy_runs
from tests.toy_following import Run
from tf_codistill import evaluation, files, weights
from tf_codistill.exchange.store import Store


@pytest.fixture(name="run")
def _run(tmp_path: pathlib.Path) -> Run:
    run = Run(tmp_path, toy_clicks.Clicks())
    run.publish(0, 10)
    run.publish(1, 10)
    return run


def torn(run: Run) -> None:
    faults.halve(next(run.newest(0).glob("*.data*")))


def flipped(run: Run) -> None:
    faults.flip(next(run.newest(0).glob("*.data*")), 5)


def without_a_manifest_that_can_be_read(run: Run) -> None:
    faults.halve(run.newest(0) / files.MANIFEST)


def of_nan(run: Run) -> None:
    model = run.task.make_model(16)
    broken = [np.full_like(array, np.nan) for array in model.get_weights()]
    run.stores[0].publish(20, weights.description(model), broken)


def of_another_model(run: Run) -> None:
    described = [{"name": "other", "shape": [2], "dtype": "float32"}]
    run.stores[0].publish(20, described, [np.zeros(2, "float32")])


@pytest.mark.parametrize(
    "spoil", [torn, flipped, without_a_manifest_that_can_be_read, of_nan, of_another_model]
)
@pytest.mark.parametrize("is_last", [False, True])
def test_a_damaged_snapshot_is_told_once_and_passed_over(
    run: Run,
    spoil: Callable[[Run], None],
    is_last: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, tried = Store.read, collections.Counter[object]()

    def counted(self: Store, ref: object, *arguments: object) -> object:
        tried[ref] += 1
        return read(self, ref, *arguments)

    monkeypatch.setattr(Store, "read", counted)

    def damage() -> None:
        run.publish(0, 20)
        spoil(run)

    waits = [lambda: None] * 4
    ends = [run.finish] if is_last else [lambda: run.publish(0, 30), run.finish]
    shown = run.follow(damage, *waits, lambda: run.publish(1, 20), *ends)
    expected = [[10, 10], [10, 20], [30, 20]]
    assert run.steps() == (expected[:2] if is_last else expected)
    assert sum("group 0: " in record.message for record in caplog.records) == 1
    number = sum(line["faults"] for line in run.lines())
    assert number == 3
    assert "faults: 3" in shown[-1]
    assert max(tried.values()) <= 3


def test_a_snapshot_that_vanishes_while_it_is_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Store.read

    def robbed(self: Store, ref: tuple[int, ...], *arguments: object) -> object:
        if ref[0] == 0:
            monkeypatch.setattr(Store, "read", read)
            files.remove(str(run.newest(0)))
        return read(self, ref, *arguments)

    monkeypatch.setattr(Store, "read", robbed)
    run.follow(lambda: None, lambda: run.publish(0, 20), run.finish)
    assert run.steps() == [[None, 10], [20, 10]]
    assert [line["faults"] for line in run.lines()] == [1, 0]


def test_the_last_snapshot_is_tried_again_after_the_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    read, number = Store.read, itertools.count()

    def failing(self: Store, ref: object, *arguments: object) -> object:
        if next(number) < 2:  # once for each group
            raise OSError("storage is away")
        return read(self, ref, *arguments)

    monkeypatch.setattr(Store, "read", failing)
    run.finish()
    run.follow(lambda: None)
    assert run.steps() == [[10, 10]]


@pytest.mark.parametrize("first", [8, 30, 60, 100])
def test_storage_that_is_away_for_a_while(run: Run, first: int) -> None:
    """Whatever is done at that moment: looking, reading, writing, or to see who has finished."""
    acts = iter([lambda: run.publish(0, 20), lambda: run.publish(1, 30), run.finish])

    def act() -> None:
        with faults.spared():
            next(acts, lambda: None)()

    with faults.failing_storage(lambda call: first <= call < first + 25) as calls:
        shown = run.follow(*[act] * 40)
    assert len(calls) > first + 25, "else nothing has failed"
    assert "faults: 0" not in shown[-1]
    assert run.steps()[-1] == [20, 30]
    assert len({tuple(steps) for steps in run.steps()}) == len(run.lines())


def test_a_directory_that_cannot_be_made_is_told_at_once(run: Run) -> None:
    with faults.failing_storage(lambda call: True), pytest.raises(ValueError, match="cannot be written to"):
        run.follow()


def test_a_round_that_fails_is_made_again(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    measure, number = evaluation.Evaluator.measure, itertools.count()

    def failing(self: evaluation.Evaluator, lanes: object) -> object:
        if next(number) < 2:
            raise OSError("no data for now")
        return measure(self, lanes)

    monkeypatch.setattr(evaluation.Evaluator, "measure", failing)
    run.follow(lambda: None, lambda: None, run.finish)
    assert run.steps() == [[10, 10]]
    assert run.lines()[0]["faults"] == 2
    assert sum("scoring: no data for now" in record.message for record in caplog.records) == 1


def test_rounds_that_always_fail_end_with_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: evaluation.Evaluator, lanes: object) -> object:
        raise OSError("no data at all")

    monkeypatch.setattr(evaluation.Evaluator, "measure", failing)
    with pytest.raises(
        ValueError, match="there was no snapshot to score: there were 3 faults, see the warnings"
    ):
        run.follow(*[lambda: None] * 5, run.finish)


def test_metrics_of_a_group_that_cannot_be_read_end_nothing(run: Run) -> None:
    path = pathlib.Path(toy_runs.log(run.workdir, 1))
    whole = path.read_bytes()
    path.write_bytes(b"nonsense\n")
    shown = run.follow(lambda: path.write_bytes(whole), run.finish)
    assert run.steps() == [[10, 10]]
    assert "faults: 0" not in shown[-1]
