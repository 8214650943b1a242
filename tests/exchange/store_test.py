from __future__ import annotations

import itertools
import json
import pathlib
import re
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from tests import faults
from tf_codistill import files, weights
from tf_codistill.exchange import precision as precisions
from tf_codistill.exchange.snapshot import Snapshot
from tf_codistill.exchange.store import Store

MODEL = [
    {"name": "model/embedding", "shape": [3, 2], "dtype": "float32"},
    {"name": "model/head", "shape": [2], "dtype": "float32"},
]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def arrays(step: int) -> list[np.ndarray]:
    return [np.full((3, 2), step, "float32"), np.arange(2, dtype="float32") + step]


def states(step: int) -> list[np.ndarray]:
    return [np.full((4, 5), step / 10, "float32")]


def store(directory: pathlib.Path | str, group: int = 0, **kwargs: object) -> Store:
    return Store(str(directory), group, **kwargs)


def publish(writer: Store, step: int) -> int:
    return writer.publish(step, MODEL, arrays(step), states(step))


def assert_whole(snapshot: Snapshot, step: int) -> None:
    assert snapshot.step == step
    np.testing.assert_array_equal(snapshot.weights[0], arrays(step)[0])
    np.testing.assert_array_equal(snapshot.weights[1], arrays(step)[1])
    np.testing.assert_array_equal(snapshot.states, states(step))


@pytest.mark.parametrize("scheme", ["local", "ram"])
def test_a_snapshot_reaches_a_peer(tmp_path: pathlib.Path, scheme: str) -> None:
    directory = str(tmp_path) if scheme == "local" else "ram://store_test/exchange"
    clock = Clock()
    writer, reader = store(directory, 0, clock=clock, min_age_secs=0, keep=1), store(directory, 1)
    assert reader.latest(0) is None
    assert reader.difference(0, MODEL) is None
    writer.announce(MODEL, 0)
    assert reader.latest(0) is None
    num_bytes = publish(writer, 50)
    assert reader.latest(0) == 50
    snapshot = reader.read(0, 50, MODEL)
    assert_whole(snapshot, 50)
    assert (snapshot.group, snapshot.published_at, snapshot.num_bytes) == (0, 1000.0, num_bytes)
    assert num_bytes > 4 * (6 + 2 + 20)
    publish(writer, 100)
    assert reader.latest(0) == 100
    with pytest.raises(ValueError, match=r"snapshot '.*snapshot_00000050' is not there any more"):
        reader.read(0, 50, MODEL)
    assert reader.latest(1) is None, "each group has its own part"


WIDE = [{"name": "kernel", "shape": [64, 20], "dtype": "float32"}, MODEL[1]]
WIDE_ARRAYS = [np.random.default_rng(0).normal(size=(64, 20)).astype("float32"), arrays(7)[1]]


@pytest.mark.parametrize("precision", precisions.PRECISIONS)
def test_a_snapshot_in_fewer_bits_is_read_whoever_reads_it(tmp_path: pathlib.Path, precision: str) -> None:
    writer, reader = store(tmp_path, 0, precision=precision), store(tmp_path, 1, precision="float16")
    writer.announce(WIDE, 0)
    assert reader.difference(0, WIDE) is None, "models are compared as they are trained"
    writer.publish(100, WIDE, WIDE_ARRAYS, states(5))
    mark = files.read_mark(str(tmp_path / "group_0" / "snapshot_00000100"))
    assert (mark["precision"], mark["fingerprint"]) == (precision, weights.fingerprint(WIDE))
    snapshot = reader.read(0, 100, WIDE)
    for found, array in zip(snapshot.weights, WIDE_ARRAYS, strict=True):
        expected = precisions.unpack(precisions.pack(array, precision), "float32")
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(snapshot.states, states(5), rtol=0 if precision == "float32" else 2**-8)
    data = snapshot_files(tmp_path)["weights.data-00000-of-00001"].stat().st_size
    smallest = {"float32": 5120 + 88, "bfloat16": 2560 + 48, "float16": 2560 + 48, "int8": 1360 + 48}[
        precision
    ]
    assert smallest <= data < smallest + 600


@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
def test_damage_to_a_packed_snapshot_is_seen(tmp_path: pathlib.Path, precision: str) -> None:
    writer, reader = store(tmp_path, 0, precision=precision), store(tmp_path, 1)
    writer.publish(100, WIDE, WIDE_ARRAYS)
    whole = reader.read(0, 100, WIDE).weights
    paths = snapshot_files(tmp_path)
    source = np.random.default_rng(0)
    for name in ("weights.data-00000-of-00001", "weights.index"):
        content = paths[name].read_bytes()
        for position in source.choice(len(content), 10, replace=False):
            faults.flip(paths[name], position, 1 << int(source.integers(8)))
            with pytest.raises(ValueError, match=re.escape(name)):
                reader.read(0, 100, WIDE)
            paths[name].write_bytes(content)
    mark = json.loads(paths[files.MARK].read_text())
    without = {key: value for key, value in mark.items() if key != "precision"}
    for wrong in (
        {"precision": "float32"},
        {"precision": "float16"},
        {"precision": "int4"},
        {"precision": 8},
        {},
    ):
        paths[files.MARK].write_text(json.dumps({**without, **wrong}))
        with pytest.raises(ValueError, match="snapshot_00000100"):
            reader.read(0, 100, WIDE)
    paths[files.MARK].write_text(json.dumps(mark))
    for found, array in zip(reader.read(0, 100, WIDE).weights, whole, strict=True):
        np.testing.assert_array_equal(found, array)


def test_a_mark_that_names_no_precision_is_of_an_older_version(tmp_path: pathlib.Path) -> None:
    publish(store(tmp_path), 100)
    path = snapshot_files(tmp_path)[files.MARK]
    mark = json.loads(path.read_text())
    del mark["precision"]
    path.write_text(json.dumps(mark))
    assert_whole(store(tmp_path, 1).read(0, 100, MODEL), 100)


def test_the_newest_by_number_counts(tmp_path: pathlib.Path) -> None:
    writer = store(tmp_path)
    for step in (50, 99_999_950, 100_000_000):
        publish(writer, step)
    assert writer.latest(0) == 100_000_000
    assert_whole(writer.read(0, 100_000_000, MODEL), 100_000_000)


def test_a_model_without_memory_publishes_no_states(tmp_path: pathlib.Path) -> None:
    store(tmp_path).publish(1, MODEL, arrays(1))
    assert store(tmp_path, 1).read(0, 1, MODEL).states == []


def test_a_step_is_published_once(tmp_path: pathlib.Path) -> None:
    writer = store(tmp_path)
    assert publish(writer, 50) > 0
    assert writer.publish(50, MODEL, arrays(51), states(51)) == 0
    assert_whole(writer.read(0, 50, MODEL), 50)


def test_a_writer_that_dies_anywhere_leaves_the_snapshot_before(tmp_path: pathlib.Path) -> None:
    for operation in itertools.count():
        directory = tmp_path / str(operation)
        writer, reader = store(directory, 0), store(directory, 1)
        writer.announce(MODEL, 0)
        publish(writer, 50)
        died = faults.dies_at(operation, lambda: publish(writer, 100))  # noqa: B023
        latest = reader.latest(0)
        assert latest == (50 if died else 100)
        assert_whole(reader.read(0, latest, MODEL), latest)
        if not died:
            break
        publish(writer, 100)
        assert_whole(reader.read(0, reader.latest(0), MODEL), 100)
    assert operation >= 4, "directory, weights, mark aside, mark in place"


_KILLED_PUBLISHER = """
import os, signal, sys
import numpy as np
from tf_codistill import files, weights
from tf_codistill.exchange.store import Store

def publish(step):
    arrays = [np.full((3, 2), step, "float32"), np.arange(2, dtype="float32") + step]
    store.publish(step, MODEL, arrays, [np.full((4, 5), step / 10, "float32")])

MODEL = {model}
store = Store(sys.argv[1], 0)
store.announce(MODEL, 0)
publish(50)
files.commit = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
publish(100)
"""


def test_a_killed_process_leaves_the_snapshot_before(tmp_path: pathlib.Path) -> None:
    script = _KILLED_PUBLISHER.replace("{model}", repr(MODEL))
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert files.names(str(tmp_path / "group_0" / "snapshot_00000100")), "it had begun"
    reader = store(tmp_path, 1)
    assert reader.latest(0) == 50
    assert_whole(reader.read(0, 50, MODEL), 50)
    with pytest.raises(ValueError, match="snapshot_00000100' is not there"):
        reader.read(0, 100, MODEL)
    restarted = store(tmp_path, 0)
    restarted.announce(MODEL, 50)
    assert files.names(str(tmp_path / "group_0")) == ["model.json", "snapshot_00000050"]


def snapshot_files(directory: pathlib.Path) -> dict[str, pathlib.Path]:
    paths = {path.name: path for path in (directory / "group_0" / "snapshot_00000100").iterdir()}
    assert sorted(paths) == ["manifest.json", "weights.data-00000-of-00001", "weights.index"]
    return paths


@pytest.mark.parametrize("name", ["manifest.json", "weights.data-00000-of-00001", "weights.index"])
def test_a_damaged_snapshot_is_named_and_the_one_before_stays(tmp_path: pathlib.Path, name: str) -> None:
    writer, reader = store(tmp_path, 0), store(tmp_path, 1)
    publish(writer, 50)
    publish(writer, 100)
    path = snapshot_files(tmp_path)[name]
    whole = path.read_bytes()
    for length in {0, 1, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:length])
        if whole[:length].rstrip() != whole.rstrip():  # a mark may lack its last newline
            with pytest.raises(ValueError, match=re.escape(name)):
                reader.read(0, 100, MODEL)
    path.unlink()
    with pytest.raises(ValueError, match="snapshot_00000100"):
        reader.read(0, 100, MODEL)
    assert_whole(reader.read(0, 50, MODEL), 50)


def test_no_flipped_bit_ever_gives_other_arrays(tmp_path: pathlib.Path) -> None:
    writer, reader = store(tmp_path, 0), store(tmp_path, 1)
    publish(writer, 100)
    source = np.random.default_rng(0)
    for name, path in snapshot_files(tmp_path).items():
        whole = path.read_bytes()
        mark = name == files.MARK
        for position in source.choice(len(whole), 250 if mark else 20, replace=False):
            faults.flip(path, position, 1 << int(source.integers(8)))
            complaint = ""
            try:
                assert_whole(reader.read(0, 100, MODEL), 100)
            except ValueError as error:
                complaint = str(error)
            assert "snapshot_00000100" in complaint or (mark and not complaint), "every byte of a file counts"
            path.write_bytes(whole)


def test_a_writer_goes_on_although_its_own_snapshots_are_damaged(tmp_path: pathlib.Path) -> None:
    writer = store(tmp_path, keep=1, min_age_secs=1e9)
    publish(writer, 50)
    publish(writer, 100)
    for step in (50, 100):
        (tmp_path / "group_0" / f"snapshot_{step:08d}" / files.MARK).write_bytes(b'{"files": {}}')
    publish(writer, 100)
    assert_whole(writer.read(0, 100, MODEL), 100)
    assert files.names(str(tmp_path / "group_0")) == ["snapshot_00000100"], "nobody can use the older one"


def test_superseded_snapshots_stay_until_they_are_old(tmp_path: pathlib.Path) -> None:
    clock = Clock()
    writer = store(tmp_path, keep=2, min_age_secs=60, clock=clock)

    def published() -> list[int]:
        return [int(name.removeprefix("snapshot_")) for name in files.names(str(tmp_path / "group_0"))]

    for step in (10, 20, 30, 40):
        publish(writer, step)
        clock.now += 10
    assert published() == [10, 20, 30, 40], "too many, but none is old"
    clock.now = 1000.0 + 59.9
    publish(writer, 50)
    assert published() == [10, 20, 30, 40, 50]
    clock.now = 1000.0 + 60
    publish(writer, 60)
    assert published() == [20, 30, 40, 50, 60]
    clock.now = 0.0
    publish(writer, 70)
    assert published() == [20, 30, 40, 50, 60, 70], "a clock that goes back deletes nothing"
    clock.now = 1e6
    publish(writer, 80)
    assert published() == [70, 80], "the newest stay, however old"
    for step in published():
        assert_whole(writer.read(0, step, MODEL), step)


def test_a_deletion_that_dies_leaves_nothing_half_committed(tmp_path: pathlib.Path) -> None:
    for operation in itertools.count():
        clock = Clock()
        directory = tmp_path / str(operation)
        writer, reader = store(directory, keep=1, min_age_secs=60, clock=clock), store(directory, 1)
        publish(writer, 50)
        clock.now += 100
        died = faults.dies_at(operation, lambda: publish(writer, 100))  # noqa: B023
        for step in (50, 100):
            if files.read_mark(str(directory / "group_0" / f"snapshot_{step:08d}")) is not None:
                assert_whole(reader.read(0, step, MODEL), step)
        assert reader.latest(0) in (50, 100)
        if not died:
            break


def test_a_late_commit_is_seen_when_it_is_there(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = store(tmp_path, 0), store(tmp_path, 1)
    publish(writer, 50)
    may_commit, commit = threading.Event(), files.commit

    def late_commit(directory: str, facts: dict[str, object]) -> dict[str, object]:
        assert may_commit.wait(60)
        return commit(directory, facts)

    monkeypatch.setattr(files, "commit", late_commit)
    slow = threading.Thread(target=publish, args=(writer, 100))
    slow.start()
    while not files.exists(str(tmp_path / "group_0" / "snapshot_00000100" / "weights.index")):
        assert reader.latest(0) == 50
    assert reader.latest(0) == 50
    may_commit.set()
    slow.join()
    assert reader.latest(0) == 100


def test_a_snapshot_that_vanishes_while_it_is_read_is_an_error_of_its_own(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = store(tmp_path, 0), store(tmp_path, 1)
    publish(writer, 50)
    directory = str(tmp_path / "group_0" / "snapshot_00000050")
    for moment in ("read_mark", "verify", "checksum"):
        publish(writer, 50)

        def vanish(*args: object, was: object = getattr(files, moment), **kwargs: object) -> object:
            result = was(*args, **kwargs) if moment != "checksum" else None  # noqa: B023
            files.remove(directory)
            return result if moment != "checksum" else was(*args, **kwargs)  # noqa: B023

        with monkeypatch.context() as patch:
            patch.setattr(files, moment, vanish)
            with pytest.raises(ValueError, match="snapshot_00000050"):
                reader.read(0, 50, MODEL)


def test_another_model_is_named_by_its_first_difference(tmp_path: pathlib.Path) -> None:
    writer, reader = store(tmp_path, 0), store(tmp_path, 1)
    writer.announce(MODEL, 0)
    publish(writer, 50)
    other = [MODEL[0], {**MODEL[1], "shape": [7]}]
    sentence = r"weight 1 is 'model/head' with shape \[7\] here and 'model/head' with shape \[2\] there"
    with pytest.raises(ValueError, match=f"snapshot_00000050' holds another model: {sentence}"):
        reader.read(0, 50, other)
    assert re.fullmatch(sentence, reader.difference(0, other) or "")
    with pytest.raises(
        ValueError, match=rf"group_0' belongs to another model \({sentence}\); use an empty one"
    ):
        store(tmp_path, 0).announce(other, 100)
    assert_whole(reader.read(0, 50, MODEL), 50)


def test_a_snapshot_of_another_format_is_refused(tmp_path: pathlib.Path) -> None:
    publish(store(tmp_path), 100)
    path = snapshot_files(tmp_path)[files.MARK]
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(ValueError, match="has format version 99; expected 1"):
        store(tmp_path).read(0, 100, MODEL)


def test_announce_withdraws_what_lies_ahead(tmp_path: pathlib.Path) -> None:
    writer, reader = store(tmp_path, 0), store(tmp_path, 1)
    for step in (50, 100, 150):
        publish(writer, step)
    publish(store(tmp_path, 1), 150)
    store(tmp_path, 0).announce(MODEL, 100)
    assert reader.latest(0) == 100
    assert reader.latest(1) == 150, "only its own"
    assert files.names(str(tmp_path / "group_0")) == ["model.json", "snapshot_00000050", "snapshot_00000100"]
    writer.publish(150, MODEL, arrays(151), states(151))
    np.testing.assert_array_equal(reader.read(0, 150, MODEL).weights[0], arrays(151)[0])


@pytest.mark.parametrize("content", [b"{", b"[{}]", b"[1]", b"7"], ids=str)
def test_an_announcement_that_is_rubbish_is_named(tmp_path: pathlib.Path, content: bytes) -> None:
    store(tmp_path).announce(MODEL, 0)
    (tmp_path / "group_0" / "model.json").write_bytes(content)
    with pytest.raises(files.CorruptError, match=r"model\.json' .*delete it or write it again"):
        store(tmp_path, 1).difference(0, MODEL)


def test_other_entries_are_no_snapshots(tmp_path: pathlib.Path) -> None:
    writer = store(tmp_path)
    publish(writer, 50)
    for name in ("snapshot_", "snapshot_9", "snapshot_00000099.old", "other"):
        (tmp_path / "group_0" / name).mkdir()
        (tmp_path / "group_0" / name / files.MARK).write_bytes(b"{}")
    assert writer.latest(0) == 50


def test_arguments_out_of_range(tmp_path: pathlib.Path) -> None:
    for kwargs in ({"keep": 0}, {"min_age_secs": -1.0}):
        with pytest.raises(ValueError, match="keep is .* and min_age_secs is .*; expected at least 1 and 0"):
            store(tmp_path, **kwargs)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be written to"):
        store(tmp_path / "file").announce(MODEL, 0)
    assert weights.fingerprint(MODEL) == weights.fingerprint(json.loads(json.dumps(MODEL)))


def test_an_announcement_without_snapshots_binds_nobody(tmp_path: pathlib.Path) -> None:
    other = [MODEL[0], {**MODEL[1], "shape": [7]}]
    writer, reader = store(tmp_path, 0), store(tmp_path, 1)
    writer.announce(other, 0)
    writer.announce(MODEL, 0)
    assert reader.difference(0, MODEL) is None
    writer.withdraw()
    assert reader.difference(0, other) is None
    writer.announce(MODEL, 0)
    publish(writer, 50)
    writer.withdraw()
    assert reader.difference(0, other) is not None
