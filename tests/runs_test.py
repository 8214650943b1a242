from __future__ import annotations

import itertools
import math
import pathlib

import pytest
import tensorflow as tf

from tests import faults
from tf_codistill import files, runs


@pytest.fixture(params=["disk", "remote"])
def workdir(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "run")
    return f"ram://runs_test/{tmp_path.name}"


def test_every_path_lies_in_the_workdir_and_none_is_used_twice() -> None:
    paths = [runs.exchange_dir("w")]
    for group in (0, 1, 10):
        functions = (
            runs.metrics_path,
            runs.checkpoints_dir,
            runs.tensorboard_dir,
            runs.student_path,
            runs.config_path,
        )
        paths += [function("w", group) for function in functions]
        paths += [runs.log_path("w", group, worker) for worker in (0, 1, 11)]
        assert all(path.startswith(runs.group_dir("w", group) + "/") for path in paths[-8:])
    assert len(set(paths)) == len(paths)
    assert all(path.startswith("w/") for path in paths)


def test_a_run_keeps_the_name_that_it_is_given_first(tmp_path: pathlib.Path) -> None:
    names = [runs.run_id(str(tmp_path / workdir)) for workdir in ("new", "new", "other")]
    assert names[0] == names[1] != names[2]
    assert len(names[0]) == 32


def test_groups_are_those_that_have_written_metrics(tmp_path: pathlib.Path) -> None:
    assert runs.groups(str(tmp_path / "absent")) == []
    for group in (10, 2, 0):
        pathlib.Path(runs.group_dir(str(tmp_path), group)).mkdir()
        runs.append_metrics(runs.metrics_path(str(tmp_path), group), "start", 0)
    pathlib.Path(runs.group_dir(str(tmp_path), 1)).mkdir()
    (tmp_path / "group_x").mkdir()
    (tmp_path / "exchange").mkdir()
    assert runs.groups(str(tmp_path)) == [0, 2, 10]


def test_metrics_round_trip(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "metrics.jsonl")
    assert runs.read_metrics(path) == []
    runs.append_metrics(path, "start", 0, num_steps=20)
    runs.append_metrics(path, "train", 10, loss=0.1 + 0.2, name="ü\n")
    runs.append_metrics(path, "train", 20, loss=math.inf)
    runs.append_metrics(path, "end", 20)
    assert [record["kind"] for record in runs.read_metrics(path)] == ["start", "train", "train", "end"]
    first, second = runs.read_metrics(path, "train")
    assert first == {"kind": "train", "step": 10, "loss": 0.1 + 0.2, "name": "ü\n"}
    assert second["loss"] == math.inf
    assert runs.read_metrics(path, "validation") == []


def test_an_unknown_kind_is_refused(tmp_path: pathlib.Path) -> None:
    expected = "kind of metrics is 'test'; expected one of start, train, validation, end, restart"
    with pytest.raises(ValueError, match=expected):
        runs.append_metrics(str(tmp_path / "metrics.jsonl"), "test", 1)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_last_line_cut_anywhere_is_passed_over(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "metrics.jsonl"
    runs.append_metrics(str(path), "train", 10, loss=1.0)
    whole = path.read_bytes()
    runs.append_metrics(str(path), "train", 20, loss=2.0)
    both = path.read_bytes()
    for length in range(len(whole), len(both)):
        path.write_bytes(both[:length])
        assert [record["step"] for record in runs.read_metrics(str(path))] == [10]
        runs.append_metrics(str(path), "restart", 5)  # by whoever has found the process killed
        assert [record["step"] for record in runs.read_metrics(str(path))] == [10, 5]


def test_a_line_that_is_no_record_is_named(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for line in ("nonsense", "[]", "{}", '{"kind": "test", "step": 1}', '{"kind": "train"}'):
        path.write_text('{"kind": "start", "step": 0}\n' + line + "\n")
        with pytest.raises(ValueError, match=r"line 2 of metrics file '.*metrics\.jsonl' is no record"):
            runs.read_metrics(str(path))


def test_rewind_drops_what_a_resumed_run_will_log_again(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in (10, 20, 30):
        runs.append_metrics(str(path), "train", step)
    runs.append_metrics(str(path), "end", 30)
    path.write_bytes(path.read_bytes() + b'{"kind": "tra')
    runs.rewind_metrics(str(path), 30)
    assert [record["step"] for record in runs.read_metrics(str(path))] == [10, 20, 30]
    runs.rewind_metrics(str(path), 20)
    runs.append_metrics(str(path), "train", 30, loss=1.0)
    steps = [record["step"] for record in runs.read_metrics(str(path))]
    assert steps == [10, 20, 30], "each step is there once"
    assert all(earlier < later for earlier, later in itertools.pairwise(steps))
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_rewind_keeps_restarts_at_the_step_that_is_resumed_from(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "metrics.jsonl")
    restarts = ({"reason": "killed", "attempt": attempt, "time": 1.7e9} for attempt in (1, 2))
    for step in (10, 20, 30):
        runs.append_metrics(path, "train", step)
        if step != 10:
            runs.append_metrics(path, "restart", step, **next(restarts))
    runs.rewind_metrics(path, 20)
    found = [(record["kind"], record["step"]) for record in runs.read_metrics(path)]
    assert found == [("train", 10), ("train", 20), ("restart", 20), ("restart", 20)]
    assert runs.read_metrics(path)[-1] == {
        "kind": "restart",
        "step": 20,
        "reason": "killed",
        "attempt": 2,
        "time": 1.7e9,
    }
    runs.rewind_metrics(path, 0)
    assert [record["step"] for record in runs.read_metrics(path)] == [0, 0]


def test_of_a_long_file_the_first_line_and_the_end_are_read(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "metrics.jsonl"
    runs.append_metrics(str(path), "start", 0, num_steps=1000)
    for step in range(1, 1001):
        runs.append_metrics(str(path), "train", step, loss=1.0)
    length = len(path.read_bytes().splitlines(keepends=True)[-1])
    for max_bytes in range(2 * length, 3 * length):
        steps = [record["step"] for record in runs.read_metrics(str(path), max_bytes=max_bytes)]
        assert steps == [0, *range(1002 - len(steps), 1001)], max_bytes
        assert 2 <= len(steps) <= 4
    assert runs.read_metrics(str(path), max_bytes=1 << 20) == runs.read_metrics(str(path))
    path.write_bytes(path.read_bytes() + b"nonsense\n")
    with pytest.raises(ValueError, match="^a line of metrics file .* is no record: 'nonsense'"):
        runs.read_metrics(str(path), max_bytes=200)


@pytest.mark.parametrize("step", [1 << 53, 10**400, -(1 << 53)])
def test_a_step_that_nobody_trains_is_no_record(tmp_path: pathlib.Path, step: int) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"kind": "train", "step": {step}}}\n')
    with pytest.raises(ValueError, match="line 1 of metrics file .* is no record"):
        runs.read_metrics(str(path))


def test_deep_nonsense_is_no_record(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("[" * 100_000 + "\n")
    with pytest.raises(ValueError, match="line 1 of metrics file .* is no record"):
        runs.read_metrics(str(path))


def test_steps_that_go_back_are_found() -> None:
    def lines(*steps: int) -> list[dict[str, int | str]]:
        return [{"kind": "train", "step": step} for step in steps]

    assert runs.out_of_order(lines()) is None
    assert runs.out_of_order(lines(0, 50, 50, 100)) is None
    assert runs.out_of_order(lines(0, 50, 100, 70, 60)) == (100, 70)
    assert runs.out_of_order([*lines(50), {"kind": "restart", "step": 20}, *lines(50)]) is None


def test_rewind_of_a_run_that_has_logged_nothing(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "metrics.jsonl")
    runs.rewind_metrics(path, 0)
    assert runs.read_metrics(path) == []


def test_a_run_may_be_on_remote_storage(workdir: str) -> None:
    assert runs.groups(workdir) == []
    for group in (1, 0):
        files.make_directory(runs.group_dir(workdir, group))
        path = runs.metrics_path(workdir, group)
        assert runs.read_metrics(path) == []
        for step in (10, 20, 30):
            runs.append_metrics(path, "train", step, loss=1.5)
        runs.append_metrics(path, "end", 30)
        runs.rewind_metrics(path, 20)
        runs.append_metrics(path, "train", 30, loss=1.0)
        assert [(record["step"], record["loss"]) for record in runs.read_metrics(path)] == [
            (10, 1.5),
            (20, 1.5),
            (30, 1.0),
        ]
        assert files.names(runs.group_dir(workdir, group)) == ["metrics.jsonl"]
    assert runs.groups(workdir) == [0, 1]


def test_a_writer_that_dies_anywhere_leaves_a_file_of_whole_records(workdir: str) -> None:
    for act in ("append", "rewind"):
        for operation in itertools.count():
            path = files.join(workdir, act, str(operation), "metrics.jsonl")
            files.make_directory(files.join(workdir, act, str(operation)))
            for step in (10, 20):
                runs.append_metrics(path, "train", step)

            def change(act: str = act, path: str = path) -> None:
                if act == "append":
                    runs.append_metrics(path, "train", 30)
                else:
                    runs.rewind_metrics(path, 10)

            died = faults.dies_at(operation, change)
            steps = [record["step"] for record in runs.read_metrics(path)]
            if not died:
                assert steps == ([10, 20, 30] if act == "append" else [10])
                break
            assert steps == [10, 20]
        assert operation >= 1, "it has died at least once"


def test_a_storage_that_fails_is_told_and_changes_nothing(
    workdir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise tf.errors.UnavailableError(None, None, "try again")

    path = runs.metrics_path(workdir, 0)
    files.make_directory(runs.group_dir(workdir, 0))
    runs.append_metrics(path, "train", 10)
    for name, act in (
        ("GFile", lambda: runs.append_metrics(path, "train", 20)),
        ("GFile", lambda: runs.read_metrics(path)),
        ("rename", lambda: runs.rewind_metrics(path, 0)),
        ("listdir", lambda: runs.groups(workdir)),
    ):
        with monkeypatch.context() as faulty:
            faulty.setattr(tf.io.gfile, name, fail)
            with pytest.raises(OSError, match="cannot be used: try again"):
                act()
        assert [record["step"] for record in runs.read_metrics(path)] == [10]
