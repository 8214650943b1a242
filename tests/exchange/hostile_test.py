"""A shared directory full of hostile files: refused with the usual errors, quickly, in little memory.

    exchange/group_0/snapshot_0000000000_000001     one good snapshot, of which each case spoils something
    outside/                                        what links lead to: a copy, so that following one is seen

Manifests are sealed anew after each change, so that the guard in question is what refuses them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import pickle
import shutil
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tf_codistill import files, runs, weights
from tf_codistill.exchange import manifests
from tf_codistill.exchange.courier import Costs, Courier, Seat
from tf_codistill.exchange.snapshot import Ref
from tf_codistill.exchange.store import Store
from tf_codistill.files import documents

MODEL = [
    {"name": "model/embedding", "shape": [3, 2], "dtype": "float32"},
    {"name": "model/head", "shape": [2], "dtype": "float32"},
]
ARRAYS = [np.arange(6, dtype="float32").reshape(3, 2), np.ones(2, "float32")]
STATES = [np.full((4, 5), 0.5, "float32")]
FIRST = Ref(0, 0, 1)
INDEX, DATA = "weights.index", "weights.data-00000-of-00001"
GIGABYTE = 1 << 30
MOST_MEMORY = 100 << 20


@dataclasses.dataclass
class Scene:
    exchange: pathlib.Path
    outside: pathlib.Path

    @property
    def group(self) -> pathlib.Path:
        return self.exchange / "group_0"

    @property
    def snapshot(self) -> pathlib.Path:
        return self.group / "snapshot_0000000000_000001"

    @property
    def manifest(self) -> dict[str, Any]:
        path = self.snapshot / files.MANIFEST
        return documents.unsealed(str(path), path.read_bytes())

    def rewrite(self, **changes: Any) -> None:
        """The manifest with some entries changed, sealed as if it had been published so."""
        (self.snapshot / files.MANIFEST).write_bytes(
            documents.encode(documents.sealed({**self.manifest, **changes}))
        )

    def relist(self, name: str, **changes: Any) -> None:
        """The manifest with what it says of a file changed."""
        listing = self.manifest["files"]
        self.rewrite(files={**listing, name: {**listing.get(name, {}), **changes}})

    def replace(self, name: str, content: bytes) -> None:
        """A file of other content, to which the manifest agrees."""
        (self.snapshot / name).write_bytes(content)
        self.relist(name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


@pytest.fixture
def scene(tmp_path: pathlib.Path) -> Scene:
    found = Scene(tmp_path / "exchange", tmp_path / "outside")
    writer = Store(str(found.exchange), 0, run_id="run")
    writer.publish(50, MODEL, ARRAYS, STATES)
    files.write_json(str(found.exchange / "run.json"), {"run_id": "run"})
    announcement = {"format_version": 2, "run_id": "run", "incarnation": 0, "weights": MODEL}
    files.write_json(str(found.group / "model.json"), announcement)
    shutil.copytree(found.exchange, found.outside)
    return found


def contents(directory: pathlib.Path) -> dict[str, bytes]:
    """All that lies below a directory."""
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def in_time(act: Callable[[], Any]) -> Exception | None:
    """What an action raises, if anything; one that waits for ever fails the test."""
    raised: list[Exception] = []

    def run() -> None:
        try:
            act()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it hangs"
    return raised[0] if raised else None


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Within it Python and NumPy take less than `MOST_MEMORY`."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


def assert_refused(act: Callable[[], Any]) -> None:
    with little_memory():
        error = in_time(act)
    assert isinstance(error, ValueError | OSError), repr(error)
    assert len(str(error)) < 2000
    assert str(error)


class Malice:
    """Unpickled it writes a file."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return pathlib.Path.touch, (self.path,)


def pickled(scene: Scene) -> bytes:
    return pickle.dumps(Malice(scene.exchange / "executed"))


def link(path: pathlib.Path, target: pathlib.Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(target)


def outside_of(scene: Scene, path: pathlib.Path) -> pathlib.Path:
    return scene.outside / path.relative_to(scene.exchange)


def pipe(path: pathlib.Path) -> None:
    path.unlink()
    os.mkfifo(path)


def plug(path: pathlib.Path) -> None:
    """A socket in place of a file; its path may be longer than sockets allow."""
    path.unlink()
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(before)


def sparse(path: pathlib.Path, num_bytes: int) -> None:
    path.write_bytes(b"")
    os.truncate(path, num_bytes)


def states(scene: Scene, shape: list[Any], num_bytes: int | None = None, dtype: str = "float32") -> None:
    """A manifest that describes states of a shape, and maybe promises the bytes for it."""
    scene.rewrite(states=[{"name": "0", "shape": shape, "dtype": dtype}])
    if num_bytes is not None:
        scene.relist(DATA, bytes=num_bytes)


def hungry_states(scene: Scene) -> None:
    states(scene, [1 << 28, 8], 32 + (1 << 33))
    sparse(scene.snapshot / DATA, 32 + (1 << 33))


def hungry_index(scene: Scene) -> None:
    sparse(scene.snapshot / INDEX, 1 << 40)
    scene.relist(INDEX, bytes=1 << 40)


def deep(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


def writes(content: bytes) -> Callable[[Scene], Any]:
    return lambda scene: (scene.snapshot / files.MANIFEST).write_bytes(content)


LISTED = {"bytes": 4, "sha256": "0" * 64}
CASES: dict[str, Callable[[Scene], Any]] = {
    "a pickle as manifest": lambda s: (s.snapshot / files.MANIFEST).write_bytes(pickled(s)),
    "a pickle as index": lambda s: s.replace(INDEX, pickled(s)),
    "a pickle as data": lambda s: s.replace(DATA, pickled(s)),
    **{
        f"a link for {name}": lambda s, n=name: link(s.snapshot / n, outside_of(s, s.snapshot / n))
        for name in (files.MANIFEST, INDEX, DATA)
    },
    "a link that leads nowhere": lambda s: link(s.snapshot / files.MANIFEST, s.outside / "absent"),
    "a link to a device": lambda s: link(s.snapshot / files.MANIFEST, pathlib.Path("/dev/zero")),
    "a link for the snapshot": lambda s: link(s.snapshot, outside_of(s, s.snapshot)),
    "a link for the group": lambda s: link(s.group, outside_of(s, s.group)),
    **{
        f"a file called {name!r}": lambda s, n=name: s.relist(n, **LISTED)
        for name in ("../../../outside/run.json", "..", "/etc/passwd", "weights\n.index", "", "a/b", "\0")
    },
    **{
        f"a pipe for {name}": lambda s, n=name: pipe(s.snapshot / n) for name in (files.MANIFEST, INDEX, DATA)
    },
    "a socket for the manifest": lambda s: plug(s.snapshot / files.MANIFEST),
    "a directory for the data": lambda s: [(s.snapshot / DATA).unlink(), (s.snapshot / DATA).mkdir()],
    "a directory for the manifest": lambda s: [
        (s.snapshot / files.MANIFEST).unlink(),
        (s.snapshot / files.MANIFEST).mkdir(),
    ],
    "empty pipes that are listed as empty": lambda s: [
        [pipe(s.snapshot / name) for name in (INDEX, DATA)],
        s.relist(INDEX, bytes=0),
    ],
    "10^15 bytes of data": lambda s: s.relist(DATA, bytes=10**15),
    "10^15 bytes of index": lambda s: s.relist(INDEX, bytes=10**15),
    "10^15 weights": lambda s: s.rewrite(weights=10**15),
    "a weight of 10^15 values": lambda s: s.rewrite(weights=[{**MODEL[0], "shape": [10**15]}, MODEL[1]]),
    "states of 10^15 values": lambda s: states(s, [10**15], 32 + 4 * 10**15),
    "states of 8 GB, which are there": hungry_states,
    "an index of 1 TB, which is there": hungry_index,
    "a manifest of 1 GB": lambda s: sparse(s.snapshot / files.MANIFEST, GIGABYTE),
    "a manifest of 1 TB": lambda s: sparse(s.snapshot / files.MANIFEST, 1 << 40),
    "many small things": writes(b"[" + b"{}," * (2 * manifests.MAX_BYTES // 3) + b"{}]"),
    "a negative size": lambda s: s.relist(DATA, bytes=-1),
    "a negative shape": lambda s: states(s, [-4, -5], 112),
    "a negative step": lambda s: s.rewrite(step=-1),
    "a step beyond 64 bits": lambda s: s.rewrite(step=10**30),
    "a time beyond floats": lambda s: s.rewrite(published_at=10**400),
    "shapes whose product overflows": lambda s: states(s, [1 << 32, 1 << 32], 32),
    "shapes whose product overflows to what is there": lambda s: states(s, [1 << 53] * 6 + [20], 112),
    "more axes than there can be": lambda s: states(s, [1] * 40 + [20], 112),
    "a type of objects": lambda s: states(s, [4, 5], dtype="resource"),
    "a type of text": lambda s: states(s, [4, 5], dtype="string"),
    "NaN as time": lambda s: s.rewrite(published_at=float("nan")),
    "infinity as time": lambda s: s.rewrite(published_at=float("inf")),
    "NaN as step": lambda s: s.rewrite(step=float("nan")),
    "infinity as step": lambda s: s.rewrite(step=float("inf")),
    "infinity as size": lambda s: s.relist(DATA, bytes=float("inf")),
    "infinity as shape": lambda s: states(s, [float("inf"), 5]),
    "nested deeply": writes(deep(10**5)),
    "nested in lists": writes(b"[" * 10**6),
    "a number of a million digits": writes(b'{"step": ' + b"9" * 10**6 + b"}"),
    "half a character": writes(b'{"format_version": 3, "run_id": "run", "seal": "", "x": "\\ud800"}'),
    "no UTF-8": writes(b'{"run_id": "\xff"}'),
    "nothing": writes(b""),
    "a name of a megabyte": lambda s: s.rewrite(weights=[{**MODEL[0], "name": "n" * 2**20}, MODEL[1]]),
    "another format": lambda s: s.rewrite(format_version=2),
    "another group": lambda s: s.rewrite(group=2),
    "another start": lambda s: s.rewrite(incarnation=7),
    "another number": lambda s: s.rewrite(serial=7),
}


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_snapshot_is_refused_and_training_would_go_on(scene: Scene, case: str) -> None:
    reader, outside = Store(str(scene.exchange), 1, run_id="run"), contents(scene.outside)
    assert reader.read(FIRST, MODEL).step == 50
    CASES[case](scene)
    assert_refused(lambda: reader.read(reader.newest(0) or FIRST, MODEL))
    assert_refused(lambda: reader.read(FIRST, MODEL))
    seat, costs = Seat(MODEL, peer=0, requested=FIRST), Costs()
    courier = Courier(reader, [seat], lambda _, snapshot: snapshot, None, costs)
    assert in_time(courier.work) is None
    assert costs.failed_reads == 1
    assert seat.staged is None
    assert contents(scene.outside) == outside, "nothing is written outside"
    assert not (scene.exchange / "executed").exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: states(s, [1000]),
        lambda s: s.relist(DATA, bytes=111),
        lambda s: os.truncate(s.snapshot / DATA, 111),
        lambda s: os.truncate(s.snapshot / INDEX, 5),
        lambda s: (s.snapshot / DATA).unlink(),
    ],
    ids=["described", "promised", "there", "index", "missing"],
)
def test_no_memory_is_taken_before_sizes_agree(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Scene], Any]
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("arrays are made")

    spoil(scene)
    monkeypatch.setattr(weights, "read", never)
    assert_refused(lambda: Store(str(scene.exchange), 1, run_id="run").read(FIRST, MODEL))


VALUES = (None, True, "x", [], {}, -1, 1.5, 10**30, [[]], [None], {"a": 1}, {"a": {}}, "\ud7ff" * 9)


def test_wrong_types_everywhere_are_refused(scene: Scene) -> None:
    reader, manifest = Store(str(scene.exchange), 1, run_id="run"), scene.manifest
    tried = 0
    for name in manifest:
        for value in VALUES:
            if (name, value) != ("published_at", 1.5):
                scene.rewrite(**{**manifest, name: value})
                error = in_time(lambda: reader.read(FIRST, MODEL))
                assert isinstance(error, ValueError), (name, value, error)
                tried += 1
    for part in ("name", "shape", "dtype"):
        for value in VALUES:
            scene.rewrite(**{**manifest, "states": [{**manifest["states"][0], part: value}]})
            error = in_time(lambda: reader.read(FIRST, MODEL))
            assert isinstance(error, ValueError) or (part == "name" and isinstance(value, str)), (part, value)
            tried += 1
    for name in (INDEX, DATA):
        for value in VALUES:
            for changed in ({"bytes": value}, {"sha256": value}):
                scene.rewrite(**manifest)
                scene.relist(name, **changed)
                error = in_time(lambda: reader.read(FIRST, MODEL))
                assert isinstance(error, ValueError), (name, changed, error)
                tried += 1
    scene.rewrite(**manifest)
    assert reader.read(FIRST, MODEL).step == 50
    assert tried > 200


def test_what_can_be_read_but_not_written_is_refused(scene: Scene) -> None:
    """Somewhere between these depths JSON is still read, and can no longer be written to compare the seal."""
    reader = Store(str(scene.exchange), 1, run_id="run")
    for depth in range(978, 994, 2):
        writes(b'{"format_version": 3, "a": ' + deep(depth) + b"}")(scene)
        assert isinstance(in_time(lambda: reader.read(FIRST, MODEL)), files.CorruptError), depth


DOCUMENTS: dict[str, Callable[[pathlib.Path, Scene], Any]] = {
    "a pickle": lambda path, s: path.write_bytes(pickled(s)),
    "a link": lambda path, s: link(path, outside_of(s, path)),
    "a pipe": lambda path, s: pipe(path),
    "a socket": lambda path, s: plug(path),
    "a directory": lambda path, s: [path.unlink(), path.mkdir()],
    "1 GB": lambda path, s: sparse(path, GIGABYTE),
    "nested": lambda path, s: path.write_bytes(deep(10**5)),
    "a list": lambda path, s: path.write_bytes(b"[1]"),
    "a number": lambda path, s: path.write_bytes(b"NaN"),
    "wrong types": lambda path, s: path.write_bytes(
        b'{"format_version": 2, "run_id": [], "incarnation": {}, "weights": 1e999}'
    ),
    "a start beyond 64 bits": lambda path, s: path.write_bytes(
        documents.encode({"format_version": 2, "run_id": 1, "incarnation": 10**30, "weights": MODEL})
    ),
}


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_a_hostile_name_of_the_run_is_refused(scene: Scene, kind: str) -> None:
    reader = Store(str(scene.exchange), 1)
    assert reader.newest(0) == FIRST
    DOCUMENTS[kind](scene.exchange / "run.json", scene)
    reader = Store(str(scene.exchange), 1)
    for act in (lambda: reader.newest(0), lambda: reader.read(FIRST, MODEL)):
        assert_refused(act)
    assert not (scene.exchange / "executed").exists()


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_a_hostile_announcement_is_refused_and_its_own_group_replaces_it(scene: Scene, kind: str) -> None:
    path, outside = scene.group / "model.json", contents(scene.outside)
    reader = Store(str(scene.exchange), 1, run_id="run")
    assert reader.difference(0, MODEL) is None
    DOCUMENTS[kind](path, scene)
    assert_refused(lambda: reader.difference(0, MODEL))
    writer = Store(str(scene.exchange), 0, run_id="run")
    error = in_time(lambda: writer.announce(MODEL, 50))
    assert isinstance(error, OSError) if kind == "a directory" else error is None
    assert contents(scene.outside) == outside
    if error is None:
        assert reader.difference(0, MODEL) is None
        assert 0 < writer.incarnation < 10**10


def test_weights_in_an_announcement_that_are_none_are_refused(scene: Scene) -> None:
    path, reader = scene.group / "model.json", Store(str(scene.exchange), 1, run_id="run")
    right = documents.decode("", path.read_bytes())
    for name in ("weights", "incarnation", "run_id", "format_version"):
        for value in VALUES:
            if not (name == "weights" and value == []) and not (name == "run_id" and isinstance(value, str)):
                path.write_bytes(documents.encode({**right, name: value}))
                assert isinstance(in_time(lambda: reader.difference(0, MODEL)), files.CorruptError)


@pytest.mark.parametrize("content", [b"[]", b'{"run_id": 7}', b"{}", b'"run"', deep(10**5)], ids=len)
def test_a_workdir_whose_name_is_rubbish_says_so(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(files.CorruptError, match=r"run\.json' .*delete it or write it again"):
        runs.run_id(str(tmp_path))


@pytest.mark.parametrize(
    "name",
    [
        f"snapshot_{'9' * 19}_000001",
        f"snapshot_{'9' * 10}_{'9' * 19}",
        f"snapshot_{chr(0x663) * 10}_{chr(0x663) * 6}",
    ],
)
def test_numbers_that_no_worker_could_hold_name_no_snapshot(scene: Scene, name: str) -> None:
    shutil.copytree(scene.snapshot, scene.group / name)
    ref = Store(str(scene.exchange), 1, run_id="run").newest(0)
    assert ref == FIRST
    np.array(ref, np.int64)


def test_what_links_lead_to_outlives_the_group_that_clears_its_part(scene: Scene) -> None:
    """TensorFlow's own removal of a directory would empty what a link in it leads to."""
    outside = contents(scene.outside)
    (scene.group / "snapshot_0000000009_000001").symlink_to(scene.outside)
    (scene.snapshot / "inner").symlink_to(scene.outside)
    (scene.group / "snapshot_0000000009_000002").symlink_to(scene.outside / "absent")
    (scene.group / f"snapshot_{'0' * 9}8_000001").write_bytes(b"a file")
    writer = Store(str(scene.exchange), 0, run_id="run", clock=lambda: 100.0)
    writer.announce(MODEL, 10)
    assert contents(scene.outside) == outside
    assert files.names(str(scene.group)) == ["model.json"]
    (scene.group / "snapshot_0000000100_000001").symlink_to(scene.outside)
    writer.publish(60, MODEL, ARRAYS, STATES)
    assert contents(scene.outside) == outside
    assert Store(str(scene.exchange), 1, run_id="run").read(Ref(0, 100, 1), MODEL).step == 60


def test_nothing_is_written_through_a_link_in_place_of_a_group(scene: Scene) -> None:
    link(scene.group, scene.outside)
    outside, store = contents(scene.outside), Store(str(scene.exchange), 1, run_id="run")
    own = Store(str(scene.exchange), 0, run_id="run")
    for act in (
        lambda: store.announce_reader(0),
        lambda: own.announce(MODEL, 0),
        lambda: own.publish(60, MODEL, ARRAYS),
        own.has_readers,
    ):
        assert_refused(act)
    assert contents(scene.outside) == outside


def test_a_link_to_the_exchange_itself_is_the_users_own_business(scene: Scene) -> None:
    (scene.outside / "way").symlink_to(scene.exchange)
    assert Store(str(scene.outside / "way"), 1, run_id="run").read(FIRST, MODEL).step == 50


def test_an_index_of_any_bytes_is_refused_or_tells_the_truth(scene: Scene) -> None:
    """TensorFlow reads the index: whatever it says, the arrays are those that were published."""
    reader, source = Store(str(scene.exchange), 1, run_id="run"), np.random.default_rng(0)
    whole = (scene.snapshot / INDEX).read_bytes()
    refused = 0
    for _ in range(200):
        content = bytearray(whole)
        for position in source.choice(len(content), source.integers(1, 6), replace=False):
            content[position] = source.integers(256)
        scene.replace(INDEX, bytes(content))
        try:
            snapshot = reader.read(FIRST, MODEL)
        except (ValueError, OSError):
            refused += 1
            continue
        for one, other in zip([*snapshot.weights, *snapshot.states], [*ARRAYS, *STATES], strict=True):
            np.testing.assert_array_equal(one, other)
    assert refused > 100


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("place", ["weights", "states"])
def test_what_is_not_finite_is_refused_by_name(
    tmp_path: pathlib.Path, value: float, precision: str, place: str
) -> None:
    model = [{"name": "kernel", "shape": [64, 20], "dtype": "float32"}, MODEL[1]]
    arrays, states = [np.ones((64, 20), "float32"), np.ones(2, "float32")], [STATES[0].copy()]
    broken = {"weights": arrays, "states": states}[place][0]
    broken[-1, -1] = value
    Store(str(tmp_path), 0, run_id="run", precision=precision).publish(50, model, arrays, states)
    reader = Store(str(tmp_path), 1, run_id="run")
    name = {"weights": "kernel", "states": "0"}[place]
    with pytest.raises(
        ValueError, match=f"values that are not finite, in {place} '{name}'; its teacher stays"
    ):
        reader.read(FIRST, model)


def test_numbers_of_all_types_are_looked_at_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_PIECE", 3)
    whole = [np.arange(7), np.zeros(0, "float32"), np.array(2.0), np.ones((2, 4), bool)]
    assert weights.first_not_finite(whole) is None
    assert weights.first_not_finite([*whole, np.array([[0.0, 1.0], [2.0, np.nan]])]) == 4


def test_a_model_of_more_weights_than_fit_into_a_manifest_cannot_be_announced(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "MAX_BYTES", 200)
    with pytest.raises(ValueError, match=r"description of 2 weights takes \d+ bytes; expected at most 100"):
        Store(str(tmp_path), 0, run_id="run").announce(MODEL, 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", [{"name": "n" * 1001}, {"dtype": "complex64"}, {"shape": [1] * 33}], ids=str)
def test_what_no_reader_would_believe_is_not_announced(tmp_path: pathlib.Path, part: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=r"weight '.*' of shape .* and dtype .* cannot be exchanged; expected"
    ):
        Store(str(tmp_path), 0, run_id="run").announce([{**MODEL[0], **part}], 0)
    assert not list(tmp_path.iterdir())
