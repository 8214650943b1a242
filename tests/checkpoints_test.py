from __future__ import annotations

import itertools
import json
import logging as standard_logging
import pathlib
import signal
import subprocess
import sys
import threading
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests import faults
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


def latest(directory: pathlib.Path | str) -> int:
    """The step of the newest complete checkpoint, which holds what was saved."""
    step, found, owns = checkpoints.read_latest(str(directory))
    assert_same(found, shared(step))
    assert len(owns) == 1
    assert_same(owns[0], own(step))
    return step


def at(directory: pathlib.Path | str, **settings: Any) -> checkpoints.Checkpoints:
    return checkpoints.Checkpoints(str(directory), **settings)


def save(saved: checkpoints.Checkpoints, step: int, **metadata: Any) -> None:
    saved.save(step, shared(step), own(step), metadata)


@pytest.mark.parametrize("scheme", ["local", "ram"])
def test_what_is_saved_comes_back_to_the_bit(tmp_path: pathlib.Path, scheme: str) -> None:
    directory = str(tmp_path / "new") if scheme == "local" else "ram://checkpoints_test"
    saved = at(directory)
    assert checkpoints.newest_complete(directory) is None
    assert checkpoints.committed_steps(directory) == []
    save(saved, 500)
    save(saved, 1000, position=[0, 1, 2])
    found = checkpoints.newest_complete(directory)
    assert found is not None
    step, manifest = found
    assert (step, manifest["metadata"], manifest["num_workers"]) == (1000, {"position": [0, 1, 2]}, 1)
    assert latest(directory) == 1000
    path = checkpoints.path_of(directory, 500)
    assert_same(checkpoints.read_shared(path, checkpoints.manifest_of(directory, 500)), shared(500))
    assert_same(checkpoints.read_own(path, checkpoints.manifest_of(directory, 500), 0), own(500))


def test_the_newest_stay(tmp_path: pathlib.Path) -> None:
    saved = at(tmp_path, keep=2)
    for step in (50, 100, 99_999_950, 100_000_000):
        save(saved, step)
    assert checkpoints.committed_steps(str(tmp_path)) == [99_999_950, 100_000_000]
    assert len(files.names(str(tmp_path))) == 2
    for name in ("keep", "keep_every_steps"):
        with pytest.raises(ValueError, match=f"{name} is 0; expected at least 1"):
            at(tmp_path, **{name: 0})


def test_the_best_and_some_for_ever_stay(tmp_path: pathlib.Path) -> None:
    saved = at(tmp_path, keep=1, keep_every_steps=1000)
    for step, rank in ((500, 3.0), (1000, 2.0), (1500, 1.5), (1600, None), (1700, 4.0)):
        save(saved, step, **({} if rank is None else {"rank": rank}))
    assert checkpoints.committed_steps(str(tmp_path)) == [1000, 1500, 1700]
    assert checkpoints.best_step(str(tmp_path)) == 1500
    saved.update_metadata(1700, {"rank": 1.0, "position": [0, 3, 0]})
    assert checkpoints.committed_steps(str(tmp_path)) == [1000, 1700]
    assert checkpoints.manifest_of(str(tmp_path), 1700)["metadata"] == {"rank": 1.0, "position": [0, 3, 0]}
    step, found, owns = checkpoints.read_best(str(tmp_path))
    assert step == latest(tmp_path) == 1700
    assert_same(found, shared(1700))
    assert_same(owns[0], own(1700))
    saved.update_metadata(9, {"rank": 0.0})
    assert checkpoints.best_step(str(tmp_path)) == 1700, "what is not there has no metadata"


def test_a_step_may_be_saved_again(tmp_path: pathlib.Path) -> None:
    saved = at(tmp_path)
    saved.save(500, {"weights": [np.zeros(9)], "more": [np.zeros(1)]}, {"lanes": []}, {})
    save(saved, 500)
    assert latest(tmp_path) == 500


def test_a_save_that_dies_anywhere_leaves_the_checkpoint_before(tmp_path: pathlib.Path) -> None:
    for operation in itertools.count():
        directory = tmp_path / str(operation)
        saved = at(directory, keep=1)
        save(saved, 500)
        died = faults.dies_at(operation, lambda: save(saved, 1000))  # noqa: B023
        assert latest(directory) in (500, 1000)
        if not died:
            assert latest(directory) == 1000
            break
        saved = at(directory, keep=1)
        saved.prepare()
        assert len(files.names(str(directory))) == len(checkpoints.committed_steps(str(directory)))
        save(saved, 1000)
        assert latest(directory) == 1000
        assert checkpoints.committed_steps(str(directory)) == [1000]
    assert operation >= 5, "directory, shared, own, manifest aside, manifest in place"


_KILLED_SAVER = """
import os, signal, sys
import numpy as np
from tf_codistill import checkpoints, weights

saved = checkpoints.Checkpoints(sys.argv[1])
arrays = {"weights": [np.ones(3, "float32")]}
saved.save(500, arrays, arrays, {})
write = weights.write
def last_write(prefix, **arrays):
    write(prefix, **arrays)
    if prefix.endswith("worker_0"):
        os.kill(os.getpid(), signal.SIGKILL)
weights.write = last_write
saved.save(1000, arrays, arrays, {})
"""


def test_a_killed_process_leaves_the_checkpoint_before(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-c", _KILLED_SAVER, str(tmp_path)]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(files.names(str(tmp_path / "checkpoint_00001000"))) == 4, "all was written but the manifest"
    step, found, _ = checkpoints.read_latest(str(tmp_path))
    assert step == 500
    np.testing.assert_array_equal(found["weights"], [np.ones(3)])
    at(tmp_path).prepare()
    assert files.names(str(tmp_path)) == ["checkpoint_00000500"]


DAMAGES = ("cut in the middle", "flipped bit", "missing")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning_that_names_the_file(
    tmp_path: pathlib.Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    saved = at(tmp_path)
    save(saved, 500)
    save(saved, 1000)
    paths = sorted((tmp_path / "checkpoint_00001000").iterdir())
    assert len(paths) == 6
    for path in paths:
        content = path.read_bytes()
        if damage == "cut in the middle":
            faults.halve(path)
        elif damage == "missing":
            path.unlink()
        elif path.name == files.MANIFEST:
            faults.flip(path, 0)
        else:
            faults.flip(path, len(content) // 2)
        caplog.clear()
        with caplog.at_level(standard_logging.WARNING, logger="absl"):
            assert latest(tmp_path) == 500
        if (path.name, damage) != (files.MANIFEST, "missing"):
            assert "checkpoint of step 1000 is passed over: " in caplog.text
            assert path.name in caplog.text
        path.write_bytes(content)
    assert latest(tmp_path) == 1000


def test_a_damaged_checkpoint_is_written_anew_when_its_step_comes(tmp_path: pathlib.Path) -> None:
    """It is not committed while that goes on: what is damaged stays damaged, or is complete."""
    for operation in itertools.count():
        directory = tmp_path / str(operation)
        saved = at(directory)
        save(saved, 500)
        save(saved, 1000)
        faults.halve(directory / "checkpoint_00001000" / "worker_0.index")
        died = faults.dies_at(operation, lambda: save(saved, 1000))  # noqa: B023
        assert latest(directory) == (500 if died else 1000)
        if not died:
            break


def test_a_part_of_an_earlier_start_is_not_taken_for_a_new_one(tmp_path: pathlib.Path) -> None:
    parts = []
    for worker in (1, 0):
        saved = at(tmp_path, timeout_secs=0.2)
        saved.worker, saved.num_workers, saved.start = worker, 2, 7
        parts.append(saved)
        saved.save(500, shared(500), own(500), {})
    assert checkpoints.read_latest(str(tmp_path))[0] == 500
    for saved in parts:
        saved.start = 8
    with pytest.raises(OSError, match="worker 1 has not written its part of checkpoint .*00500' in time"):
        parts[1].save(500, shared(500), own(500), {})
    assert checkpoints.newest_complete(str(tmp_path)) is None


def test_parts_of_workers_that_there_are_no_more_are_taken_away(tmp_path: pathlib.Path) -> None:
    """Three workers' checkpoint is damaged; one worker comes to its step once more."""
    for worker in (1, 2, 0):
        saved = at(tmp_path)
        saved.worker, saved.num_workers, saved.start = worker, 3, 7
        saved.save(500, shared(500), own(500), {})
    assert len(checkpoints.read_latest(str(tmp_path))[2]) == 3
    faults.halve(tmp_path / "checkpoint_00000500" / "worker_1.index")
    assert checkpoints.newest_complete(str(tmp_path)) is None
    save(at(tmp_path), 500)
    assert latest(tmp_path) == 500
    files_there = set(files.names(str(tmp_path / "checkpoint_00000500")))
    listed = set(checkpoints.manifest_of(str(tmp_path), 500)["files"])
    assert files_there == listed | {files.MANIFEST}
    assert {name.split(".")[0] for name in listed} == {"shared", "worker_0"}


def test_no_flipped_bit_of_the_manifest_gives_other_arrays(tmp_path: pathlib.Path) -> None:
    save(at(tmp_path), 500)
    path = tmp_path / "checkpoint_00000500" / files.MANIFEST
    content = path.read_bytes()
    source = np.random.default_rng(0)
    for position in source.choice(len(content), 100, replace=False):
        faults.flip(path, position, 1 << int(source.integers(8)))
        try:
            _, found, owns = checkpoints.read_latest(str(tmp_path))
            complaint = ""
        except ValueError as error:
            complaint = str(error)
        if complaint:
            assert "checkpoint_00000500" in complaint or "no complete checkpoint" in complaint
        else:
            by_name = [arrays for name, arrays in sorted(found.items()) if arrays]
            for one, other in zip(by_name, (shared(500)["optimizer"], shared(500)["weights"]), strict=True):
                assert_same({"": one}, {"": other})
            for mine in owns:
                assert_same(mine, own(500))
        path.write_bytes(content)


def test_another_format_is_refused(tmp_path: pathlib.Path) -> None:
    """Passing it over would begin anew, and in the end delete it."""
    save(at(tmp_path), 500)
    path = tmp_path / "checkpoint_00000500" / files.MANIFEST
    manifest = json.loads(path.read_text())
    del manifest["seal"]
    path.write_text(json.dumps({**manifest, "format_version": 1}))
    with pytest.raises(ValueError, match="00500' has format version 1; expected 2: it is of another version"):
        checkpoints.read_latest(str(tmp_path))


def test_storage_that_cannot_be_read_is_no_damage(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(at(tmp_path), 500)

    def failing(path: str) -> str:
        raise OSError("try again")

    monkeypatch.setattr(files, "checksum", failing)
    with pytest.raises(OSError, match="try again"):
        checkpoints.newest_complete(str(tmp_path))


def test_a_directory_that_cannot_be_made_is_an_error_of_storage(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written to"):
        save(at(tmp_path / "file"), 500)


def test_what_is_not_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        ValueError, match=r"no complete checkpoint in '.*absent'; has the group been trained\?"
    ):
        checkpoints.read_latest(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="has a monitored value"):
        checkpoints.read_best(str(tmp_path / "absent"))


def test_workers_wait_for_each_other_by_files(tmp_path: pathlib.Path) -> None:
    """The chief commits when the part of the last is there; nobody else waits."""
    workers = []
    for worker in range(3):
        saved = at(tmp_path, keep=1)
        saved.worker, saved.num_workers, saved.start = worker, 3, 11
        workers.append(saved)
    lanes = [{"lanes": [np.full(2, worker)]} for worker in range(3)]
    for step in (500, 1000):
        chief = threading.Thread(target=workers[0].save, args=(step, shared(step), lanes[0], {}))
        chief.start()
        for worker in (2, 1):
            assert step not in checkpoints.committed_steps(str(tmp_path))
            workers[worker].save(step, {"weights": [np.zeros(1)]}, lanes[worker], {})
        chief.join()
    assert checkpoints.committed_steps(str(tmp_path)) == [1000]
    _, found, owns = checkpoints.read_latest(str(tmp_path))
    assert_same(found, shared(1000))
    for mine, expected in zip(owns, lanes, strict=True):
        assert_same(mine, expected)
    manifest = checkpoints.manifest_of(str(tmp_path), 1000)
    assert {name.split(".")[0] for name in manifest["files"]} == {
        "shared",
        "worker_0",
        "worker_1",
        "worker_2",
    }
