"""The newest snapshot of each group of a run, in a model; the exchange is read, and nothing in it is written.

    members = Members(task, "runs/two", "runs/two/exchange", faults)
    members.look()          reads whatever is newer than what is held; True if nothing is left to be read
    members.held()          [Followed(group=0, held=Ref(0, 1700000000, 27), step=1350), ...]

    absent -> the newest committed one -> read -> in the model -> superseded by the next
                        |
                        +-> deleted, damaged, not finite, storage away: counted, tried again, then left for
                            the next; the model keeps what it has

Which groups there are is looked up each time: one that comes later is followed from then on, and one that is
started again goes on with a newer incarnation.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from tf_codistill import files, recurrent_state, runs, weights
from tf_codistill.exchange import precision as precisions
from tf_codistill.exchange.snapshot import Ref
from tf_codistill.exchange.store import Store
from tf_codistill.exchange.topology import NO_PEER
from tf_codistill.following.faults import Faults
from tf_codistill.health import signs
from tf_codistill.tasks.base import Task

TRIES = 3
"""How often something is tried before whatever comes next is waited for."""


@dataclasses.dataclass
class Followed:
    """One group.

    Attributes:
        group: Its index.
        model: What takes its snapshots; None before the first.
        held: The snapshot in the model; None before the first.
        step: The step of that.
        lanes: The recurrent state [B, ...] that came with it; None for a model without one.
        tried: The snapshot that was last tried.
        failures: How often in succession it could not be read, or looked for.
    """

    group: int
    model: keras.Model | None = None
    held: Ref | None = None
    step: int = 0
    lanes: Sequence[np.ndarray] | None = None
    tried: Ref | None = None
    failures: int = 0

    @property
    def name(self) -> str:
        """What the group is called in rows of figures."""
        return f"group {self.group}"


class Members:
    """All groups that have published."""

    def __init__(
        self,
        task: Task,
        workdir: str,
        exchange_dir: str,
        faults: Faults,
        only: Sequence[int] | None = None,
    ) -> None:
        """Takes note of the arguments; reads nothing.

        Args:
            task: What the groups learn.
            workdir: Directory of the run.
            exchange_dir: Directory through which its groups exchange.
            faults: Counts what cannot be read.
            only: The groups to follow; all if not given.
        """
        self._only = only
        self._task, self._faults = task, faults
        self._workdir, self._exchange_dir = workdir, exchange_dir
        self._of: dict[int, Followed] = {}
        self._memory = weights.Pool()
        self._run_id: str | None = None
        self._store = Store(exchange_dir, NO_PEER)

    def check(self) -> None:
        """Checks that groups which have begun by now train what the task says.

        Raises:
            ValueError: One trains another model, or on other data.
        """
        with contextlib.suppress(files.CorruptError, OSError):  # no mistake of the user: `look` counts them
            self._find_run()
            for group in runs.groups(self._workdir) if self._only is None else self._only:
                self._task.check_beside_model(runs.group_dir(self._workdir, group))
                described = weights.description(self._model(self._followed(group)))
                if difference := self._store.difference(group, described):
                    raise ValueError(
                        f"group {group} of {self._workdir!r} trains another model: {difference}; check "
                        "--gin_file"
                    )

    def look(self) -> bool:
        """Reads the newest snapshot of every group, where that is newer than the one held.

        Returns:
            Whether nothing is left to be tried, for now.
        """
        try:
            self._find_run()
            groups = self._only or signs.groups(self._workdir, self._exchange_dir)
        except (OSError, ValueError) as error:
            self._faults.note("the exchange", error)
            return False
        for one in map(self._followed, groups):
            try:
                self._read_newest(one)
            except Exception as error:  # whatever it is, the others are followed
                one.failures += 1
                if one.failures <= TRIES:
                    self._faults.note(one.name, error)
        return all(one.failures == 0 or one.failures >= TRIES for one in self._of.values())

    def held(self) -> list[Followed]:
        """The groups of which there is a snapshot, in order."""
        return [one for _, one in sorted(self._of.items()) if one.held is not None]

    def _find_run(self) -> None:
        """Takes the name of the run from its workdir; of one that has none there the exchange's counts."""
        if self._run_id is None and (name := run_id(self._workdir)):
            self._run_id = name
            self._store = Store(self._exchange_dir, NO_PEER, run_id=self._run_id)

    def _read_newest(self, one: Followed) -> None:
        ref = self._store.newest(one.group, one.held)
        if ref is None or (one.held is not None and ref <= one.held):
            one.failures = 0
            return
        if ref != one.tried:
            one.tried, one.failures = ref, 0
        if one.failures >= TRIES:
            return
        model = self._model(one)
        described = weights.description(model)
        snapshot = self._store.read(ref, described, self._memory)
        if snapshot.states:
            recurrent_state.check(recurrent_state.variables(model), snapshot.states)
        weights.assign(
            model.weights, precisions.dequantize_all(snapshot.weights, described, snapshot.precision)
        )
        one.held, one.step, one.lanes, one.failures = ref, snapshot.step, snapshot.states or None, 0

    def _followed(self, group: int) -> Followed:
        return self._of.setdefault(group, Followed(group))

    def _model(self, one: Followed) -> keras.Model:
        if one.model is None:
            one.model = self._task.make_model(self._task.batch_size, one.group)
        return one.model


def run_id(workdir: str) -> str | None:
    """The name of a run, as its workdir has it; None where it has none, and is given none by who follows."""
    return runs.run_id(workdir) if files.exists(files.join(workdir, "run.json")) else None
