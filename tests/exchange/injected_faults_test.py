"""Five hundred faults at random: no snapshot is ever returned of which a byte is not as it was published.

    exchange/group_0/   three snapshots of this run, the last of them in int8
    exchange/group_1/   one of the same model, which the reader learns from, too
    of yesterday        one of another run

A fault spoils the exchange; then the reader looks for the newest snapshots and reads them, and others that it
was told of before, as every worker does.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tf_codistill import files
from tf_codistill.exchange.snapshot import Ref, Snapshot
from tf_codistill.exchange.store import Store

NUM_FAULTS_OF_EACH, SEED = 36, 20181
MODEL = [
    {"name": "model/kernel", "shape": [16, 3], "dtype": "float32"},
    {"name": "model/bias", "shape": [3], "dtype": "float32"},
]
STEPS = {Ref(0, 0, 1): 100, Ref(0, 0, 2): 200, Ref(0, 0, 3): 300, Ref(1, 0, 1): 400}
NAMES = (files.MANIFEST, "weights.index", "weights.data-00000-of-00001")


def publish(directory: pathlib.Path, group: int, step: int, run_id: str = "run", **settings: Any) -> None:
    values = np.random.default_rng(step)
    arrays = [values.normal(size=row["shape"]).astype("float32") for row in MODEL]
    if settings.pop("is_broken", False):
        arrays[0][values.integers(16), values.integers(3)] = values.choice([np.nan, np.inf, -np.inf])
    writer = Store(str(directory), group, run_id=run_id, **settings)
    writer._serial = len(list((directory / f"group_{group}").glob("snapshot_*")))
    writer.publish(step, MODEL, arrays, [values.normal(size=(4, 5)).astype("float32")])


@dataclasses.dataclass
class Place:
    """The exchange, and what else lies on the disk."""

    exchange: pathlib.Path
    yesterday: pathlib.Path
    source: np.random.Generator

    def snapshots(self) -> list[pathlib.Path]:
        return sorted(self.exchange.glob("group_*/snapshot_*"))

    def any(self) -> pathlib.Path:
        """A snapshot, more often than not the newest of the group that is read first."""
        found = self.snapshots()
        return found[2] if self.source.random() < 0.6 else found[self.source.integers(len(found))]

    def file(self) -> pathlib.Path:
        return self.any() / self.source.choice(NAMES)

    def two(self) -> tuple[pathlib.Path, pathlib.Path]:
        one, other = self.source.choice(len(self.snapshots()), 2, replace=False)
        return self.snapshots()[one], self.snapshots()[other]


def swap(one: pathlib.Path, other: pathlib.Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def torn(place: Place) -> None:
    path = place.file()
    content = path.read_bytes()
    path.write_bytes(content[: place.source.integers(len(content))])


def flipped_bit(place: Place) -> None:
    path = place.file()
    content = bytearray(path.read_bytes())
    content[place.source.integers(len(content))] ^= 1 << int(place.source.integers(8))
    path.write_bytes(bytes(content))


def page_of_zeros(place: Place) -> None:
    path = place.file()
    content = bytearray(path.read_bytes())
    start = int(place.source.integers(len(content)))
    content[start : start + 64] = bytes(len(content[start : start + 64]))
    path.write_bytes(bytes(content))


def longer(place: Place) -> None:
    path = place.file()
    path.write_bytes(path.read_bytes() + place.source.bytes(int(place.source.integers(1, 9))))


def empty(place: Place) -> None:
    place.file().write_bytes(b"")


def vanished_file(place: Place) -> None:
    place.file().unlink()


def vanished_snapshot(place: Place) -> None:
    shutil.rmtree(place.any())


def manifest_of_another_run(place: Place) -> None:
    shutil.copy(place.yesterday / files.MANIFEST, place.any())


def snapshot_of_another_run(place: Place) -> None:
    shutil.copytree(place.yesterday, place.any(), dirs_exist_ok=True)


def swapped_files(place: Place) -> None:
    name = place.source.choice(NAMES)
    one, other = place.two()
    swap(one / name, other / name)


def swapped_snapshots(place: Place) -> None:
    swap(*place.two())


def copied_from_a_peer(place: Place) -> None:
    one, other = place.two()
    shutil.copytree(one, other, dirs_exist_ok=True)


def halves_of_two(place: Place) -> None:
    """What an overwritten file may be after a crash."""
    one, other = place.two()
    name = place.source.choice(NAMES)
    first, second = (one / name).read_bytes(), (other / name).read_bytes()
    cut = int(place.source.integers(len(first)))
    (one / name).write_bytes(first[:cut] + second[cut:])


def not_finite(place: Place) -> None:
    """A whole snapshot, the newest, of a group that has diverged."""
    publish(place.exchange, 0, int(place.source.integers(1000, 9999)), is_broken=True)


FAULTS: tuple[Callable[[Place], None], ...] = (
    torn,
    flipped_bit,
    page_of_zeros,
    longer,
    empty,
    vanished_file,
    vanished_snapshot,
    manifest_of_another_run,
    snapshot_of_another_run,
    swapped_files,
    swapped_snapshots,
    copied_from_a_peer,
    halves_of_two,
    not_finite,
)


def bytes_of(directory: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def all_bytes(directory: pathlib.Path) -> dict[str, dict[str, bytes]]:
    found = sorted(directory.glob("group_*/snapshot_*"))
    return {str(path.relative_to(directory)): bytes_of(path) for path in found}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An exchange without any fault, and beside it a snapshot of another run."""
    directory = tmp_path_factory.mktemp("whole")
    for ref, step in STEPS.items():
        publish(directory / "exchange", ref.peer, step, precision="int8" if step == 300 else "float32")
    publish(directory / "yesterday", 0, 300, run_id="yesterday")
    return directory


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_no_snapshot_is_ever_returned_unless_every_byte_is_as_published(
    whole: pathlib.Path, tmp_path: pathlib.Path, fault: Callable[[Place], None]
) -> None:
    (yesterday,) = (whole / "yesterday").glob("group_0/*")
    reader = Store(str(whole / "exchange"), 2, run_id="run")
    expected = {ref: reader.read(ref, MODEL) for ref in STEPS}
    published = {ref: bytes_of(pathlib.Path(reader._path(ref))) for ref in STEPS}
    assert [snapshot.step for snapshot in expected.values()] == list(STEPS.values())
    source = np.random.default_rng([SEED, FAULTS.index(fault)])
    for number in range(NUM_FAULTS_OF_EACH):
        place = Place(tmp_path / str(number), yesterday, source)
        shutil.copytree(whole / "exchange", place.exchange)
        while all_bytes(place.exchange) == all_bytes(whole / "exchange"):  # zeros may have been zeros before
            fault(place)
        reader, refused, told = Store(str(place.exchange), 2, run_id="run"), 0, set(STEPS)
        for peer in (0, 1):
            newest = refused_or_done(functools.partial(reader.newest, peer), place.exchange)
            refused, told = refused + (newest is None), told | ({newest} - {None})
        for ref in sorted(told):
            snapshot = refused_or_done(functools.partial(reader.read, ref, MODEL), place.exchange)
            refused += snapshot is None
            if snapshot is not None:
                assert ref in STEPS, f"fault {number}: a snapshot that is not finite"
                assert bytes_of(pathlib.Path(reader._path(ref))) == published[ref], f"fault {number}"
                assert_same(snapshot, expected[ref])
        assert refused, f"fault {number}: nobody has seen it"


def test_they_are_five_hundred_of_many_kinds() -> None:
    assert len(FAULTS) * NUM_FAULTS_OF_EACH >= 500


def refused_or_done(act: Callable[[], Any], directory: pathlib.Path) -> Any:
    """What an action returns; None if it was refused with one of the usual errors, which says where."""
    complaint = ""
    try:
        return act()
    except (ValueError, OSError) as error:
        complaint = str(error)
    assert str(directory) in complaint
    return None


def assert_same(one: Snapshot, other: Snapshot) -> None:
    assert (one.ref, one.step, one.published_at, one.precision) == (
        other.ref,
        other.step,
        other.published_at,
        other.precision,
    )
    for found, array in zip([*one.weights, *one.states], [*other.weights, *other.states], strict=True):
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("moment", ["size_bytes", "read", "verify", "read_into"])
@pytest.mark.parametrize("what", ["the data", "the index", "the manifest", "the snapshot"])
def test_what_vanishes_while_it_is_read_is_refused_or_was_whole(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, moment: str, what: str
) -> None:
    publish(tmp_path, 0, 100)
    reader = Store(str(tmp_path), 2, run_id="run")
    expected, directory = reader.read(Ref(0, 0, 1), MODEL), pathlib.Path(reader._path(Ref(0, 0, 1)))
    names = {"the data": NAMES[2], "the index": NAMES[1], "the manifest": NAMES[0]}
    act = getattr(files, moment)

    def vanish(*args: Any, **kwargs: Any) -> Any:
        if what in names:
            (directory / names[what]).unlink(missing_ok=True)
        else:
            shutil.rmtree(directory, ignore_errors=True)
        return act(*args, **kwargs)

    monkeypatch.setattr(files, moment, vanish)
    snapshot = refused_or_done(lambda: reader.read(Ref(0, 0, 1), MODEL), directory)
    if snapshot is not None:
        assert what == "the manifest" or (what == "the index" and moment == "read_into")
        assert_same(snapshot, expected)
