"""What is written is whole whenever it ends, and nothing is scored twice."""

from __future__ import annotations

import itertools
import pathlib

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests import faults, toy_clicks
from tests.toy_following import Run
from tf_codistill import evaluation, files, runs
from tf_codistill.exchange.snapshot import Ref
from tf_codistill.following.findings import Findings
from tf_codistill.following.members import Followed

ROWS = {"group 0": {"loss": 2.0}, "group 3": {"loss": 3.0}, "ensemble": {"loss": 1.5, "disagreement": 0.25}}


def members(serial: int, step: int) -> list[Followed]:
    return [
        Followed(0, held=Ref(0, 1_700_000_000, serial), step=step),
        Followed(3, held=Ref(3, 1_700_000_000, 1), step=10),
    ]


def interrupted() -> None:
    raise KeyboardInterrupt


@pytest.fixture(name="run")
def _run(tmp_path: pathlib.Path) -> Run:
    run = Run(tmp_path, toy_clicks.Clicks())
    run.publish(0, 10)
    run.publish(1, 10)
    return run


def test_what_has_been_scored_is_not_scored_again(run: Run) -> None:
    with pytest.raises(KeyboardInterrupt):
        run.follow(lambda: run.publish(0, 20), interrupted)
    before = run.lines()
    assert run.steps() == [[10, 10], [20, 10]]
    with pytest.raises(KeyboardInterrupt):
        run.follow(interrupted)
    assert run.lines() == before
    run.follow(lambda: run.publish(1, 30), run.finish)
    assert run.steps() == [[10, 10], [20, 10], [20, 30]]
    assert run.lines()[:2] == before
    assert run.follow() == [
        f"all groups have finished, faults: 0, figures: {run.workdir}/evaluation/metrics.jsonl"
    ]
    assert len(run.lines()) == 3


def test_an_interrupt_within_a_round_leaves_no_line_of_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(evaluation.Evaluator, "measure", lambda *_: interrupted())
        with pytest.raises(KeyboardInterrupt):
            run.follow()
    assert run.lines() == []
    run.finish()
    run.follow()
    assert run.steps() == [[10, 10]]


def test_a_line_that_was_cut_off_is_dropped(run: Run) -> None:
    with pytest.raises(KeyboardInterrupt):
        run.follow(interrupted)
    path = run.workdir / "evaluation" / "metrics.jsonl"
    with path.open("ab") as file:
        file.write(path.read_bytes()[:50])
    run.follow(lambda: run.publish(0, 20), run.finish)
    assert run.steps() == [[10, 10], [20, 10]]


def test_whenever_it_dies_lines_stay_whole(tmp_path: pathlib.Path) -> None:
    for operation in itertools.count():
        directory = tmp_path / str(operation)
        Findings(str(directory)).add(members(1, 10), ROWS, 0.5, 0)

        def write(directory: pathlib.Path = directory) -> None:
            Findings(str(directory)).add(members(2, 20), ROWS, 0.5, 1)

        has_died = faults.dies_at(operation, write)
        findings = Findings(str(directory))
        if findings.is_new(members(2, 20)[0]):
            assert has_died
            findings.add(members(2, 20), ROWS, 0.5, 1)
        lines = runs.read_metrics(findings.path)
        assert [line["group_0/step"] for line in lines] == [10, 20]
        if not has_died:
            break
    assert operation > 1


def test_a_disk_that_is_full_leaves_nothing_in_the_way(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings, append = Findings(str(tmp_path)), files.append

    def full(path: str, content: bytes) -> None:
        append(path, content[: len(content) // 2])
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "append", full)
        with pytest.raises(OSError, match="no space"):
            findings.add(members(1, 10), ROWS, 0.5, 0)
    assert findings.is_new(members(1, 10)[0])
    findings.add(members(1, 10), ROWS, 0.5, 0)
    (line,) = runs.read_metrics(findings.path)
    assert line["ensemble/disagreement"] == 0.25


def test_what_is_in_a_line(tmp_path: pathlib.Path) -> None:
    findings = Findings(str(tmp_path))
    rows = {**ROWS, "group 0": {"loss": 2.0, "carried_from": "checkpoint"}}
    findings.add(members(27, 40), rows, 0.5, 3)
    (line,) = runs.read_metrics(findings.path)
    assert line.pop("time") > 1e9
    assert line == {
        "kind": "validation",
        "step": 40,
        "secs": 0.5,
        "faults": 3,
        "group_0/snapshot": "snapshot_1700000000_000027",
        "group_0/step": 40,
        "group_0/loss": 2.0,
        "group_3/snapshot": "snapshot_1700000000_000001",
        "group_3/step": 10,
        "group_3/loss": 3.0,
        "ensemble/loss": 1.5,
        "ensemble/disagreement": 0.25,
    }
    assert Findings(str(tmp_path)).scored == {0: Ref(0, 1_700_000_000, 27), 3: Ref(3, 1_700_000_000, 1)}


def scalars(directory: pathlib.Path, tag: str) -> list[tuple[int, float]]:
    found = EventAccumulator(str(directory))
    found.Reload()
    return [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in found.Tensors(tag)]


def test_a_run_of_tensorboard_for_each_group_and_the_ensemble(tmp_path: pathlib.Path) -> None:
    findings = Findings(str(tmp_path))
    findings.add(members(1, 5), ROWS, 0.5, 0)
    findings.add(members(2, 40), {**ROWS, "group 0": {"loss": 1.25}}, 0.5, 0)
    place = tmp_path / "tensorboard"
    assert {path.name for path in place.iterdir()} == {"group_0", "group_3", "ensemble"}
    assert scalars(place / "group_0", "validation/loss") == [(5, 2.0), (40, 1.25)]
    assert scalars(place / "group_3", "validation/loss") == [(10, 3.0)], "it has not moved"
    assert scalars(place / "ensemble", "validation/loss") == [(10, 1.5), (40, 1.5)]
    assert scalars(place / "ensemble", "validation/disagreement") == [(10, 0.25), (40, 0.25)]


def test_a_directory_that_cannot_be_written_to_is_told(tmp_path: pathlib.Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be written to"):
        Findings(str(tmp_path / "taken"))
    (tmp_path / "metrics.jsonl").write_text("nonsense\n")
    with pytest.raises(ValueError, match="is no record"):
        Findings(str(tmp_path))
