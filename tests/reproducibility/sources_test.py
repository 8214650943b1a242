from __future__ import annotations

import pathlib

import pytest

from tf_codistill import runs
from tf_codistill.reproducibility.sources import PredictionSource, parse


def write_run(workdir: pathlib.Path, *groups: int) -> str:
    for group in groups:
        (workdir / f"group_{group}").mkdir(parents=True)
        runs.append_metrics(runs.metrics_path(str(workdir), group), "validation", 1, loss=1.0)
        (workdir / f"group_{group}" / "student.keras").touch()
        (workdir / f"group_{group}" / "config.gin").touch()
    return str(workdir)


def test_what_is_named_is_found(tmp_path: pathlib.Path) -> None:
    two, lone = write_run(tmp_path / "two", 0, 1), write_run(tmp_path / "lone", 0)
    (tmp_path / "p.csv").touch()
    (tmp_path / "old.keras").touch()
    run_id = runs.run_id(two)
    paths = [two, f"{two}/group_1/", lone, f"{two}/group_0/student.keras", "p.csv", "before=old.keras"]
    found = parse(
        [path if "/" in path else path.replace("=", f"={tmp_path}/") for path in paths[:4]]
        + [f"{tmp_path}/p.csv", f"before={tmp_path}/old.keras"]
    )
    assert found == [
        PredictionSource("two", two, 0, run_id),
        PredictionSource("group_1", two, 1, run_id),
        PredictionSource("lone", lone, 0, lone),
        PredictionSource("student", f"{two}/group_0/student.keras", None, run_id),
        PredictionSource("p", f"{tmp_path}/p.csv"),
        PredictionSource("before", f"{tmp_path}/old.keras"),
    ]
    assert [source.has_predictions for source in found] == [False, False, False, False, True, False]
    assert found[0].note == "group 0 speaks for the run two, which has 2 groups"
    assert [source.note for source in found[2:]] == [None] * 4
    assert found[1].config_path == runs.config_path(two, 1)
    assert found[3].config_path == runs.config_path(two, 0)
    assert found[4].config_path is found[5].config_path is None
    assert not (tmp_path / "lone" / "run.json").exists(), "who only looks gives no names"


def test_two_of_one_name_are_called_by_their_paths(tmp_path: pathlib.Path) -> None:
    one, other = write_run(tmp_path / "one", 0), write_run(tmp_path / "other", 0)
    found = parse([f"{one}/group_0", f"{other}/group_0"])
    assert [source.name for source in found] == [f"{one}/group_0", f"{other}/group_0"]


def test_a_path_with_an_equals_sign_is_a_path(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("rate=0.1.csv", "0.2.csv"):
        (tmp_path / name).touch()
    assert parse(["rate=0.1.csv", "rate=0.2.csv"]) == [
        PredictionSource("rate=0.1", "rate=0.1.csv"),
        PredictionSource("rate", "0.2.csv"),
    ]


def test_what_is_not_there_is_named(tmp_path: pathlib.Path) -> None:
    run = write_run(tmp_path / "run", 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="1 of at least two things to compare are named; expected files of"):
        parse([run])
    with pytest.raises(ValueError, match="there is nothing at '.*absent.npy'; expected predictions, a saved"):
        parse([run, str(tmp_path / "absent.npy")])
    with pytest.raises(
        ValueError, match="empty' is no run in which a group has been trained; expected a run"
    ):
        parse([run, str(tmp_path / "empty")])
    with pytest.raises(ValueError, match="is named 2 times; give each another name, as in first="):
        parse([run, run])
