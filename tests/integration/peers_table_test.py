"""What peers may be and do, a row each, to two groups that `launch` trains; the test plays a third.

The rows are those of docs/exchange.md that a peer can cause. Each is tried with its guard, and must hold, and
without it, and must not.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from tests.faults import flip, halve
from tests.integration.programs import Programs, Running, experiment, log_of, metrics
from tf_codistill import files, runs
from tf_codistill.exchange import manifests
from tf_codistill.exchange.snapshot import Ref, Snapshot
from tf_codistill.exchange.store import Store
from tf_codistill.files import documents

EVERY_STEPS, SOON = 5, 12
"""Steps between exchanges, and within how many of them something is to happen."""
FLAKY_SECS = 60.0
PUPPET = 2

_SWAP = re.compile(r"swap at step \d+, seat \d+, peer (-?\d+), incarnation (\d+), serial (\d+)")
_DATA = "weights.data-00000-of-00001"


class Scene:
    """Two groups that train, and a peer of theirs that is played.

    Attributes:
        exchange: Directory through which they exchange.
    """

    def __init__(self, running: Running, workdir: pathlib.Path, unreliable: pathlib.Path) -> None:
        self.exchange = pathlib.Path(runs.exchange_dir(str(workdir)))
        self._running, self._workdir, self._unreliable = running, workdir, unreliable
        self._backstage, self._seconds = workdir / "backstage", itertools.count(int(time.time()), 10)
        running.wait_until(lambda: all(self.swaps(group) for group in (0, 1)))
        peer = Store(str(self.exchange), PUPPET, run_id=runs.run_id(str(workdir)))
        self._model = manifests.announcement(str(self.exchange / "group_0" / "model.json"))["weights"]
        ref = peer.newest(0)
        assert ref is not None
        self._snapshot: Snapshot = peer.read(ref, self._model)
        self.begin()

    def begin(self, rename: bool = False) -> None:
        """The played peer begins a new life, maybe with a weight of another name."""
        second, run_id = next(self._seconds), runs.run_id(str(self._workdir))
        place = self._backstage / str(second)
        self.store = Store(str(place), PUPPET, run_id=run_id, clock=lambda: float(second))
        self.model = [dict(row, name="renamed") if rename else row for row in self._model]
        self.store.announce(self.model, 0)

    def announce(self) -> None:
        """Announces it to the others."""
        place = self.exchange / f"group_{PUPPET}"
        place.mkdir(exist_ok=True)
        source = self._backstage / str(self.store.incarnation) / f"group_{PUPPET}" / "model.json"
        shutil.copy(source, place / "model.json.new")
        os.replace(place / "model.json.new", place / "model.json")

    def publish(
        self,
        step: int | None = None,
        *,
        store: Store | None = None,
        arrays: Sequence[np.ndarray] | None = None,
        damage: Callable[[pathlib.Path], None] = lambda path: None,
    ) -> Ref:
        """Publishes what group 0 has published before, all at once, maybe after something was done to it."""
        store = store or self.store
        step = self.step() if step is None else step
        store.publish(step, self.model, arrays or self._snapshot.weights, self._snapshot.states)
        ref = store.newest(PUPPET)
        assert ref is not None
        name = runs.snapshot_name(ref.incarnation, ref.serial)
        source = self._backstage / str(ref.incarnation) / f"group_{PUPPET}" / name
        damage(source)
        source.rename(self.exchange / f"group_{PUPPET}" / name)
        return ref

    def weights(self) -> list[np.ndarray]:
        """Weights that may be changed."""
        return [np.array(array) for array in self._snapshot.weights]

    def step(self, group: int | None = None) -> int:
        """How far a group has come, without one both."""
        groups = (0, 1) if group is None else (group,)
        return min(max(metrics(self._workdir, one, "train"), default=0) for one in groups)

    def wait(self, exchanges: int, until: Callable[[], bool] = lambda: False) -> None:
        """Waits for so many exchanges of both groups, or until something has happened."""
        last = self.step() + exchanges * EVERY_STEPS
        self._running.wait_until(lambda: self.step() >= last or until())

    def swaps(self, group: int) -> list[tuple[int, int, int]]:
        """Peer, incarnation and serial number of what a group has taken."""
        with contextlib.suppress(FileNotFoundError):
            found = _SWAP.findall(log_of(self._workdir, group))
            return [(int(peer), int(incarnation), int(serial)) for peer, incarnation, serial in found]
        return []

    def is_taken(self, ref: Ref) -> bool:
        """Whether both groups have taken a snapshot."""
        return all((ref.peer, ref.incarnation, ref.serial) in self.swaps(group) for group in (0, 1))

    def left(self) -> int:
        """How often somebody has left a group, both together."""
        return sum(peer == -1 for group in (0, 1) for peer, _, _ in self.swaps(group))

    def takes(self, ref: Ref) -> None:
        """Both groups take a snapshot soon."""
        self.wait(SOON, lambda: self.is_taken(ref))
        assert self.is_taken(ref), f"{ref} is not taken"

    def refuses(self, ref: Ref) -> None:
        """Nobody takes a snapshot, and the next one is taken."""
        before = self.restarts()
        self.wait(SOON // 3)
        for group in (0, 1):
            assert (ref.peer, ref.incarnation, ref.serial) not in self.swaps(group), f"{ref} is taken"
        assert self.restarts() == before
        self.takes(self.publish())

    def restarts(self) -> list[int]:
        """How often each group was started again."""
        return [len(metrics(self._workdir, group, "restart")) for group in (0, 1)]

    def last(self, what: str) -> list[float]:
        """The newest figure of each group."""
        return [list(metrics(self._workdir, group, "train").values())[-1][what] for group in (0, 1)]

    @contextlib.contextmanager
    def unreliable(self, how: str) -> Iterator[None]:
        """Within it storage is."""
        (self._unreliable / how).touch()
        try:
            yield
        finally:
            (self._unreliable / how).unlink()


def absent(scene: Scene) -> None:
    """Nobody waits for a peer that has not come."""
    scene.wait(2)
    assert {peer for group in (0, 1) for peer, _, _ in scene.swaps(group)} == {0, 1}


def late(scene: Scene) -> None:
    """It teaches from its first snapshot on."""
    scene.announce()
    scene.takes(scene.publish())


def slow(scene: Scene) -> None:
    """It goes on to teach with what it has published last."""
    before = scene.last("staleness_steps")
    scene.wait(6)
    assert all(now > one for now, one in zip(scene.last("staleness_steps"), before, strict=True))
    assert all(loss > 0 for loss in scene.last("distillation_loss"))
    assert scene.left() == 0


def behind(scene: Scene) -> None:
    """One that is at its first step teaches."""
    scene.takes(scene.publish(1))


def ahead(scene: Scene) -> None:
    """One that is far ahead teaches."""
    scene.takes(scene.publish(1_000_000))


def torn(scene: Scene) -> None:
    """Half a snapshot is refused."""
    scene.refuses(scene.publish(damage=lambda path: halve(path / _DATA)))


def flipped(scene: Scene) -> None:
    """A snapshot with a bit that is not as it was published is refused."""
    scene.refuses(scene.publish(damage=lambda path: flip(path / _DATA, 100)))


def vanished(scene: Scene) -> None:
    """A snapshot that is not there any more when it is read is refused."""
    scene.refuses(scene.publish(damage=lambda path: (path / _DATA).unlink()))


def of_nans(scene: Scene) -> None:
    """A snapshot that is not finite is refused."""
    arrays = scene.weights()
    arrays[0].flat[0] = np.nan
    scene.refuses(scene.publish(arrays=arrays))


def again_from_scratch(scene: Scene) -> None:
    """What it publishes from now on counts, and nothing that its life before publishes after its end."""
    zombie = scene.store
    scene.begin()
    scene.announce()
    scene.refuses(scene.publish(store=zombie))
    scene.takes(scene.publish(0))


def of_another_model(scene: Scene) -> None:
    """Its snapshots are refused, until it is of the same model again."""
    scene.begin(rename=True)
    scene.announce()
    ref = scene.publish()
    scene.begin()
    scene.wait(SOON // 3)
    scene.announce()
    scene.refuses(ref)


def of_another_run(scene: Scene) -> None:
    """Snapshots of another run are passed over."""

    def rename(path: pathlib.Path) -> None:
        manifest = path / files.MANIFEST
        content = documents.unsealed(str(manifest), manifest.read_bytes())
        files.write_json(str(manifest), documents.sealed(content | {"run_id": "another"}))

    scene.refuses(scene.publish(damage=rename))


def that_loses_its_directory(scene: Scene) -> None:
    """It has left after some looks, and comes back."""
    before = scene.left()
    shutil.rmtree(scene.exchange / f"group_{PUPPET}")
    scene.wait(SOON, lambda: scene.left() == before + 2)
    assert scene.left() == before + 2, "it does not leave"
    scene.begin()
    late(scene)


def that_listings_lose(scene: Scene) -> None:
    """Nothing happens."""
    before = scene.left()
    with scene.unreliable("lossy"):
        scene.wait(SOON)
    assert scene.left() == before, "it has left"


def whose_storage_fails(scene: Scene) -> None:
    """Training goes on, and the exchange goes on afterwards."""
    failures = sum(scene.last("failed_reads"))
    with scene.unreliable("flaky"):
        until = time.monotonic() + FLAKY_SECS
        scene.wait(SOON)
        while time.monotonic() < until:
            scene.wait(1)
    scene.takes(scene.publish())
    assert sum(scene.last("failed_reads")) > failures
    assert scene.restarts() == [0, 0]


ROWS: dict[Callable[[Scene], None], str | None] = {
    absent: None,
    late: None,
    slow: None,
    behind: None,
    ahead: None,
    torn: "sizes and checksums",
    flipped: "sizes and checksums",
    vanished: "errors that are counted",
    of_nans: "values that are finite",
    again_from_scratch: "one life",
    of_another_model: "one model",
    of_another_run: "one run",
    that_listings_lose: "several looks",
    that_loses_its_directory: "an end of looking",
    whose_storage_fails: "errors that are counted",
}
"""The rows in their order, each with its guard, if it needs one."""


@contextlib.contextmanager
def played(
    programs: Programs, corpus: str, tmp_path: pathlib.Path, without: str = ""
) -> Iterator[tuple[Scene, Running]]:
    """Two groups with room for a third, without a guard if it is named."""
    unreliable, workdir = tmp_path / "unreliable", tmp_path / "run"
    unreliable.mkdir()
    (unreliable / "without").write_text(without)
    flags = experiment(
        tmp_path,
        corpus,
        "Experiment.num_steps = 1_000_000",
        f"UnhurriedPeers.every_steps = {EVERY_STEPS}",
        "UnhurriedPeers.max_teachers = 2",
        f"UnhurriedPeers.hurry = {str(tmp_path / 'never')!r}",
        teaching=("Experiment.teaching = @UnhurriedPeers",),
    )
    toy = tmp_path / "toy.gin"
    needed = ("unhurried_peers", "unreliable_groups")
    toy.write_text("".join(f"import tests.integration.{one}\n" for one in needed) + toy.read_text())
    environment = {"UNRELIABLE": str(unreliable)}
    flags += [f"--workdir={workdir}"]
    with programs.started("launch", *flags, environment=environment, timeout_secs=550) as running:
        yield Scene(running, workdir, unreliable), running


@pytest.mark.slow
def test_groups_go_on_whatever_their_peer_is_and_does(
    programs: Programs, corpus: str, tmp_path: pathlib.Path
) -> None:
    with played(programs, corpus, tmp_path) as (scene, running):
        for row in ROWS:
            print(row.__name__, flush=True)
            row(scene)
        os.kill(running.pid, signal.SIGTERM)
        assert running.wait().status == 75
    assert scene.restarts() == [0, 0]
    for group in (0, 1):
        steps = list(metrics(tmp_path / "run", group, "train"))
        assert steps[:-1] == list(range(EVERY_STEPS, steps[-2] + 1, EVERY_STEPS)), "each step once"


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row, guard in ROWS.items() if guard], ids=lambda row: row.__name__)
def test_without_its_guard_a_row_does_not_hold(
    programs: Programs,
    corpus: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    row: Callable[[Scene], None],
) -> None:
    monkeypatch.setattr(f"{__name__}.FLAKY_SECS", 0.0)
    with played(programs, corpus, tmp_path, ROWS[row] or "") as (scene, _):
        late(scene)
        with pytest.raises(AssertionError, match=r"is taken|is not taken|it has left|it does not leave"):
            row(scene)
