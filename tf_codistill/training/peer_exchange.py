"""PeerExchange: the Keras callback through which groups learn of each other.

    every `every_steps` optimizer steps, and when training begins and ends:
        publish     the chief writes this group's snapshot
        poll        the chief looks for each teacher's peer and its freshest committed snapshot; nobody waits
        agree       the chief's choice is broadcast, every worker reads the same snapshots
        refresh     if all workers could read it, the teacher takes it, else all keep the one they have

Groups need nothing else of each other. A peer that is late, dead or writes rubbish leaves its teacher as it
is. At the end of each epoch what this has cost is added to the logs, for the callbacks that are listed behind
this one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
from absl import logging

from tf_codistill import distribution, recurrent_state, weights
from tf_codistill.peers import exchange
from tf_codistill.peers.teachers import NO_SNAPSHOT
from tf_codistill.peers.topology import NO_PEER, RandomPeers, Topology, candidates_of, seats, teachers_of
from tf_codistill.training.codistillation import CodistillationModel
from tf_codistill.training.watch import Watch

_COSTS = ("published_bytes", "read_bytes", "exchange_secs", "failed_publications", "failed_reads")


class PeerExchange(keras.callbacks.Callback):
    """Publishes this group's snapshots and keeps its teachers fresh.

    List it before callbacks that write logs, such as ``CSVLogger`` and ``TensorBoard``: it adds the numbers
    below, those of the epoch alone, and ``staleness_secs``, the mean age of the teachers' snapshots. It warns
    once when teachers are of no use, see `training.watch.Watch`.

    Attributes:
        published_bytes: Bytes written so far by this worker.
        read_bytes: Bytes of peers' snapshots read so far by this worker.
        exchange_secs: Seconds that training has stood still for exchanging.
        failed_publications: How many snapshots of this group could not be written.
        failed_reads: How many snapshots were passed over because they could not be read.
    """

    def __init__(
        self,
        directory: str,
        group: int,
        num_groups: int,
        every_steps: int = 50,
        topology: Topology = "fully_connected",
        keep: int = 3,
        min_age_secs: float = 600.0,
        precision: str = "float32",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Takes note of the arguments; touches no file.

        Args:
            directory: The exchange: a directory that all groups see, of any scheme of ``tf.io.gfile``.
            group: This group, from 0.
            num_groups: Number of groups.
            every_steps: Optimizer steps between two exchanges, at least 1.
            topology: Who teaches whom, see `peers.topology.teachers_of`.
            keep: How many of this group's newest snapshots stay.
            min_age_secs: Age in seconds before an older one is deleted.
            precision: How this group's snapshots hold weights, one of `peers.precision.PRECISIONS`.
            clock: Returns seconds since the epoch.

        Raises:
            ValueError: An argument is out of range.
        """
        super().__init__()
        if every_steps < 1:
            raise ValueError(f"every_steps is {every_steps}; expected at least 1")
        self._candidates = candidates_of(group, num_groups, topology)
        self._num_groups = num_groups
        self._topology = topology
        self._clock = clock
        self._watch = Watch(f"group {group}")
        self._exchange = exchange.Exchange(
            directory, group, keep=keep, min_age_secs=min_age_secs, precision=precision, clock=clock
        )
        self._every_steps = every_steps
        self._steps_since = 0
        self._steps_of_batch = 0
        self._description: weights.Description = []
        self.published_bytes = 0
        self.read_bytes = 0
        self.exchange_secs = 0.0
        self.failed_reads = 0
        self.failed_publications = 0
        self._logged = dict.fromkeys(_COSTS, 0.0)

    def on_train_begin(self, logs: Any = None) -> None:
        """Announces this group's model, compares it with the peers', and takes what they have published.

        Args:
            logs: Not used.

        Raises:
            ValueError: The model is not a `CodistillationModel`, has another number of teachers than the
                topology gives this group, or differs from a peer's.
        """
        del logs
        if not isinstance(self.model, CodistillationModel):
            raise ValueError(
                f"PeerExchange needs a CodistillationModel; the model is a {type(self.model).__name__}"
            )
        number = len(self._candidates)
        if len(self.model.teachers) != number:
            groups = sorted({peer for peers in self._candidates for peer in peers})
            raise ValueError(
                f"num_teachers is {len(self.model.teachers)}, but groups {groups} teach group "
                f"{self._exchange.group}, {number} at a time; make CodistillationModel with "
                f"num_teachers={number}"
            )
        self._description = weights.description(self.model.student)
        self._steps_since = self.model.step() % self._every_steps
        with self._timed():
            if distribution.is_chief(self.model.distribute_strategy):
                self._announce()
            self._take_from_peers()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Remembers where an execution of one or several steps begins.

        Args:
            batch: Index of its first step in the epoch.
            logs: Not used.
        """
        del logs
        self._steps_of_batch = batch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Exchanges when at least `every_steps` steps have been done since the last time.

        Args:
            batch: Index of the last step in the epoch.
            logs: Not used.
        """
        del logs
        self._steps_since += batch - self._steps_of_batch + 1
        if self._steps_since >= self._every_steps:
            self._steps_since %= self._every_steps
            with self._timed():
                self._publish()
                self._take_from_peers()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Adds to the logs what the exchange has cost in this epoch, and warns of useless teachers.

        Args:
            epoch: Not used.
            logs: Averages by name.
        """
        del epoch
        if logs is None:
            return
        costs = {name: float(getattr(self, name)) for name in _COSTS}
        logs.update({name: costs[name] - self._logged[name] for name in _COSTS})
        self._logged = costs
        teachers = self.model.teachers
        logs["staleness_secs"] = teachers.staleness_secs(self._clock())
        if distribution.is_chief(self.model.distribute_strategy):
            self._watch.look(logs, [f"group {peer}" for peer in teachers.peers()])

    def on_train_end(self, logs: Any = None) -> None:
        """Publishes the weights that training ended with.

        Args:
            logs: Not used.
        """
        del logs
        self._publish()

    def _announce(self) -> None:
        self._check_peers()
        self._exchange.announce(self._description, self.model.step())
        try:
            self._check_peers()  # of two groups that begin at the same time one at least sees the other
        except ValueError:
            self._exchange.withdraw()
            raise

    def _check_peers(self) -> None:
        for seat, teacher in enumerate(self.model.teachers.models):
            for peer in self._candidates[seat]:
                difference = self._exchange.difference(peer, weights.description(teacher))
                if difference is None:
                    continue
                raise ValueError(
                    f"group {self._exchange.group} and group {peer} train different models: {difference}; "
                    "start all groups with the same model, give CodistillationModel the peer's in "
                    "teacher_fns, or start this group with an empty exchange directory"
                )

    def _publish(self) -> None:
        if not distribution.is_chief(self.model.distribute_strategy):
            return
        student = self.model.student
        states = recurrent_state.values(recurrent_state.variables(student))
        try:
            self.published_bytes += self._exchange.publish(
                self.model.step(), self._description, weights.values(student.weights), states
            )
        except OSError as error:
            self.failed_publications += 1
            logging.warning("group %d published no snapshot: %s", self._exchange.group, error)

    def _take_from_peers(self) -> None:
        strategy = self.model.distribute_strategy
        choice = [(NO_PEER, NO_SNAPSHOT)] * len(self._candidates)
        if distribution.is_chief(strategy):
            choice = self._choose()
        flat = [number for pair in choice for number in pair]
        flat = distribution.broadcast(strategy, flat) if flat else []
        for index, (peer, step) in enumerate(zip(flat[::2], flat[1::2], strict=True)):
            if step != NO_SNAPSHOT:
                self._refresh(index, peer, step)

    def _choose(self) -> list[tuple[int, int]]:
        """For each teacher the peer and the step of the snapshot to read, `NO_SNAPSHOT` to read none."""
        held, steps = self.model.teachers.peers(), self.model.teachers.steps()
        # A function of the step, so that a group that resumes draws the same.
        number = self.model.step() // self._every_steps
        peers = teachers_of(self._exchange.group, self._num_groups, self._topology, number)
        wanted = seats(held, peers) if isinstance(self._topology, RandomPeers) else peers
        return [
            (peer, self._latest(peer, held=step if peer == before else NO_SNAPSHOT))
            for peer, before, step in zip(wanted, held, steps, strict=True)
        ]

    def _latest(self, peer: int, held: int) -> int:
        """The step to read, below `held` if the peer began anew; `NO_SNAPSHOT` if there is no other."""
        try:
            found = self._exchange.latest(peer)
        except (ValueError, OSError) as error:
            self._pass_over(error)
            return NO_SNAPSHOT
        return NO_SNAPSHOT if found in (None, held) else found

    def _refresh(self, index: int, peer: int, step: int) -> None:
        snapshot = None
        try:
            taught_by = weights.description(self.model.teachers.models[index])
            snapshot = self._exchange.read(peer, step, taught_by)
        except (ValueError, OSError) as error:
            self._pass_over(error)
        if (
            distribution.all_agree(self.model.distribute_strategy, snapshot is not None)
            and snapshot is not None
        ):
            carrying = self.model.distillation.is_on(self.model.step())
            worker = distribution.worker_index(self.model.distribute_strategy)
            self.model.teachers.refresh(index, snapshot, carrying, worker)
            self.read_bytes += snapshot.num_bytes

    def _pass_over(self, error: Exception) -> None:
        self.failed_reads += 1
        logging.warning("group %d keeps its teacher: %s", self._exchange.group, error)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.exchange_secs += time.perf_counter() - began
