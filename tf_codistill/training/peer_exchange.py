"""PeerExchange: the Keras callback through which groups learn of each other.

    every `every_steps` optimizer steps, and when training begins and ends:
        publish     the chief writes this group's snapshot
        poll        the chief looks for each teacher's freshest committed snapshot; nobody waits for one
        agree       the chief's choice is broadcast, every worker reads the same snapshots
        refresh     if all workers could read it, the teacher takes it, else all keep the one they have

Groups need nothing else of each other. A peer that is late, dead or writes rubbish leaves its teacher as it
is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras
from absl import logging

from tf_codistill import distribution, recurrent_state, weights
from tf_codistill.peers import exchange
from tf_codistill.peers.teachers import NO_SNAPSHOT
from tf_codistill.peers.topology import Topology, teachers_of
from tf_codistill.training.codistillation import CodistillationModel


class PeerExchange(keras.callbacks.Callback):
    """Publishes this group's snapshots and keeps its teachers fresh.

    Attributes:
        published_bytes: Bytes written so far by this worker.
        read_bytes: Bytes of peers' snapshots read so far by this worker.
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
            clock: Returns seconds since the epoch.

        Raises:
            ValueError: An argument is out of range.
        """
        super().__init__()
        if every_steps < 1:
            raise ValueError(f"every_steps is {every_steps}; expected at least 1")
        self._peers = teachers_of(group, num_groups, topology)
        self._num_groups = num_groups
        self._exchange = exchange.Exchange(
            directory, group, keep=keep, min_age_secs=min_age_secs, clock=clock
        )
        self._every_steps = every_steps
        self._steps_since = 0
        self._steps_of_batch = 0
        self._description: weights.Description = []
        self.published_bytes = 0
        self.read_bytes = 0
        self.failed_reads = 0
        self.failed_publications = 0

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
        if len(self.model.teachers) != len(self._peers):
            raise ValueError(
                f"num_teachers is {len(self.model.teachers)}, but groups {self._peers} teach group "
                f"{self._exchange.group}; make CodistillationModel with num_teachers={len(self._peers)}"
            )
        self._description = weights.description(self.model.student)
        self._steps_since = self.model.step() % self._every_steps
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
            self._publish()
            self._take_from_peers()

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
        for peer in range(self._num_groups):
            difference = self._exchange.difference(peer, self._description)
            if peer != self._exchange.group and difference is not None:
                raise ValueError(
                    f"group {self._exchange.group} and group {peer} train different models: {difference}; "
                    "start all groups with the same model, or this one with an empty exchange directory"
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
        held = self.model.teachers.steps()
        fresh = [NO_SNAPSHOT] * len(held)
        if distribution.is_chief(strategy):
            for index, (peer, step) in enumerate(zip(self._peers, held, strict=True)):
                fresh[index] = self._latest(peer, held=step)
        fresh = distribution.broadcast(strategy, fresh) if fresh else []
        for index, step in enumerate(fresh):
            if step != NO_SNAPSHOT:
                self._refresh(index, step)

    def _latest(self, peer: int, held: int) -> int:
        """The step to read, below `held` if the peer began anew; `NO_SNAPSHOT` if there is no other."""
        try:
            found = self._exchange.latest(peer)
        except (ValueError, OSError) as error:
            self._pass_over(error)
            return NO_SNAPSHOT
        return NO_SNAPSHOT if found in (None, held) else found

    def _refresh(self, index: int, step: int) -> None:
        snapshot = None
        try:
            snapshot = self._exchange.read(self._peers[index], step, self._description)
        except (ValueError, OSError) as error:
            self._pass_over(error)
        if (
            distribution.all_agree(self.model.distribute_strategy, snapshot is not None)
            and snapshot is not None
        ):
            carrying = float(self.model.distillation_weight(self.model.step())) > 0
            worker = distribution.worker_index(self.model.distribute_strategy)
            self.model.teachers.refresh(index, snapshot, carrying, worker)
            self.read_bytes += snapshot.num_bytes

    def _pass_over(self, error: Exception) -> None:
        self.failed_reads += 1
        logging.warning("group %d keeps its teacher: %s", self._exchange.group, error)
