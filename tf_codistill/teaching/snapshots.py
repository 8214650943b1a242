"""PeerExchange: groups that learn of each other by snapshots in a shared directory.

Groups need nothing else of each other. A peer that is late, dead or writes rubbish leaves its teacher as it
is, and storage that is slow or fails only makes snapshots older. At the end of each epoch what this has cost
is added to the logs. How it happens around the steps is in `teaching.exchanging`, who does it meanwhile in
`exchange.courier`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import gin
import keras

from tf_codistill import files, weights
from tf_codistill.exchange.courier import Costs
from tf_codistill.exchange.seating import seating
from tf_codistill.exchange.snapshot import Swap
from tf_codistill.exchange.store import Store
from tf_codistill.exchange.topology import Topology
from tf_codistill.teaching.base import SCRATCH, ModelFn, Place
from tf_codistill.teaching.exchanging import Exchanging
from tf_codistill.teaching.joining import start_from_peer
from tf_codistill.teaching.overlap import OverlappingTeachers

PUBLISH = ("when_read", "always")


@gin.configurable(module="tf_codistill")
class PeerExchange(OverlappingTeachers):
    """Publishes this group's snapshots, and holds teachers that are kept fresh with those of its peers.

    `fit` adds to the logs of each epoch what the exchange has cost, see `exchange.courier.Costs`, and
    ``staleness_secs``, the mean age of the teachers' snapshots, and ``outdated_teachers``: how many have no
    share by then, because their snapshots are beyond `max_staleness_steps` or `max_staleness_secs`.

    Attributes:
        costs: What exchanging has cost this worker.
        swaps: Which snapshots the teachers took, and when; each is logged, too.
        seating: Which peer each teacher stands for.
    """

    _exchanging: Exchanging | None = None

    def __init__(
        self,
        directory: str | None = None,
        group: int = 0,
        num_groups: int = 1,
        every_steps: int = 50,
        topology: Topology = "fully_connected",
        max_teachers: int | None = None,
        precision: str = "float32",
        statistics: str = "moving",
        max_staleness_steps: int | None = None,
        max_staleness_secs: float | None = None,
        min_teacher_quality: float | None = None,
        peer_model_fns: Mapping[int, ModelFn] | None = None,
        keep: int = 3,
        min_age_secs: float | None = None,
        max_bytes: float = 4e9,
        publish: str = "when_read",
        run_id: str | None = None,
        wait: bool = False,
        replay: Sequence[Swap] | None = None,
        overlap: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Takes note of the arguments; touches no file.

        Args:
            directory: The exchange, of any scheme of ``tf.io.gfile``; an `Experiment` says the first three.
            group: This group, from 0.
            num_groups: Number of groups.
            every_steps: Optimizer steps between two exchanges, at least 1.
            topology: Who teaches whom, see `exchange.topology.teachers_of`.
            max_teachers: Lets groups join and leave: so many teachers stand for who is there, see `seating`.
            precision: How snapshots and teachers hold weights, one of `exchange.precision.PRECISIONS`.
            statistics: Of teachers' batch normalization, one of `frozen.STATISTICS`; see `batch_statistics`.
            max_staleness_steps: `staleness_steps` beyond which a teacher has no share; any if not given.
            max_staleness_secs: Age of its snapshot beyond which it has none; see `Exchanging`.
            min_teacher_quality: Quality below which a teacher's share is less than 1, see `weigh`.
            peer_model_fns: Makes the models of groups with another architecture, by group; outputs are alike.
            keep: How many of this group's newest snapshots stay.
            min_age_secs: Age in seconds before an older one goes; if not given, three intervals.
            max_bytes: Size of all of them from which on older ones go whatever their age.
            publish: ``"when_read"``: by the topology, or because another has announced it; or ``"always"``.
            run_id: Names the run: others' snapshots are never taken. If not given, `launch` or a group does.
            wait: Whether training stands still at an exchange until all is written and read.
            replay: Takes these snapshots at these steps, and no others; all have to be there still.
            overlap: Whether teachers predict each batch a step ahead, see `teaching.overlap`.
            clock: Returns seconds since the epoch.

        Raises:
            ValueError: An argument is out of range, or the topology does not fit.
        """
        _check(directory, every_steps, publish, max_staleness_secs)
        super().__init__(0, precision, statistics, max_staleness_steps, min_teacher_quality, overlap)
        self.every_steps, self.max_staleness_secs, self.replay = every_steps, max_staleness_secs, replay
        self._topology, self._max_teachers, self.min_age_secs = topology, max_teachers, min_age_secs
        self.waits, self._peer_model_fns = wait or replay is not None, dict(peer_model_fns or {})
        self._directory, self._publish, self._run_id, self.clock = directory or "", publish, run_id, clock
        self._settings: dict[str, Any] = {"keep": keep, "max_bytes": max_bytes, "precision": precision}
        self._take_seats(group, num_groups)

    def _take_seats(self, group: int, num_groups: int) -> None:
        self.group, self._start_from = group, SCRATCH
        self.classes: Callable[[], str] = str
        self.seating = seating(group, num_groups, self._topology, self._max_teachers)
        self._seat(len(self.seating.candidates()))
        self.costs, self.swaps = Costs(), list[Swap]()
        self.own_memory, self.peers_memory = weights.Pool(), weights.Pool()  # of copies on the host
        self.store()  # which checks its arguments

    def join(self, place: Place) -> None:
        """Takes directory and name of the run, unless it has been given others, and this group's number."""
        if not self._peer_model_fns:
            self._peer_model_fns = {peer: place.model_fn_of(peer) for peer in range(place.num_groups)}
        self._run_id = self._run_id or place.run_id
        self._directory = self._directory or place.exchange_dir
        self._take_seats(place.group, place.num_groups)
        self._start_from, self.classes = place.start_from, place.classes

    def first_step(self, model: Any) -> int:
        """Gives the model the newest snapshot of a peer, if it is to start from one; the step of that."""
        return 0 if self._start_from == SCRATCH else start_from_peer(self.store(), model)

    def learners(self) -> list[str]:
        """This group."""
        return [f"group {self.group}"]

    def names(self) -> list[str]:
        """The groups whose snapshots the teachers hold."""
        return [f"group {peer}" for peer in self.peers()]

    def model_fns(self, model_fn: ModelFn) -> list[ModelFn]:
        """What makes each teacher: its peer's architecture."""
        found = []
        for peers in self.seating.candidates():
            known = peers or self._peer_model_fns  # where groups join, of any model that there is
            makers = [self._peer_model_fns.get(peer, model_fn) for peer in known] or [model_fn]
            if any(maker != makers[0] for maker in makers):
                raise ValueError(
                    f"topology lets a teacher stand for any of groups {list(known)}, to which "
                    "peer_model_fns gives different models; use a topology with fixed peers"
                )
            found.append(makers[0])
        return found

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """What exchanges between the steps."""
        if not self._directory:
            raise ValueError("PeerExchange has no directory; name the one through which groups exchange")
        self._exchanging = Exchanging(self)
        return [self._exchanging]

    def end(self) -> None:
        """Stops the courier, and leaves where groups may, if training has not come to its end."""
        super().end()
        if self._exchanging is not None:
            self._exchanging.stop()

    def store(self) -> Store:
        """The exchange, as one `fit` sees it."""
        age = {} if self.min_age_secs is None else {"min_age_secs": self.min_age_secs}
        settings = self._settings | age
        return Store(self._directory, self.group, run_id=self._run_id, clock=self.clock, **settings)

    def is_read(self) -> bool:
        """Whether the topology, or `publish`, lets anybody learn from this group."""
        return self._publish == "always" or self.seating.is_read()

    def peers_at(self, step: int, members: Collection[int] | None) -> list[int]:
        """The group that each teacher stands for from a step on, if those are there; see `seating`."""
        held = self.peers()
        outdated = [held[index] for index in self.out_of_date(step)]
        return self.seating.peers(step // self.every_steps, held, members, outdated)

    def may_be_out_of_date(self) -> bool:
        """Whether a teacher can come to have no share because of the age of its snapshot."""
        limits = (self._max_staleness_steps, self.max_staleness_secs, self.replay)
        return any(limit is not None for limit in limits)


def _check(directory: str | None, every_steps: int, publish: str, max_staleness_secs: float | None) -> None:
    files.check_scheme(directory)
    if every_steps < 1:
        raise ValueError(f"every_steps is {every_steps}; expected at least 1")
    if publish not in PUBLISH:
        raise ValueError(f"publish is {publish!r}; expected one of {', '.join(PUBLISH)}")
    if max_staleness_secs is not None and not max_staleness_secs > 0:
        raise ValueError(f"max_staleness_secs is {max_staleness_secs}; expected more than 0, or None")
