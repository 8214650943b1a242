from __future__ import annotations

import itertools
import math
import pathlib

import pytest

from tf_codistill import runs


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
    with pytest.raises(
        ValueError, match="kind of metrics is 'test'; expected one of start, train, validation, end"
    ):
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


def test_rewind_of_a_run_that_has_logged_nothing(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "metrics.jsonl")
    runs.rewind_metrics(path, 0)
    assert runs.read_metrics(path) == []
