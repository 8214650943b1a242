"""PeerExchange: groups that learn of each other by snapshots in a shared directory.

    every `every_steps` optimizer steps, and when training begins and ends:
        publish     the chief writes this group's snapshot
        poll        the chief looks for each teacher's peer and its freshest committed snapshot; nobody waits
        agree       the chief's choice is broadcast, every worker reads the same snapshots
        refresh     if all workers could read it, the teacher takes it, else all keep the one they have

Groups need nothing else of each other. A peer that is late, dead or writes rubbish leaves its teacher as it
is. At the end of each epoch what this has cost is added to the logs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gin
import keras
from absl import logging

from tf_codistill import distribution, recurrent_state, weights
from tf_codistill.exchange.store import Store
from tf_codistill.exchange.topology import NO_PEER, RandomPeers, Topology, candidates_of, seats, teachers_of
from tf_codistill.groups import decisions
from tf_codistill.teaching.base import ModelFn, Place
from tf_codistill.teaching.frozen import NO_SNAPSHOT, FrozenTeachers

_COSTS = ("published_bytes", "read_bytes", "exchange_secs", "failed_publications", "failed_reads")


@gin.configurable(module="tf_codistill")
class PeerExchange(FrozenTeachers):
    """Publishes this group's snapshots, and holds teachers that are kept fresh with those of its peers.

    `fit` adds to the logs of each epoch what the exchange has cost, the numbers below, and
    ``staleness_secs``, the mean age of the teachers' snapshots.

    Attributes:
        published_bytes: Bytes written so far by this worker.
        read_bytes: Bytes of peers' snapshots read so far by this worker.
        exchange_secs: Seconds that training has stood still for exchanging.
        failed_publications: How many snapshots of this group could not be written.
        failed_reads: How many snapshots were passed over because they could not be read.
    """

    def __init__(
        self,
        directory: str | None = None,
        group: int = 0,
        num_groups: int = 1,
        every_steps: int = 50,
        topology: Topology = "fully_connected",
        precision: str = "float32",
        peer_model_fns: Mapping[int, ModelFn] | None = None,
        keep: int = 3,
        min_age_secs: float = 600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Takes note of the arguments; touches no file.

        Args:
            directory: The exchange: a directory that all groups see, of any scheme of ``tf.io.gfile``. An
                `Experiment` names that of its run, and says the next two as well.
            group: This group, from 0.
            num_groups: Number of groups.
            every_steps: Optimizer steps between two exchanges, at least 1.
            topology: Who teaches whom, see `exchange.topology.teachers_of`.
            precision: How this group's snapshots and teachers hold weights, one of
                `exchange.precision.PRECISIONS`; int8 takes about a quarter of float32. Groups may differ in
                it.
            peer_model_fns: Makes the models of groups that train another architecture than this one, by
                group; with outputs of the same shapes.
            keep: How many of this group's newest snapshots stay.
            min_age_secs: Age in seconds before an older one is deleted.
            clock: Returns seconds since the epoch.

        Raises:
            ValueError: An argument is out of range.
        """
        if every_steps < 1:
            raise ValueError(f"every_steps is {every_steps}; expected at least 1")
        super().__init__(0, precision)
        self._every_steps = every_steps
        self._topology = topology
        self._peer_model_fns = dict(peer_model_fns or {})
        self._keep, self._min_age_secs = keep, min_age_secs
        self._clock = clock
        self.published_bytes = 0
        self.read_bytes = 0
        self.exchange_secs = 0.0
        self.failed_reads = 0
        self.failed_publications = 0
        self._stand(directory or "", group, num_groups)
        if num_groups > 1:  # otherwise it may be said by `join`
            self._take_seats()

    def _stand(self, directory: str, group: int, num_groups: int) -> None:
        self._group, self._num_groups = group, num_groups
        self._store = Store(
            directory,
            group,
            keep=self._keep,
            min_age_secs=self._min_age_secs,
            precision=self._precision,
            clock=self._clock,
        )

    def _take_seats(self) -> None:
        self._candidates = candidates_of(self._group, self._num_groups, self._topology)
        self._seat(len(self._candidates))

    def join(self, place: Place) -> None:
        """Takes the directory of the run, unless it has been given another one, and this group's number.

        Args:
            place: Where in the run this group stands.

        Raises:
            ValueError: The topology does not fit the number of groups.
        """
        if not self._peer_model_fns:
            self._peer_model_fns = {peer: place.model_fn_of(peer) for peer in range(place.num_groups)}
        self._stand(self._store.directory or place.exchange_dir, place.group, place.num_groups)
        self._take_seats()

    def make(self, students: Sequence[keras.Model], model_fns: Sequence[ModelFn]) -> None:
        """Makes as many teachers as the topology says; called in the scope of the strategy.

        Args:
            students: The student.
            model_fns: What made it.

        Raises:
            ValueError: The topology does not fit, or lets a teacher stand for peers with different models.
        """
        self._take_seats()
        super().make(students, model_fns)

    def learners(self) -> list[str]:
        """This group."""
        return [f"group {self._group}"]

    def names(self) -> list[str]:
        """The groups whose snapshots the teachers hold."""
        return [f"group {peer}" for peer in self.peers()]

    def model_fns(self, model_fn: ModelFn) -> list[ModelFn]:
        """What makes each teacher: its peer's architecture.

        Args:
            model_fn: What made the student.

        Returns:
            One function for each teacher.

        Raises:
            ValueError: A teacher may stand for peers that train different models.
        """
        found = []
        for peers in self._candidates:
            makers = [self._peer_model_fns.get(peer, model_fn) for peer in peers]
            if any(maker != makers[0] for maker in makers):
                raise ValueError(
                    f"topology lets a teacher stand for any of groups {peers}, but peer_model_fns gives them "
                    "different models; use a topology with fixed peers"
                )
            found.append(makers[0])
        return found

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """What exchanges between the steps."""
        return [_Exchanging(self)]

    def begin(self, model: Any) -> None:
        """Announces this group's model, compares it with the peers', and takes what they have published.

        Args:
            model: The `CodistillationModel`, built.

        Raises:
            ValueError: There is no directory, or the model differs from a peer's.
        """
        if not self._store.directory:
            raise ValueError("PeerExchange has no directory; name the one through which groups exchange")
        with self._timed():
            if distribution.is_chief(model.distribute_strategy):
                self._announce(model)
            self._take_from_peers(model)

    def exchange(self, model: Any) -> None:
        """Publishes, then takes what the peers have published.

        Args:
            model: The model.
        """
        with self._timed():
            self.publish(model)
            self._take_from_peers(model)

    def publish(self, model: Any) -> None:
        """Publishes this group's weights.

        Args:
            model: The model.
        """
        if not distribution.is_chief(model.distribute_strategy):
            return
        (student,) = model.students
        states = recurrent_state.values(recurrent_state.variables(student))
        try:
            self.published_bytes += self._store.publish(
                model.step(), weights.description(student), weights.values(student.weights), states
            )
        except OSError as error:
            self.failed_publications += 1
            logging.warning("group %d published no snapshot: %s", self._group, error)

    def _announce(self, model: Any) -> None:
        (student,) = model.students
        self._check_peers()
        self._store.announce(weights.description(student), model.step())
        try:
            self._check_peers()  # of two groups that begin at the same time one at least sees the other
        except ValueError:
            self._store.withdraw()
            raise

    def _check_peers(self) -> None:
        for seat, teacher in enumerate(self.frozen):
            for peer in self._candidates[seat]:
                difference = self._store.difference(peer, weights.description(teacher))
                if difference is None:
                    continue
                raise ValueError(
                    f"group {self._group} and group {peer} train different models: {difference}; "
                    "start all groups with the same model, give PeerExchange the peer's in "
                    "peer_model_fns, or start this group with an empty exchange directory"
                )

    def _take_from_peers(self, model: Any) -> None:
        strategy = model.distribute_strategy
        choice = [(NO_PEER, NO_SNAPSHOT)] * len(self._candidates)
        if distribution.is_chief(strategy):
            choice = self._choose(model.step())
        flat = [number for pair in choice for number in pair]
        flat = decisions.broadcast(strategy, flat) if flat else []
        for index, (peer, step) in enumerate(zip(flat[::2], flat[1::2], strict=True)):
            if step != NO_SNAPSHOT:
                self._take(model, index, peer, step)

    def _choose(self, step: int) -> list[tuple[int, int]]:
        """For each teacher the peer and the step of the snapshot to read, `NO_SNAPSHOT` to read none."""
        held, steps = self.peers(), self.steps()
        # A function of the step, so that a group that resumes draws the same.
        peers = teachers_of(self._group, self._num_groups, self._topology, step // self._every_steps)
        wanted = seats(held, peers) if isinstance(self._topology, RandomPeers) else peers
        return [
            (peer, self._latest(peer, held=step if peer == before else NO_SNAPSHOT))
            for peer, before, step in zip(wanted, held, steps, strict=True)
        ]

    def _latest(self, peer: int, held: int) -> int:
        """The step to read, below `held` if the peer began anew; `NO_SNAPSHOT` if there is no other."""
        try:
            found = self._store.latest(peer)
        except (ValueError, OSError) as error:
            self._pass_over(error)
            return NO_SNAPSHOT
        return NO_SNAPSHOT if found in (None, held) else found

    def _take(self, model: Any, index: int, peer: int, step: int) -> None:
        snapshot = None
        try:
            snapshot = self._store.read(peer, step, weights.description(self.frozen[index]))
        except (ValueError, OSError) as error:
            self._pass_over(error)
        if decisions.all_agree(model.distribute_strategy, snapshot is not None) and snapshot is not None:
            carrying = model.distillation.is_on(model.step())
            self.refresh(index, snapshot, carrying, distribution.worker_index(model.distribute_strategy))
            self.read_bytes += snapshot.num_bytes

    def _pass_over(self, error: Exception) -> None:
        self.failed_reads += 1
        logging.warning("group %d keeps its teacher: %s", self._group, error)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.exchange_secs += time.perf_counter() - began

    @property
    def every_steps(self) -> int:
        """Optimizer steps between two exchanges."""
        return self._every_steps

    def costs(self) -> dict[str, float]:
        """What exchanging has cost so far."""
        return {name: float(getattr(self, name)) for name in _COSTS}

    def age_secs(self) -> float:
        """Age of the teachers' snapshots in seconds, see `staleness_secs`."""
        return self.staleness_secs(self._clock())


class _Exchanging(keras.callbacks.Callback):
    """Exchanges every so many steps, when training begins and when it ends."""

    def __init__(self, exchange: PeerExchange) -> None:
        super().__init__()
        self._exchange = exchange
        self._steps_since = 0
        self._steps_of_batch = 0
        self._logged = exchange.costs()

    def on_train_begin(self, logs: Any = None) -> None:
        del logs
        self._steps_since = self.model.step() % self._exchange.every_steps
        self._exchange.begin(self.model)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        del logs
        self._steps_of_batch = batch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        del logs
        self._steps_since += batch - self._steps_of_batch + 1
        if self._steps_since >= self._exchange.every_steps:
            self._steps_since %= self._exchange.every_steps
            self._exchange.exchange(self.model)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        del epoch
        if logs is not None:
            costs = self._exchange.costs()
            logs.update({name: cost - self._logged[name] for name, cost in costs.items()})
            self._logged = costs
            logs["staleness_secs"] = self._exchange.age_secs()

    def on_train_end(self, logs: Any = None) -> None:
        del logs
        self._exchange.publish(self.model)
