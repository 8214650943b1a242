from __future__ import annotations

import itertools
import json
import pathlib
import re
import signal
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tests import faults
from tests.workers import run_workers
from tf_codistill import checkpoints, files

Arrays = dict[str, list[np.ndarray]]


def shared(step: int) -> Arrays:
    return {
        "weights": [np.full((2, 3), step, "float32"), np.array([step], ml_dtypes.bfloat16)],
        "optimizer": [np.array(step, "int64")],
        "seeds": [],
    }


def own(step: int) -> Arrays:
    return {"lanes": [np.full((4, 5), -step, "float32")]}


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert sorted(found) == sorted(expected)
    for name, arrays in expected.items():
        assert len(found[name]) == len(arrays)
        for one, other in zip(found[name], arrays, strict=True):
            assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def assert_whole(saved: checkpoints.Checkpoints, step: int) -> None:
    found_shared, found_own = saved.restore(step)
    assert_same(found_shared, shared(step))
    assert_same(found_own, own(step))


def at(directory: pathlib.Path | str, keep: int = 2) -> checkpoints.Checkpoints:
    return checkpoints.Checkpoints(str(directory), tf.distribute.get_strategy(), keep)


def save(saved: checkpoints.Checkpoints, step: int) -> None:
    saved.save(step, shared(step), own(step))


@pytest.mark.parametrize("scheme", ["local", "ram"])
def test_what_is_saved_comes_back_to_the_bit(tmp_path: pathlib.Path, scheme: str) -> None:
    directory = str(tmp_path / "new") if scheme == "local" else "ram://checkpoints_test"
    saved = at(directory)
    assert saved.latest() is None
    assert checkpoints.committed_steps(directory) == []
    save(saved, 500)
    save(saved, 1000)
    assert saved.latest() == 1000
    assert_whole(saved, 500)
    assert_whole(saved, 1000)
    step, found, owns = checkpoints.read_latest(directory)
    assert step == 1000
    assert_same(found, shared(1000))
    assert len(owns) == 1
    assert_same(owns[0], own(1000))


def test_the_newest_stay(tmp_path: pathlib.Path) -> None:
    saved = at(tmp_path, keep=2)
    for step in (50, 100, 99_999_950, 100_000_000):
        save(saved, step)
    assert checkpoints.committed_steps(str(tmp_path)) == [99_999_950, 100_000_000]
    assert len(files.names(str(tmp_path))) == 2
    with pytest.raises(ValueError, match="keep is 0; expected at least 1"):
        at(tmp_path, keep=0)


def test_a_step_may_be_saved_again(tmp_path: pathlib.Path) -> None:
    saved = at(tmp_path)
    saved.save(500, {"weights": [np.zeros(9)], "more": [np.zeros(1)]}, {"lanes": []})
    save(saved, 500)
    assert_whole(saved, 500)


def test_a_save_that_dies_anywhere_leaves_the_checkpoint_before(tmp_path: pathlib.Path) -> None:
    for operation in itertools.count():
        saved = at(tmp_path / str(operation), keep=1)
        save(saved, 500)
        died = faults.dies_at(operation, lambda: save(saved, 1000))  # noqa: B023
        latest = saved.latest()
        assert latest in (500, 1000)
        assert_whole(saved, latest)
        if not died:
            assert latest == 1000
            break
        save(saved, 1000)
        assert_whole(saved, 1000)
        assert checkpoints.committed_steps(str(tmp_path / str(operation))) == [1000]
    assert operation >= 5, "directory, shared, own, mark aside, mark in place"


_KILLED_SAVER = """
import os, signal, sys
import numpy as np
import tensorflow as tf
from tf_codistill import checkpoints, weights

saved = checkpoints.Checkpoints(sys.argv[1], tf.distribute.get_strategy())
arrays = {"weights": [np.ones(3, "float32")]}
saved.save(500, arrays, arrays)
write = weights.write
def last_write(prefix, **arrays):
    write(prefix, **arrays)
    if prefix.endswith("worker_0"):
        os.kill(os.getpid(), signal.SIGKILL)
weights.write = last_write
saved.save(1000, arrays, arrays)
"""


def test_a_killed_process_leaves_the_checkpoint_before(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-c", _KILLED_SAVER, str(tmp_path)]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(files.names(str(tmp_path / "checkpoint_00001000"))) == 4, "all was written but the mark"
    saved = at(tmp_path)
    assert saved.latest() == 500
    np.testing.assert_array_equal(saved.restore(500)[0]["weights"], [np.ones(3)])
    with pytest.raises(ValueError, match="checkpoint_00001000' is not there or not committed"):
        saved.restore(1000)


DAMAGES = ("cut in the middle", "flipped bit", "missing")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_the_checkpoint_before_stays(tmp_path: pathlib.Path, damage: str) -> None:
    saved = at(tmp_path)
    save(saved, 500)
    save(saved, 1000)
    paths = sorted((tmp_path / "checkpoint_00001000").iterdir())
    assert len(paths) == 5
    for path in paths:
        whole = path.read_bytes()
        if damage == "cut in the middle":
            faults.halve(path)
        elif damage == "missing":
            path.unlink()
        elif path.name == files.MARK:
            faults.flip(path, 0)
        else:
            faults.flip(path, len(whole) // 2)
        name = "checkpoint_00001000" if (path.name, damage) == (files.MARK, "missing") else path.name
        for read in (
            lambda: saved.restore(1000),
            lambda: checkpoints.read(str(tmp_path / "checkpoint_00001000")),
        ):
            with pytest.raises(ValueError, match=re.escape(name)):
                read()
        assert_whole(saved, 500)
        path.write_bytes(whole)
    assert_whole(saved, 1000)


def test_no_flipped_bit_of_the_mark_gives_other_arrays(tmp_path: pathlib.Path) -> None:
    saved = at(tmp_path)
    save(saved, 500)
    path = tmp_path / "checkpoint_00000500" / files.MARK
    whole = path.read_bytes()
    source = np.random.default_rng(0)
    for position in source.choice(len(whole), 100, replace=False):
        faults.flip(path, position, 1 << int(source.integers(8)))
        try:
            found, mine = saved.restore(500)
            complaint = ""
        except ValueError as error:
            complaint = str(error)
        if complaint:
            assert "checkpoint_00000500" in complaint
        else:
            by_name = [arrays for name, arrays in sorted(found.items()) if arrays]
            for one, other in zip(by_name, (shared(500)["optimizer"], shared(500)["weights"]), strict=True):
                assert_same({"": one}, {"": other})
            assert_same({"": next(iter(mine.values()))}, {"": own(500)["lanes"]})
        path.write_bytes(whole)


def test_the_remedy_is_to_delete_the_damaged_one(tmp_path: pathlib.Path) -> None:
    saved = at(tmp_path)
    save(saved, 500)
    save(saved, 1000)
    damaged = tmp_path / "checkpoint_00001000"
    faults.halve(damaged / "shared.index")
    with pytest.raises(
        ValueError, match=r"shared\.index' is damaged.*; delete '.*checkpoint_00001000' to go back"
    ):
        checkpoints.read_latest(str(tmp_path))
    files.remove(str(damaged))
    assert saved.latest() == 500
    assert_whole(saved, 500)


def test_another_number_of_workers_or_another_format_is_refused(tmp_path: pathlib.Path) -> None:
    saved = at(tmp_path)
    save(saved, 500)
    path = tmp_path / "checkpoint_00000500" / files.MARK
    mark = json.loads(path.read_text())
    path.write_text(json.dumps({**mark, "format_version": 0}))
    with pytest.raises(ValueError, match="checkpoint_00000500' has format version 0; expected 2"):
        saved.restore(500)
    path.write_text(json.dumps({**mark, "num_workers": 0}))
    with pytest.raises(ValueError, match="was written by 0 workers, this group has 1; start as many, or use"):
        saved.restore(500)


def test_what_is_not_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        ValueError, match=r"no committed checkpoint in '.*absent'; has the group been trained\?"
    ):
        checkpoints.read_latest(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="checkpoint_00000007' is not there"):
        at(tmp_path).restore(7)


_TWO_WORKERS = """
import time
from tf_codistill import checkpoints, distribution, files, weights
strategy = distribution.create_strategy("auto")
import numpy as np

remove, write = files.remove, weights.write

def late_remove(path):
    time.sleep(0.8)
    remove(path)

def late_write(prefix, **arrays):
    time.sleep(0.3 * prefix.endswith("worker_1"))
    return write(prefix, **arrays)

files.remove, weights.write = late_remove, late_write
directory, index = {directory!r}, distribution.worker_index(strategy)
saved = checkpoints.Checkpoints(directory, strategy, keep=1)
none_yet = saved.latest()
for step in (500, 1000):
    saved.save(step, {{"weights": [np.full(3, step + index, "float32")]}}, {{"lanes": [np.full(2, index)]}})
latest = saved.latest()
shared, own = saved.restore(latest)
print(none_yet, latest, shared["weights"][0].tolist(), own["lanes"][0].tolist())
"""


def test_two_workers_save_together_and_each_gets_its_own_lanes_back(tmp_path: pathlib.Path) -> None:
    directory = str(tmp_path / "checkpoints")
    outputs = run_workers(_TWO_WORKERS.format(directory=directory), 2)
    assert [output.strip() for output in outputs] == [
        "None 1000 [1000.0, 1000.0, 1000.0] [0, 0]",
        "None 1000 [1000.0, 1000.0, 1000.0] [1, 1]",
    ]
    step, found, owns = checkpoints.read_latest(directory)
    assert step == 1000
    mark = files.read_mark(f"{directory}/checkpoint_00001000")
    assert mark is not None
    assert {name.split(".")[0] for name in mark["files"]} == {"shared", "worker_0", "worker_1"}
    np.testing.assert_array_equal(found["weights"], [[1000.0] * 3])
    np.testing.assert_array_equal([one["lanes"][0] for one in owns], [[0, 0], [1, 1]])
    with pytest.raises(ValueError, match="was written by 2 workers, this group has 1"):
        at(directory).restore(1000)
