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
from tf_codistill.exchange.snapshot import Ref, Snapshot
from tf_codistill.exchange.store import Store
from tf_codistill.files import documents

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
    """Of one run, and of incarnation 0 if it is not announced."""
    return Store(str(directory), group, **{"run_id": "run", **kwargs})


FIRST, SECOND = Ref(0, 0, 1), Ref(0, 0, 2)
NAMES = ["snapshot_0000000000_000001", "snapshot_0000000000_000002"]


def latest(reader: Store, group: int = 0) -> int | None:
    """The step of the newest snapshot of a group."""
    ref = reader.newest(group)
    manifest = files.read_manifest(reader._path(ref)) if ref else None
    return manifest["step"] if manifest else None


def publish(writer: Store, step: int) -> int:
    return writer.publish(step, MODEL, arrays(step), states(step))


def assert_complete(snapshot: Snapshot, step: int) -> None:
    assert snapshot.step == step
    np.testing.assert_array_equal(snapshot.weights[0], arrays(step)[0])
    np.testing.assert_array_equal(snapshot.weights[1], arrays(step)[1])
    np.testing.assert_array_equal(snapshot.states, states(step))


@pytest.mark.parametrize("scheme", ["local", "ram"])
def test_a_snapshot_reaches_a_peer(tmp_path: pathlib.Path, scheme: str) -> None:
    directory = str(tmp_path) if scheme == "local" else "ram://store_test/exchange"
    clock = Clock()
    writer, reader = store(directory, 0, clock=clock, min_age_secs=0, keep=1), store(directory, 1)
    assert reader.newest(0) is None
    assert reader.difference(0, MODEL) is None
    writer.announce(MODEL, 0)
    assert reader.newest(0) is None
    num_bytes = publish(writer, 50)
    first = reader.newest(0)
    assert first == Ref(0, 1000, 1)
    snapshot = reader.read(first, MODEL)
    assert_complete(snapshot, 50)
    assert (snapshot.published_at, snapshot.num_bytes) == (1000.0, num_bytes)
    assert snapshot.ref == first
    assert num_bytes > 4 * (6 + 2 + 20)
    publish(writer, 100)
    assert latest(reader) == 100
    with pytest.raises(ValueError, match=r"snapshot '.*snapshot_0000001000_000001' is not there any more"):
        reader.read(first, MODEL)
    assert reader.newest(1) is None, "each group has its own part"


WIDE = [{"name": "kernel", "shape": [64, 20], "dtype": "float32"}, MODEL[1]]
WIDE_ARRAYS = [np.random.default_rng(0).normal(size=(64, 20)).astype("float32"), arrays(7)[1]]


@pytest.mark.parametrize("precision", precisions.PRECISIONS)
def test_a_snapshot_in_fewer_bits_is_read_whoever_reads_it(tmp_path: pathlib.Path, precision: str) -> None:
    writer, reader = store(tmp_path, 0, precision=precision), store(tmp_path, 1, precision="float16")
    writer.announce(WIDE, 0)
    assert reader.difference(0, WIDE) is None, "models are compared as they are trained"
    writer.publish(100, WIDE, WIDE_ARRAYS, states(5))
    ref = reader.newest(0)
    manifest = files.read_manifest(reader._path(ref))
    assert manifest["precision"] == precision
    snapshot = reader.read(ref, WIDE)
    assert snapshot.precision == precision
    expected = precisions.quantize_all(WIDE_ARRAYS, precision)
    assert [part.dtype for part in snapshot.weights] == [part.dtype for part in expected], "as it lies there"
    for found, part in zip(snapshot.weights, expected, strict=True):
        np.testing.assert_array_equal(found, part)
    np.testing.assert_allclose(snapshot.states, states(5), rtol=0 if precision == "float32" else 2**-8)
    data = manifest["files"]["weights.data-00000-of-00001"]["bytes"]
    smallest = {"float32": 5120 + 88, "bfloat16": 2560 + 48, "float16": 2560 + 48, "int8": 1360 + 48}[
        precision
    ]
    assert smallest == data


@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
def test_damage_to_a_quantized_snapshot_is_seen(tmp_path: pathlib.Path, precision: str) -> None:
    writer, reader = store(tmp_path, 0, precision=precision), store(tmp_path, 1)
    writer.publish(100, WIDE, WIDE_ARRAYS)
    complete = reader.read(FIRST, WIDE).weights
    paths = snapshot_files(tmp_path)
    source = np.random.default_rng(0)
    for name in ("weights.data-00000-of-00001", "weights.index"):
        content = paths[name].read_bytes()
        for position in source.choice(len(content), 10, replace=False):
            faults.flip(paths[name], position, 1 << int(source.integers(8)))
            with pytest.raises(ValueError, match=re.escape(name)):
                reader.read(FIRST, WIDE)
            paths[name].write_bytes(content)
    written = paths[files.MANIFEST].read_bytes()
    manifest = documents.unsealed("", written)
    without = {key: value for key, value in manifest.items() if key != "precision"}
    for wrong in (
        {"precision": "float32"},
        {"precision": "float16"},
        {"precision": "int4"},
        {"precision": 8},
        {},
    ):
        paths[files.MANIFEST].write_bytes(documents.encode(documents.sealed({**without, **wrong})))
        with pytest.raises(ValueError, match=NAMES[0]):
            reader.read(FIRST, WIDE)
    paths[files.MANIFEST].write_bytes(written)
    for found, array in zip(reader.read(FIRST, WIDE).weights, complete, strict=True):
        np.testing.assert_array_equal(found, array)


def test_nobody_reads_what_an_owner_publishes_after_another_has_come(tmp_path: pathlib.Path) -> None:
    zombie, owner, reader = store(tmp_path), store(tmp_path), store(tmp_path, 1)
    zombie.announce(MODEL, 0)
    publish(zombie, 10)
    owner.announce(MODEL, 10)
    publish(zombie, 20)
    assert latest(reader) == 10, "of before still counts"
    publish(owner, 11)
    publish(zombie, 30)
    assert latest(reader) == 11


def test_the_newest_by_incarnation_and_number_counts(tmp_path: pathlib.Path) -> None:
    """Not by step: a group that has begun anew is behind what it was."""
    clock = Clock()
    first, reader = store(tmp_path, clock=clock), store(tmp_path, 1)
    first.announce(MODEL, 0)
    for step in (50, 100_000_000):
        publish(first, step)
    second = store(tmp_path, clock=clock)
    second.announce(MODEL, 100)
    assert (first.incarnation, second.incarnation) == (1000, 1001), "also if the clock stands still"
    assert latest(reader) == 50, "what lies ahead has been withdrawn"
    publish(second, 50)
    assert reader.newest(0) == Ref(0, 1001, 1), (
        "one that is published again under the same step is another one"
    )
    publish(first, 200)
    assert reader.newest(0) == Ref(0, 1001, 1), "a writer that was taken for dead is not listened to"
    clock.now = 5000.0
    third = store(tmp_path, clock=clock)
    third.announce(MODEL, 300)
    assert third.incarnation == 5000
    publish(third, 350)
    assert_complete(reader.read(Ref(0, 5000, 1), MODEL), 350)


def test_another_runs_snapshots_are_never_taken(tmp_path: pathlib.Path) -> None:
    stale, other = store(tmp_path, 0, run_id="yesterday"), [MODEL[0], {**MODEL[1], "shape": [7]}]
    stale.announce(MODEL, 0)
    publish(stale, 900)
    reader = store(tmp_path, 1, run_id="today")
    reader.announce(MODEL, 0)
    assert reader.newest(0) is None
    assert reader.difference(0, other) is None, "nor does it matter which model that was"
    writer = store(tmp_path, 0, run_id="today")
    writer.announce(other, 0)
    assert not [name for name in files.names(str(tmp_path / "group_0")) if "snapshot" in name]
    writer = store(tmp_path, 0, run_id="today")
    writer.announce(MODEL, 0)
    publish(writer, 5)
    publish(stale, 950)
    assert latest(reader) == 5


def test_without_a_name_the_first_group_names_the_run(tmp_path: pathlib.Path) -> None:
    stores = [store(tmp_path, group, run_id=None) for group in (0, 1)]
    for one in stores:
        one.announce(MODEL, 0)
        publish(one, 5)
    assert [latest(one, 1 - one.group) for one in stores] == [5, 5]
    named = store(tmp_path, 2, run_id="named")
    named.announce(MODEL, 0)
    publish(named, 7)
    assert latest(stores[0], 2) == 7, "who has no name of its own follows"
    assert latest(stores[0], 1) is None
    publish(stores[1], 10)
    assert latest(stores[0], 1) is None
    assert latest(stores[1], 2) == 7
    publish(stores[1], 15)
    assert latest(stores[0], 1) == 15


def test_a_model_without_memory_publishes_no_states(tmp_path: pathlib.Path) -> None:
    store(tmp_path).publish(1, MODEL, arrays(1))
    assert store(tmp_path, 1).read(FIRST, MODEL).states == []


def test_a_writer_that_dies_anywhere_leaves_the_snapshot_before(tmp_path: pathlib.Path) -> None:
    for operation in itertools.count():
        directory = tmp_path / str(operation)
        writer, reader = store(directory, 0), store(directory, 1)
        writer.announce(MODEL, 0)
        publish(writer, 50)
        died = faults.dies_at(operation, lambda: publish(writer, 100))  # noqa: B023
        newest = reader.newest(0)
        assert latest(reader) == (50 if died else 100)
        assert_complete(reader.read(newest, MODEL), 50 if died else 100)
        if not died:
            break
        publish(writer, 100)
        assert_complete(reader.read(reader.newest(0), MODEL), 100)
    assert operation >= 4, "directory, weights, manifest aside, manifest in place"


_KILLED_PUBLISHER = """
import os, signal, sys
import numpy as np
from tf_codistill import files, weights
from tf_codistill.exchange.store import Store

def publish(step):
    arrays = [np.full((3, 2), step, "float32"), np.arange(2, dtype="float32") + step]
    store.publish(step, MODEL, arrays, [np.full((4, 5), step / 10, "float32")])

MODEL = {model}
store = Store(sys.argv[1], 0, run_id="run", clock=lambda: 1000.0)
store.announce(MODEL, 0)
publish(50)
files.commit = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
publish(100)
"""


def test_a_killed_process_leaves_the_snapshot_before(tmp_path: pathlib.Path) -> None:
    script = _KILLED_PUBLISHER.replace("{model}", repr(MODEL))
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    half = "snapshot_0000001000_000002"
    assert files.names(str(tmp_path / "group_0" / half)), "it had begun"
    reader = store(tmp_path, 1)
    assert latest(reader) == 50
    assert_complete(reader.read(reader.newest(0), MODEL), 50)
    with pytest.raises(ValueError, match=f"{half}' is not there"):
        reader.read(Ref(0, 1000, 2), MODEL)
    restarted = store(tmp_path, 0)
    restarted.announce(MODEL, 50)
    assert files.names(str(tmp_path / "group_0")) == ["model.json", "snapshot_0000001000_000001"]


def snapshot_files(directory: pathlib.Path, number: int = 1) -> dict[str, pathlib.Path]:
    paths = {path.name: path for path in (directory / "group_0" / NAMES[number - 1]).iterdir()}
    assert sorted(paths) == ["manifest.json", "weights.data-00000-of-00001", "weights.index"]
    return paths


@pytest.mark.parametrize("name", ["manifest.json", "weights.data-00000-of-00001", "weights.index"])
def test_a_damaged_snapshot_is_named_and_the_one_before_stays(tmp_path: pathlib.Path, name: str) -> None:
    writer, reader = store(tmp_path, 0), store(tmp_path, 1)
    publish(writer, 50)
    publish(writer, 100)
    path = snapshot_files(tmp_path, 2)[name]
    complete = path.read_bytes()
    for length in {0, 1, len(complete) // 2, len(complete) - 1}:
        path.write_bytes(complete[:length])
        if complete[:length].rstrip() != complete.rstrip():  # a manifest may lack its last newline
            with pytest.raises(ValueError, match=re.escape(name)):
                reader.read(SECOND, MODEL)
    path.unlink()
    with pytest.raises(ValueError, match=NAMES[1]):
        reader.read(SECOND, MODEL)
    assert_complete(reader.read(FIRST, MODEL), 50)


def test_no_flipped_bit_ever_gives_other_arrays(tmp_path: pathlib.Path) -> None:
    writer, reader = store(tmp_path, 0), store(tmp_path, 1)
    publish(writer, 100)
    source = np.random.default_rng(0)
    for name, path in snapshot_files(tmp_path).items():
        complete = path.read_bytes()
        is_manifest = name == files.MANIFEST
        for position in source.choice(len(complete), 250 if is_manifest else 20, replace=False):
            faults.flip(path, position, 1 << int(source.integers(8)))
            complaint = ""
            try:
                assert_complete(reader.read(FIRST, MODEL), 100)
            except ValueError as error:
                complaint = str(error)
            assert NAMES[0] in complaint or (is_manifest and not complaint), "every byte of a file counts"
            path.write_bytes(complete)


def test_a_writer_goes_on_although_its_own_snapshots_are_damaged(tmp_path: pathlib.Path) -> None:
    writer = store(tmp_path, keep=1, min_age_secs=1e9)
    publish(writer, 50)
    publish(writer, 100)
    for name in NAMES:
        (tmp_path / "group_0" / name / files.MANIFEST).write_bytes(b'{"files": {}}')
    again = store(tmp_path)
    again.announce(MODEL, 100)
    assert files.names(str(tmp_path / "group_0")) == ["model.json"], "nobody can use them"
    publish(again, 100)
    assert_complete(again.read(Ref(0, again.incarnation, 1), MODEL), 100)


def published(directory: pathlib.Path) -> list[int]:
    """The steps of a group's snapshots, committed or not."""
    manifests = [
        files.read_manifest(str(path)) for path in sorted((directory / "group_0").glob("snapshot_*"))
    ]
    return [manifest["step"] if manifest else -1 for manifest in manifests]


@pytest.mark.parametrize("days", [1, -1])
def test_a_clock_that_is_off_by_a_day_hides_no_snapshot(tmp_path: pathlib.Path, days: int) -> None:
    """Neither while it is, nor when the group starts again with the right time."""
    clock, reader = Clock(), store(tmp_path, 1)
    clock.now = right = 1e6
    for number, now in enumerate((right, right + 86_400 * days, right)):
        clock.now = now
        writer = store(tmp_path, clock=clock)
        writer.announce(MODEL, 100 * number)
        for step in (100 * number + 1, 100 * number + 2):
            publish(writer, step)
            assert latest(reader) == step
    assert published(tmp_path)[-1] == 202


def test_superseded_snapshots_stay_until_they_are_old(tmp_path: pathlib.Path) -> None:
    clock = Clock()
    writer = store(tmp_path, keep=2, min_age_secs=60, clock=clock)
    for step in (10, 20, 30, 40):
        publish(writer, step)
        clock.now += 10
    assert published(tmp_path) == [10, 20, 30, 40], "too many, but none is old"
    clock.now = 1000.0 + 59.9
    publish(writer, 50)
    assert published(tmp_path) == [10, 20, 30, 40, 50]
    clock.now = 1000.0 + 60
    publish(writer, 60)
    assert published(tmp_path) == [20, 30, 40, 50, 60]
    clock.now = 0.0
    publish(writer, 70)
    assert published(tmp_path) == [20, 30, 40, 50, 60, 70], "a clock that goes back deletes nothing"
    clock.now = 1e6
    publish(writer, 80)
    assert published(tmp_path) == [70, 80], "the newest stay, however old"
    restarted = store(tmp_path, keep=2, min_age_secs=60, clock=clock)
    restarted.announce(MODEL, 80)
    publish(restarted, 90)
    assert published(tmp_path) == [80, 90], "also those of the incarnation before"


def test_superseded_snapshots_go_when_all_are_too_large(tmp_path: pathlib.Path) -> None:
    writer = store(tmp_path, keep=2, min_age_secs=1e9)
    size = publish(writer, 10)
    writer = store(tmp_path, keep=2, min_age_secs=1e9, max_bytes=4.5 * size)
    writer.announce(MODEL, 10)
    for step in (20, 30, 40, 50, 60):
        publish(writer, step)
    assert published(tmp_path) == [30, 40, 50, 60]
    narrow = store(tmp_path, keep=2, min_age_secs=1e9, max_bytes=0)
    narrow.announce(MODEL, 60)
    publish(narrow, 70)
    assert published(tmp_path) == [60, 70], "the newest stay, however large"


def test_a_full_exchange_recovers(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Superseded snapshots make room for the next one, however young, and nothing is left of a failure."""
    write, room = weights.write, 5

    def write_where_there_is_room(prefix: str, **arrays: object) -> files.Listing:
        if len(list((tmp_path / "group_0").glob("snapshot_*/weights.index"))) >= room:
            files.write(prefix + ".data-00000-of-00001", b"half of i")
            raise OSError("no space left on device")
        return write(prefix, **arrays)

    monkeypatch.setattr(weights, "write", write_where_there_is_room)
    writer = store(tmp_path, keep=3, min_age_secs=1e9)
    for step in (10, 20, 30, 40, 50):
        publish(writer, step)
    publish(writer, 60)
    assert published(tmp_path) == [40, 50, 60], "room was made for it"
    room = 3
    publish(writer, 70)
    assert published(tmp_path) == [50, 60, 70]
    room = 0
    for _ in range(20):
        with pytest.raises(OSError, match="no space left"):
            publish(writer, 80)
    assert published(tmp_path) == [60, 70], "and none of the twenty attempts"
    room = 3
    publish(writer, 90)
    assert published(tmp_path) == [60, 70, 90]


def test_a_deletion_that_dies_leaves_nothing_half_committed(tmp_path: pathlib.Path) -> None:
    for operation in itertools.count():
        clock = Clock()
        directory = tmp_path / str(operation)
        writer, reader = store(directory, keep=1, min_age_secs=60, clock=clock), store(directory, 1)
        publish(writer, 50)
        clock.now += 100
        died = faults.dies_at(operation, lambda: publish(writer, 100))  # noqa: B023
        for ref, step in ((FIRST, 50), (SECOND, 100)):
            if files.read_manifest(reader._path(ref)) is not None:
                assert_complete(reader.read(ref, MODEL), step)
        assert latest(reader) in (50, 100)
        if not died:
            break


def test_a_late_commit_is_seen_when_it_is_there(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = store(tmp_path, 0), store(tmp_path, 1)
    publish(writer, 50)
    may_commit, commit = threading.Event(), files.commit

    def late_commit(*arguments: object, **options: object) -> dict[str, object]:
        assert may_commit.wait(60)
        return commit(*arguments, **options)

    monkeypatch.setattr(files, "commit", late_commit)
    slow = threading.Thread(target=publish, args=(writer, 100))
    slow.start()
    while not files.exists(str(tmp_path / "group_0" / NAMES[1] / "weights.index")):
        assert latest(reader) == 50
    assert latest(reader) == 50
    may_commit.set()
    slow.join()
    assert latest(reader) == 100


def test_a_snapshot_that_vanishes_while_it_is_read_is_an_error_of_its_own(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for moment in ("read", "verify", "read_into"):
        writer, reader = store(tmp_path / moment, 0), store(tmp_path / moment, 1)
        publish(writer, 50)
        directory = str(tmp_path / moment / "group_0" / NAMES[0])

        def vanish(*args: object, was: object = getattr(files, moment), **kwargs: object) -> object:
            result = was(*args, **kwargs) if moment != "read_into" else None  # noqa: B023
            files.remove(directory)  # noqa: B023
            return result if moment != "read_into" else was(*args, **kwargs)  # noqa: B023

        with monkeypatch.context() as patch:
            patch.setattr(files, moment, vanish)
            with pytest.raises(ValueError, match=NAMES[0]):
                reader.read(FIRST, MODEL)


def test_another_model_is_named_by_its_first_difference(tmp_path: pathlib.Path) -> None:
    writer, reader = store(tmp_path, 0), store(tmp_path, 1)
    writer.announce(MODEL, 0)
    publish(writer, 50)
    ref = reader.newest(0)
    other = [MODEL[0], {**MODEL[1], "shape": [7]}]
    sentence = r"weight 1 is 'model/head' with shape \[7\] here and 'model/head' with shape \[2\] there"
    with pytest.raises(ValueError, match=f"_000001' holds another model: {sentence}"):
        reader.read(ref, other)
    assert re.fullmatch(sentence, reader.difference(0, other) or "")
    with pytest.raises(
        ValueError, match=rf"group_0' belongs to another model \({sentence}\); use an empty one"
    ):
        store(tmp_path, 0).announce(other, 100)
    assert_complete(reader.read(ref, MODEL), 50)


def test_a_snapshot_of_another_format_is_refused(tmp_path: pathlib.Path) -> None:
    publish(store(tmp_path), 100)
    path = snapshot_files(tmp_path)[files.MANIFEST]
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(ValueError, match="has format version 99; expected 3"):
        store(tmp_path).read(FIRST, MODEL)
    (tmp_path / "group_0" / "model.json").write_text(json.dumps(MODEL))  # as version 1 had it
    with pytest.raises(ValueError, match=r"model\.json' holds no JSON object; delete"):
        store(tmp_path, 1).difference(0, MODEL)


def test_announce_withdraws_what_lies_ahead(tmp_path: pathlib.Path) -> None:
    writer, reader = store(tmp_path, 0), store(tmp_path, 1)
    for step in (50, 100, 150):
        publish(writer, step)
    publish(store(tmp_path, 1), 150)
    again = store(tmp_path, 0)
    again.announce(MODEL, 100)
    assert latest(reader) == 100
    assert latest(reader, 1) == 150, "only its own"
    assert files.names(str(tmp_path / "group_0")) == ["model.json", *NAMES]
    again.publish(150, MODEL, arrays(151), states(151))
    np.testing.assert_array_equal(reader.read(reader.newest(0), MODEL).weights[0], arrays(151)[0])


def test_who_learns_from_a_group_says_so(tmp_path: pathlib.Path) -> None:
    writer, reader = store(tmp_path, 0), store(tmp_path, 1)
    assert not writer.has_readers()
    reader.announce_reader(0)
    assert writer.has_readers()
    assert not reader.has_readers()


@pytest.mark.parametrize("content", [b"{", b"[{}]", b"[1]", b"7", b""], ids=str)
def test_an_announcement_that_is_rubbish_is_named(tmp_path: pathlib.Path, content: bytes) -> None:
    store(tmp_path).announce(MODEL, 0)
    path = tmp_path / "group_0" / "model.json"
    announced = json.loads(path.read_bytes())
    path.write_bytes(content or json.dumps(announced | {"classes": 7}).encode())
    with pytest.raises(files.CorruptError, match=r"model\.json' .*delete it or write it again"):
        store(tmp_path, 1).difference(0, MODEL)


def test_other_entries_are_no_snapshots(tmp_path: pathlib.Path) -> None:
    writer = store(tmp_path)
    publish(writer, 50)
    for name in ("snapshot_", "snapshot_00000099", f"{NAMES[1]}.old", "other"):
        (tmp_path / "group_0" / name).mkdir()
        (tmp_path / "group_0" / name / files.MANIFEST).write_bytes(b"{}")
    assert latest(writer) == 50


def test_arguments_out_of_range(tmp_path: pathlib.Path) -> None:
    for kwargs in ({"keep": 0}, {"min_age_secs": -1.0}, {"max_bytes": -1.0}):
        with pytest.raises(
            ValueError, match="keep is .*, min_age_secs is .* and max_bytes is .*; expected at"
        ):
            store(tmp_path, **kwargs)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PermissionError, match="file.* cannot be used"):
        store(tmp_path / "file").announce(MODEL, 0)


def test_an_announcement_without_snapshots_binds_nobody(tmp_path: pathlib.Path) -> None:
    other = [MODEL[0], {**MODEL[1], "shape": [7]}]
    writer, reader = store(tmp_path, 0), store(tmp_path, 1)
    writer.announce(other, 0)
    writer.announce(MODEL, 0)
    assert reader.difference(0, MODEL) is None
    writer.leave()
    assert reader.difference(0, other) is None
    writer.announce(MODEL, 0)
    publish(writer, 50)
    assert reader.difference(0, other) is not None
    writer.leave()
    assert reader.difference(0, other) is None
